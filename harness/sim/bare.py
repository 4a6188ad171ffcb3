"""An ELF on an emulated core with nothing around it: no board, no peripherals, every segment where it runs from.

Good for code whose cycles alone are wanted; what needs a UART, a clock tree or faults belongs on a board.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.chips import EmulatedCore
from harness.errors import ConfigError
from harness.sim.memory_model import IDEAL, MemoryModel
from harness.sim.timing_core import timing_core

_PAGE = 0x1000
_STACK_TOP, _STACK_BYTES = 0x3800_0000, 1 << 16
_RETURN = 0x0BFF_FF00
_CPACR = 0xE000_ED88


class BareMachine:
    """One core, the image's memory, a stack, and the timing model. Ends with `close`.

    Args:
        room: further (base, bytes) ranges the code may use.
    """

    def __init__(
        self, elf: Path, *, core: EmulatedCore, memory: MemoryModel = IDEAL, room: tuple[tuple[int, int], ...] = ()
    ) -> None:
        from unicorn import arm_const, unicorn_const
        from unicorn.unicorn_py3 import unicorn

        self._arm = arm_const
        self._engine_error, self._unaligned = unicorn.UcError, unicorn_const.UC_ERR_READ_UNALIGNED
        self.uc: Any = unicorn.Uc(
            unicorn_const.UC_ARCH_ARM, unicorn_const.UC_MODE_THUMB | unicorn_const.UC_MODE_MCLASS
        )
        self.uc.ctl_set_cpu_model(
            arm_const.UC_CPU_ARM_CORTEX_M4 if core == "cortex-m4" else arm_const.UC_CPU_ARM_CORTEX_M7
        )
        self.sections, self.symbols, self.sizes = _read(elf)
        """What lies in memory, (base, bytes, content or nothing), and each name's address and size."""
        spans = [(base, size) for base, size, _ in self.sections]
        spans += [*room, (_STACK_TOP - _STACK_BYTES, _STACK_BYTES), (_RETURN & -_PAGE, _PAGE)]
        spans.append((_CPACR & -_PAGE, _PAGE))
        for base, end in _pages(spans):
            self.uc.mem_map(base, end - base)
        for base, _, data in self.sections:
            self.uc.mem_write(base, data)
        self.uc.mem_write(_CPACR, (0xF << 20).to_bytes(4, "little"))
        self.uc.reg_write(arm_const.UC_ARM_REG_FPEXC, 1 << 30)
        self.timing = timing_core(self.uc, core=core, memory=memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes the timing model off the engine."""
        self.timing.stop()

    def call(self, symbol: str, *arguments: int, timeout_s: float = 300.0) -> int:
        """Calls a function; modelled cycles until it has returned.

        Raises:
            TimeoutError: it did not return in that wall time.
        """
        self.begin(symbol, *arguments)
        before = self.timing.cycles
        self.run_to(_RETURN, timeout_s=timeout_s)
        return self.timing.cycles - before

    def begin(self, symbol: str, *arguments: int) -> None:
        """Stands at the first instruction of a function, with up to four arguments."""
        for n, value in enumerate(arguments):
            self.uc.reg_write(getattr(self._arm, f"UC_ARM_REG_R{n}"), value)
        self.uc.reg_write(self._arm.UC_ARM_REG_SP, _STACK_TOP)
        self.uc.reg_write(self._arm.UC_ARM_REG_LR, _RETURN | 1)
        self.uc.reg_write(self._arm.UC_ARM_REG_PC, self.symbols[symbol] | 1)
        self.timing.begin_slice()

    def run_to(self, address: int, *, timeout_s: float) -> None:
        """Runs until that address is about to execute.

        Raises:
            TimeoutError: it never came in that wall time.
            UcError: the code did what the core cannot do.
        """
        pc = self.uc.reg_read(self._arm.UC_ARM_REG_PC)
        self.uc.emu_start(pc | 1, address & ~1, timeout=int(timeout_s * 1e6))
        if self.timing.rewind_to_unaligned():
            raise self._engine_error(self._unaligned)
        if self.uc.reg_read(self._arm.UC_ARM_REG_PC) & ~1 != address & ~1:
            raise TimeoutError(f"the emulated code did not reach {address & ~1:#x} in {timeout_s:g} s")

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """32-bit words of memory."""
        raw = bytes(self.uc.mem_read(address, 4 * count))
        return tuple(int.from_bytes(raw[n : n + 4], "little") for n in range(0, 4 * count, 4))

    def text(self, address: int, most: int = 200) -> str:
        """A string that ends with a zero byte."""
        return bytes(self.uc.mem_read(address, most)).split(b"\0")[0].decode("ascii", errors="replace")


def _read(elf: Path) -> tuple[list[tuple[int, int, bytes]], dict[str, int], dict[str, int]]:
    """Base, size and content of what lies in memory, where it runs from; symbols without the Thumb bit.

    Raises:
        ConfigError: it cannot be read, or is no ELF file with symbols.
    """
    try:
        return _read_image(elf)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(elf)) from error
    except ELFError as error:
        raise ConfigError(f"is no ELF file: {error}", file=str(elf)) from error


def _read_image(elf: Path) -> tuple[list[tuple[int, int, bytes]], dict[str, int], dict[str, int]]:
    with elf.open("rb") as stream:
        image = ELFFile(stream)
        sections = [s for s in image.iter_sections() if s["sh_flags"] & 2 and s["sh_size"]]
        segments = [
            (int(s["sh_addr"]), int(s["sh_size"]), b"" if s["sh_type"] == "SHT_NOBITS" else bytes(s.data()))
            for s in sections
        ]
        table = image.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise ConfigError("has no symbols", file=str(elf))
        symbols = [s for s in table.iter_symbols() if s.name]
        return (
            segments,
            {s.name: int(s["st_value"]) & ~1 for s in symbols},
            {s.name: int(s["st_size"]) for s in symbols},
        )


def _pages(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans as whole pages, joined where they touch."""
    out: list[tuple[int, int]] = []
    for base, size in sorted(spans):
        low, high = base & -_PAGE, (base + size + _PAGE - 1) & -_PAGE
        if out and low <= out[-1][1]:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return out
