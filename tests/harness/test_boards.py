"""boards.yaml: what is accepted, what is refused and in which words."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from harness import boards_file, paths
from harness.boards import ClockSource
from harness.chips import UartPins
from harness.errors import ConfigError

REAL = """boards:
  bench-1:
    preset: nucleo-f746zg
    probe: {unique_id: "066D"}
    clock_source: {hse_hz: 8000000, bypass: true}
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "boards.yaml"
    file.write_text(text)
    return file


def test_the_committed_file_holds_the_four_simulated_boards() -> None:
    found = boards_file.load_boards(paths.default_boards_file())
    assert [b.name for b in found.all[:4]] == ["f412-sim", "f746-sim", "f765-sim", "h743-sim"]
    assert all(b.simulated and b.probe.unique_id == b.name and b.baud == 921_600 for b in found.all[:4])
    assert found.own == found.all[:4]


def test_the_committed_file_satisfies_the_exported_schema() -> None:
    jsonschema.validate(yaml.safe_load(paths.default_boards_file().read_text()), boards_file.json_schema())


def test_the_commented_real_board_is_valid_once_uncommented(tmp_path: Path) -> None:
    lines = paths.default_boards_file().read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "# my-nucleo:" in line)
    block = [line.replace("  # ", "  ", 1) for line in lines[start:] if line.startswith("  # ")]
    found = boards_file.load_boards(write(tmp_path, "boards:\n" + "\n".join(block)))
    assert found.own[0].chip == "stm32f746"
    assert found.own[0].clock_source == ClockSource(hse_hz=8_000_000, bypass=True)


def test_every_preset_makes_a_board(tmp_path: Path) -> None:
    presets = yaml.safe_load(paths.default_boards_file().read_text())["presets"]
    assert set(presets) == {"nucleo-f412zg", "nucleo-f746zg", "32f746g-disco", "nucleo-f767zi", "nucleo-h743zi"}
    text = "boards:\n" + "\n".join(
        f"  b{i}: {{preset: {p}, probe: {{unique_id: id{i}}}}}" for i, p in enumerate(presets)
    )
    assert len(boards_file.load_boards(write(tmp_path, text)).own) == 5


