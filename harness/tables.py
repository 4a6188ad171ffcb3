"""The tables of a store, and what each kind of database needs before it is used. No I/O."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import JSONB

from harness.errors import ConfigError

_WAIT_FOR_WRITER_S = 30
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")


class Base(orm.DeclarativeBase):
    """All tables."""


class InfoRecord(Base):
    """A fact about the store itself; its version is one."""

    __tablename__ = "tinyrack_info"
    key: orm.Mapped[str] = orm.mapped_column(sa.String(64), primary_key=True)
    value: orm.Mapped[str] = orm.mapped_column(sa.Text)


class SessionRecord(Base):
    """One call of `tinyrack bench`."""

    __tablename__ = "sessions"
    id: orm.Mapped[str] = orm.mapped_column(sa.String(64), primary_key=True)
    request_digest: orm.Mapped[str] = orm.mapped_column(sa.String(64), index=True)
    started: orm.Mapped[str] = orm.mapped_column(sa.String(40))
    finished: orm.Mapped[str | None] = orm.mapped_column(sa.String(40))
    host: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    process: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    request: orm.Mapped[dict[str, Any]] = orm.mapped_column(_JSON)


class AttemptRecord(Base):
    """One attempt: the whole row, and the keys of it that queries look at."""

    __tablename__ = "attempts"
    id: orm.Mapped[int] = orm.mapped_column(sa.Integer, primary_key=True, autoincrement=True)
    session_id: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey("sessions.id"), index=True)
    model: orm.Mapped[str] = orm.mapped_column(sa.Text, index=True)
    model_sha256: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    board: orm.Mapped[str] = orm.mapped_column(sa.String(64), index=True)
    simulated: orm.Mapped[bool] = orm.mapped_column(sa.Boolean)
    requant: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    outcome: orm.Mapped[str] = orm.mapped_column(sa.String(32))
    cycles: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger)
    latency_ms: orm.Mapped[float | None] = orm.mapped_column(sa.Float)
    sram_bytes: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger)
    flash_bytes: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger)
    started: orm.Mapped[str | None] = orm.mapped_column(sa.String(40))
    row: orm.Mapped[dict[str, Any]] = orm.mapped_column(_JSON)


APPEND_ONLY = tuple(
    f"CREATE TRIGGER attempts_no_{verb.lower()} BEFORE {verb} ON attempts "
    "BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END"
    for verb in ("UPDATE", "DELETE")
)


def database_url(text: str) -> sa.URL:
    """The URL, with the driver that we use.

    Raises:
        ConfigError: it is none, or another database's.
    """
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise ConfigError("is not a database URL", file=text.rpartition("@")[2]) from error
    if url.drivername == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(
            "only sqlite and postgresql are supported", file=url.render_as_string(hide_password=True)
        )
    return url


def configure_sqlite(connection: Any, _record: Any) -> None:
    """A new connection waits for writers, and what it commits is on disk."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_WAIT_FOR_WRITER_S * 1000}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
