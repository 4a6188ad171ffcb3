"""The command line: JSON where asked and nothing else there, one line an error, the promised exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import sqlalchemy.exc
import yaml

from harness import __version__, rack
from harness.boards_file import load_boards
from harness.cli.application import with_json_values
from harness.cli.main import main
from harness.errors import Outcome
from harness.paths import default_boards_file
from harness.row import json_schema
from harness.store import Store
from tests.harness.rows import FAILED, OK

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a boards.yaml, and a runtime folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("TINYRACK_BOARDS", raising=False)
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["boards", "--json"], ["boards", "--json", "-"]),
        (["boards", "--json", "-"], ["boards", "--json", "-"]),
        (["boards", "--json", "out.json"], ["boards", "--json", "out.json"]),
        (["bench", "m", "--json", "--fresh"], ["bench", "m", "--json", "-", "--fresh"]),
        (["bench", "--json=x", "m"], ["bench", "--json=x", "m"]),
        (["bench", "--", "--json"], ["bench", "--", "--json"]),
    ],
)
def test_json_may_stand_alone(given: list[str], wanted: list[str]) -> None:
    assert with_json_values(given) == wanted


def test_boards_as_json_is_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("boards", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["boards"]
    found = {b["name"]: b for b in document["boards"]}
    assert list(found)[:4] == ["f412-sim", "f746-sim", "f765-sim", "h743-sim"]
    wanted = {
        "f412-sim": ("stm32f412", "cortex-m4", 100_000_000, 262_144, 1 << 20),
        "f746-sim": ("stm32f746", "cortex-m7", 216_000_000, 327_680, 1 << 20),
        "f765-sim": ("stm32f765", "cortex-m7", 216_000_000, 524_288, 1 << 20),
        "h743-sim": ("stm32h743", "cortex-m7", 480_000_000, 655_360, 2 << 20),
    }
    for name, values in wanted.items():
        keys = ("chip", "core", "clock_hz", "sram_bytes", "flash_bytes")
        assert tuple(found[name][k] for k in keys) == values
        assert found[name]["simulated"] is True


def test_boards_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("boards") == 0
    out = capsys.readouterr().out
    assert "h743-sim" in out
    assert "cortex-m4" in out


def test_the_schema_of_boards_yaml_is_exported(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("boards", "--schema") == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(default_boards_file().read_text()), schema)


def test_json_goes_to_a_file_whole(quiet_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("boards", "--json", "out.json") == 0
    assert len(json.loads((quiet_place / "out.json").read_text())["boards"]) >= 4
    assert "f412-sim" in capsys.readouterr().out
    assert [p.name for p in quiet_place.iterdir()] == ["out.json"]


def test_json_to_a_pipe_or_through_a_link_leaves_them_what_they_are(quiet_place: Path) -> None:
    os.mkfifo(quiet_place / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((quiet_place / "pipe").read_text()))
    reader.start()
    assert call("boards", "--json", "pipe") == 0
    reader.join(10)
    assert json.loads(got[0])["boards"]
    assert (quiet_place / "pipe").is_fifo()
    (quiet_place / "real.json").write_text("old")
    (quiet_place / "link.json").symlink_to("real.json")
    assert call("boards", "--json", "link.json") == 0
    assert (quiet_place / "link.json").is_symlink()
    assert json.loads((quiet_place / "real.json").read_text())["boards"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"tinyrack {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "none.tflite"], "none.tflite: cannot be read: No such file or directory"),
        (["bench", "zoo:none"], "zoo:none: no such network in the zoo; there are zoo:"),
        (["bench", "zoo:ds-cnn", "--boards", "f7"], "no board 'f7'; there are f412-sim"),
        (["bench", "zoo:ds-cnn", "--boards", ","], "--boards: names no board"),
        (["bench", "zoo:ds-cnn", "--json", "m.tflite"], "m.tflite: --json: is a model"),
        (["bench", "zoo:ds-cnn", "--json", "no/where.json"], "its folder does not exist"),
        (["bench", "zoo:ds-cnn", "--input", "none.npy"], "none.npy: --input: cannot be read"),
        (["bench", "zoo:ds-cnn", "--results", "mysql://x"], "only sqlite and postgresql"),
        (["boards", "--file", "none.yaml"], "none.yaml: cannot be read"),
        (["report"], "holds no results yet"),
        (["compile", "none.tflite", "-o", "x"], "cannot be read"),
        (["sim", "start", "f7"], "no board 'f7'"),
        (["sim", "confirm", "none.elf", "--board", "f412-sim"], "none.elf: cannot be read"),
        (["sim", "confirm", __file__, "--board", "f412-sim"], "is no ELF file"),
        (["costs", "none.tflite"], "none.tflite: cannot be read"),
        (["costs", "zoo:ds-cnn", "--boards", "f746-sim,h743-sim"], "h743-sim: has the core of f746-sim"),
        (["costs", "zoo:ds-cnn", "--boards", "qemu-m55"], "qemu-m55: counts instructions"),
        (["search", "--task", "digits", "--board", "qemu-m55", "--out", "x"], "qemu-m55: counts instructions"),
        (
            ["search", "--task", "digits", "--board", "f412-sim", "--out", "x", "--latency-ms", "-3"],
            "--latency-ms: -3 is no limit",
        ),
    ],
)
def test_a_usage_error_is_one_line_and_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("tinyrack: ")
    assert said.err.count("\n") == 1
    assert words in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "-o", "x"],
        ["frontier"],
        ["memory"],
        ["tune", "--board", "f412-sim"],
        ["compare-engines", "--elf", "x.elf", "--symbol", "f", "--board", "f412-sim", "--model"],
    ],
)
def test_a_broken_model_is_named_in_one_line_and_1(
    arguments: list[str], quiet_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = quiet_place / "broken.tflite"
    broken.write_bytes(b"nothing")
    assert call(*arguments, str(broken)) == 1
    assert capsys.readouterr().err == f"tinyrack: {broken}: model: 7 bytes are too few for a header\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench"],
        ["bench", "m", "--repetitions", "0"],
        ["bench", "m", "--repetitions", "65"],
        ["bench", "m", "--requant", "x"],
        ["nonsense"],
        ["boards", "--nonsense"],
    ],
)
def test_wrong_arguments_are_2(arguments: list[str]) -> None:
    assert call(*arguments) == 2


def test_a_broken_model_is_a_row_on_every_board_and_1(
    quiet_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (quiet_place / "broken model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 64)
    assert call("bench", "broken model.tflite", "--boards", "f746-sim,f412-sim", "--json") == 1
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["schema"] == "tinyrack.bench/1"
    assert [(r["model"], r["board"], r["outcome"]) for r in document["rows"]] == [
        ("broken_model", "f746-sim", "model_format"),
        ("broken_model", "f412-sim", "model_format"),
    ]
    for row in document["rows"]:
        jsonschema.validate(row, json_schema())
        assert row["error"]
        assert row["cycles"] is None
    assert "broken_model on f746-sim: model_format" in said.err
    with Store.open("results", now=time.time, create=False) as store:
        assert len(store.attempts()) == 2
        assert next(store.sessions()).finished


def test_results_that_cannot_be_written_are_one_line(
    quiet_place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (quiet_place / "m.tflite").write_bytes(b"no model")

    def full(*_arguments: object) -> None:
        raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))

    monkeypatch.setattr(Store, "append", full)
    assert call("bench", "m.tflite", "--boards", "f746-sim") == 1
    said = capsys.readouterr().err
    assert said == "tinyrack: the results cannot be written or read: database or disk is full\n"


def test_a_folder_for_evidence_that_cannot_be_is_refused_before_anything_is_measured(
    quiet_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (quiet_place / "m.tflite").write_bytes(b"no model")
    (quiet_place / "file").write_text("in the way")
    assert call("bench", "m.tflite", "--boards", "f746-sim", "--save", "file/here") == 2
    assert capsys.readouterr().err == "tinyrack: file/here: --save: cannot be created: Not a directory\n"


def test_two_models_of_one_name_are_refused(quiet_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (quiet_place / "a").mkdir()
    (quiet_place / "m.tflite").write_bytes(b"1")
    (quiet_place / "a" / "m.tflite").write_bytes(b"2")
    assert call("bench", "m.tflite", "a/m.tflite") == 2
    assert "has the name of m.tflite but another content" in capsys.readouterr().err


def test_compile_writes_c_and_says_what_it_is(quiet_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compile", "zoo:ds-cnn", "-o", "out folder", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    written = sorted(p.name for p in (quiet_place / "out folder").iterdir())
    assert written == sorted(document["files"])
    assert {"model.h", "model.c", "model_weights.c"} <= set(written)
    assert f"#define TE_ARENA_BYTES {document['arena_bytes']}u" in (quiet_place / "out folder/model.h").read_text()
    assert document["layers"][0]["op"] == "CONV_2D"


def test_compile_gives_plain_c_in_place_of_generated_text(quiet_place: Path) -> None:
    for options, kernels in (([], "model_kernels.S"), (["--twins"], "model_kernels.c")):
        assert call("compile", "zoo:ad-autoencoder", "-o", kernels, "--core", "cortex-m4", *options) == 0
        written = {p.name for p in (quiet_place / kernels).iterdir()}
        assert written == {"model.h", "model.c", "model_weights.c", kernels}


def stored(folder: Path) -> None:
    with Store.open(str(folder), now=lambda: 1_700_000_000.0) as store:
        first = store.begin_session(request={}, request_digest="a" * 64, fresh=False)
        store.append(first.id, replace(OK, cycles=9_000_000))
        store.finish_session(first.id)
        second = store.begin_session(request={}, request_digest="b" * 64, fresh=False)
        store.append(second.id, replace(OK, outcome=Outcome.TIMEOUT, error="no answer"))
        store.append(second.id, replace(OK, retries=1))
        store.append(second.id, FAILED)
        store.finish_session(second.id)


def test_an_impossible_limit_is_one_line_and_1(quiet_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for limit, words in (("--sram-limit", "the smallest arena found takes"), ("--flash-limit", "needs")):
        assert call("compile", "zoo:ad-autoencoder", "-o", str(quiet_place / "c"), limit, "10") == 1
        said = capsys.readouterr().err
        assert words in said
        assert said.endswith("the limit is 10\n") or said.endswith("the limit is 10 B\n")
    assert not (quiet_place / "c").exists()


def test_status_without_a_name_is_that_of_all_boards(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sim", "status", "--json") == 0
    found = {each["board"]: each["on"] for each in json.loads(capsys.readouterr().out)["boards"]}
    assert {"f412-sim", "f746-sim", "f765-sim", "h743-sim"} <= set(found)
    assert not any(found.values())
    assert call("sim", "status") == 0
    assert "f746-sim is off\n" in capsys.readouterr().out


def test_a_board_in_use_is_waited_for_as_long_as_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    board = load_boards(default_boards_file()).select(["f746-sim"])[0]
    begun = time.monotonic()
    with rack.lease(board, timeout_s=1, clock=time.monotonic, stop=threading.Event()):
        assert call("bench", "zoo:ad-autoencoder", "--boards", "f746-sim", "--wait", "0", "--json") == 1
    assert time.monotonic() - begun < 60
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["outcome"], row["fault_class"]) == ("timeout", "probe_busy")
    assert "in use by process" in row["error"]


def test_report_shows_the_newest_row_of_each_pair(quiet_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(quiet_place / "results")
    assert call("report", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tinyrack.report/1"
    assert [(r["model"], r["cycles"], r["retries"]) for r in document["rows"]] == [
        ("vww_96", 6_000_000, 1),
        ("big", None, 0),
    ]
    assert call("report") == 0
    page = (quiet_place / "results/report.html").read_text()
    assert "6.000" in page
    assert call("report", "-o", "there.html") == 0
    assert (quiet_place / "there.html").is_file()


def test_report_of_one_session(quiet_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(quiet_place / "results")
    assert call("report", "--session", "nope") == 2
    assert "no session 'nope'" in capsys.readouterr().err
    assert call("report", "--session", "last", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2


def environment(tmp_path: Path) -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TINYRACK_CACHE_DIR", "XDG_CACHE_HOME")}
    return {**keep, "PYTHONPATH": str(ROOT), "TINYRACK_RUNTIME_DIR": str(tmp_path / "run")}


def tinyrack(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *arguments],
        cwd=folder,
        env={**environment(folder), **changes},
        capture_output=True,
        check=False,
        timeout=120,
    )


def test_it_works_in_the_c_locale_and_in_a_path_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with späces"
    folder.mkdir()
    (folder / "möd el.tflite").write_bytes(b"no model")
    done = tinyrack(
        folder,
        "bench",
        "möd el.tflite",
        "--boards",
        "f746-sim",
        "--json",
        LC_ALL="C",
        PYTHONCOERCECLOCALE="0",
        PYTHONUTF8="0",
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["rows"][0]["outcome"] == "model_format"
    assert tinyrack(folder, "boards", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0").returncode == 0
    stored(folder / "results")
    assert tinyrack(folder, "report", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0").returncode == 0


def test_a_full_or_closed_output_is_no_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "harness.cli.main", "boards", "--json"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli.main", "boards", "--json"],
            cwd=tmp_path, env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
    assert b"Traceback" not in done.stderr
    assert done.returncode != 0


def test_a_right_that_is_missing_is_one_line_wherever_it_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/secret")

    monkeypatch.setattr("harness.cli.boards.load_boards", refuse)
    monkeypatch.setattr("harness.cli.application._drop_output", lambda: None)
    assert call("boards") == 1
    assert capsys.readouterr().err == "tinyrack: /somewhere/secret: Permission denied\n"


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["boards", "--boards-file", "none.yaml", "--json"], 2, "none.yaml: cannot be read"),
        (["compile", "empty.tflite", "--out", "c", "--json", "-"], 1, "empty.tflite: model: 0 bytes"),
        (["report", "--results", "none", "--json"], 2, "holds no results yet"),
        (["report", "--results", "results", "--out", "none/page.html", "--json"], 2, "none/page.html"),
        (["bench", "zoo:ds-cnn", "--repetitions", "0", "--json=-"], 2, "not understood"),
        (["bench", "--json"], 2, "not understood"),
    ],
)
def test_json_on_standard_output_is_json_upon_errors_too(
    quiet_place: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, what: str
) -> None:
    (quiet_place / "empty.tflite").touch()
    stored(quiet_place / "results")
    assert call(*words) == code
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["schema"], document["exit_code"]) == ("tinyrack.error/1", code)
    assert what in document["error"]
    assert said.err
    into_a_file = [w for w in words if w != "-" and not w.startswith("--json")]
    assert call(*into_a_file, "--json", "kept.json") == code
    assert capsys.readouterr().out == ""


def test_a_stop_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    """An import that never ends, in the place of the first that takes long."""
    (tmp_path / "sqlalchemy.py").write_text("import sys, time\nprint('here', flush=True)\ntime.sleep(60)\n")
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            [sys.executable, "-m", "harness.cli.main", "boards"],
            cwd=tmp_path,
            env={**environment(tmp_path), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"here\n"
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
        assert (process.returncode, said.decode()) == (130, f"tinyrack: stopped by {number.name}\n")
