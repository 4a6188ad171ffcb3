"""Odd networks under all of the compiler's options: equal to the reference bit for bit, or refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from tests.tinyengine.equality import MOST_STACK_BYTES, assert_same, on_core, on_qemu
from tests.tinyengine.hostbuild import Flavour, HostBatch
from tests.tinyengine.odd_networks import odd_network, odd_options
from tests.tinyengine.oracle import TfliteMicro, Xnnpack, write_tflite
from tests.tinyengine.random_graphs import random_inputs
from tinyengine import reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.errors import PlanError, UnsupportedOp
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import Graph, op_name
from tinyengine.kernels.catalogue import Target

Case = tuple[Graph, CompileOptions, Compiled]


def compiled(seeds: Sequence[int], target: Target, *, twins: bool = False) -> list[Case]:
    """Each network under its options; a grid that does not fit it and an arena too small for it are refused."""
    found = []
    for seed in seeds:
        graph, options = odd_network(seed), odd_options(seed, target, twins=twins)
        try:
            found.append((graph, options, compile_graph(graph, options)))
        except UnsupportedOp as error:
            assert options.patches is not None and "patches" in str(error), (graph.name, str(error))
        except PlanError as error:
            assert options.sram_limit_bytes is not None and "the limit is" in str(error), (graph.name, str(error))
    return found


def assert_equal(seeds: Sequence[int], target: Target, *, on_host: bool) -> int:
    """All in one program: C or twins on the host under sanitizers, or generated text on an emulated core."""
    cases = compiled(seeds, target, twins=on_host and target is not Target.C)
    models = [model for _, _, model in cases]
    requests = [(i, random_inputs(graph, seed)) for i, (graph, _, _) in enumerate(cases) for seed in (0, 3)]
    if on_host:
        outputs = [run.outputs for run in HostBatch(models, Flavour.SANITIZED).run(requests)]
    else:
        runs = (on_qemu if target is Target.M55 else on_core)(models, target, requests)
        assert max(run.stack_bytes for run in runs) < MOST_STACK_BYTES
        outputs = [run.outputs for run in runs]
    for (index, inputs), got in zip(requests, outputs, strict=True):
        graph, options, model = cases[index]
        where = f"{graph.name} {options}: {[layer.kernel for layer in model.layers]}"
        assert_same(reference.run(graph, inputs, requant=options.requant), got, where)
    return len(cases)


@pytest.mark.parametrize("oracle", ["tflite_micro", "ai_edge_litert"])
def test_odd_networks_that_tflite_can_spell_equal_its_oracles(oracle: str) -> None:
    """Whole networks: values that operators alone, on noise, seldom see."""
    pytest.importorskip(oracle)
    micro = oracle == "tflite_micro"
    compared: Counter[str] = Counter()
    for seed in range(600):
        graph = odd_network(seed)
        try:
            imported = tflite.load(model := write_tflite(graph), name=graph.name)
        except (ValueError, UnsupportedOp):  # other paddings and bounds than TFLite has; constants alone
            continue
        inputs = random_inputs(imported, seed)
        try:
            theirs = TfliteMicro(model).run(inputs, len(graph.outputs)) if micro else Xnnpack(model).run(inputs)
        except RuntimeError as error:  # scales over 256, which XNNPACK refuses instead of leaving them to LiteRT
            assert not micro and "XNNPACK" in str(error), graph.name
            continue
        mode = Requant.EXACT if micro else Requant.SINGLE
        for want, ours in zip(theirs, reference.run(imported, inputs, requant=mode), strict=True):
            assert np.array_equal(want, ours), (graph.name, graph.nodes)
        compared.update(op_name(n.op) for n in imported.nodes)
    assert len(compared) >= 8 and sum(compared.values()) >= 100, compared


@pytest.mark.parametrize("target", Target)
def test_odd_networks_equal_the_reference(target: Target) -> None:
    assert assert_equal(range(8), target, on_host=target is Target.C) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("target", Target)
def test_many_odd_networks_equal_the_reference(target: Target, on_host: bool) -> None:
    if target is Target.C and not on_host:
        pytest.skip("portable C has no core of its own")
    for start in range(100, 148, 8):
        assert_equal(range(start, start + 8), target, on_host=on_host)
