"""One attempt on a made-up board: what is measured, what is checked, and what a failure looks like."""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from harness import fitting
from harness import job as jobs
from harness.boards import Board
from harness.boards_file import load_boards
from harness.build_plan import BuildPlan
from harness.cable import messages
from harness.cable.device import Device, WholeRun
from harness.cable.interfaces import FlashReport, Link, Probe
from harness.errors import (
    ArenaOverflow,
    BoardCrash,
    BoardTimeout,
    BuildFailed,
    ConfigError,
    FaultClass,
    FlashFailed,
    FlashOverflow,
    MissingTool,
    Outcome,
)
from harness.evidence import Evidence, save
from harness.image import Image, Region
from harness.job import Job, JobOptions, PreparedModel
from harness.models import resolve
from harness.paths import default_boards_file
from harness.row import CONTRACT_KEYS, LinkStats, Row, to_json
from harness.runner import Runner
from harness.station import Modelled
from tests.harness.rows import link_stats
from tinyengine.kernels.catalogue import Target
from tinyengine.schedule import Optimize, Sharing, flash_bytes

MODEL_FLASH_BYTES = 270_000
BOARD = load_boards(default_boards_file()).all[1]
H743 = load_boards(default_boards_file()).select(["h743-sim"])[0]


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return jobs.prepare(resolve("zoo:ad-autoencoder"), JobOptions())


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


def test_a_good_run_fills_every_key_of_the_contract(model: PreparedModel) -> None:
    row = run(model)
    document = to_json(row)
    assert [key for key in CONTRACT_KEYS if document[key] is None] == ["error"]
    assert row.outcome is Outcome.OK
    assert row.bit_exact
    assert row.cycles == 1000
    assert row.cycles_samples == (1000, 1010, 1000, 1010, 1000)
    assert row.latency_ms == row.latency_ms_216mhz == 1000 / 216e6 * 1e3
    assert row.arena_measured_bytes == row.arena_planned_bytes == model.compiled.plan.arena_bytes
    assert row.sram_bytes == 1_000 + model.compiled.plan.arena_bytes + 500
    assert row.instructions == 500
    assert row.input_sha256 == jobs.sha256(model.input_blob)
    assert row.output_sha256 == jobs.sha256(model.expected_blob)
    assert row.started == "2023-11-14T22:13:20.000Z"
    assert row.link is not None
    assert row.link.frames == 12
    assert row.readback is not None
    assert row.readback.boot == 3
    stages = [stage.name for stage in row.stages]
    assert stages == ["build", "flash", "start", "hello", "load", "run", "read", "memory", "layers", "check"]


def test_less_sharing_is_planned_once_and_for_good_rows_only() -> None:
    model, asked = jobs.prepare(resolve("zoo:ad-autoencoder"), JobOptions()), []
    counted = replace(model, ladder=lambda: asked.append(1) or model.ladder())  # type: ignore[func-returns-value]
    assert not run(counted, stack_bytes=500, trouble={"flash": FlashFailed("b", "flash", "no", "")}).ladder
    assert not MadeUp(model=counted).run(JobOptions(marks=False))[0].ladder
    assert not asked
    sharing = [rung.sharing for rung in run(counted).ladder]
    assert sharing == [s.value for s in list(Sharing)[:-1]]
    assert len(asked) == 1 and model.ladder() is model.ladder()


def test_copies_into_sram_count_as_sram(model: PreparedModel) -> None:
    class Copying(MadeUp):
        def make(self, plan: BuildPlan) -> Image:
            regions = (Region(section="copies", memory="dtcm", bytes=700),)
            return replace(super().make(plan), regions=regions, copied_bytes=900, copied_sram_bytes=700)

    row = Copying(model=model).run()[0]
    assert row.sram_bytes == 1_000 + model.compiled.plan.arena_bytes + 500 + 700
    assert row.placement is not None
    assert (row.placement.hot_weights, row.placement.hot_bytes, row.placement.hot_sram_bytes) == ("dtcm", 900, 700)
    assert [(r.section, r.memory, r.bytes) for r in row.placement.regions] == [("copies", "dtcm", 700)]


