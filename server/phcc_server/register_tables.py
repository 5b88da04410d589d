"""The tables of ``records.db``: hospitals, their invitations, their keys, and what was done with them.

SQLite with write-ahead log and foreign keys; every transaction takes the write lock at its start, so that two
commands at a time cannot both use one invitation. Events are only ever added: the database itself refuses a
change of one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    TypeDecorator,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from phcc_model.errors import StorageError
from phcc_model.storage import storage_error

SCHEMA = 1
"""Version of these tables; a change of one raises it and brings the statement that alters an older file."""
BUSY_MS = 30_000
_T = TypeVar("_T")
_APPEND_ONLY = """
CREATE TRIGGER events_no_{what} BEFORE {what} ON events
BEGIN SELECT RAISE(ABORT, 'events are never changed'); END
"""


class _UtcTime(TypeDecorator[datetime]):
    """A moment, kept in UTC: SQLite itself forgets the zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


class _Base(DeclarativeBase):
    type_annotation_map = {datetime: _UtcTime}  # noqa: RUF012 - so SQLAlchemy wants it


class SchemaRow(_Base):
    """The version of the tables; one row."""

    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(primary_key=True)


class HospitalRow(_Base):
    """A hospital that was ever invited."""

    __tablename__ = "hospitals"
    name: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime]


class InvitationRow(_Base):
    """An invitation: used once, by its first key; ended by a newer one or by a revocation."""

    __tablename__ = "invitations"
    id: Mapped[str] = mapped_column(primary_key=True)
    hospital: Mapped[str] = mapped_column(ForeignKey("hospitals.name"), index=True)
    secret: Mapped[str]
    issued: Mapped[datetime]
    expires: Mapped[datetime]
    used: Mapped[datetime | None]
    ended: Mapped[datetime | None]


class KeyRow(_Base):
    """A public key that was ever admitted; its state is ``admitted``, ``retired`` or ``revoked``."""

    __tablename__ = "keys"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    public_key: Mapped[str] = mapped_column(unique=True)
    fingerprint: Mapped[str]
    hospital: Mapped[str] = mapped_column(ForeignKey("hospitals.name"), index=True)
    invitation: Mapped[str] = mapped_column(ForeignKey("invitations.id"))
    state: Mapped[str]
    admitted: Mapped[datetime]
    changed: Mapped[datetime]


class EventRow(_Base):
    """One thing that was done, or refused."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    who: Mapped[str]
    what: Mapped[str]
    hospital: Mapped[str | None]
    detail: Mapped[str]


def open_tables(path: Path) -> Engine:
    """The database in a file, made if need be; only its owner can read it.

    Raises:
        StorageError: it cannot be opened, is no database, or was written by a newer release.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise storage_error(path, error) from error
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    with_tables(path, engine, _ensure_schema)
    return engine


def with_tables(path: Path, engine: Engine, work: Callable[[Session], _T]) -> _T:
    """Do some work in one transaction, with the database's complaints as ours.

    Raises:
        StorageError: the database cannot be read or written; nothing of the work is kept.
    """
    try:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            return work(session)
    except DBAPIError as error:
        raise StorageError(
            f"cannot be used ({error.orig})",
            where=str(path),
            remedy="Look for a full disk, or for another program that holds it; else restore a backup",
        ) from error


def all_keys(session: Session, hospital: str) -> list[KeyRow]:
    """Every key that was ever a hospital's, oldest first."""
    return list(session.scalars(select(KeyRow).where(KeyRow.hospital == hospital).order_by(KeyRow.id)))


def live_keys(session: Session, hospital: str) -> list[KeyRow]:
    """The keys of a hospital that are admitted, oldest first."""
    return [row for row in all_keys(session, hospital) if row.state == "admitted"]


def end_invitations(session: Session, hospital: str, now: datetime) -> None:
    """End what is open of a hospital's invitations."""
    found = select(InvitationRow).where(InvitationRow.hospital == hospital, InvitationRow.ended.is_(None))
    for row in session.scalars(found):
        row.ended = now


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy begins transactions, not sqlite3
    for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _ensure_schema(session: Session) -> None:
    connection = session.connection()
    if not inspect(connection).has_table(SchemaRow.__tablename__):
        _Base.metadata.create_all(connection)
        for what in ("UPDATE", "DELETE"):
            connection.execute(text(_APPEND_ONLY.format(what=what)))
        session.add(SchemaRow(version=SCHEMA))
        return
    version = session.query(SchemaRow).one().version
    if version > SCHEMA:
        raise StorageError(
            f"was written by a newer release (tables {version}, this release knows {SCHEMA})",
            where=str(connection.engine.url.database),
            remedy="Install the release that wrote it, or a newer one",
        )
