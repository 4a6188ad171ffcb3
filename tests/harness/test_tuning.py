"""Tuning: readings survive anything, bad ways are found out, records are read back, fits recover what is there."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import pytest

from harness.boards import Board
from harness.boards_file import load_boards
from harness.chips import load_chip
from harness.cli.bench import untuned
from harness.cli.compiling import tunings
from harness.cli.tune import summary
from harness.errors import ConfigError, FaultClass, Outcome
from harness.evidence import Evidence
from harness.job import Job, JobOptions, Kernels, Memory, compile_options
from harness.models import resolve
from harness.paths import default_boards_file
from harness.request import Request
from harness.row import LayerRow, Row
from harness.runner import Runner
from harness.tuning import fit, record, sampling, table, tuner
from harness.tuning.bench import Bench, GaveUp, Step
from harness.tuning.fit import Point
from harness.tuning.readings import Reading, Readings, Verdict, generators, kernels_digest, kind_of
from harness.tuning.record import Chosen, TunedPlacement, TunedStep, Tuning, Whole
from tests.harness.rows import OK
from tinyengine import costs, zoo
from tinyengine.compile import CompileOptions, compile_graph, lowered_graphs
from tinyengine.costs import CoreCosts
from tinyengine.fixedpoint import Requant
from tinyengine.kernels.catalogue import Target
from tinyengine.measured import Measured, way_name
from tinyengine.memory.patches import Grid
from tinyengine.schedule import Optimize
from tinyengine.sheet import Sample, Sheet, sheet
from tinyengine.ways import Part, parts

BOARD = next(b for b in load_boards(default_boards_file()).all if b.name == "f412-sim")


def readings(folder: Path) -> Readings:
    return Readings(folder, kind_of(BOARD, Memory.IDEAL, toolchain="gcc"))


def test_readings_are_found_again_and_a_torn_line_costs_itself_only(tmp_path: Path) -> None:
    kept = readings(tmp_path)
    kept.add([Reading(name="a", verdict=Verdict.OK, cycles=5), Reading(name="b", verdict=Verdict.WRONG)])
    with kept.file.open("a") as stream:
        stream.write('{"name": "c", "verd')  # killed while writing
    readings(tmp_path).add([Reading(name="d", verdict=Verdict.OK, cycles=7)])
    again = readings(tmp_path)
    assert [again.get(n) is not None for n in "abcd"] == [True, True, False, True]
    measured = again.measured("abd")
    assert dict(measured.cycles) == {"a": 5, "d": 7}
    assert measured.wrong == {"b"}


def test_readings_of_another_kind_are_not_mixed(tmp_path: Path) -> None:
    readings(tmp_path).add([Reading(name="a", verdict=Verdict.OK, cycles=5)])
    for kind in (
        kind_of(BOARD, Memory.CHIP, toolchain="gcc"),
        kind_of(BOARD, Memory.IDEAL, toolchain="another gcc"),
        replace(kind_of(BOARD, Memory.IDEAL, toolchain="gcc"), kernels="others"),
        kind_of(replace(BOARD, simulated=False), Memory.IDEAL, toolchain="gcc"),
    ):
        assert Readings(tmp_path, kind).get("a") is None


def samples() -> tuple[Sample, ...]:
    graphs, _ = lowered_graphs(zoo.load("ad-autoencoder"), compile_options(JobOptions(), Target.M4))
    return sampling.samples(
        graphs, requant=Requant.EXACT, target=Target.M4, optimize=Optimize.BALANCED, slack=10.0
    )


class FakeRunner:
    """Answers with the reference's output, but for ways that `bad` changes or `hangs` on."""

    def __init__(self, bad: set[str], hangs: set[str]) -> None:
        self.bad, self.hangs = bad, hangs
        self.images: list[int] = []
        self.names: list[str] = []
        self.drops, self.dropped_as = 0, FaultClass.PROBE_LOST

    def run(self, job: Job, *, stage: Callable[[str], None]) -> tuple[Row, Evidence]:
        stage("run")
        names = [s.name for s in self.current]
        self.images.append(len(names))
        evidence = Evidence(graph=job.model.graph, inputs=job.model.inputs)
        if self.drops:
            self.drops -= 1
            lost = replace(OK, outcome=Outcome.FLASH_FAILED, fault_class=self.dropped_as, board="f412-sim")
            return replace(lost, error="f412-sim: hung up", layers=None), evidence
        if self.hangs & set(names):
            return replace(OK, outcome=Outcome.TIMEOUT, error="hung", layers=None), evidence
        output = bytearray(job.model.expected_blob)
        at = 0
        for sample in self.current:
            if sample.name in self.bad:
                output[at] ^= 1
            at += sample.output.size_bytes
        layers = tuple(
            LayerRow(index=i, name="", op="", kernel="", macs=0, cycles=zlib.crc32(n.encode()))
            for i, n in enumerate(names)
        )
        same = bytes(output) == job.model.expected_blob
        row = replace(OK, outcome=Outcome.OK if same else Outcome.MISMATCH, layers=layers)
        return row, replace(evidence, output=bytes(output))

    current: tuple[Sample, ...] = ()


