"""CoreMark on an emulated core: our port files, the user's copy of the benchmark, a number of CoreMark/MHz.

CoreMark is EEMBC's; its sources are not part of this project. With fixed flags and zero-wait memory the figure
is a property of compiler and timing model alone.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.chips import EmulatedCore
from harness.errors import BuildFailed, ConfigError
from harness.images.toolchain import Toolchain
from harness.sim.bare import BareMachine
from harness.sim.memory_model import IDEAL, MemoryModel

SOURCES = ("core_list_join.c", "core_main.c", "core_matrix.c", "core_state.c", "core_util.c")
CPU_FLAGS: dict[EmulatedCore, tuple[str, ...]] = {
    "cortex-m4": ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
    "cortex-m7": ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
}
_ITERATIONS = 10
_FEW_ITERATIONS = 2
_PORT = Path(__file__).resolve().parent
_TIMEOUT_S = 120.0
# What any correct performance run prints (CoreMark's README): the benchmark's CRCs of its three parts.
_CRCS = {"crclist": 0xE714, "crcmatrix": 0x1FD7, "crcstate": 0x8E3A}
_LINK = """
ENTRY(tr_entry)
SECTIONS {
    . = 0x08000000;
    .text : { *(.text*) *(.rodata*) *(.ARM.exidx*) }
    . = 0x20000000;
    .data : { *(.data*) }
    .bss : { *(.bss*) *(COMMON) }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMark:
    """One run. `cycles_per_iteration` is that of the steady state: the first ones are left out."""

    cycles_per_iteration: float

    @property
    def per_mhz(self) -> float:
        """CoreMark/MHz: iterations in a million cycles."""
        return 1e6 / self.cycles_per_iteration


def measure(
    sources: Path, *, core: EmulatedCore, flags: tuple[str, ...], toolchain: Toolchain, memory: MemoryModel = IDEAL
) -> CoreMark:
    """Compiles the user's copy with our port and runs it.

    Raises:
        ConfigError: `sources` is not CoreMark.
        BuildFailed: it does not compile.
        ArithmeticError: its CRCs are wrong, so the figure would be worth nothing.
    """
    for name in (*SOURCES, "coremark.h"):
        if not (sources / name).is_file():
            raise ConfigError(f"has no {name}: not CoreMark's sources", file=str(sources), field="--coremark")
    with tempfile.TemporaryDirectory() as folder:
        few, many = (
            _cycles(_build(sources, Path(folder), core, flags, toolchain, n), core, memory)
            for n in (_FEW_ITERATIONS, _ITERATIONS)
        )
    return CoreMark(cycles_per_iteration=(many - few) / (_ITERATIONS - _FEW_ITERATIONS))


def _build(
    sources: Path, folder: Path, core: EmulatedCore, flags: tuple[str, ...], toolchain: Toolchain, iterations: int
) -> Path:
    elf, script = folder / f"coremark-{iterations}.elf", folder / "coremark.ld"
    script.write_text(_LINK, encoding="utf-8")
    command = [
        str(toolchain.gcc), *CPU_FLAGS[core], *flags, f"-DITERATIONS={iterations}", "-DPERFORMANCE_RUN=1",
        f"-I{_PORT}", f"-I{sources}", *(str(sources / name) for name in SOURCES), str(_PORT / "core_portme.c"),
        "-ffunction-sections", "-fdata-sections", "-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections",
        f"-Wl,-T,{script}", "-Wl,--no-warn-rwx-segments", "-o", str(elf),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise BuildFailed("compiling CoreMark", done.stderr)
    return elf


def _cycles(elf: Path, core: EmulatedCore, memory: MemoryModel) -> int:
    with BareMachine(elf, core=core, memory=memory) as machine:
        machine.begin("tr_entry")
        machine.run_to(machine.symbols["start_time"], timeout_s=_TIMEOUT_S)
        before = machine.timing.cycles
        machine.run_to(machine.symbols["stop_time"], timeout_s=_TIMEOUT_S)
        cycles = machine.timing.cycles - before
        machine.run_to(machine.symbols["portable_fini"], timeout_s=_TIMEOUT_S)
        _check(machine)
    return cycles


def _check(machine: BareMachine) -> None:
    count = machine.words(machine.symbols["tr_said_count"], 1)[0]
    rows = machine.words(machine.symbols["tr_said"], 3 * count)
    said = {machine.text(rows[n]): rows[n + 2] for n in range(0, 3 * count, 3)}
    for name, wanted in _CRCS.items():
        got = next((value for line, value in said.items() if name in line and "ERROR" not in line), None)
        if got != wanted:
            raise ArithmeticError(f"CoreMark's {name} is {got!r}, not {wanted:#06x}")