def test_stale_bytes_are_dropped_before_the_image_starts(model: PreparedModel) -> None:
    board = MadeUp(model=model)
    board.run()
    wanted = ["build", "probe", "link", "flash", "discard_input", "reset_and_run", "hello", "load_input"]
    assert board.calls[: len(wanted)] == wanted
    assert board.calls[-2:] == ["close", "close"]


def test_silicon_has_no_model_and_no_instruction_count(model: PreparedModel) -> None:
    row = run(model, silicon=True)
    assert row.outcome is Outcome.OK
    assert (row.timing_model, row.memory_model, row.instructions) == (None, None, None)


def test_a_wrong_byte_is_a_mismatch_however_good_the_checksums(model: PreparedModel) -> None:
    wrong = bytes([model.expected_blob[0] ^ 1, *model.expected_blob[1:]])
    row = run(model, output=wrong)
    assert row.outcome is Outcome.MISMATCH
    assert row.bit_exact is False
    assert row.error == f"1 of {len(wrong)} output bytes differ from the reference, first at 0"
    assert row.cycles == 1000


def test_one_odd_repetition_is_a_mismatch(model: PreparedModel) -> None:
    right = zlib.crc32(model.expected_blob)
    row = run(model, crcs=(right, right, 5, right, right))
    assert row.outcome is Outcome.MISMATCH
    assert "repetition 2" in (row.error or "")


def test_a_broken_guard_is_never_ok(model: PreparedModel) -> None:
    row = run(model, guard_intact=False)
    assert (row.outcome, row.bit_exact) == (Outcome.MISMATCH, False)
    assert "past the end of its arena" in (row.error or "")


def test_layers_that_do_not_add_up_are_left_out_with_a_warning(model: PreparedModel) -> None:
    good, bad = run(model), run(model, layer_cycles=103)
    assert good.layers is not None
    assert bad.layers is not None
    assert sum(layer.cycles or 0 for layer in good.layers) == 1000
    assert all(layer.cycles is None for layer in bad.layers)
    assert bad.warnings == (
        "layer cycles are left out: they add up to 1,030, 3.0% away from the whole run's 1,000",
    )
    assert bad.outcome is Outcome.OK


def test_a_deep_stack_is_a_warning(model: PreparedModel) -> None:
    assert "the stack reached 1,500 B" in run(model, stack_bytes=1500).warnings[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"build_digest": "x"}, "build digest: expected bbbb"),
        ({"chip": "stm32f412"}, "chip: expected stm32f746, the board says stm32f412"),
        ({"device_id": 0x451}, "device id: expected 0x449, the board says 0x451"),
        ({"dwt": False}, "cycle counter: expected advancing, the board says stopped"),
        ({"fpu": False}, "FPU"),
        ({"icache": False}, "instruction cache: expected True, the board says False"),
        ({"dcache": False}, "data cache"),
        ({"wait_states": 9}, "flash wait states: expected 7, the board says 9"),
    ],
)
def test_nothing_is_measured_on_a_board_in_another_state(
    model: PreparedModel, change: dict[str, Any], words: str
) -> None:
    board = MadeUp(model=model, hello_changes=change)
    row, _ = board.run()
    assert row.outcome is Outcome.CRASH
    assert words in (row.error or "")
    assert row.cycles is None
    assert "run_whole" not in board.calls


def test_an_older_revision_is_measured_at_its_own_clock_and_said(model: PreparedModel) -> None:
    change = {
        "clock_hz": 400_000_000, "wait_states": 2, "clock_status": messages.ClockStatus.REDUCED_REVISION,
        "chip": "stm32h743", "device_id": 0x450, "art": False, "prefetch": False,
    }  # fmt: skip
    row, _ = MadeUp(model=model, hello_changes=change).run(board=H743)
    assert row.outcome is Outcome.OK, row.error
    assert row.clock_hz == 400_000_000
    assert row.latency_ms == 1000 / 400e6 * 1e3
    assert row.latency_ms_216mhz == 1000 / 216e6 * 1e3
    assert "400 MHz instead of 480" in row.warnings[0]