def bench(fake: FakeRunner, kept: Readings, monkeypatch: pytest.MonkeyPatch, steps: list[Step]) -> Bench:
    real = sampling.prepared

    def watched(group: Sheet, *rest: object) -> object:
        fake.current = group.samples
        return real(group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sampling, "prepared", watched)
    return Bench(
        BOARD,
        runner=cast(Runner, fake),
        readings=kept,
        options=JobOptions(memory=Memory.IDEAL),
        compile_options=compile_options(JobOptions(), Target.M4),
        stop=threading.Event(),
        observe=steps.append,
    )


def test_a_wrong_way_is_told_from_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, kept, steps = samples(), readings(tmp_path), list[Step]()
    fake = FakeRunner(bad={found[1].name}, hangs=set())
    made = bench(fake, kept, monkeypatch, steps)
    assert made.measure(found) == len(found)
    verdicts = [cast(Reading, kept.get(s.name)).verdict for s in found]
    assert verdicts == [Verdict.WRONG if i == 1 else Verdict.OK for i in range(len(found))]
    assert cast(Reading, kept.get(found[0].name)).cycles == zlib.crc32(found[0].name.encode())
    assert steps[-1].done == steps[-1].total == len(found)
    # What has a reading is not measured again, by anybody.
    assert bench(fake, readings(tmp_path), monkeypatch, steps).measure(found) == 0


def test_a_way_that_hangs_is_found_by_halving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, kept = samples(), readings(tmp_path)
    fake = FakeRunner(bad=set(), hangs={found[2].name})
    bench(fake, kept, monkeypatch, []).measure(found)
    verdicts = [cast(Reading, kept.get(s.name)).verdict for s in found]
    assert verdicts == [Verdict.SILENT if i == 2 else Verdict.OK for i in range(len(found))]
    assert kept.measured().wrong == {found[2].name}
    # It may have been the board: a later run asks again.
    fake.hangs = set()
    later = readings(tmp_path)
    assert bench(fake, later, monkeypatch, []).measure(found) == 1
    assert cast(Reading, later.get(found[2].name)).verdict is Verdict.OK


def test_a_cable_that_drops_is_no_ways_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, kept = samples(), readings(tmp_path)
    fake = FakeRunner(bad=set(), hangs=set())
    fake.drops = 5
    bench(fake, kept, monkeypatch, []).measure(found)
    assert {cast(Reading, kept.get(s.name)).verdict for s in found} == {Verdict.OK}
    assert set(fake.images) == {len(found)}, "whole images only"
    fake.drops = 100
    with pytest.raises(GaveUp, match="failed 14 times in a row, the last: hung up; the same command goes on"):
        bench(fake, readings(tmp_path / "other"), monkeypatch, []).measure(found)
    fake.dropped_as = FaultClass.PROBE_ABSENT
    with pytest.raises(GaveUp, match="f412-sim failed once: hung up"):
        bench(fake, readings(tmp_path / "third"), monkeypatch, []).measure(found)
    assert not len(readings(tmp_path / "other")) and not len(readings(tmp_path / "third"))


