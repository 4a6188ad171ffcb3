"""Chip folders as values: memories, flash sectors, clock, identity. The only place that reads chip.yaml.

Everything that must know an address of a part (linker script, pyOCD target, simulated board) takes it from here;
pins and the clock source are the board's business (boards.yaml).
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from harness import paths
from harness.errors import ConfigError

Core = Literal["cortex-m4", "cortex-m7", "cortex-m55"]
EmulatedCore = Literal["cortex-m4", "cortex-m7"]
Address = Annotated[int, Field(ge=0, lt=1 << 32, multiple_of=4)]
Size = Annotated[int, Field(gt=0, le=1 << 30, multiple_of=4)]
# YAML has lists; values that travel are tuples.
_ListAsTuple = BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
Names = Annotated[tuple[str, ...], _ListAsTuple, Field(min_length=1)]


def _candidates(value: object) -> object:
    """One list of names is the only candidate."""
    if not isinstance(value, list):
        return value
    return tuple(value) if value and all(isinstance(v, list) for v in value) else (value,)


Places = Annotated[tuple[Names, ...], _ListAsTuple]
Candidates = Annotated[tuple[Names, ...], BeforeValidator(_candidates), Field(min_length=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Memory(_Frozen):
    """One physical memory. `tcm` is reached without a cache and without wait states."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    base: Address
    bytes: Size
    kind: Literal["flash", "ram", "tcm"]

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.base + self.bytes


class Span(_Frozen):
    """Adjacent memories seen as one address range."""

    base: Address
    bytes: Size

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.base + self.bytes


class Placement(_Frozen):
    """Which memories (adjacent ones form one range) hold what.

    Args:
        arena: in order of preference; the first in which it fits with what else lies there is taken.
        copies: memories into which start-up may copy constants, the fastest first. Functions are copied into one
            called itcm only: it has a bus of its own for them.
    """

    code: Names
    weights: Names
    stack: Names
    data: Names
    arena: Candidates
    copies: Places = ()


class SectorGroup(_Frozen):
    """`count` erase sectors of `bytes` each, from the start of flash upwards."""

    count: Annotated[int, Field(ge=1, le=1024)]
    bytes: Size


class FlashController(_Frozen):
    """Programming model (registers of ST's F4, F7 or H7 family; none: RAM that the probe fills) and sectors."""

    controller: Literal["f4", "f7", "h7", "none"]
    sectors: Annotated[tuple[SectorGroup, ...], _ListAsTuple]


class Idcode(_Frozen):
    """DBGMCU_IDCODE: where it is, DEV_ID, and ST's letters for the REV_IDs."""

    address: Address
    device_id: Annotated[int, Field(ge=0, lt=1 << 12)]
    revisions: dict[int, str]
    simulated_revision: Annotated[int, Field(ge=0, lt=1 << 16)]

    @property
    def simulated_value(self) -> int:
        """The register's content on a simulated board."""
        return self.simulated_revision << 16 | self.device_id


class ChipClock(_Frozen):
    """`rated_hz` is what the firmware sets up; `reset_hz` what runs when that fails.

    `reduced_hz` is what it sets up on an older revision that cannot do more; None: there is none.
    """

    rated_hz: Annotated[int, Field(gt=0)]
    reset_hz: Annotated[int, Field(gt=0)]
    reduced_hz: Annotated[int, Field(gt=0)] | None = None
    hsi_hz: Annotated[int, Field(gt=0)]
    wait_states: Annotated[int, Field(ge=0, le=15)]


class Caches(_Frozen):
    """L1 sizes (0 = none); `art`: ST's flash accelerator exists."""

    icache_bytes: Annotated[int, Field(ge=0)]
    dcache_bytes: Annotated[int, Field(ge=0)]
    line_bytes: Annotated[int, Field(ge=0)]
    art: bool


