"""Where integers are said to round as float32 does, they do so for every accumulator a channel can reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.tinyengine.random_graphs import Builder, f32
from tinyengine import fixedpoint, lowering, ranges, single_rounding
from tinyengine.fixedpoint import Multiplier, Requant
from tinyengine.importers import tflite
from tinyengine.ir import Clamp, Conv2D, DepthwiseConv2D, Padding, QuantParams
from tinyengine.kernels.assembly.requantize import Rounding
from tinyengine.kernels.dsp import coarse, kinks, weighted
from tinyengine.kernels.dsp.gains import Constants
from tinyengine.kernels.dsp.rounding import MOST_BIAS, OneRounding, one_rounding, two_roundings_as_one

WEIGHTED = (Conv2D, DepthwiseConv2D)
_EVERYTHING = np.arange(-255, 256, dtype=np.int64)


def by_integers(form: OneRounding, acc: NDArray[np.int64]) -> NDArray[np.int64]:
    """SMMLA, then an arithmetic shift."""
    high = (2 * (acc + form.bias) * form.multiplier + (form.addend << 32)) >> 32
    assert (np.abs(high) < 1 << 31).all()
    return high >> form.right_shift


def test_integers_equal_float32_on_every_accumulator() -> None:
    rng = np.random.default_rng(21)
    found = 0
    for n in range(120):
        scale = float(np.float32(2.0 ** rng.uniform(-12, -1.01)))
        if n % 10 == 0:
            scale = float(np.float32(rng.integers(1, 40) * 2.0**-9))  # ties
        reach = int(min(200 / scale, 1 << 17))
        low, high = -reach, int(rng.integers(1, reach))
        clamp = (-128, 127) if n % 2 else (0, 100)
        steps = np.arange(clamp[0] + 1, clamp[1] + 1, dtype=np.int64)
        form = one_rounding(scale, low, high, steps)
        if form is None:
            continue
        found += 1
        assert abs(form.bias) < MOST_BIAS
        acc = np.arange(low, high + 1, dtype=np.int64)
        wanted = np.clip(fixedpoint.requantize_float(acc, scale), *clamp)
        np.testing.assert_array_equal(np.clip(by_integers(form, acc), *clamp), wanted, err_msg=str(scale))
    assert found >= 80


def test_a_smaller_shift_equals_two_roundings_on_every_accumulator() -> None:
    rng = np.random.default_rng(22)
    found = 0
    for _ in range(80):
        m = Multiplier(multiplier=int(rng.integers(1 << 30, 1 << 31)), shift=-int(rng.integers(4, 12)))
        shift = max(1, -m.shift - int(rng.integers(0, 4)))
        low, high = -int(rng.integers(1, 1 << 17)), int(rng.integers(1, 1 << 17))
        steps = np.arange(1, int(rng.integers(100, 256)), dtype=np.int64)
        form = two_roundings_as_one(m, low, high, steps, shift)
        if form is None:
            continue
        found += 1
        assert form.right_shift == shift
        acc = np.arange(low, high + 1, dtype=np.int64)
        wanted = np.clip(fixedpoint.requantize(acc, m.multiplier, m.shift), 0, steps[-1])
        np.testing.assert_array_equal(np.clip(by_integers(form, acc), 0, steps[-1]), wanted, err_msg=str(m))
    assert found >= 60


def test_ties_of_both_parities_have_no_integer_form() -> None:
    assert one_rounding(0.25, -1000, 1000, _EVERYTHING) is None


def test_a_channel_without_integers_does_not_slow_its_whole_layer(shared_dir: Path) -> None:
    data = (shared_dir / "models" / "mlperf_kws_ref_model.tflite").read_bytes()
    graph = tflite.load(data, name="kws")
    layers = [weighted.constants_of(graph, n, Requant.SINGLE) for n in graph.nodes if isinstance(n.op, WEIGHTED)]
    found = [layer for layer in layers if isinstance(layer, weighted.Weighted)]
    forms = Counter(layer.epilogue.rounding for layer in found)
    assert forms[Rounding.MIXED] >= 1
    assert not forms[Rounding.FLOAT]
    for layer in found:
        in_float = [c for c in layer.channels if c.multiplier < 0]
        assert bool(in_float) == (layer.epilogue.rounding is Rounding.MIXED)
        assert len(in_float) <= len(layer.channels) // 8


def test_scales_outside_the_shifts_are_refused() -> None:
    assert one_rounding(1.5, -100, 100, _EVERYTHING) is None
    assert one_rounding(2.0**-25, -(1 << 29), 1 << 29, _EVERYTHING) is None
    assert one_rounding(0.0, -100, 100, _EVERYTHING) is None


def test_a_gain_a_channel_gives_one_shift_and_equals_two_roundings() -> None:
    """Scales over 2^-10 to 2^-4, now and then one far below: the literal shift serves them all, or none."""
    forms, floats = forms_with_gains(Requant.EXACT)
    assert forms == {Rounding.ONCE, Rounding.PRODUCT}
    assert not floats


def test_a_gain_a_channel_equals_float32_or_the_channel_stays_in_float32() -> None:
    """Negative sums count: no clamp is at the zero point."""
    forms, floats = forms_with_gains(Requant.SINGLE)
    assert forms >= {Rounding.PRODUCT, Rounding.KINKED, Rounding.COARSENED}
    assert floats <= 30


def awkward_channels(shift: int) -> Iterator[tuple[float, int, int, int, kinks.Staircase]]:
    """Scales whose near ties have parity in turns, so that no line passes them; their accumulators, output's zero
    point and stairs for the right shift.
    """
    rng = np.random.default_rng(24)
    clamp = Clamp()
    for _ in range(400):
        numerator, denominator = 2 * int(rng.integers(1, 40)) + 1, int(rng.integers(1 << 10, 1 << 14))
        scale = float(np.float32(numerator / denominator * (1 + rng.uniform(-1, 1) * 2.0**-22)))
        if not 2.0**-12 < scale < 2.0**-6:
            continue
        reach = int(min(200 / scale, 1 << 18))
        low, high, zero_point = -reach, int(rng.integers(1, reach)), int(rng.integers(-128, 128))
        steps = np.arange(clamp.low - zero_point + 1, clamp.high - zero_point + 1, dtype=np.int64)
        if one_rounding(scale, low, high, steps) is not None:
            continue
        first = single_rounding.first_reaching(scale, low, high, steps)
        stairs = kinks.staircase(first, low, high, steps, right_shift=shift, zero_point=zero_point)
        yield scale, low, high, zero_point, stairs


def float32_outputs(acc: NDArray[np.int64], scale: float, zero_point: int) -> NDArray[np.int64]:
    return np.clip(fixedpoint.requantize_float(acc, scale) + zero_point, -128, 127)


def test_a_kink_equals_float32_on_every_accumulator() -> None:
    awkward, found, shift = 0, 0, 13
    for scale, low, high, zero_point, stairs in awkward_channels(shift):
        awkward += 1
        kink = kinks.SHIFTS[awkward % len(kinks.SHIFTS)]
        form = kinks.fit(stairs, scale, right_shift=shift, zero_point=zero_point, kink=kink, most_gain=258)
        if form is None:
            continue
        found += 1
        acc = np.arange(low, high + 1, dtype=np.int64)
        a = form.gain * acc + form.offset
        assert max(int(np.abs(a).max()), form.multiplier) < 1 << 31
        outputs = np.clip((a - (a >> kink)) * form.multiplier >> 32 + shift, -128, 127)
        np.testing.assert_array_equal(outputs, float32_outputs(acc, scale, zero_point), err_msg=str(scale))
    assert awkward >= 20
    assert found >= 0.7 * awkward


def test_coarse_products_equal_float32_on_every_accumulator() -> None:
    awkward, found, shift = 0, 0, coarse.SHIFTS[-1]
    for scale, low, high, zero_point, stairs in awkward_channels(shift):
        awkward += 1
        form = coarse.fit(stairs, scale, right_shift=shift, zero_point=zero_point)
        if form is None:
            continue
        found += 1
        acc = np.arange(low, high + 1, dtype=np.int64)
        a = coarse.GAIN * acc + form.offset
        assert max(form.first, form.multiplier) < 1 << 31
        outputs = np.clip(((a * form.first >> 32) * form.multiplier) >> 32 + shift, -128, 127)
        np.testing.assert_array_equal(outputs, float32_outputs(acc, scale, zero_point), err_msg=str(scale))
    assert awkward >= 20
    assert found >= 0.8 * awkward


def check_coarse(constants: Constants, channel: int, acc: NDArray[np.int64], rounded: NDArray[np.int64]) -> None:
    one = constants.channels[channel]
    assert (constants.gains[channel], one.right_shift) == (1, constants.epilogue.coarse_shift)
    a = coarse.GAIN * acc + one.addend
    assert np.abs(a).max() < 1 << 31
    outputs = ((a * one.first >> 32) * one.multiplier) >> 32 + one.right_shift
    np.testing.assert_array_equal(np.clip(outputs, -128, 127), np.clip(rounded, -128, 127))


def forms_with_gains(requant: Requant) -> tuple[set[Rounding], int]:
    """Compares every channel in integers with the rounding; returns the forms seen and channels in float32."""
    is_once = requant is Requant.SINGLE
    zero_point = 5 if is_once else -128
    floats = 0
    rng = np.random.default_rng(23)
    gained = 0
    forms: set[Rounding] = set()
    for n in range(24):
        b = Builder(rng=rng, name=f"gains{n}")
        x = b.input((1, 4, 4, 8))
        scales = [f32(2.0**s) for s in rng.uniform(-10, -10 + n % 7, 12)]
        if n % 3 == 0:
            scales[5] = f32(2.0**-19)
        quant = QuantParams(scales=tuple(scales), zero_points=(0,) * 12, axis=0)
        w = b.constant(rng.integers(-127, 128, (12, 1, 1, 8), dtype=np.int8), quant)
        biases = QuantParams(scales=tuple(f32(b.q(x).scale * s) for s in scales), zero_points=(0,) * 12, axis=0)
        bias = b.constant(rng.integers(-9000, 9000, 12).astype(np.int32), biases)
        out = QuantParams(scales=(f32(b.q(x).scale * 2.0 ** rng.uniform(-1, 2)),), zero_points=(zero_point,))
        graph = b.graph(
            (
                b.node(
                    Conv2D(stride=(1, 1), dilation=(1, 1), padding=Padding(), clamp=Clamp()),
                    (x, w, bias),
                    (1, 4, 4, 12),
                    out,
                ),
            )
        )
        found = weighted.constants_of(graph, graph.nodes[0], requant)
        if isinstance(found, str) or found.gained is None:
            continue
        gained += 1
        sums_of_weights = found.weights.reshape(12, -1).sum(axis=1)
        plain = np.asarray(graph.tensors[bias].data, dtype=np.int64) - b.q(x).zero_point * sums_of_weights
        low, high = ranges.conv_accumulator_range(graph, graph.nodes[0])
        for constants in (found.gained, found.paired):
            if constants is None:
                continue
            shift = constants.epilogue.right_shift
            assert shift is not None
            forms.add(constants.epilogue.rounding)
            floating = lowering.conv_single_scales(graph, graph.nodes[0])
            assert floating is not None
            for c, m in enumerate(lowering.conv_multipliers(graph, graph.nodes[0])):
                # Few accumulators decide: those that reach a step first, and those before them.
                steps = single_rounding.steps_within(Clamp(), zero_point)
                deciding = single_rounding.first_reaching(floating[c], int(low[c]), int(high[c]), steps)
                drawn = rng.integers(low[c], high[c] + 1, 9000)
                acc = np.unique(np.clip(np.concatenate([drawn, deciding, deciding - 1]), low[c], high[c]))
                if constants.channels[c].first:
                    check_coarse(constants, c, acc, fixedpoint.requantize_float(acc, floating[c]) + zero_point)
                    continue
                if constants.channels[c].multiplier < 0:
                    assert (constants.gains[c], constants.offsets[c], constants.bias[c]) == (2, 0, plain[c])
                    floats += 1
                    continue
                rounded = (
                    fixedpoint.requantize_float(acc, floating[c])
                    if is_once
                    else fixedpoint.requantize(acc, m.multiplier, m.shift)
                )
                wanted = np.clip(rounded + zero_point, -128, 127)
                if wanted[0] == wanted[-1]:
                    acc = np.array([constants.bias[c]])  # a constant: its weights are zero
                    wanted = wanted[:1]
                    plain[c] = constants.bias[c]
                moved = int(constants.bias[c] - plain[c])
                sums = int(constants.gains[c]) * (acc + moved) + int(constants.offsets[c])
                one = constants.channels[c]
                if one.has_kink:
                    sums -= sums >> constants.epilogue.kink
                addend = one.addend if constants.epilogue.has_addend else 0
                high_word = (sums * one.multiplier + (addend << 32)) >> 32
                assert max(np.abs(sums).max(), np.abs(high_word).max()) < 1 << 31
                np.testing.assert_array_equal(np.clip(high_word >> shift, -128, 127), wanted, err_msg=f"{n} {c}")
                assert np.abs(constants.gains[c] * found.weights[c]).max() < 1 << 15
            if constants is found.paired:
                assert constants.most_sum < 1 << 23
    assert gained >= 12
    return forms, floats
