"""Where measurements stay: SQLite (write-ahead log) in a results folder, or PostgreSQL by URL, one schema.

Attempts are only ever added: a failed one is a row too, and nothing is corrected afterwards. This is the only
module that writes to results/. It knows rows and sessions, not boards or models.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa
from sqlalchemy import orm

from harness import row as rows
from harness.calls import Call, call_of
from harness.errors import ConfigError, Outcome
from harness.owner import own_process, owner_alive
from harness.row import Row
from harness.tables import (
    APPEND_ONLY,
    AttemptRecord,
    Base,
    InfoRecord,
    SessionRecord,
    configure_sqlite,
    database_url,
)

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
DATABASE = "tinyrack.sqlite"
_VERSION_KEY = "schema_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """One call of `tinyrack bench`: what was asked, when, and the last attempt of each job done so far."""

    id: str
    request_digest: str
    request: dict[str, Any]
    started: str
    finished: str | None
    rows: tuple[Row, ...]
    resumed: bool = False


def utc(now_s: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_time(now_s: float) -> str:
    """Seconds since the epoch as the time of day in UTC, as lines of a log begin."""
    return f"{utc(now_s)[11:19]}Z"


class Store:
    """An open store. Safe to use from several threads; close it, or use it in a `with`."""

    def __init__(self, engine: sa.Engine, *, where: str, now: Callable[[], float]) -> None:
        self._engine = engine
        self._now = now
        self._lock = threading.Lock()
        self.where = where

    @classmethod
    def open(cls, results: str, *, now: Callable[[], float], create: bool = True) -> Self:
        """Opens the store in the folder `results`, or at a database URL.

        Args:
            results: a folder, or ``postgresql://...`` / ``sqlite:///...``.
            now: seconds since the epoch.
            create: make folder and tables when they are absent.

        Raises:
            ConfigError: it does not exist, cannot be opened, or was written by a newer version.
        """
        if "://" in results:
            url = database_url(results)
            where = url.render_as_string(hide_password=True)
        else:
            folder = Path(results)
            if create:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise ConfigError(f"cannot be created: {error.strerror}", file=results) from error
            elif not (folder / DATABASE).is_file():
                raise ConfigError("holds no results yet; `tinyrack bench MODEL` makes some", file=results)
            url = sa.URL.create("sqlite", database=str(folder / DATABASE))
            where = str(folder / DATABASE)
            if not create and not os.access(folder, os.W_OK):
                return cls._open_for_reading(folder / DATABASE, now=now)
        try:
            engine = sa.create_engine(url)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"needs a database driver: pip install 'tinyrack[postgres]' ({error.name})", file=where
            ) from error
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", configure_sqlite)
        store = cls(engine, where=where, now=now)
        try:
            store._prepare()
        except (sa.exc.DBAPIError, ConfigError) as error:
            engine.dispose()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"cannot be used as a results store: {error.orig}", file=where) from error
        return store

    @classmethod
    def _open_for_reading(cls, file: Path, *, now: Callable[[], float]) -> Self:
        """A store where nothing can be written, not even the locks SQLite wants: an archive, a read-only disk.

        Raises:
            ConfigError: its last rows are not in the file itself, or it is no store.
        """
        log = file.with_name(f"{file.name}-wal")
        if log.exists() and log.stat().st_size:
            raise ConfigError("cannot be written, and its last rows lie beside it; read a copy", file=str(file))
        name = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
        engine = sa.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(name, uri=True), poolclass=sa.NullPool
        )
        store = cls(engine, where=str(file), now=now)
        try:
            store._prepare()
        except sa.exc.DBAPIError as error:
            engine.dispose()
            raise ConfigError(f"cannot be used as a results store: {error.orig}", file=str(file)) from error
        return store

    def _prepare(self) -> None:
        inspector = sa.inspect(self._engine)
        if inspector.has_table(InfoRecord.__tablename__):
            with orm.Session(self._engine) as session:
                info = session.get(InfoRecord, _VERSION_KEY)
            if info and not info.value.isdecimal():
                raise ConfigError(f"is damaged: its schema is {info.value[:20]!r}", file=self.where)
            found = int(info.value) if info else 0
            if found > SCHEMA_VERSION:
                raise ConfigError(
                    f"was written by a newer tinyrack: schema {found}, this one reads {SCHEMA_VERSION}; upgrade",
                    file=self.where,
                )
            return
        with self._engine.begin() as connection:
            # Two processes may create the same file at once: the tables tell who was first.
            if connection.dialect.name == "sqlite":
                connection.execute(sa.text("BEGIN IMMEDIATE"))
            if sa.inspect(connection).has_table(InfoRecord.__tablename__):
                return
            Base.metadata.create_all(connection)
            if connection.dialect.name == "sqlite":
                for trigger in APPEND_ONLY:
                    connection.execute(sa.text(trigger))
            connection.execute(sa.insert(InfoRecord).values(key=_VERSION_KEY, value=str(SCHEMA_VERSION)))

    def begin_session(
        self,
        *,
        request: dict[str, Any],
        request_digest: str,
        fresh: bool,
        reopen: bool = False,
        alive: Callable[[str, str], bool] | None = None,
    ) -> StoredSession:
        """The unfinished session with the same request, if its process is gone; else a new one.

        Args:
            fresh: never resume.
            reopen: the last session counts as unfinished, and no older one counts.
            alive: (host, process) -> whether that process may still be writing.
        """
        is_alive = alive or owner_alive
        with self._lock, orm.Session(self._engine) as session, session.begin():
            # Takes the write lock at once: two calls that come together must not resume the same session.
            session.execute(sa.update(InfoRecord).where(InfoRecord.key == _VERSION_KEY).values(key=_VERSION_KEY))
            if not fresh:
                query = (
                    sa.select(SessionRecord)
                    .where(SessionRecord.request_digest == request_digest)
                    .order_by(SessionRecord.started.desc(), SessionRecord.id.desc())
                )
                query = query.limit(1) if reopen else query.where(SessionRecord.finished.is_(None))
                for found in session.scalars(query):
                    if found.finished is not None or not is_alive(found.host, found.process):
                        found.finished = None
                        found.host, found.process = socket.gethostname(), own_process()
                        return replace(self._load(session, found), resumed=True)
            started = utc(self._now())
            stamp = started[:19].replace("-", "").replace(":", "")
            base = f"{stamp}-{request_digest[:6]}"
            taken = set(session.scalars(sa.select(SessionRecord.id).where(SessionRecord.id.startswith(base))))
            name = next(n for n in (base, *(f"{base}-{i}" for i in range(2, 10_000))) if n not in taken)
            made = SessionRecord(
                id=name,
                request_digest=request_digest,
                request=request,
                started=started,
                finished=None,
                host=socket.gethostname(),
                process=own_process(),
            )
            session.add(made)
            return StoredSession(
                id=name, request_digest=request_digest, request=request, started=started, finished=None, rows=()
            )

    def append(self, session_id: str, row: Row) -> Row:
        """Adds one attempt, on disk when this returns; the row comes back with its session and attempt number."""
        with self._lock, orm.Session(self._engine) as session, session.begin():
            made = AttemptRecord(
                session_id=session_id,
                model=row.model,
                model_sha256=row.model_sha256,
                board=row.board,
                simulated=row.simulated,
                requant=row.requant,
                outcome=row.outcome.value,
                cycles=row.cycles,
                latency_ms=row.latency_ms,
                sram_bytes=row.sram_bytes,
                flash_bytes=row.flash_bytes,
                started=row.started,
                row=rows.to_json(replace(row, session=session_id)),
            )
            session.add(made)
            session.flush()
            return replace(row, session=session_id, attempt=made.id)

    def finish_session(self, session_id: str) -> None:
        """Marks a session as complete: a later call with the same request measures anew."""
        with self._lock, orm.Session(self._engine) as session, session.begin():
            found = session.get(SessionRecord, session_id)
            if found is None:
                raise KeyError(session_id)
            found.finished = utc(self._now())

    def release_session(self, session_id: str) -> None:
        """Leaves a session unfinished but free to be resumed at once."""
        with self._lock, orm.Session(self._engine) as session, session.begin():
            found = session.get(SessionRecord, session_id)
            if found is None:
                raise KeyError(session_id)
            found.process = ""

    def sessions(self, wanted: Callable[[Mapping[str, Any]], bool] = lambda _: True) -> Iterator[StoredSession]:
        """Sessions, newest first, each read when its turn comes.

        Args:
            wanted: says of a request whether its session is.
        """
        with orm.Session(self._engine) as session:
            order = SessionRecord.started.desc(), SessionRecord.id.desc()
            known = session.execute(sa.select(SessionRecord.id, SessionRecord.request).order_by(*order)).all()
        found = (self.session(name) for name, request in known if wanted(request))
        return (each for each in found if each is not None)

    def session(self, name: str) -> StoredSession | None:
        """The session with that id; None when there is none."""
        with orm.Session(self._engine) as session:
            found = session.get(SessionRecord, name)
            return None if found is None else self._load(session, found)

    def calls(self, limit: int) -> tuple[Call, ...]:
        """What came of the last sessions, oldest first; no rows are read for it."""
        with orm.Session(self._engine) as session:
            order = SessionRecord.started.desc(), SessionRecord.id.desc()
            found = session.scalars(sa.select(SessionRecord).order_by(*order).limit(limit)).all()
            return tuple(call_of(session, each) for each in reversed(found))

    def attempts(self) -> tuple[Row, ...]:
        """Every attempt ever made, oldest first."""
        with orm.Session(self._engine) as session:
            return self._rows(session, sa.select(AttemptRecord).order_by(AttemptRecord.id))

    def newest(self) -> tuple[Row, ...]:
        """The last attempt of each model, board, rounding and choice of kernels; of a changed model the newest."""
        kernels = AttemptRecord.row["kernels"].as_string()
        keys = AttemptRecord.model, AttemptRecord.board, AttemptRecord.requant, kernels
        last, first = sa.func.max(AttemptRecord.id).label("last"), sa.func.min(AttemptRecord.id).label("first")
        jobs = sa.select(last, first).group_by(*keys).subquery()
        query = sa.select(AttemptRecord).join(jobs, AttemptRecord.id == jobs.c.last).order_by(jobs.c.first)
        with orm.Session(self._engine) as session:
            return self._rows(session, query)

    def matching(
        self,
        *,
        limit: int,
        boards: Sequence[str] = (),
        models: Sequence[str] = (),
        session_id: str | None = None,
        since: str | None = None,
        only_failed: bool = False,
    ) -> tuple[Row, ...]:
        """The last `limit` attempts of any of these boards and models, oldest first; nothing given: of all.

        Args:
            since: UTC, ISO 8601, as rows have it.
        """
        query = sa.select(AttemptRecord).order_by(AttemptRecord.id.desc()).limit(limit)
        if boards:
            query = query.where(AttemptRecord.board.in_(boards))
        if models:
            query = query.where(AttemptRecord.model.in_(models))
        if session_id is not None:
            query = query.where(AttemptRecord.session_id == session_id)
        if since is not None:
            query = query.where(AttemptRecord.started >= since)
        if only_failed:
            query = query.where(AttemptRecord.outcome != Outcome.OK.value)
        with orm.Session(self._engine) as session:
            return self._rows(session, query)[::-1]

    def frame(self) -> pd.DataFrame:
        """All attempts as a table, one column a scalar key, for pandas users."""
        import pandas as pd

        documents = [rows.to_json(row) for row in self.attempts()]
        return pd.DataFrame([{k: v for k, v in d.items() if not isinstance(v, dict | list)} for d in documents])

    def _load(self, session: orm.Session, found: SessionRecord) -> StoredSession:
        query = sa.select(AttemptRecord).where(AttemptRecord.session_id == found.id).order_by(AttemptRecord.id)
        return StoredSession(
            id=found.id,
            request_digest=found.request_digest,
            request=found.request,
            started=found.started,
            finished=found.finished,
            rows=latest(self._rows(session, query)),
        )

    def _rows(self, session: orm.Session, query: sa.Select[Any]) -> tuple[Row, ...]:
        """The attempts, in the query's order.

        Raises:
            ConfigError: one is damaged, or has values that only a newer version knows.
        """
        found: list[Row] = []
        where = "an attempt"
        try:
            for attempt in session.scalars(query):
                where = f"attempt {attempt.id}"
                found.append(replace(rows.from_json(attempt.row), attempt=attempt.id))
        except ValueError as error:
            what = f"{where} cannot be read (damaged, or a newer version's): {error}"
            raise ConfigError(what, file=self.where) from error
        return tuple(found)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def latest(attempts: Sequence[Row]) -> tuple[Row, ...]:
    """The last attempt of each (model, board, requantization), in order of first appearance."""
    last: dict[tuple[str, str, str, str], Row] = {}
    for row in attempts:
        last[row.model, row.model_sha256, row.board, row.requant] = row
    return tuple(last.values())