@pytest.mark.parametrize(
    ("change", "later", "fault"),
    [
        ({"clock_hz": 16_000_000, "clock_status": messages.ClockStatus.NO_PLL}, {}, FaultClass.WRONG_CLOCK),
        ({"clock_hz": 190_000_000}, {}, FaultClass.WRONG_CLOCK),
        (
            {"clock_hz": 200_000_000, "clock_status": messages.ClockStatus.REDUCED_REVISION},
            {},
            FaultClass.WRONG_CLOCK,
        ),
        ({"icache": False}, {}, FaultClass.CACHES_OFF),
        ({"art": False}, {}, FaultClass.CACHES_OFF),
        ({"build_digest": "x"}, {}, FaultClass.WRONG_IMAGE),
        ({}, {"clock_hz": 16_000_000}, FaultClass.WRONG_CLOCK),
        ({}, {"dcache": False}, FaultClass.CACHES_OFF),
        ({}, {"dwt": False}, FaultClass.CHIP_STATE),
    ],
)
def test_a_chip_in_another_state_before_or_after_the_run_is_no_good_row(
    model: PreparedModel, change: dict[str, Any], later: dict[str, Any], fault: FaultClass
) -> None:
    row = run(model, hello_changes=change, later_changes=later)
    assert (row.outcome, row.fault_class) == (Outcome.CRASH, fault)
    assert row.advice


@pytest.mark.parametrize(("seconds", "good"), [(1e-4, False), (3.0, True), (60.0, False)])
def test_a_crystal_of_another_frequency_is_noticed_by_the_hosts_clock(
    model: PreparedModel, seconds: float, good: bool
) -> None:
    board = MadeUp(model=model, silicon=True, cycles=100_000_000, layer_cycles=10_000_000, seconds_a_tick=seconds)
    row, _ = board.run(board=replace(BOARD, simulated=False))
    assert (row.outcome is Outcome.OK) is good, row.error
    assert row.fault_class is (None if good else FaultClass.WRONG_CLOCK)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (link_stats(resends=2, garbage_bytes=90, frames_shortened=2), FaultClass.UART_BYTES_LOST),
        (link_stats(resends=2, garbage_bytes=90, frames_flipped=1), FaultClass.UART_BYTES_FLIPPED),
        (link_stats(resends=1, garbage_bytes=90, frames_lengthened=1), FaultClass.UART_BYTES_DUPLICATED),
        (link_stats(garbage_bytes=64, early_garbage_bytes=64), FaultClass.UART_GARBAGE_BEFORE_BOOT),
        (link_stats(stale_frames=3, foreign_frames=3), FaultClass.STALE_OUTPUT),
        (link_stats(resends=2), FaultClass.UART_REQUESTS_LOST),
        (link_stats(resends=2, stale_frames=2), None),
        (link_stats(), None),
    ],
)
def test_trouble_that_was_overcome_is_in_the_row_with_advice(
    model: PreparedModel, line: LinkStats, fault: FaultClass | None
) -> None:
    row = run(model, line=line)
    assert (row.outcome, row.fault_class) == (Outcome.OK, fault)
    assert (row.advice is not None) == bool(row.warnings) == (fault is not None)


def test_an_image_too_large_for_flash_is_compiled_smaller() -> None:
    options = JobOptions(optimize=Optimize.LATENCY)
    fast = jobs.prepare(resolve("zoo:resnet-8"), options, target=Target.M7)
    whole = flash_bytes(fast.compiled.graph, fast.compiled.schedule.steps)
    overflow = FlashOverflow(whole + 60_000, whole + 40_000, "the image")
    found = fitting.smaller(Job(board=BOARD, model=fast, options=options), overflow)
    assert found is not None
    assert found.limit_bytes == whole - 21_250
    slim = found.job.model
    compiled = slim.compiled
    assert flash_bytes(compiled.graph, compiled.schedule.steps) <= found.limit_bytes
    assert any(layer.kernel.endswith("__dsp") for layer in compiled.layers), "portable kernels are the last resort"

    @dataclass
    class Narrow(MadeUp):
        def make(self, plan: BuildPlan) -> Image:
            if plan.sources.digest() == fast.compiled.sources.digest():
                raise overflow
            assert plan.sources.digest() == compiled.sources.digest()
            self.model = slim
            return super().make(plan)

    row, _ = Narrow(model=fast, most_deadline_s=200.0).run(options)
    assert row.outcome is Outcome.OK
    assert row.sources_digest == compiled.sources.digest()
    assert row.warnings[0].startswith(f"compiled with a flash limit of {found.limit_bytes:,} B, because")


