"""What decides the bytes of an image, as a value, and its digest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cache

from harness import digests, paths
from harness.boards import DEFAULT_BAUD, Board, ClockSource
from harness.chips import Chip, UartPins, load_chip
from harness.images.placement import PLAIN, Placement
from harness.images.toolchain import Toolchain
from tinyengine.sources import Sources

FORMAT = "tinyrack.build/4"
FLAGS = (
    "-std=c11", "-O2", "-ffunction-sections", "-fdata-sections", "-fno-common", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
# Firmware is freestanding: libc in the image is what the model asked for, so its size can be told apart.
# It is small (-Os): the timed window is assembly, no figure depends on how the rest is compiled.
FIRMWARE_FLAGS = (
    "-Os",
    # No FP register is used to move data: the firmware leaves no FP context for the core to stack.
    "-mgeneral-regs-only",
    "-ffreestanding",
    "-fno-tree-loop-distribute-patterns",
    "-Wconversion",
    "-Wshadow",
    "-Wundef",
)
LINK_FLAGS = (
    "-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,--fatal-warnings",
    "-Wl,-z,max-page-size=4096", "-Wl,--no-warn-rwx-segments",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """Everything that decides the bytes of an image.

    Args:
        placement: what lies elsewhere than the chip's folder says.
    """

    sources: Sources
    chip: Chip
    uart: UartPins
    clock_source: ClockSource
    baud: int
    toolchain: Toolchain
    placement: Placement = PLAIN

    @classmethod
    def of_board(
        cls, board: Board, sources: Sources, *, toolchain: Toolchain, placement: Placement = PLAIN
    ) -> BuildPlan:
        """For a board as it is wired."""
        plan = cls.of_chip(load_chip(board.chip), sources, toolchain=toolchain, placement=placement)
        return replace(plan, uart=board.uart, clock_source=board.clock_source, baud=board.baud)

    @classmethod
    def of_chip(
        cls, chip: Chip, sources: Sources, *, toolchain: Toolchain, placement: Placement = PLAIN
    ) -> BuildPlan:
        """For a chip's own UART and oscillator, whatever board it is on."""
        return cls(
            sources=sources,
            chip=chip,
            uart=chip.uart,
            clock_source=ClockSource(),
            baud=DEFAULT_BAUD,
            toolchain=toolchain,
            placement=placement,
        )

    def digest(self) -> str:
        """SHA-256 over all of it, the firmware's own files included; the image carries it and HELLO repeats it."""
        return digests.of_texts(
            FORMAT,
            self.sources.digest(),
            self.chip.model_dump_json(),
            self.uart.model_dump_json(),
            json.dumps(asdict(self.clock_source), sort_keys=True),
            str(self.baud),
            self.toolchain.description,
            " ".join((*FLAGS, *FIRMWARE_FLAGS, *LINK_FLAGS)),
            firmware_digest(),
            json.dumps(asdict(self.placement), sort_keys=True),
        )


@cache
def firmware_digest() -> str:
    """SHA-256 over names and contents of the firmware's sources."""
    root = paths.firmware_dir()
    return digests.of_files(root, (p for p in root.rglob("*") if p.suffix in {".c", ".h", ".S", ".j2"}))