def test_a_dead_board_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = samples()
    fake = FakeRunner(bad=set(), hangs={s.name for s in found})
    with pytest.raises(GaveUp, match="f412-sim failed 14 times"):
        bench(fake, readings(tmp_path), monkeypatch, []).measure(found)


def test_sheets_fit_their_memory() -> None:
    from harness.chips import load_chip

    chip = load_chip("stm32f746")
    found = samples()
    for memory in Memory:
        groups = list(sampling.sheets(found, chip, memory))
        assert [s for g in groups for s in g] == list(found)
        assert all(len(g) <= sampling.MOST_SAMPLES for g in groups)


def test_layers_that_share_a_value_share_the_input() -> None:
    found = samples()
    twice = sheet((found[0], found[0]), name="x").graph
    assert len(twice.inputs) == 1
    assert len(twice.outputs) == 2


def test_layers_inside_of_patches_can_be_measured() -> None:
    options = CompileOptions(target=Target.M4, patches=Grid(rows=1, columns=2))
    compiled = compile_graph(zoo.load("resnet-8"), options)
    graphs = tuner.patch_graphs(compiled)
    assert compiled.patches is not None and len(graphs) == compiled.patches.kinds
    found = sampling.samples(
        graphs[:1], requant=options.requant, target=options.target, optimize=options.optimize, slack=0.0
    )
    names = {s.name for s in found}
    inner = [s for step in compiled.schedule.steps for kind in step.patches[:1] for s in kind]
    wanted = {way_name(graphs[0], s, options.requant, options.target) for s in inner if s.op != "PASTE"}
    assert wanted & names and not any("/paste/" in name for name in names)
    alone = sheet(found[:3], name="x").compile(replace(options, patches=None))
    assert len(alone.layers) == 3
    # What was measured of them is what the stage's price is made of.
    measured = Measured(cycles=dict.fromkeys(names, 10**7))
    dearer = compile_graph(zoo.load("resnet-8"), replace(options, measured=measured))
    assert dearer.sources.digest() != compiled.sources.digest()


BALANCED = CompileOptions(optimize=Optimize.BALANCED)


def test_balanced_looks_for_faster_networks_in_larger_arenas() -> None:
    assert tuner.searched_arenas(BALANCED, 1000, 9000) == (None, 1000, 1500, 2500, 9000)
    assert tuner.searched_arenas(replace(BALANCED, sram_limit_bytes=1200), 1000, 9000) == (1200, 1000)
    assert tuner.searched_arenas(replace(BALANCED, optimize=Optimize.LATENCY), 1000, 9000) == (None,)


def test_balanced_gives_five_percent_of_what_was_measured_for_memory() -> None:
    def best(*runs: tuple[int, int], optimize: Optimize = Optimize.BALANCED) -> tuple[int, int]:
        wholes = [replace(WHOLE, cycles=cycles, arena_bytes=arena) for cycles, arena in runs]
        fastest = min(cycles for cycles, _ in runs)
        found = min(
            wholes,
            key=lambda w: tuner.score(w, default=wholes[0], fastest_cycles=fastest, optimize=optimize),
        )
        return found.cycles, found.arena_bytes

    assert best((1049, 100), (1000, 200)) == (1049, 100), "within five percent the smaller arena stays"
    assert best((1060, 100), (1000, 200)) == (1000, 200)
    assert best((1200, 100), (1000, 300), (1040, 200)) == (1040, 200)
    assert best((1000, 100), (1010, 50)) == (1000, 100), "never slower than the default"
    assert best((1000, 100), (990, 100), (980, 110)) == (990, 100)
    assert best((1000, 100), (1400, 50), optimize=Optimize.SRAM) == (1400, 50)