def test_a_flash_limit_holds_for_what_the_linker_says(model: PreparedModel) -> None:
    limit = MODEL_FLASH_BYTES - 1
    row, _ = MadeUp(model=model).run(JobOptions(flash_limit_bytes=limit))
    assert row.outcome is Outcome.FLASH_OVERFLOW
    assert row.error == f"the model needs {MODEL_FLASH_BYTES:,} B of flash, the limit is {limit:,} B"
    row, _ = MadeUp(model=model).run(JobOptions(flash_limit_bytes=MODEL_FLASH_BYTES))
    assert row.outcome is Outcome.OK


def test_what_cannot_be_compiled_smaller_overflows(model: PreparedModel) -> None:
    row, _ = MadeUp(model=model, trouble={"build": FlashOverflow(2, 1, "image")}).run()
    assert (row.outcome, row.warnings) == (Outcome.FLASH_OVERFLOW, ())


@pytest.mark.parametrize(
    ("where", "error", "outcome", "fault"),
    [
        ("build", ArenaOverflow(400_000, 327_680, "arena"), "arena_overflow", "model"),
        ("build", FlashOverflow(2, 1, "image"), "flash_overflow", "model"),
        ("build", BuildFailed("compiling", "x.c:1: error: no"), "build_failed", "toolchain"),
        ("probe", ConfigError("no such probe", file="boards.yaml"), "flash_failed", "board"),
        ("link", ConfigError("no such port", file="/dev/x"), "flash_failed", "board"),
        ("flash", FlashFailed("b", "program", "fault at 0x8000000", "flash again"), "flash_failed", "board"),
        ("flash", BoardTimeout("b", "flash", 120, "power-cycle"), "timeout", "link"),
        ("hello", BoardTimeout("b", "hello", 10, "check the cable"), "timeout", "link"),
        ("run_whole", BoardCrash("b", "run", "HardFault pc 0x08000400"), "crash", "board"),
        ("memory", BoardCrash("b", "memory", "rebooted"), "crash", "board"),
    ],
)
def test_a_failure_is_a_row_with_what_was_known_by_then(
    model: PreparedModel, where: str, error: Exception, outcome: str, fault: str
) -> None:
    board = MadeUp(model=model, trouble={where: error})
    row, evidence = board.run()
    assert (row.outcome.value, row.fault) == (outcome, fault)
    assert row.error
    assert row.advice
    assert row.advice not in row.error
    assert row.bit_exact is not True or where == "memory"
    assert row.sources_digest == model.compiled.sources.digest()
    assert (row.elf_sha256 is None) == (where == "build")
    assert (row.cycles is None) == (where != "memory")
    assert (evidence.output is None) == (where != "memory")
    assert board.calls.count("close") == sum(each in board.calls and each != where for each in ("probe", "link"))


def test_an_image_that_was_not_read_back_is_not_run(model: PreparedModel) -> None:
    board = MadeUp(model=model, verified=False)
    row, _ = board.run()
    assert row.outcome is Outcome.FLASH_FAILED
    assert "reset_and_run" not in board.calls


def test_a_missing_compiler_is_no_row(model: PreparedModel) -> None:
    with pytest.raises(MissingTool, match="apt-get"):
        run(model, trouble={"build": MissingTool("arm-none-eabi-gcc", "apt-get install it")})


