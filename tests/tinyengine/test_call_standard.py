"""What real cores insist on: registers a callee keeps, addresses that LDM, LDRD, VLDR and their like take, stack.

Unicorn lets such accesses pass at any address; QEMU's boards fault as silicon does.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest

from tests.tinyengine.corebuild import CoreBatch
from tests.tinyengine.equality import assert_equal_to_reference
from tests.tinyengine.qemubuild import MACHINES, QemuBatch
from tests.tinyengine.random_graphs import random_graph, random_inputs
from tests.tinyengine.single_layers import Layers, hand_picked
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize
from tinyengine.sources import Sources

FAULT = "the image ended with"
NOT_KEPT = "a register that must be kept"


def with_instructions(compiled: Compiled, text: str) -> Compiled:
    """These instructions ahead of every generated function."""
    files = tuple(
        dataclasses.replace(f, text=f.text.replace("    push {", f"{text}\n    push {{", 1))
        if f.name.endswith(".S")
        else f
        for f in compiled.sources.files
    )
    return dataclasses.replace(compiled, sources=Sources(files=files))


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vmov s31, r0", NOT_KEPT),
        ("add r11, r11, #4", NOT_KEPT),
        ("sub r12, sp, #62; vldr s0, [r12]", FAULT),
        ("sub r12, sp, #62; vldmia r12, {s0, s1}", FAULT),
        ("push {r0, r1}; sub r12, sp, #62; ldrd r0, r1, [r12]; pop {r0, r1}", FAULT),
        ("push {r0, r1}; sub r12, sp, #62; ldm r12, {r0, r1}; pop {r0, r1}", FAULT),
        ("sub r12, sp, #62; ldr r12, [r12]; ldrh r12, [sp, #-61]", ""),
    ],
)
def test_the_judge_sees_what_breaks_the_rules(target: Target, text: str, complaint: str) -> None:
    graph = Layers(3).convolution((5, 5), 16, 8, (1, 1))
    model = compile_graph(graph, CompileOptions(target=target))
    batch = QemuBatch([with_instructions(model, text)], target)
    with pytest.raises(AssertionError, match=complaint) if complaint else contextlib.nullcontext():
        batch.run([(0, random_inputs(graph, 0))])


def test_a_register_that_c_saves_too_is_seen() -> None:
    graph = Layers(3).convolution((5, 5), 16, 8, (1, 1))
    model = compile_graph(graph, CompileOptions(target=Target.M4))
    inputs = random_inputs(graph, 0)
    kept = CoreBatch([model], Core.M4)
    kept.run(0, inputs)
    assert kept.watch.calls
    with pytest.raises(AssertionError, match="does not keep r8, s16"):
        CoreBatch([with_instructions(model, "vmov s16, r0; mov r8, r0")], Core.M4).run(0, inputs)


@pytest.mark.parametrize("target", [Target.M4, Target.M7])
def test_generated_kernels_keep_the_rules(target: Target) -> None:
    """What the M55's kernels keep is seen wherever they are tested: on QEMU."""
    graphs = [g for _, g in hand_picked()][1::3]
    assert_equal_to_reference(graphs, [Requant.EXACT], target, seeds=(3,), optimize=Optimize.LATENCY)
    assert_equal_to_reference(graphs[::2], [Requant.SINGLE], target, seeds=(3,))


@pytest.mark.slow
@pytest.mark.parametrize("target", [Target.M4, Target.M7])
@pytest.mark.parametrize("optimize", Optimize)
def test_all_generated_kernels_keep_the_rules(target: Target, optimize: Optimize) -> None:
    graphs = [*(g for _, g in hand_picked()), *map(random_graph, range(700, 730))]
    assert_equal_to_reference(graphs, list(Requant), target, optimize=optimize)


@pytest.mark.slow
@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("optimize", Optimize)
@pytest.mark.parametrize("mode", Requant)
def test_real_models_keep_the_rules_in_every_configuration(
    target: Target, optimize: Optimize, mode: Requant, shared_dir: Path
) -> None:
    files = sorted((shared_dir / "models").glob("*.tflite"))
    graphs = [tflite.load(f.read_bytes(), name=f.stem) for f in files]
    assert_equal_to_reference(graphs, [mode], target, seeds=(3,), optimize=optimize)
