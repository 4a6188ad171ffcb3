"""The timing model in Python gives the numbers of the one in C, to the cycle and in every counter."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.chips import load_chip
from harness.errors import MissingTool
from harness.images.build import build
from harness.images.placement import Rule, placed
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from harness.job import Kernels
from harness.sim import bare, micro_cases, native
from harness.sim.memory_model import IDEAL, MemoryModel, chip_memory
from harness.sim.native import NativeCore
from harness.sim.timing_core import Counters
from harness.sim.timing_python.core import PythonCore
from tinyengine import zoo
from tinyengine.compile import CompileOptions, compile_graph

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="NO ARM TOOLCHAIN: apt install gcc-arm-none-eabi"
)


def test_every_micro_case_has_the_same_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = micro_cases.load_cases()
    expected = [result.got for result in micro_cases.run_cases(cases)]
    monkeypatch.setattr(micro_cases, "timing_core", PythonCore)
    got = [result.got for result in micro_cases.run_cases(cases)]
    assert got == expected


def test_without_a_c_compiler_the_python_model_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise MissingTool("a C compiler for this computer", "apt install gcc libc6-dev")

    monkeypatch.setattr(native, "_library", none)
    case = next(c for c in micro_cases.load_cases() if c.core == "cortex-m7")
    assert micro_cases.run_cases([case])[0].ok


def _run(elf: Path, chip_name: str, memory: MemoryModel, core: Any, arena_bytes: int) -> Counters:
    chip = load_chip(chip_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bare, "timing_core", core)
        with bare.BareMachine(elf, core=chip.emulated_core, memory=memory) as machine:
            arena = machine.symbols["tr_arena"]
            values = np.random.default_rng(0).integers(0, 256, arena_bytes, dtype=np.uint8)
            machine.uc.mem_write(arena, values.tobytes())
            machine.call("te_invoke", arena)
            return machine.timing.counters


@pytest.mark.parametrize(
    ("chip_name", "kernels"),
    [("stm32f412", Kernels.AUTO), ("stm32f746", Kernels.C), ("stm32h743", Kernels.AUTO)],
)
def test_a_network_has_the_same_cycles_misses_and_stalls(chip_name: str, kernels: Kernels, tmp_path: Path) -> None:
    chip = load_chip(chip_name)
    compiled = compile_graph(zoo.load("ad-autoencoder"), CompileOptions(target=kernels.target(chip.core)))
    placement = placed(Rule.DEFAULT, chip, compiled)
    plan = BuildPlan.of_chip(chip, compiled.sources, toolchain=find_toolchain(), placement=placement)
    elf = build(plan, cache_dir=tmp_path).elf
    for memory in (IDEAL, chip_memory(chip)):
        expected = _run(elf, chip_name, memory, NativeCore, compiled.plan.arena_bytes)
        got = _run(elf, chip_name, memory, PythonCore, compiled.plan.arena_bytes)
        assert asdict(replace(got, nodes=0, states=0)) == asdict(replace(expected, nodes=0, states=0))
        assert expected.cycles > 100_000