class UartPins(_Frozen):
    """UART instance and pins, e.g. USART3, PD8, PD9. `-` is a pin that is wired for good."""

    instance: Annotated[str, Field(pattern=r"^(USART[1-8]|UART0)$")]
    tx: Annotated[str, Field(pattern=r"^(-|P[A-K]([0-9]|1[0-5]))$")]
    rx: Annotated[str, Field(pattern=r"^(-|P[A-K]([0-9]|1[0-5]))$")]


class UartFunctions(_Frozen):
    """Pins that can carry TX and RX of one instance, with their alternate-function numbers."""

    tx: dict[str, Annotated[int, Field(ge=0, le=15)]]
    rx: dict[str, Annotated[int, Field(ge=0, le=15)]]


class FirmwareParts(_Frozen):
    """Which of the shared drivers the chip needs.

    Args:
        family: selects the UART generation and names in the drivers.
        registers: folder under ``chips`` that holds chip_registers.h.
        clock, uart, cycles: files under ``drivers``.
    """

    family: Literal["f4", "f7", "h7", "mps"]
    registers: Annotated[str, Field(pattern=r"^[a-z0-9]+$")]
    clock: Annotated[str, Field(pattern=r"^[a-z0-9_]+\.c$")]
    uart: Annotated[str, Field(pattern=r"^[a-z0-9_]+\.c$")] = "uart.c"
    cycles: Annotated[str, Field(pattern=r"^[a-z0-9_]+\.c$")] = "cycles.c"


class Qemu(_Frozen):
    """How QEMU emulates the board.

    Args:
        machine: QEMU's name.
        counter: address of 64 bits of the code memory that our plug-in counts in; they stand in for the DWT.
        counts: modelled cycles, or instructions where the core's timing is not modelled.
        boot: where the core finds stack pointer and reset vector, if that is not where the image starts.
    """

    machine: str
    counter: Address
    counts: Literal["cycles", "instructions"]
    boot: Address | None = None


