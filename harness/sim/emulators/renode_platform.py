"""What Renode has of our chips, and the text that makes a board of it: platform overlay (.repl), script (.resc).

Names and addresses of Renode's models are those of version 1.16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.chips import Chip, UartPins

_DWT = 0xE000_1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What Renode has for a chip.

    Args:
        repl: its platform file.
        memories: variable -> (base, bytes), as that file has them.
        has_dwt, has_timer2: whether the file has those peripherals.
        timer2_hz: what TIM2 counts at when our firmware has set up the rated clock.
        registers: (variable, base, offset -> value): storage for registers that nothing models and the firmware
            waits for or reads back.
        moved: variable -> base, where the file has a peripheral at a wrong address.
    """

    repl: str
    memories: Mapping[str, tuple[int, int]]
    timer2_hz: int
    has_dwt: bool = False
    has_timer2: bool = True
    registers: tuple[tuple[str, int, Mapping[int, int]], ...] = ()
    moved: Mapping[str, int] = field(default_factory=dict)


_VOSRDY_F4 = 1 << 14
PLATFORMS: Mapping[str, Platform] = {
    "stm32f412": Platform(
        repl="platforms/cpus/stm32f412.repl",
        memories={
            "flash0": (0x0800_0000, 0x4_0000),
            "flash1": (0x0804_0000, 0xC_0000),
            "sram": (0x2000_0000, 0x4_0000),
        },
        timer2_hz=100_000_000,
        registers=(("powerControl", 0x4000_7000, {0x04: _VOSRDY_F4}), ("flashControl", 0x4002_3C00, {})),
        moved={"rcc": 0x4002_3800},
    ),
    "stm32f746": Platform(
        repl="platforms/cpus/stm32f746.repl",
        memories={"flash": (0x0800_0000, 0x20_0000), "sram": (0x2000_0000, 0x6_0000)},
        timer2_hz=108_000_000,
        has_timer2=False,
    ),
    "stm32f765": Platform(
        repl="platforms/cpus/stm32f777.repl",
        memories={
            "flash": (0x0800_0000, 0x20_0000),
            "itcm": (0x0000_0000, 0x4000),
            "sram": (0x2000_0000, 0x1000_0000),
        },
        timer2_hz=108_000_000,
        has_dwt=True,
        has_timer2=False,
    ),
    "stm32h743": Platform(
        repl="platforms/cpus/stm32h743.repl",
        memories={
            "flashBank1": (0x0800_0000, 0x10_0000),
            "flashBank2": (0x0810_0000, 0x10_0000),
            "itcm": (0x0000_0000, 0x1_0000),
            "dtcm": (0x2000_0000, 0x2_0000),
            "axiSram": (0x2400_0000, 0x8_0000),
            "sram1": (0x3000_0000, 0x2_0000),
            "sram2": (0x3002_0000, 0x2_0000),
            "sram3": (0x3004_0000, 0x8000),
            "sram4": (0x3800_0000, 0x1_0000),
        },
        timer2_hz=240_000_000,
    ),
}
"""Renode's platform of each chip folder. The F765 is taken from the F777, which has the same memories but more."""


def overlay(chip: Chip) -> str:
    """The platform description: Renode's, with the chip's memories, a cycle counter and the chip's speed.

    Raises:
        ValueError: Renode has no platform for the chip.
    """
    platform = platform_of(chip)
    hz = chip.clock.rated_hz
    lines = [f"// Written by tinyrack for {chip.name}; changes are lost.", f'using "{platform.repl}"', ""]

    def entry(head: str, *attributes: str) -> None:
        lines.extend((head, *(f"    {a}" for a in attributes), ""))

    covered: list[tuple[int, int]] = []
    spans = _joined((m.base, m.end) for m in chip.memories)
    for name, (base, size) in platform.memories.items():
        end = _wanted_end(spans, platform, name)
        if end <= base:
            raise ValueError(f"{platform.repl} has {name} where {chip.name} has nothing")
        covered.append((base, end))
        if end != base + size:
            entry(f"{name}:", f"size: {end - base:#x}")
    for memory in chip.memories:
        if not any(low <= memory.base and memory.end <= high for low, high in _joined(covered)):
            entry(f"{memory.name}: Memory.MappedMemory @ sysbus {memory.base:#010x}", f"size: {memory.bytes:#x}")
    # One instruction a cycle: virtual time then is the number of instructions.
    entry("cpu:", f"PerformanceInMips: {hz // 1_000_000}")
    entry("dwt:" if platform.has_dwt else f"dwt: Miscellaneous.DWT @ sysbus {_DWT:#010x}", f"frequency: {hz}")
    if platform.has_timer2:
        entry("timer2:", f"frequency: {platform.timer2_hz}")
    else:
        entry(
            "timer2: Timers.STM32_Timer @ sysbus <0x40000000, +0x400>",
            "initialLimit: 0xffffffff",
            f"frequency: {platform.timer2_hz}",
        )
    for name, base in platform.moved.items():
        entry(f"{name}: @ sysbus {base:#010x}")
    idcode = ("debugIdentity", chip.idcode.address, {0: chip.idcode.simulated_value})
    for name, base, values in (*platform.registers, idcode):
        writes = [f"WriteDoubleWord {offset:#x} {value:#x}" for offset, value in values.items()]
        inits = ("init:", *(f"    {w}" for w in writes)) if writes else ()
        entry(f"{name}: Memory.ArrayMemory @ sysbus <{base:#010x}, +0x400>", "size: 0x400", *inits)
    return "\n".join(lines)


def script(*, machine: str, repl: Path, uart: UartPins, pty: Path) -> str:
    """The monitor commands that make the machine; the pty appears at `pty`."""
    return "\n".join(
        (
            f"# Written by tinyrack for {machine}; changes are lost.",
            f'mach create "{machine}"',
            f"machine LoadPlatformDescription {monitor_path(repl)}",
            f'emulation CreateUartPtyTerminal "uart" "{pty}" true',
            f"connector Connect sysbus.{uart.instance.lower()} uart",
            "",
        )
    )


def platform_of(chip: Chip) -> Platform:
    """Renode's platform for a chip.

    Raises:
        ValueError: there is none.
    """
    platform = PLATFORMS.get(chip.name)
    if platform is None:
        raise ValueError(f"Renode has no platform for {chip.name} here; known: {', '.join(PLATFORMS)}")
    return platform


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(base, end) pairs in order, adjacent ones as one."""
    out: list[tuple[int, int]] = []
    for base, end in sorted(spans):
        if out and out[-1][1] == base:
            out[-1] = (out[-1][0], end)
        else:
            out.append((base, end))
    return out


def _wanted_end(spans: list[tuple[int, int]], platform: Platform, name: str) -> int:
    """Where a memory of the platform must end: with the chip's span, or where the platform's next one begins."""
    base, _ = platform.memories[name]
    for low, high in spans:
        if low <= base < high:
            later = [b for b, _ in platform.memories.values() if base < b < high]
            return min(later, default=high)
    return base


def monitor_path(path: Path) -> str:
    """A file in the monitor's language."""
    return "@" + str(path).replace(" ", "\\ ")