def test_a_stop_ends_before_the_next_stage_and_frees_both_cables(model: PreparedModel) -> None:
    board = MadeUp(model=model)

    def stopping(elf: Path, *, timeout_s: float) -> FlashReport:
        board.stop.set()
        return MadeUp.flash(board, elf, timeout_s=timeout_s)

    board.flash = stopping  # type: ignore[method-assign]
    row, _ = board.run()
    assert row.outcome is Outcome.INTERRUPTED
    assert row.error == "stopped before start"
    assert board.calls[-2:] == ["close", "close"]


def test_evidence_can_be_checked_by_others(model: PreparedModel, tmp_path: Path) -> None:
    row, evidence = MadeUp(model=model).run()
    elf = tmp_path / "some.elf"
    elf.write_bytes(b"\x7fELF")
    save(tmp_path / "kept", row, replace(evidence, elf=elf))
    save(tmp_path / "kept", row, replace(evidence, elf=elf))
    folder = tmp_path / "kept" / "zoo-ad-autoencoder__f746-sim"
    names = ["image.elf", "input.bin", "input.npy", "output.bin", "output.npy", "row.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert jobs.sha256((folder / "output.bin").read_bytes()) == row.output_sha256
    assert jobs.sha256((folder / "input.bin").read_bytes()) == row.input_sha256
    assert np.load(folder / "output.npy").shape == model.expected[0].shape
    assert (np.load(folder / "input.npy") == model.inputs[0]).all()


def test_the_default_input_is_seeded_uniform_int8(model: PreparedModel) -> None:
    wanted = np.random.default_rng(0).integers(-128, 128, size=model.inputs[0].shape, dtype=np.int8)
    assert (model.inputs[0] == wanted).all()


def _inputs(model: PreparedModel) -> Iterable[tuple[Any, Callable[[Any], bool]]]:
    shape = model.inputs[0].shape
    quant = model.graph.tensors[model.graph.inputs[0]].quant
    assert quant is not None
    zero = np.clip(quant.zero_point, -128, 127)
    yield np.zeros(shape, np.float32), lambda found: bool((found == zero).all())
    yield np.zeros(shape, np.float64), lambda found: bool((found == zero).all())
    yield np.full(shape[1:], 5, np.int8), lambda found: bool((found == 5).all())


def test_an_input_may_be_float_and_lack_the_batch(model: PreparedModel) -> None:
    for given, right in _inputs(model):
        found = jobs.fit_input(model.graph, given, where="m")
        assert found.dtype == np.int8
        assert found.shape == model.inputs[0].shape
        assert right(found)


def test_an_input_that_does_not_fit_is_refused(model: PreparedModel, tmp_path: Path) -> None:
    shape = model.inputs[0].shape
    for given, words in (
        (np.zeros((3, 3), np.int8), "needs an input of shape"),
        (np.zeros(shape, np.int32), "needs finite float32 or int8"),
        (np.full(shape, np.nan, np.float32), "needs finite float32 or int8"),
    ):
        with pytest.raises(ConfigError, match=words):
            jobs.fit_input(model.graph, given, where="m")
    pickled = tmp_path / "x.npy"
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    text = tmp_path / "t.npy"
    text.write_text("hello")
    archive = tmp_path / "a.npz"
    np.savez(archive, x=np.zeros(3))
    huge = npy(tmp_path / "huge.npy", "(99999999999,)")
    endless = npy(tmp_path / "endless.npy", "(((((((((1,)")
    for file, words in (
        (huge, "not a .npy file"),
        (endless, "not a .npy file"),
        (pickled, "not a .npy file"),
        (text, "not a .npy"),
        (archive, "npz"),
        (tmp_path / "n", "read"),
    ):
        with pytest.raises(ConfigError, match=words):
            jobs.read_input(file)


def npy(file: Path, shape: str) -> Path:
    """A header that promises an array of `shape`, and nothing behind it."""
    header = f"{{'descr': '|i1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    return file


def test_a_model_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse.tflite"
    with file.open("wb") as stream:
        stream.truncate(1 << 36)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="larger than 256 MB"):
        resolve(str(file))
    assert time.monotonic() - began < 1.0
