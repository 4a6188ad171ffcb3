"""The store keeps every attempt, survives a killed process and reads what older versions wrote."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from harness import row as rows
from harness.errors import ConfigError, Outcome
from harness.owner import own_process, owner_alive
from harness.store import DATABASE, Store, latest
from tests.harness.rows import FAILED, OK


class Clock:
    """Seconds that pass one by one."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path), now=Clock()) as opened:
        yield opened


def dead(_host: str, _process: str) -> bool:
    return False


def test_a_row_comes_back_as_it_was_stored(store: Store) -> None:
    session = store.begin_session(request={"models": ["a"]}, request_digest="d" * 64, fresh=False)
    stored = store.append(session.id, OK)
    assert stored == replace(OK, session=session.id, attempt=1)
    assert store.attempts() == (stored,)
    assert next(store.sessions()).rows == (stored,)
    assert next(store.sessions()).request == {"models": ["a"]}


def test_unknown_stays_null(store: Store) -> None:
    session = store.begin_session(request={}, request_digest="d", fresh=False)
    store.append(session.id, FAILED)
    document = rows.to_json(store.attempts()[0])
    assert document["cycles"] is None
    assert document["layers"] is None
    assert document["bit_exact"] is None


def test_an_attempt_cannot_be_changed_or_removed(store: Store, tmp_path: Path) -> None:
    session = store.begin_session(request={}, request_digest="d", fresh=False)
    store.append(session.id, OK)
    engine = sa.create_engine(f"sqlite:///{tmp_path / DATABASE}")
    for statement in ("UPDATE attempts SET cycles = 1", "DELETE FROM attempts"):
        with pytest.raises(sa.exc.IntegrityError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(statement))
    engine.dispose()


def test_an_unfinished_session_of_a_dead_process_is_resumed(store: Store) -> None:
    first = store.begin_session(request={}, request_digest="same", fresh=False)
    stored = store.append(first.id, OK)
    again = store.begin_session(request={}, request_digest="same", fresh=False, alive=dead)
    assert again.resumed
    assert again.id == first.id
    assert again.rows == (stored,)


def test_nothing_is_resumed_when_finished_fresh_different_or_owned_by_a_living_process(store: Store) -> None:
    first = store.begin_session(request={}, request_digest="same", fresh=False)
    alive = store.begin_session(request={}, request_digest="same", fresh=False)
    fresh = store.begin_session(request={}, request_digest="same", fresh=True, alive=dead)
    other = store.begin_session(request={}, request_digest="other", fresh=False, alive=dead)
    for session in (first, alive, fresh):
        store.finish_session(session.id)
    later = store.begin_session(request={}, request_digest="same", fresh=False, alive=dead)
    assert len({first.id, alive.id, fresh.id, other.id, later.id}) == 5


def test_a_released_session_is_resumed_by_the_living(store: Store) -> None:
    first = store.begin_session(request={}, request_digest="same", fresh=False)
    store.release_session(first.id)
    assert store.begin_session(request={}, request_digest="same", fresh=False).id == first.id


def test_a_process_is_known_by_its_start_time_too() -> None:
    here = socket.gethostname()
    assert owner_alive(here, own_process())
    assert not owner_alive(here, f"{os.getpid()}:1")
    assert owner_alive("another-host", "1:1")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not owner_alive(here, f"{child.pid}:5")


def test_the_last_attempt_counts() -> None:
    failed = replace(OK, outcome=Outcome.TIMEOUT, attempt=1)
    good = replace(OK, attempt=3, retries=1)
    assert latest((failed, FAILED, good)) == (good, FAILED)


def test_rows_stored_before_a_kill_9_are_there(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, signal, time
        from harness.store import Store
        from tests.harness.rows import OK
        store = Store.open({str(tmp_path)!r}, now=time.time)
        session = store.begin_session(request={{}}, request_digest="same", fresh=False)
        store.append(session.id, OK)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, check=False, timeout=60)
    assert done.returncode == -9
    with Store.open(str(tmp_path), now=Clock(), create=False) as store:
        again = store.begin_session(request={}, request_digest="same", fresh=False)
        assert again.resumed
        assert [row.outcome for row in again.rows] == [Outcome.OK]


def test_threads_and_two_openers_lose_nothing(tmp_path: Path) -> None:
    opened: list[Store] = []

    def work(index: int) -> None:
        with Store.open(str(tmp_path), now=Clock()) as store:
            opened.append(store)
            session = store.begin_session(request={}, request_digest=str(index), fresh=False)
            for _ in range(10):
                store.append(session.id, OK)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with Store.open(str(tmp_path), now=Clock()) as store:
        assert len(store.attempts()) == 40
        assert len(list(store.sessions())) == 4


def test_two_callers_at_once_do_not_resume_the_same_session(tmp_path: Path) -> None:
    with Store.open(str(tmp_path), now=Clock()) as store:
        left = store.begin_session(request={}, request_digest="same", fresh=False)
        store.release_session(left.id)
    together = threading.Barrier(4)
    got: list[str] = []

    def work() -> None:
        with Store.open(str(tmp_path), now=Clock()) as mine:
            together.wait(20)
            got.append(mine.begin_session(request={}, request_digest="same", fresh=False).id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(got)) == 4
    assert left.id in got