class Chip(_Frozen):
    """One chip folder. Addresses are bytes in the core's address space. `qemu` is set for boards only QEMU has."""

    name: Annotated[str, Field(pattern=r"^(stm32[a-z0-9]+|mps[23]-an[0-9]+)$")]
    core: Core
    cpuid: Annotated[int, Field(ge=0, lt=1 << 32)]
    cpu_flags: Names
    pyocd_target: str
    idcode: Idcode
    memories: Annotated[tuple[Memory, ...], _ListAsTuple]
    placement: Placement
    flash: FlashController
    clock: ChipClock
    caches: Caches
    uart: UartPins
    pins: dict[str, UartFunctions]
    firmware: FirmwareParts
    qemu: Qemu | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [m.name for m in self.memories]
        if len(set(names)) != len(names):
            raise ValueError("two memories have one name")
        where = self.placement
        for names_of in (where.code, where.weights, where.stack, where.data, *where.arena, *where.copies):
            self.span(names_of)
        flash = [m for m in self.memories if m.kind == "flash"]
        if len(flash) != 1:
            raise ValueError("exactly one memory of kind flash is needed")
        if sum(g.count * g.bytes for g in self.flash.sectors) != flash[0].bytes:
            raise ValueError(f"flash.sectors do not add up to the {flash[0].bytes} B of memory {flash[0].name!r}")
        if self.idcode.simulated_revision not in self.idcode.revisions:
            raise ValueError("idcode.simulated_revision is not one of idcode.revisions")
        self.uart_functions(self.uart)
        if self.qemu is not None and flash[0].base <= self.qemu.counter < flash[0].end:
            raise ValueError("qemu.counter lies in memory that an image may use")
        return self

    @property
    def emulated_core(self) -> EmulatedCore:
        """The core, for engines that emulate and time it in our own process.

        Raises:
            ConfigError: it is another one.
        """
        if self.core == "cortex-m55":
            raise ConfigError("only QEMU has this core", file=f"{self.name}/chip.yaml", field="core")
        return self.core

    def uart_functions(self, uart: UartPins) -> tuple[int, int]:
        """Alternate-function numbers of TX and RX.

        Raises:
            ValueError: the chip has no such instance, or cannot route it to that pin.
        """
        instance = self.pins.get(uart.instance)
        if instance is None:
            raise ValueError(f"{self.name} has no {uart.instance} here; known: {', '.join(self.pins)}")
        for role, pin, known in (("tx", uart.tx, instance.tx), ("rx", uart.rx, instance.rx)):
            if pin not in known:
                raise ValueError(f"{uart.instance} {role} cannot be {pin}; known: {', '.join(known)}")
        return instance.tx[uart.tx], instance.rx[uart.rx]

    def memory(self, name: str) -> Memory:
        """The memory called `name`.

        Raises:
            ValueError: no such memory.
        """
        for memory in self.memories:
            if memory.name == name:
                return memory
        raise ValueError(f"there is no memory {name!r}; known: {', '.join(m.name for m in self.memories)}")

    def span(self, names: tuple[str, ...]) -> Span:
        """The address range of adjacent memories.

        Raises:
            ValueError: unknown name, or a gap.
        """
        parts = [self.memory(n) for n in names]
        for low, high in pairwise(parts):
            if low.end != high.base:
                raise ValueError(f"{low.name} and {high.name} are not adjacent")
        return Span(base=parts[0].base, bytes=sum(p.bytes for p in parts))

    @property
    def flash_memory(self) -> Memory:
        """The one flash."""
        return next(m for m in self.memories if m.kind == "flash")

    @property
    def sectors(self) -> tuple[Span, ...]:
        """Every erase sector, ascending."""
        out: list[Span] = []
        at = self.flash_memory.base
        for group in self.flash.sectors:
            for _ in range(group.count):
                out.append(Span(base=at, bytes=group.bytes))
                at += group.bytes
        return tuple(out)

    @property
    def sram_bytes(self) -> int:
        """RAM that stack, static data and arena may use together."""
        return sum(m.bytes for m in self.memories if self.is_sram((m.name,)))

    def is_sram(self, names: Names) -> bool:
        """Whether stack, static data or arena may lie there: an ITCM is none."""
        where = self.placement
        return not {*where.stack, *where.data, *(n for arena in where.arena for n in arena)}.isdisjoint(names)

    @property
    def flash_bytes(self) -> int:
        """Size of the flash."""
        return self.flash_memory.bytes


def chips_dir() -> Path:
    """The folder that holds one folder a chip."""
    return paths.firmware_dir() / "chips"


def chip_names() -> tuple[str, ...]:
    """Chips that exist in silicon and can be built for, sorted."""
    return tuple(name for name in _folders() if name.startswith("stm32"))


def machine_names() -> tuple[str, ...]:
    """Boards that only QEMU has, sorted."""
    return tuple(name for name in _folders() if not name.startswith("stm32"))


def _folders() -> tuple[str, ...]:
    return tuple(sorted(p.parent.name for p in chips_dir().glob("*/chip.yaml")))


@cache
def load_chip(name: str) -> Chip:
    """Reads `chips/<name>/chip.yaml`.

    Raises:
        ConfigError: no such chip, or its file is wrong (file and field are named).
    """
    known = _folders()
    if name not in known:
        raise ConfigError(f"unknown chip {name!r}; known: {', '.join(known)}", file=str(chips_dir()))
    file = chips_dir() / name / "chip.yaml"
    try:
        chip = Chip.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise ConfigError("not valid YAML", file=str(file), line=None if mark is None else mark.line + 1) from e
    except ValidationError as e:
        first = e.errors()[0]
        raise ConfigError(first["msg"], file=str(file), field=".".join(map(str, first["loc"])) or None) from e
    if chip.name != name:
        raise ConfigError(f"is {chip.name!r} but the folder is {name!r}", file=str(file), field="name")
    return chip
