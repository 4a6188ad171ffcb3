"""Faults on order: how they are ordered, and that each ends in its own class, in time, never as a wrong figure."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import host, paths
from harness.boards import with_faults
from harness.boards_file import load_boards
from harness.errors import ConfigError, MissingTool
from harness.faults import PARAMETERS, BadOrder, Fault, FaultKind, make, parse, to_fields
from harness.images.toolchain import find_toolchain
from harness.sim.faults import LineFault
from tests.harness.fault_trials import BOARDS, EXPECTED, Bench, order
from tests.harness.sim_servers import rack

__all__ = ["rack"]


def test_every_kind_has_an_outcome_and_a_class_of_its_own() -> None:
    assert set(EXPECTED) == set(FaultKind) == set(PARAMETERS)
    assert len({fault for _, fault in EXPECTED.values()}) == len(FaultKind)


def test_an_order_is_read_as_it_is_written() -> None:
    for text in ("silent", "uart_lost:gap=300,to_board=1", "wrong_board:chip=stm32f412,seed=7", "sector:sector=2"):
        fault = parse(text)
        assert str(fault) == text
        assert make(to_fields(fault)) == fault


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fire", "no fault 'fire'; there are uart_lost, "),
        ("uart_lost:gap", "'gap' is no name=value"),
        ("uart_lost:gap=1", "gap is a number from 8 to 1,000,000"),
        ("uart_lost:gap=soon", "gap is a number"),
        ("uart_lost:gap=--9", "gap is a number"),
        ("uart_lost:gap=9,gap=10", "gap is said twice"),
        ("silent:kind=hung", "kind is said twice"),
        ("silent:gap=500", "silent has no parameter 'gap'; there are seed"),
        ("silent:seed=-1", "the seed is a number from 0"),
        ("wrong_board:chip=z80", "no chip 'z80'; there are stm32f412"),
    ],
)
def test_an_order_that_cannot_be_understood_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(text)


def test_faults_are_ordered_in_boards_yaml_and_refused_for_real_boards(tmp_path: Path) -> None:
    file = tmp_path / "boards.yaml"
    file.write_text(
        "boards:\n  mine: {chip: stm32f746, simulated: true, faults: [{kind: hung, window: 2, seed: 3}]}\n"
    )
    (board,) = load_boards(file).own
    assert board.faults == (Fault(kind=FaultKind.HUNG, parameters=(("window", 2),), seed=3),)
    file.write_text("boards:\n  mine: {chip: stm32f746, simulated: true, faults: [{kind: hunger}]}\n")
    with pytest.raises(ConfigError, match=r"boards\.yaml:2: boards\.mine\.faults: no fault 'hunger'"):
        load_boards(file)
    real = "{preset: nucleo-f746zg, probe: {unique_id: X}, faults: [{kind: silent}]}"
    file.write_text(f"boards:\n  mine: {real}\n")
    with pytest.raises(ConfigError, match="only our simulated STM32 boards"):
        load_boards(file)
    (qemu,) = load_boards(paths.default_boards_file()).select(["qemu-m4"])
    with pytest.raises(ConfigError, match="only our simulated STM32 boards"):
        with_faults([qemu], [Fault(kind=FaultKind.SILENT)])
    with pytest.raises(BadOrder):
        make({"seed": 1})


@pytest.mark.parametrize("kind", [FaultKind.UART_LOST, FaultKind.UART_FLIPPED, FaultKind.UART_DUPLICATED])
def test_a_line_fault_is_the_same_however_the_bytes_are_cut(kind: FaultKind) -> None:
    data = random.Random(1).randbytes(5_000)
    whole = LineFault(Fault(kind=kind, seed=5))
    pieces = LineFault(Fault(kind=kind, seed=5))
    once = whole.apply(data)
    assert once == b"".join(pieces.apply(data[i : i + 7]) for i in range(0, len(data), 7))
    assert once != data
    assert whole.events == pieces.events > 3
    assert once[:200] == data[:200]
    assert once.count(0) <= data.count(0) + (kind is FaultKind.UART_FLIPPED) * whole.events
    assert LineFault(Fault(kind=kind, seed=6)).apply(data) != once


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bench]]:
    if not host.can_simulate():
        pytest.skip("simulated boards run on Linux only")
    try:
        find_toolchain()
    except MissingTool as e:
        pytest.skip(f"TOOLCHAIN ABSENT: {e}")
    from harness.sim import boards

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path_factory.mktemp("rack")))
        patch.delenv("TINYRACK_BOARDS", raising=False)
        with ThreadPoolExecutor(len(BOARDS)) as threads:
            made = threads.map(lambda name: Bench(name, rng=random.Random(1)), BOARDS)
            yield dict(zip(BOARDS, made, strict=True))
        for name in BOARDS:
            boards.stop(name)


def test_each_fault_ends_in_its_class_within_its_deadline_and_the_board_is_sound_again(
    benches: dict[str, Bench],
) -> None:
    kinds = list(FaultKind)
    # Boards in parallel, so that those who wait for a deadline do not wait one after the other.
    share = {name: kinds[i :: len(BOARDS)] for i, name in enumerate(BOARDS)}

    def run(name: str) -> list[str]:
        wrong = []
        for kind in [*share[name], None]:
            trial = benches[name].run(None if kind is None else order(kind, 3))
            if trial.hung or trial.wrong or trial.misclassified:
                wrong.append(str(trial))
        return wrong

    begun = time.monotonic()
    with ThreadPoolExecutor(len(BOARDS)) as threads:
        assert not [line for lines in threads.map(run, BOARDS) for line in lines]
    print(f"{len(kinds)} kinds in {time.monotonic() - begun:.0f} s")


@pytest.mark.parametrize("given", ["hung", "[hung]", "{kind: hung}", "[{hung: 1}]"])
def test_a_fault_written_otherwise_is_answered_with_one_that_is_right(tmp_path: Path, given: str) -> None:
    file = tmp_path / "boards.yaml"
    file.write_text(f"boards:\n  a: {{chip: stm32f746, simulated: true, faults: {given}}}\n")
    with pytest.raises(ConfigError, match=r"boards.yaml:2: boards.a.faults.*\{kind: hung\}"):
        load_boards(file)