WHOLE = Whole(
    cycles=10, arena_bytes=4, flash_bytes=9, model_flash_bytes=5, sources_digest="d", sram_limit_bytes=None
)
TUNING = Tuning(
    model="m",
    model_sha256="a" * 64,
    board="f412-sim",
    chip="stm32f412",
    core="cortex-m4",
    simulated=True,
    memory="ideal",
    timing_model="t",
    memory_model="ideal",
    toolchain="gcc",
    kernels=kernels_digest(),
    tinyrack="1",
    started="now",
    seconds=1.0,
    requant=Requant.EXACT,
    optimize=Optimize.BALANCED,
    float_io=False,
    fold_constants=True,
    flash_limit_bytes=None,
    sram_limit_bytes=100,
    chosen=Chosen.TUNED,
    default=WHOLE,
    tuned=replace(WHOLE, cycles=9),
    steps=(
        TunedStep(
            layers=("l",), kernel="k", way="w", tile="t", estimated_cycles=1.5, sample_cycles=None, cycles=2,
            default_kernel="k", default_cycles=3,
        ),
    ),
    ways={"w": 2},
    wrong=("v",),
)  # fmt: skip


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "record.json"
    record.write(TUNING, file)
    assert record.read(file) == TUNING
    measured = TUNING.measured
    assert measured is not None
    assert dict(measured.cycles) == {"w": 2}
    assert replace(TUNING, chosen=Chosen.DEFAULT).measured is None


