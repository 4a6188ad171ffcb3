"""Lines equal two roundings on every accumulator, sums of products equal ADD on every pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyengine import fixedpoint, lowering, reference, single_rounding
from tinyengine.fixedpoint import INT32_MAX, Multiplier, Requant
from tinyengine.ir import Add, Clamp, DType, Graph, Node, QuantParams, Tensor
from tinyengine.kernels.mve import lines, sums
from tinyengine.kernels.mve.lines import Lines

ZERO_POINTS = st.sampled_from([-128, -127, -1, 0, 5, 127])
CLAMPS = st.sampled_from([Clamp(), Clamp(low=-70, high=101), Clamp(low=0, high=6), Clamp(low=127, high=127)])
MULTIPLIERS = st.builds(
    Multiplier,
    multiplier=st.one_of(st.sampled_from([0, 1 << 30, INT32_MAX]), st.integers(1 << 30, INT32_MAX)),
    shift=st.one_of(st.integers(-12, -4), st.integers(-31, 30)),
)
ENDS = st.tuples(st.integers(-(1 << 20), 1 << 20), st.integers(0, 1 << 20))


def _check(
    found: Lines, multipliers: list[Multiplier], low: np.ndarray, high: np.ndarray, z: int, c: Clamp
) -> None:
    """All accumulators of short ranges, else samples and the neighbourhood of every change of the output."""
    for channel, m in enumerate(multipliers):
        first, last = int(low[channel]), int(high[channel])
        acc = np.unique(np.linspace(first, last, 20_000).astype(np.int64))
        near = np.concatenate([np.arange(max(first, -3000), min(last, 3000) + 1), acc])
        want = np.clip(fixedpoint.requantize(near, m.multiplier, m.shift) + z, c.low, c.high)
        one = Lines(
            left_shift=found.left_shift,
            right_shift=found.right_shift,
            multipliers=found.multipliers[channel],
            offsets=found.offsets[channel],
            kinks=found.kinks[channel],
            constant=found.constant[channel],
        )
        got = one.apply(np.where(found.constant[channel], 0, near)) + found.late_zero_point
        assert np.array_equal(np.clip(got, c.low, c.high), want), (channel, m, first, last)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(MULTIPLIERS, ENDS), min_size=1, max_size=4), ZERO_POINTS, CLAMPS)
def test_lines_equal_two_roundings(
    channels: list[tuple[Multiplier, tuple[int, int]]], zero_point: int, clamp: Clamp
) -> None:
    multipliers = [m for m, _ in channels]
    low = np.array([a for _, (a, _) in channels], dtype=np.int64)
    high = low + np.array([n for _, (_, n) in channels], dtype=np.int64)
    found = lines.fit(tuple(multipliers), low, high, zero_point, clamp)
    if not isinstance(found, str):
        _check(found, multipliers, low, high, zero_point, clamp)


def test_usual_layers_have_lines() -> None:
    rng = np.random.default_rng(5)
    fitted = 0
    for _ in range(30):
        scales = 2.0 ** rng.uniform(-10.5, -5.5, 8)
        reach = rng.integers(1 << 14, 1 << 18, 8)
        low, high = -reach, reach + rng.integers(0, 1 << 12, 8)
        multipliers = [fixedpoint.quantize_multiplier(s) for s in scales]
        z = int(rng.choice([-128, 0, 4]))
        found = lines.fit(tuple(multipliers), low, high, z, Clamp())
        if not isinstance(found, str):
            fitted += 1
            assert found.kinked == (z > -128)
            _check(found, multipliers, low, high, z, Clamp())
    assert fitted >= 28


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-11, -1), min_size=1, max_size=3), ENDS, ZERO_POINTS, CLAMPS)
def test_lines_equal_one_rounding(
    exponents: list[float], ends: tuple[int, int], zero_point: int, clamp: Clamp
) -> None:
    scales = tuple(float(np.float32(2.0**e)) for e in exponents)
    low = np.full(len(scales), ends[0], dtype=np.int64)
    high = low + ends[1]
    found = lines.fit_once(scales, low, high, zero_point, clamp)
    if isinstance(found, str):
        return
    acc = np.unique(np.linspace(ends[0], ends[0] + ends[1], 50_000).astype(np.int64))[:, None]
    want = fixedpoint.requantize_float(acc, np.array(scales, dtype=np.float32)) + zero_point
    got = found.apply(np.where(found.constant, 0, acc)) + found.late_zero_point
    assert np.array_equal(np.clip(got, clamp.low, clamp.high), np.clip(want, clamp.low, clamp.high))


def _addition(a: tuple[float, int], b: tuple[float, int], y: tuple[float, int], clamp: Clamp) -> Graph:
    shape = (1, 256, 256)
    quants = [QuantParams(scales=(float(np.float32(s)),), zero_points=(z,)) for s, z in (a, b, y)]
    tensors = tuple(
        Tensor(name=f"t{i}", shape=shape, dtype=DType.INT8, quant=q, data=None) for i, q in enumerate(quants)
    )
    node = Node(name="add", op=Add(clamp=clamp), inputs=(0, 1), outputs=(2,), source_index=0)
    return Graph(name="addition", tensors=tensors, nodes=(node,), inputs=(0, 1), outputs=(2,))


SCALES = st.floats(-6, 1).map(lambda e: 2.0**e)
PARAMETERS = st.tuples(SCALES, ZERO_POINTS)


@settings(max_examples=25, deadline=None)
@given(PARAMETERS, PARAMETERS, PARAMETERS, CLAMPS)
def test_sums_of_products_equal_every_addition(
    a: tuple[float, int], b: tuple[float, int], y: tuple[float, int], clamp: Clamp
) -> None:
    graph = _addition(a, b, y, clamp)
    (node,) = graph.nodes
    q = np.arange(-128, 128, dtype=np.int8)
    pairs = tuple(np.ascontiguousarray(v, dtype=np.int8)[None] for v in np.broadcast_arrays(q[:, None], q[None]))
    for mode in Requant:
        once = single_rounding.add_single_parameters(graph, node) if mode is Requant.SINGLE else None
        found = (
            sums.fit(lowering.add_parameters(graph, node), clamp) if once is None else sums.fit_once(once, clamp)
        )
        if found is None:
            continue
        t = found.factor_a * pairs[0].astype(np.int64) + found.factor_b * pairs[1].astype(np.int64) + found.offset
        assert int(np.abs(t).max()) < 1 << 31
        got = np.clip((t + (1 << (found.shift - 1))) >> found.shift, clamp.low, clamp.high)
        assert np.array_equal(got, reference.run(graph, pairs, requant=mode)[0])
