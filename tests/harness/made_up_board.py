"""A whole board made up: probe, link, firmware and the simulator's word on it, for tests of the runner."""

from __future__ import annotations

import random
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from harness.boards import Board
from harness.boards_file import load_boards
from harness.cable import messages
from harness.cable.device import Device, WholeRun
from harness.cable.interfaces import FlashReport, Link, Probe
from harness.evidence import Evidence
from harness.images.image import Image, Region
from harness.images.plan import BuildPlan
from harness.job import Job, JobOptions, PreparedModel
from harness.paths import default_boards_file
from harness.row import LinkStats, Row
from harness.runner import Runner
from harness.station import Modelled
from tests.harness.rows import link_stats

MODEL_FLASH_BYTES = 270_000
BOARD = load_boards(default_boards_file()).all[1]
H743 = load_boards(default_boards_file()).select(["h743-sim"])[0]


@dataclass
class MadeUp:
    """A whole board: probe, link, firmware and the simulator's word on it."""

    model: PreparedModel
    trouble: dict[str, Exception] = field(default_factory=dict)
    hello_changes: dict[str, Any] = field(default_factory=dict)
    later_changes: dict[str, Any] = field(default_factory=dict)
    line: LinkStats = field(default_factory=lambda: link_stats(frames=12))
    seconds_a_tick: float = 0.01
    output: bytes | None = None
    crcs: tuple[int, ...] | None = None
    layer_cycles: int = 100
    guard_intact: bool = True
    stack_bytes: int = 500
    silicon: bool = False
    cycles: int = 1000
    verified: bool = True
    calls: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    most_deadline_s: float = 20.0

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if name in self.trouble:
            raise self.trouble[name]

    # -- Hardware

    def probe(self, board: Board) -> Probe:
        del board
        self._step("probe")
        return cast(Probe, self)

    def link(self, board: Board) -> Link:
        del board
        self._step("link")
        return cast(Link, self)

    def modelled(self, board: Board, cycles: int) -> Modelled | None:
        del board
        return (
            None
            if self.silicon
            else Modelled(timing_model="tr-cortexm/1", memory_model="chip", instructions=cycles // 2, remarks=())
        )

    # -- Probe and Link

    def flash(self, elf: Path, *, timeout_s: float) -> FlashReport:
        del elf, timeout_s
        self._step("flash")
        return FlashReport(programmed_bytes=9, erased_sectors=1, verified=self.verified, seconds=0.5, probe="p")

    def reset_and_run(self, *, timeout_s: float) -> None:
        del timeout_s
        self._step("reset_and_run")

    def discard_input(self) -> None:
        self._step("discard_input")

    def close(self) -> None:
        self._step("close")

    # -- the dialogue

    @property
    def statistics(self) -> LinkStats:
        return self.line

    def hello(self, nonce: int) -> object:
        self._step("hello")
        known: dict[str, Any] = {
            "build_digest": "b" * 64, "sources_digest": "s" * 64, "chip": "stm32f746", "cpuid": 0x410FC271,
            "device_id": 0x449, "revision_id": 0x1001, "clock_hz": 216_000_000, "wait_states": 7, "icache": True,
            "dcache": True, "prefetch": True, "art": True, "dwt": True, "fpu": True, "nonce": nonce, "boot": 3,
            "reset_cause": 4, "clock_status": messages.ClockStatus.RATED,
        }  # fmt: skip
        self._hello = SimpleNamespace(**{**known, **self.hello_changes})
        return self._hello

    def hello_again(self) -> object:
        self._step("hello_again")
        return SimpleNamespace(**{**vars(self._hello), **self.later_changes})

    def load_input(self, data: bytes) -> None:
        self._step("load_input")
        assert data == self.model.input_blob

    def run_whole(self, *, warmups: int, repetitions: int, deadline_s: float) -> WholeRun:
        del warmups
        self._step("run_whole")
        assert 10 < deadline_s < self.most_deadline_s
        crc = zlib.crc32(self.model.expected_blob)
        cycles = tuple(self.cycles + 10 * (i % 2) for i in range(repetitions))
        return WholeRun(cycles=cycles, output_crcs=self.crcs or (crc,) * repetitions, discarded=0)

    def run_layers(self, *, deadline_s: float) -> tuple[int, ...]:
        self._step("run_layers")
        assert deadline_s > 10
        return (self.layer_cycles,) * len(self.model.compiled.layers)

    def memory(self, *, deadline_s: float) -> messages.MemoryReport:
        self._step("memory")
        assert deadline_s > 10
        envelope = messages.Envelope(kind=messages.Kind.MEMORY, nonce=1, seq=1, boot=3)
        return messages.MemoryReport(
            envelope=envelope,
            arena_bytes=self.model.compiled.plan.arena_bytes,
            guard_intact=self.guard_intact,
            stack_bytes=self.stack_bytes,
            stack_inference_bytes=100,
            stack_reserve_bytes=2048,
        )

    def read_output(self) -> bytes:
        """What `_Dialogue` calls `output`."""
        self._step("output")
        return self.model.expected_blob if self.output is None else self.output

    # -- a job

    def make(self, plan: BuildPlan) -> Image:
        self._step("build")
        return Image(
            elf=Path("image.elf"), elf_sha256="e" * 64, build_digest="b" * 64, flash_bytes=300_000,
            model_flash_bytes=MODEL_FLASH_BYTES, text_bytes=20_000, rodata_bytes=250_000, static_ram_bytes=1_000,
            arena_bytes=self.model.compiled.plan.arena_bytes, copied_bytes=0,
            regions=(Region(section="arena", memory="dtcm", bytes=9),), copied_sram_bytes=0,
            stack_reserve_bytes=2048, toolchain=plan.toolchain.description,
        )  # fmt: skip

    def run(self, options: JobOptions | None = None, *, board: Board = BOARD) -> tuple[Row, Evidence]:
        ticks = iter(x * self.seconds_a_tick for x in range(10_000))
        runner = Runner(
            hardware=cast(Any, self),
            stop=self.stop,
            clock=lambda: next(ticks),
            now=lambda: 1_700_000_000.0,
            rng=random.Random(1),
            make=self.make,
            converse=lambda _link, _board: cast(Device, _Dialogue(self)),
        )
        return runner.run(
            Job(board=board, model=self.model, options=options or JobOptions()), stage=lambda _: None
        )


class _Dialogue:
    """The made-up board's dialogue; `output` is a method here and a value there."""

    def __init__(self, board: MadeUp) -> None:
        self._board = board

    def __getattr__(self, name: str) -> object:
        return getattr(self._board, "read_output" if name == "output" else name)


def run(model: PreparedModel, **changes: Any) -> Row:
    return MadeUp(model=model, **changes).run()[0]
