"""A saved image's inference under two other judges: QEMU's engine, and llvm-mca for its hottest blocks.

The very bytes of the image run. For an STM32's image QEMU has one machine that fits: an STM32F405 with flash and
SRAM where ours have them. Its peripherals are not ours, so no firmware is started: a few instructions call the
inference between two reads of the counter. What runs under QEMU is announced to the same timing model by our
plug-in, memory never waits: the engines differ in how they cut code into blocks and in how they come to each
result, and in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.chips import Chip, Qemu
from harness.errors import ConfigError
from harness.sim import hot_blocks
from harness.sim.bare import BareMachine
from harness.sim.emulators.qemu import QemuBoard
from harness.sim.hot_blocks import HotBlock
from harness.sim.timing_core import TIMING_MODEL

ENTRY, ARENA = "te_invoke", "tr_arena"
DEFAULT_LIMIT_S = 120.0
_STUB_BYTES, _STACK_BYTES = 0x100, 4096
_COUNTER_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine of QEMU, as (base, bytes) of its memories; the core starts by the first one's vectors."""

    name: str
    code: tuple[int, int]
    ram: tuple[int, int]

    @property
    def stub(self) -> int:
        """Where our call lies; the stack is below it, the counter's two words are the end of the memory."""
        return sum(self.ram) - _STUB_BYTES

    @property
    def counter(self) -> int:
        return sum(self.ram) - _COUNTER_BYTES


STM32 = Machine(name="netduinoplus2", code=(0x0800_0000, 1 << 20), ram=(0x2000_0000, 128 << 10))


def machine_for(chip: Chip) -> Machine:
    """QEMU's machine whose memories are those of the chip, as far as there is one."""
    if chip.qemu is None:
        return STM32
    ram = next(m for m in chip.memories if m.kind == "ram")
    code = chip.flash_memory
    return Machine(name=chip.qemu.machine, code=(code.base, code.bytes), ram=(ram.base, ram.bytes))


_CALL = (
    0x4808,          # ldr  r0, [pc, #32]   CPACR
    0x6801,          # ldr  r1, [r0]
    0xF441, 0x0170,  # orr  r1, r1, #0xF00000
    0x6001,          # str  r1, [r0]
    0xF3BF, 0x8F6F,  # isb
    0x4C06,          # ldr  r4, [pc, #24]   the counter
    0xF8D4, 0x5000,  # ldr.w r5, [r4]
    0x4805,          # ldr  r0, [pc, #20]   the arena
    0x4B06,          # ldr  r3, [pc, #24]   the function
    0x4798,          # blx  r3
    0x4C03,          # ldr  r4, [pc, #12]   the counter
    0xF8D4, 0x0000,  # ldr.w r0, [r4]
    0xE7FE,          # b    .
)  # fmt: skip
_CPACR = 0xE000_ED88


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """One inference on both engines, memory ideal.

    Args:
        machine: QEMU's.
        cycles, qemu_cycles: of the timing model, under Unicorn and under QEMU; QEMU's hold the call as well.
        same_arena: every byte of the arena is the same after it.
        hot_blocks: with llvm-mca's opinion.
    """

    elf: str
    chip: str
    core: str
    machine: str
    timing_model: str
    cycles: int
    qemu_cycles: int
    qemu_instructions: int
    arena_bytes: int
    same_arena: bool
    hot_blocks: tuple[HotBlock, ...]

    @property
    def difference_percent(self) -> float:
        """QEMU's from ours."""
        return 100.0 * (self.qemu_cycles / self.cycles - 1.0)


def confirm(
    elf: Path, chip: Chip, *, blocks: int = 10, limit_s: float = DEFAULT_LIMIT_S, seed: int = 0
) -> Confirmation:
    """Runs the image's inference on both engines from the same random arena.

    Args:
        blocks: how many of the hottest blocks llvm-mca is asked about.

    Raises:
        ConfigError: no image of ours, or it uses memory that QEMU's board lacks.
        MissingTool: no QEMU, or no compiler for the timing library.
        BoardTimeout, FlashFailed: QEMU did not come up, or the inference did not end.
    """
    core, board = chip.emulated_core, machine_for(chip)
    with BareMachine(elf, core=core) as machine:
        pieces = _pieces(elf, machine, board)
        arena, size, entry = machine.symbols[ARENA], machine.sizes[ARENA], machine.symbols[ENTRY]
        content = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()
        priced, total = hot_blocks.price(
            machine, elf, core=core, model=elf.name, entry=ENTRY, arena=arena, content=content, count=blocks
        )
        after = bytes(machine.uc.mem_read(arena, size))
    cycles, instructions, theirs = _under_qemu(chip, board, pieces, entry, arena, content, limit_s=limit_s)
    return Confirmation(
        elf=str(elf), chip=chip.name, core=core, machine=board.name, timing_model=TIMING_MODEL, cycles=total,
        qemu_cycles=cycles, qemu_instructions=instructions, arena_bytes=size, same_arena=theirs == after,
        hot_blocks=priced,
    )  # fmt: skip


def _pieces(elf: Path, machine: BareMachine, board: Machine) -> list[tuple[int, bytes]]:
    """What to load, or why QEMU's board cannot hold it."""
    for symbol in (ENTRY, ARENA):
        if symbol not in machine.symbols:
            raise ConfigError(
                f"has no symbol {symbol}; `tinyrack bench --save` keeps images of ours", file=str(elf)
            )
    pieces = []
    for base, size, data in machine.sections:
        spans = (board.code, (board.ram[0], board.ram[1] - _STUB_BYTES - _STACK_BYTES))
        if not any(start <= base and base + size <= start + length for start, length in spans):
            there = " and ".join(f"{start:#x} ({length >> 10} kB)" for start, length in (board.code, board.ram))
            raise ConfigError(
                f"has {size:,} B at {base:#010x}; QEMU's {board.name} has memory at {there} only; if these are "
                "copies into ITCM or SRAM, `tinyrack bench MODEL --boards BOARD --placement flash --save DIR` "
                "keeps an image without",
                file=str(elf),
            )
        if data:
            pieces.append((base, data))
    return pieces


def _under_qemu(
    chip: Chip,
    machine: Machine,
    pieces: list[tuple[int, bytes]],
    entry: int,
    arena: int,
    content: bytes,
    *,
    limit_s: float,
) -> tuple[int, int, bytes]:
    """Cycles and instructions of the call, and the arena after it."""
    literals = (_CPACR, machine.counter, arena, entry | 1)
    call = b"".join(half.to_bytes(2, "little") for half in _CALL)
    call += bytes(-len(call) % 4) + b"".join(word.to_bytes(4, "little") for word in literals)
    # In the place of the image's own: stack pointer and reset handler.
    vectors = machine.stub.to_bytes(4, "little") + (machine.stub | 1).to_bytes(4, "little")
    there = chip.model_copy(update={"qemu": Qemu(machine=machine.name, counter=machine.counter, counts="cycles")})
    board = QemuBoard(f"confirm-{chip.name}", there)
    try:
        loaded = [*pieces, (arena, content), (machine.stub, call), (machine.code[0], vectors)]
        board.load(loaded, timeout_s=limit_s)
        board.reset_and_run(timeout_s=limit_s)
        board.wait_for_reads(2, timeout_s=limit_s)
        first, last = board.windows()[-2:]
        cycles = last.cyccnt - first.cyccnt & 0xFFFF_FFFF
        return cycles, last.instructions - first.instructions, board.read(arena, len(content), timeout_s=limit_s)
    finally:
        board.close()