def test_a_users_file_keeps_presets_and_simulated_boards(tmp_path: Path) -> None:
    found = boards_file.load_boards(write(tmp_path, REAL))
    assert [b.name for b in found.own] == ["bench-1"]
    assert found.own[0].uart == UartPins(instance="USART3", tx="PD8", rx="PD9")
    assert [b.name for b in found.select(["f746-sim", "bench-1"])] == ["f746-sim", "bench-1"]
    assert found.select(None) == found.own


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "boards:\n  a: {chip: stm32f746, simulated: true}\n"
            "  b:\n    chip: stm32f746\n    simulated: true\n    bauds: 9\n",
            6,
            ["boards.b.bauds", "not a known field"],
        ),
        (
            "boards:\n  a:\n    chip: stm32f746\n    simulated: true\n    baud: fast\n",
            5,
            ["boards.a.baud", "integer"],
        ),
        ("boards:\n  a:\n    chip: stm32f746\n    probe: {unique_id: x}\n", 2, ["boards.a", "needs `uart"]),
        (
            "boards:\n  a: {preset: nucleo, simulated: true}\n",
            2,
            ["boards.a.preset", "no preset 'nucleo'", "nucleo-f746zg"],
        ),
        ("boards:\n  a:\n    preset: nucleo-f746zg\n", 2, ["boards.a", "needs `probe"]),
        (
            "boards:\n  a: {chip: stm32f7, simulated: true}\n",
            2,
            ["boards.a.chip", "no chip 'stm32f7'", "stm32f746"],
        ),
        ("boards:\n  a: {simulated: true}\n", 2, ["needs `chip` or `preset`"]),
        (
            "boards:\n  a: {chip: stm32f746, simulated: true}\n  a: {chip: stm32f746, simulated: true}\n",
            3,
            ["boards.a", "appears twice"],
        ),
        (
            "boards:\n  a:\n    preset: nucleo-f746zg\n    probe: {unique_id: x}\n"
            "    link:\n      port: /dev/ttyACM0\n",
            6,
            ["boards.a.link.port", "/dev/serial/by-id"],
        ),
        (
            "boards:\n  a:\n    preset: nucleo-f746zg\n    probe: {unique_id: x}\n"
            "  b:\n    preset: nucleo-f746zg\n    probe:\n      unique_id: x\n",
            8,
            ["'a' has the same probe"],
        ),
        (
            "boards:\n  a: {preset: nucleo-f746zg, probe: {unique_id: x}, link: {port: /dev/serial/by-id/u}}\n"
            "  b: {preset: nucleo-f746zg, probe: {unique_id: y}, link: {port: /dev/serial/by-id/u}}\n",
            3,
            ["boards.b.link.port", "'a' has the same port"],
        ),
        (
            "boards:\n  a:\n    chip: stm32f746\n    simulated: true\n    clock_source:\n      hse_hz: 5\n",
            6,
            ["clock_source", "hse_hz"],
        ),
        (
            "boards:\n  a:\n    preset: nucleo-f746zg\n    probe: {unique_id: x}\n"
            "    uart: {instance: USART3, tx: PD9, rx: PD8}\n",
            5,
            ["boards.a.uart", "USART3 tx cannot be PD9", "PD8"],
        ),
        (
            "boards:\n  a:\n    chip: stm32f412\n    simulated: true\n    clock_source: {hse_hz: 12345678}\n",
            5,
            ["boards.a.clock_source", "needs a multiple of 1 MHz"],
        ),
        (
            "boards:\n  a:\n    chip: stm32f746\n    simulated: true\n    clock_source: {hse_hz: 32000000}\n",
            5,
            ["boards.a.clock_source", "a crystal of stm32f746 has 4 to 26 MHz"],
        ),
        ("boards:\n  'A B': {chip: stm32f746, simulated: true}\n", 2, ["lower-case"]),
        ("boards: [1\n", 2, []),
        ("- 1\n", 1, ["no list of `NAME: VALUE` lines"]),
        ("boards:\n", 1, ["boards: ", "an empty one is {}"]),
        ("boards:\n  a:\n", 2, ["boards.a: ", "no list of `NAME: VALUE` lines"]),
        (REAL.replace('"066D"', "066"), 4, ["boards.bench-1.probe.unique_id", "quotes"]),
        (REAL.replace('"066D"', "2026-13-45"), 4, ["probe.unique_id", "'2026-13-45'", "timestamp", "quotes"]),
        (f"boards:\n  a:\n    baud: {'9' * 5000}\n", 3, ["boards.a.baud", "quotes"]),
        ("boards: !!timestamp x\n", 1, ["timestamp"]),
        ("boards:\n  2026-13-45: {}\n", 2, ["boards.2026-13-45", "timestamp", "quotes"]),
        ("boards:\n  a: !!bool so\n", 2, ["boards.a", "'so'", "bool"]),
        ("boards:\n  a: !!int ''\n", 2, ["boards.a", "int"]),
        ("boards:\n  a: {<<: 3}\n", 2, ["merging"]),
        (REAL + "    uart: {instance: USART3, tx: PD8}\n", 6, ["boards.bench-1.uart", "needs `rx`"]),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        boards_file.load_boards(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: "), message
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
        "[" * 5000,
        "\x00",
        "boards: !!python/object/apply:os.system ['true']\n",
        "x" * (1 << 20) + "yy",
    ],
)
def test_hostile_yaml_is_one_clear_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        boards_file.load_boards(write(tmp_path, text))
    assert len(str(caught.value)) < 500


def test_an_unknown_board_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="no board 'f7'; there are f412-sim"):
        boards_file.load_boards(paths.default_boards_file()).select(["f7"])


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        boards_file.load_boards(tmp_path / "none.yaml")


def test_the_users_file_is_found_by_environment_then_folder_then_xdg(tmp_path: Path) -> None:
    xdg = tmp_path / "xdg"
    (xdg / "tinyrack").mkdir(parents=True)
    (xdg / "tinyrack" / "boards.yaml").write_text("")
    environ = {"XDG_CONFIG_HOME": str(xdg)}
    assert boards_file.user_file(environ, tmp_path) == xdg / "tinyrack" / "boards.yaml"
    here = write(tmp_path, "")
    assert boards_file.user_file(environ, tmp_path) == here
    assert boards_file.user_file({**environ, "TINYRACK_BOARDS": "/x/y.yaml"}, tmp_path) == Path("/x/y.yaml")
    assert boards_file.user_file({"HOME": str(tmp_path / "none")}, tmp_path / "empty") is None
