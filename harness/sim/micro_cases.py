"""Short instruction sequences with cycle counts known from outside, run on the timing model in the real engine.

The table is `timing/micro_cases.yaml`. Each case is assembled at two lengths; the difference in modelled cycles,
over the difference in length, is what one repetition costs once the pipeline is in its steady state.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from harness import programs
from harness.sim.timing_core import timing_core

_TABLE = Path(__file__).resolve().parent / "timing" / "micro_cases.yaml"
_CODE_BASE, _CODE_BYTES = 0x0800_0000, 1 << 21
_RAM_BASE, _RAM_BYTES = 0x2000_0000, 1 << 16
_SHORT, _LONG = 20, 120
_ASSEMBLER_TIMEOUT_S = 60.0
_SOURCES = {
    "arm-m4": "Arm 100166, table 3-1 and notes on load and store timing",
    "arm-m4-fpu": "Arm 100166, table 7-1",
    "f407": "github.com/jnk0le/random, pipeline cycle test, Cortex-M4, measured on STM32F407",
    "h743": "github.com/jnk0le/random, pipeline cycle test, Cortex-M7, measured on STM32H743",
    "llvm": "LLVM, ARMScheduleM7.td",
    "shared": "project's TIMING.md",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroCase:
    """One row of the table.

    Args:
        cycles: per repetition, from `source`.
        text: assembly of one run; `{n}` stands for the number of repetitions.
        baseline: measured the same way and subtracted, or null.
    """

    core: Literal["cortex-m4", "cortex-m7"]
    name: str
    cycles: float
    source: str
    text: str
    baseline: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroResult:
    """A case and what the model says."""

    case: MicroCase
    got: float

    @property
    def ok(self) -> bool:
        """Equal, but for the rounding of averages such as 2.4 cycles."""
        return abs(self.got - self.case.cycles) <= 0.005 * self.case.cycles


def load_cases() -> tuple[MicroCase, ...]:
    """Every case of the table, in its order."""
    rows = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))["cases"]

    def program(row: dict[str, str], key: str, program_key: str) -> str | None:
        if program_key in row:
            return row[program_key]
        return f"{row.get('setup', '')}\n.rept {{n}}\n{row[key]}\n.endr" if key in row else None

    cases = []
    for row in rows:
        text = program(row, "body", "program")
        if text is None:
            raise ValueError(f"{row['name']}: neither body nor program")
        cases.append(
            MicroCase(
                core=row["core"],
                name=row["name"],
                cycles=float(row["cycles"]),
                source=_SOURCES.get(row["source"], row["source"]),
                text=text,
                baseline=program(row, "baseline", "baseline_program"),
            )
        )
    return tuple(cases)


def _section(elf: Any, name: str) -> Any:
    return elf.get_section_by_name(name)


def _assemble(texts: Sequence[str], core: str) -> tuple[bytes, list[tuple[int, int]]]:
    """Machine code of all texts and, for each, its start and end address."""
    from elftools.elf.elffile import ELFFile

    prefix = "arm-none-eabi-"
    for tool in ("as", "ld"):
        programs.find(prefix + tool, "apt install binutils-arm-none-eabi")
    fpu = "fpv4-sp-d16" if core == "cortex-m4" else "fpv5-sp-d16"
    lines = [".syntax unified", f".cpu {core}", f".fpu {fpu}", ".thumb", ".text", ".global _start", "_start:"]
    for n, text in enumerate(texts):
        # A barrier's worth of room behind each, so that no text runs into its neighbour.
        lines += [".balign 32", f"begin_{n}:", text, f"end_{n}:", "nop.w", "b .", ".ltorg"]
    with tempfile.TemporaryDirectory() as folder:
        source, unlinked, linked = (Path(folder) / name for name in ("cases.s", "cases.o", "cases.elf"))
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for command in (
            [prefix + "as", "-o", str(unlinked), str(source)],
            [prefix + "ld", f"-Ttext={_CODE_BASE:#x}", "-o", str(linked), str(unlinked)],
        ):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_ASSEMBLER_TIMEOUT_S, check=False
            )
            if done.returncode != 0:
                raise RuntimeError(f"{command[0]}: {done.stderr}")
        with linked.open("rb") as file:
            elf = ELFFile(file)
            code = bytes(_section(elf, ".text").data())
            at = {s.name: int(s["st_value"]) & ~1 for s in _section(elf, ".symtab").iter_symbols()}
    return code, [(at[f"begin_{n}"], at[f"end_{n}"]) for n in range(len(texts))]


class _Bench:
    """One engine with all the texts in its flash."""

    def __init__(self, code: bytes, core: Literal["cortex-m4", "cortex-m7"]) -> None:
        from unicorn import arm_const, unicorn_const
        from unicorn.unicorn_py3 import unicorn

        self._arm = arm_const
        self._uc: Any = unicorn.Uc(
            unicorn_const.UC_ARCH_ARM, unicorn_const.UC_MODE_THUMB | unicorn_const.UC_MODE_MCLASS
        )
        self._uc.ctl_set_cpu_model(
            arm_const.UC_CPU_ARM_CORTEX_M4 if core == "cortex-m4" else arm_const.UC_CPU_ARM_CORTEX_M7
        )
        self._uc.mem_map(_CODE_BASE, _CODE_BYTES)
        self._uc.mem_map(_RAM_BASE, _RAM_BYTES)
        self._uc.mem_map(0xE000_E000, 0x1000)
        self._uc.mem_write(_CODE_BASE, code)
        self._uc.mem_write(0xE000_ED88, (0xF << 20).to_bytes(4, "little"))
        self._uc.reg_write(arm_const.UC_ARM_REG_FPEXC, 1 << 30)
        self.native = timing_core(self._uc, core=core)

    def cycles(self, begin: int, end: int) -> int:
        """Modelled cycles of one run from a cold core."""
        arm = self._arm
        self._uc.mem_write(_RAM_BASE, bytes(_RAM_BYTES))
        start = [_RAM_BASE + 0x1000, _RAM_BASE + 0x2000, 4, 0, *range(1, 9)]
        for n, value in enumerate(start):
            self._uc.reg_write(getattr(arm, f"UC_ARM_REG_R{n}"), value)
        self._uc.reg_write(arm.UC_ARM_REG_SP, _RAM_BASE + 0x8000)
        self._uc.reg_write(arm.UC_ARM_REG_LR, end | 1)
        self.native.reset()
        before = self.native.cycles
        self._uc.emu_start(begin | 1, end)
        if self.native.rewind_to_unaligned():
            raise RuntimeError(
                f"a micro-case accesses an unaligned address at {self._uc.reg_read(arm.UC_ARM_REG_PC):#x}"
            )
        return self.native.cycles - before


def run_cases(cases: Sequence[MicroCase]) -> tuple[MicroResult, ...]:
    """Runs the cases and says what the model makes of them, in the same order.

    Raises:
        MissingTool: no arm-none-eabi binutils.
    """
    results: dict[int, MicroResult] = {}
    for core in ("cortex-m4", "cortex-m7"):
        chosen = [(n, case) for n, case in enumerate(cases) if case.core == core]
        if not chosen:
            continue
        texts = [
            text.format(n=length)
            for _, case in chosen
            for text in (case.text, case.baseline or "")
            for length in (_SHORT, _LONG)
        ]
        code, spans = _assemble(texts, core)
        bench = _Bench(code, core)
        for k, (n, case) in enumerate(chosen):
            short, long, base_short, base_long = (bench.cycles(*span) for span in spans[4 * k : 4 * k + 4])
            results[n] = MicroResult(case=case, got=(long - short - (base_long - base_short)) / (_LONG - _SHORT))
        bench.native.stop()
    return tuple(results[n] for n in range(len(cases)))