def test_a_database_url_works_like_a_folder(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with Store.open(url, now=Clock()) as store:
        session = store.begin_session(request={}, request_digest="d", fresh=False)
        store.append(session.id, OK)
    with Store.open(url, now=Clock(), create=False) as store:
        assert store.attempts()[0].cycles == OK.cycles


def test_postgresql_without_its_driver_says_what_to_install() -> None:
    import importlib.util

    if importlib.util.find_spec("psycopg") is not None:
        pytest.skip("the driver is installed")
    with pytest.raises(ConfigError, match=r"pip install 'tinyrack\[postgres\]'") as caught:
        Store.open("postgresql://user:secret@host/db", now=Clock())
    assert "secret" not in str(caught.value)


def test_a_newer_file_is_refused_in_one_line(tmp_path: Path) -> None:
    Store.open(str(tmp_path), now=Clock()).close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / DATABASE}")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE tinyrack_info SET value = '99'"))
    engine.dispose()
    with pytest.raises(ConfigError, match="newer tinyrack"):
        Store.open(str(tmp_path), now=Clock())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE attempts SET row = json_set(row, '$.outcome', 'melted')", "attempt 1 .*newer.*: outcome: "),
        ("UPDATE attempts SET row = '{}'", "attempt 1 cannot be read .*: model: "),
        ("UPDATE attempts SET row = '[]'", "attempt 1 cannot be read"),
        ("UPDATE attempts SET row = '{no json'", "an attempt cannot be read .*: Expecting"),
        ("UPDATE tinyrack_info SET value = 'one'", "is damaged: its schema is 'one'"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, damage: str, words: str) -> None:
    with Store.open(str(tmp_path), now=Clock()) as store:
        store.append(store.begin_session(request={}, request_digest="d", fresh=True).id, OK)
    with sqlite3.connect(tmp_path / DATABASE) as raw:
        raw.execute("DROP TRIGGER attempts_no_update")
        raw.execute(damage)
    raw.close()
    with pytest.raises(ConfigError, match=words) as caught, Store.open(str(tmp_path), now=Clock()) as store:
        store.attempts()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"this is not a database at all, it is text" * 40, b"\x00" * 5000])
def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be used as a results store"):
        Store.open(str(tmp_path), now=Clock())


def test_absent_results_and_odd_urls_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no results yet"):
        Store.open(str(tmp_path / "none"), now=Clock(), create=False)
    with pytest.raises(ConfigError, match="only sqlite and postgresql"):
        Store.open("mysql://user:secret@host/db", now=Clock())
    with pytest.raises(ConfigError) as caught:
        Store.open("not a url://x", now=Clock())
    assert "\n" not in str(caught.value)


def test_a_file_of_schema_1_stays_loadable(tmp_path: Path) -> None:
    script = (Path(__file__).parent / "data" / "results_v1.sql").read_text()
    import sqlite3

    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.executescript(script)
    connection.close()
    with Store.open(str(tmp_path), now=Clock(), create=False) as store:
        kept = store.attempts()
        assert [row.outcome for row in kept] == [Outcome.OK, Outcome.ARENA_OVERFLOW]
        assert kept[0].cycles == 6_000_000
        assert kept[0].layers is not None
        assert len(kept[0].layers) == 6


def test_keys_of_a_newer_row_are_left_out_and_missing_ones_are_unknown() -> None:
    document = {**rows.to_json(OK), "key_of_2031": 1}
    del document["instructions"]
    assert rows.from_json(document) == replace(OK, instructions=None)


def test_the_table_for_pandas_has_a_column_a_scalar_key(store: Store) -> None:
    session = store.begin_session(request={}, request_digest="d", fresh=False)
    store.append(session.id, OK)
    frame = store.frame()
    assert list(frame["cycles"]) == [6_000_000]
    assert "layers" not in frame


def test_the_contract_keys_are_those_of_the_issue() -> None:
    wanted = """
        model model_sha256 board chip core clock_hz simulated timing_model memory_model requant outcome error
        cycles cycles_samples instructions latency_ms latency_ms_216mhz macs macs_executed arena_planned_bytes
        arena_measured_bytes stack_bytes sram_bytes flash_bytes model_flash_bytes text_bytes rodata_bytes bit_exact
        input_sha256 output_sha256 sources_digest elf_sha256 toolchain layers
    """
    assert tuple(wanted.split()) == rows.CONTRACT_KEYS
    assert set(rows.to_json(OK)["layers"][0]) == {"index", "name", "op", "kernel", "macs", "cycles"}


def test_rows_satisfy_their_exported_schema() -> None:
    import jsonschema

    schema = rows.json_schema()
    for each in (OK, FAILED):
        jsonschema.validate(rows.to_json(each), schema)


def test_a_store_that_cannot_be_written_can_still_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "an archive #1?"
    with Store.open(str(folder), now=Clock()) as made:
        session = made.begin_session(request={}, request_digest="d", fresh=False)
        stored = made.append(session.id, OK)
    # Root may write everywhere, so the answer is given; that nothing is written is seen in the folder.
    before = sorted(folder.iterdir())
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)
    with Store.open(str(folder), now=Clock(), create=False) as archive:
        assert archive.attempts() == (stored,)
        with pytest.raises(sa.exc.OperationalError, match="readonly"):
            archive.append(session.id, OK)
    assert sorted(folder.iterdir()) == before
    (folder / f"{DATABASE}-wal").write_bytes(b"rows that are not in the file yet")
    with pytest.raises(ConfigError, match="read a copy"):
        Store.open(str(folder), now=Clock(), create=False)