@pytest.mark.parametrize(
    ("option", "words"), [(None, "record.json: cannot"), ("--out", "record.json: --out: cannot")]
)
def test_a_record_that_cannot_be_written_is_one_line(tmp_path: Path, option: str | None, words: str) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match=words):
        record.write(TUNING, tmp_path / "taken" / "record.json", option=option)
    (tmp_path / "record.json").mkdir()
    with pytest.raises(ConfigError, match=words):
        record.write(TUNING, tmp_path / "record.json", option=option)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["record.json", "taken"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no tuning record"),
        ("{}", "no tuning record"),
        ("[1, 2]", "no tuning record"),
        (record.to_text(TUNING).replace(record.SCHEMA, "tinyrack.tuning/9"), "schema"),
        (record.to_text(TUNING).replace('"cycles": 9', '"cycles": "many"'), "cycles"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        record.read(file)
    assert "\n" not in str(caught.value)


def test_kept_records_are_found_by_their_model_and_unreadable_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYRACK_CACHE_DIR", str(tmp_path))
    source = replace(resolve("zoo:ds-cnn"), sha256=TUNING.model_sha256)
    record.write(TUNING, record.kept_file(TUNING))
    record.write(replace(TUNING, model_sha256="0" * 64), record.kept_file(replace(TUNING, model_sha256="0" * 64)))
    said: list[str] = []
    assert tunings(["auto"], [source, source], tell=said.append) == (TUNING,) and not said
    record.kept_file(TUNING).write_text("{")
    assert tunings(["auto"], [source], tell=said.append) == ()
    assert len(said) == 1 and record.kept_file(TUNING).name in said[0] and said[0].endswith("makes it anew")


def test_a_record_is_used_for_its_model_on_its_kind_of_board_only() -> None:
    source = replace(resolve("zoo:ds-cnn"), sha256=TUNING.model_sha256)
    other = resolve("zoo:ad-autoencoder")
    ideal = JobOptions(memory=Memory.IDEAL)
    boards = load_boards(default_boards_file())
    request = Request(models=(source, other), boards=boards.all, options=ideal, tunings=(TUNING,))
    used = [(m.sha256, b.name) for m in (source, other) for b in boards.all if request.options_for(m, b).tuning]
    assert used == [(TUNING.model_sha256, "f412-sim")]
    assert request.options_for(source, BOARD).tuning == TUNING
    assert replace(request, options=JobOptions()).options_for(source, BOARD).tuning is None
    assert request.digest() != replace(request, tunings=()).digest()
    # The limit that the choice was made under comes with it; one that is asked for wins.
    tuned = replace(ideal, tuning=TUNING)
    assert compile_options(tuned, Target.M4).sram_limit_bytes == 100
    assert compile_options(replace(tuned, sram_limit_bytes=50), Target.M4).sram_limit_bytes == 50
    unused = replace(ideal, tuning=replace(TUNING, chosen=Chosen.DEFAULT))
    assert compile_options(unused, Target.M4) == compile_options(ideal, Target.M4)


def test_a_placement_that_is_not_the_fastest_says_why() -> None:
    def words(name: str, tried: dict[str, int]) -> str:
        placed = TunedPlacement(sources_digest="d", name=name, chosen=None, cycles=tried[name], tried=tried)
        return str(summary(replace(TUNING, placement=placed), Path("record.json"))[1])

    tried = {"default": 104, "measured": 100}
    assert words("measured", tried) == "placement measured: 100 cycles (default 104)"
    assert words("default", tried).endswith("(measured 100); faster ones are not worth their SRAM")


def test_rows_without_a_record_are_told_of_in_one_line() -> None:
    source = replace(resolve("zoo:ds-cnn"), sha256=TUNING.model_sha256)
    boards = load_boards(default_boards_file()).select(["f412-sim", "f746-sim"])
    ideal = JobOptions(memory=Memory.IDEAL)
    request = Request(models=(source,), boards=boards, options=ideal, tunings=(TUNING,))
    assert (line := untuned(request)) is not None and "\n" not in line
    assert "ds-cnn on f746-sim:" in line and "f412-sim" not in line and "tinyrack tune" in line
    assert untuned(replace(request, boards=boards[:1])) is None
    other_memory = untuned(replace(request, boards=boards[:1], options=JobOptions()))
    assert other_memory is not None and "memory chip" in other_memory and "f412-sim" in other_memory
    portable = untuned(replace(request, options=replace(ideal, kernels=Kernels.C)))
    assert portable is not None and portable.startswith("--kernels c ")


def test_a_fit_recovers_cycles_and_layers() -> None:
    rng = np.random.default_rng(1)
    points = []
    for index in range(60):
        counts = {"step": float(rng.integers(10, 900)), "call": float(rng.integers(1, 30))}
        layer = "odd" if index % 3 == 0 else f"plain{index}"
        cycles = (4.0 * counts["step"] + 90.0 * counts["call"]) * (1.2 if layer == "odd" else 1.0)
        part = Part(family="f", counts=counts, layer=layer)
        points.append(Point(name=str(index), parts=(part,), cycles=round(cycles)))
    cycles_by, layers = fit.fit(points, {"f": {"step": 1.0, "call": 50.0, "never": 7.0}})
    fitted = CoreCosts(cycles=cycles_by, layers=layers)
    found = fit.errors(points, fitted)
    assert [e.family for e in found] == ["f"]
    assert found[0].most < 0.05
    assert layers["f/odd"] > 1.05 * layers["f/plain1"]
    assert cycles_by["f"]["never"] == 7.0
    assert min(cycles_by["f"].values()) >= 0


def test_what_chains_add_is_fitted_to_what_their_links_leave() -> None:
    singles = [
        Point(name=f"s{n}", parts=(Part(family="f", counts={"step": n}, layer=""),), cycles=10 * n)
        for n in (5, 9, 40)
    ]
    chains = [
        Point(
            name=f"c{n}",
            parts=(
                Part(family="f", counts={"step": n}),
                Part(family="chain", counts={"moved": 2.0 * n}),
            ),
            cycles=13 * n,
        )
        for n in (50, 70, 90)
    ]
    cycles, _ = fit.fit([*singles, *chains], {})
    assert cycles["f"]["step"] == pytest.approx(10, rel=0.05)
    assert cycles["chain"]["moved"] == pytest.approx(1.5, rel=0.1)


def test_what_samples_do_not_tell_apart_stays_in_the_proportion_that_is_assumed() -> None:
    """Rows and calls that always come together: their sum is what was measured."""
    works = [Part(family="f", counts={"row": float(n), "call": float(n)}, layer="") for n in (3, 20, 70)]
    points = [Point(name=str(p.counts), parts=(p,), cycles=round(90 * p.counts["row"])) for p in works]
    cycles, _ = fit.fit(points, {"f": {"row": 10.0, "call": 20.0}})
    found = cycles["f"]
    assert found["row"] + found["call"] == pytest.approx(90, rel=0.02)
    assert found["call"] / found["row"] > 1.5, "the dearer one takes more of what is missing"


class PricedBench:
    """Gives what the committed table says of a way, a little off, and notes which ways were asked for."""

    names: ClassVar[set[str]] = set()

    def __init__(self, board: Board, *, readings: Readings, options: JobOptions, **_: object) -> None:
        self.core = load_chip(board.chip).core.removeprefix("cortex-")
        self.readings, self.requant = readings, options.requant

    def measure(self, wanted: Sequence[Sample]) -> int:
        missing = [s for s in wanted if self.readings.get(s.name) is None]
        self.names.update(s.name for s in missing)
        for sample in missing:
            expected = fit.estimate(parts(sample.graph, sample.way, self.requant), costs.committed()[self.core])
            off = 0.95 + zlib.crc32(sample.name.encode()) / (10 << 32)
            self.readings.add(
                [Reading(name=sample.name, verdict=Verdict.OK, cycles=max(1, round(off * expected)))]
            )
        return len(missing)


def test_whatever_table_it_starts_from_a_run_ends_with_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "Bench", PricedBench)
    graphs = table.networks([resolve("zoo:resnet-8")])
    # The M7's chains hang on the M4's prices, so it is the harder order.
    boards = load_boards(default_boards_file()).select(["f746-sim", "f412-sim"])
    committed = costs.committed()
    nothing = {core: CoreCosts(cycles={}, layers={}) for core in committed}

    def run(start: Mapping[str, CoreCosts], folder: Path) -> tuple[table.Settled, set[str]]:
        PricedBench.names = set()

        def measured(board: Board) -> table.Measured:
            return table.measure(
                board,
                graphs,
                runner=cast(Runner, None),
                readings=Readings(folder, kind_of(board, Memory.IDEAL, toolchain="gcc")),
                options=JobOptions(memory=Memory.IDEAL),
                stop=threading.Event(),
                observe=lambda _: None,
            )

        with costs.replaced(start):
            return table.settled(lambda: [measured(b) for b in boards]), PricedBench.names

    one, ways = run(committed, tmp_path / "one")
    other, other_ways = run(nothing, tmp_path / "other")
    assert ways != other_ways, "prices decide forms of links, and so what is measured on the way"
    assert other.cores == one.cores
    assert one.rounds <= 3 and other.rounds <= 3
    again, new = run({m.core: m.costs for m in one.cores}, tmp_path / "one")
    assert again == replace(one, rounds=1) and not new
    assert costs.table() is committed


def test_readings_hold_for_every_template_but_helium_s() -> None:
    root = Path(costs.__file__).parent
    templates = {p for p in (root / "kernels").rglob("*.c.j2") if "mve" not in p.parts}
    found = set(generators(root))
    assert len(templates) > 10 and templates <= found
    assert root / "kernels/portable/requantization.py" in found and root / "kernels/dsp/rounding.py" in found
    assert all(p.is_file() for p in found)


def test_the_cost_table_is_of_these_kernels() -> None:
    """Kernels may run ahead of their prices for a while; nobody is hurt, but somebody should know."""
    stale = [core for core, entry in costs.table().items() if entry.kernels != kernels_digest()]
    if stale:
        pytest.skip(
            f"costs.json was measured with other kernels ({', '.join(stale)}): run `tinyrack costs MODELS`"
        )


def test_the_table_says_where_it_is_from() -> None:
    for entry in costs.table().values():
        assert entry.timing_model
        assert entry.toolchain
        assert entry.board
        assert entry.samples > 100
        assert entry.mean_error < 0.05
    assert json.loads(Path(costs.__file__).with_name("costs.json").read_text())["command"].startswith(
        "tinyrack costs"
    )
