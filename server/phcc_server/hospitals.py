"""The register of hospitals: who was invited, whose keys are admitted, and every time that it was refused.

What makes an admission good stands in `admission`; here is what is remembered. A key that was revoked or retired
never comes back; a hospital whose keys are all lost is revoked and invited anew.
"""

from __future__ import annotations

import contextlib
import getpass
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phcc_model.contract import keys
from phcc_model.contract.enrolment import SITE_NAME, Admission, Kit, StudyCard, read_file
from phcc_model.errors import ContractError
from phcc_server.admission import Admitted, admit_key
from phcc_server.register_tables import (
    EventRow,
    HospitalRow,
    InvitationRow,
    KeyRow,
    all_keys,
    end_invitations,
    live_keys,
    open_tables,
    with_tables,
)

State = Literal["invited", "expired", "admitted", "revoked"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class KnownKey:
    """A key of a hospital; its state is ``admitted``, ``retired`` or ``revoked``, since when."""

    fingerprint: str
    state: str
    since: datetime


@dataclass(frozen=True)
class Hospital:
    """How a hospital stands.

    Attributes:
        name: of the hospital.
        state: by its keys and its newest invitation.
        keys: oldest first.
        expires: when its newest invitation ends.
    """

    name: str
    state: State
    keys: tuple[KnownKey, ...]
    expires: datetime


@dataclass(frozen=True)
class Event:
    """One thing that was done or refused; ``who`` is an account of this machine."""

    at: datetime
    who: str
    what: str
    hospital: str | None
    detail: str


class Register:
    """The register in a database.

    Args:
        path: of the database; made if need be.
        clock: the time, with its zone.
        who: does what is done; the account that runs this program, if not given.

    Raises:
        StorageError: the database cannot be used. So do all methods.
    """

    def __init__(
        self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC), who: str | None = None
    ) -> None:
        self._path = path
        self._clock = clock
        self._who = who or getpass.getuser()
        self._engine = open_tables(path)

    def invite(
        self, hospital: str, *, server: str, ca_pem: str, days: int, studies: Sequence[StudyCard] = ()
    ) -> Kit:
        """Invite a hospital; an earlier invitation that was not used ends.

        Args:
            hospital: its name.
            server: public host:port.
            ca_pem: the authority's certificate.
            days: until the invitation expires.
            studies: what to tell of them.

        Raises:
            ContractError: it is admitted already, or its name is no name or too like another's.
        """
        now = self._clock()
        with self._noting_refusal(None):
            kit = _new_kit(hospital, server, ca_pem, now, timedelta(days=days), studies)

        def work(session: Session) -> None:
            alike = session.scalar(
                select(HospitalRow.name).where(func.lower(HospitalRow.name) == hospital.lower())
            )
            if alike not in (None, hospital):
                raise ContractError(f"differs from {alike} in case only", where=hospital)
            if live := live_keys(session, hospital):
                raise ContractError(
                    f"is admitted already (key {live[-1].fingerprint})",
                    where=hospital,
                    remedy="A new key needs no kit: the hospital makes it and the old one vouches for it; "
                    "if the old one is lost, revoke the hospital first",
                )
            if alike is None:
                session.add(HospitalRow(name=hospital, since=now))
                session.flush()
            end_invitations(session, hospital, now)
            session.add(
                InvitationRow(
                    id=kit.invitation, hospital=hospital, secret=kit.secret, issued=now, expires=kit.expires
                )
            )
            self._add_event(session, "invited", hospital, f"until {kit.expires:%Y-%m-%d %H:%M} UTC")

        self._do(work, hospital)
        return kit

    def admit(self, text: str, where: str) -> Admitted:
        """Admit the key that an admission file asks for.

        Args:
            text: of the file.
            where: its name, for errors and events.

        Raises:
            ContractError: it is refused; says why.
        """
        with self._noting_refusal(None):
            admission = read_file(text, Admission, where)

        def work(session: Session) -> Admitted:
            admitted = admit_key(session, admission, where, self._clock())
            if admitted.kind != "again":
                what = "admitted" if admitted.kind == "first" else "rotated"
                self._add_event(session, what, admitted.hospital, f"key {admitted.fingerprint}")
            return admitted

        return self._do(work, admission.hospital)

    def revoke(self, hospital: str) -> tuple[str, ...]:
        """Let no key of a hospital in any more, and end its invitation; fingerprints of the keys concerned.

        Raises:
            ContractError: there is no such hospital.
        """

        def work(session: Session) -> tuple[str, ...]:
            _require(session, hospital)
            now = self._clock()
            end_invitations(session, hospital, now)
            rows = [row for row in all_keys(session, hospital) if row.state != "revoked"]
            return self._change(session, rows, "revoked", hospital, now)

        return self._do(work, hospital)

    def retire(self, hospital: str) -> tuple[str, ...]:
        """Let only the newest key of a hospital in; fingerprints of the others.

        Raises:
            ContractError: there is no such hospital.
        """

        def work(session: Session) -> tuple[str, ...]:
            _require(session, hospital)
            return self._change(
                session, live_keys(session, hospital)[:-1], "retired", hospital, self._clock()
            )

        return self._do(work, hospital)

    def hospitals(self) -> tuple[Hospital, ...]:
        """Every hospital that was ever invited, by name."""
        return self._do(
            lambda session: tuple(
                self._hospital(session, name)
                for name in session.scalars(select(HospitalRow.name).order_by(HospitalRow.name))
            )
        )

    def admitted_keys(self) -> dict[str, str]:
        """The hospital of every key that is admitted; two keys of one hospital while it changes its key."""

        def work(session: Session) -> dict[str, str]:
            rows = session.scalars(select(KeyRow).where(KeyRow.state == "admitted").order_by(KeyRow.id))
            return {row.public_key: row.hospital for row in rows}

        return self._do(work)

    def events(self, hospital: str | None = None) -> tuple[Event, ...]:
        """What was done and refused, oldest first."""

        def work(session: Session) -> tuple[Event, ...]:
            chosen = select(EventRow).order_by(EventRow.id)
            if hospital is not None:
                chosen = chosen.where(EventRow.hospital == hospital)
            return tuple(
                Event(row.at, row.who, row.what, row.hospital, row.detail) for row in session.scalars(chosen)
            )

        return self._do(work)

    def _change(
        self, session: Session, rows: Sequence[KeyRow], state: str, hospital: str, now: datetime
    ) -> tuple[str, ...]:
        for row in rows:
            row.state, row.changed = state, now
        found = tuple(row.fingerprint for row in rows)
        self._add_event(session, state, hospital, f"keys {', '.join(found) or 'none'}")
        return found

    def _hospital(self, session: Session, name: str) -> Hospital:
        rows = all_keys(session, name)
        newest = session.scalars(
            select(InvitationRow).where(InvitationRow.hospital == name).order_by(InvitationRow.issued.desc())
        ).first()
        assert newest is not None  # a hospital is added with its first invitation
        state: State
        if any(row.state == "admitted" for row in rows):
            state = "admitted"
        elif newest.ended is not None:
            state = "revoked"
        else:
            state = "expired" if newest.expires < self._clock() else "invited"
        known = tuple(KnownKey(row.fingerprint, row.state, row.changed) for row in rows)
        return Hospital(name, state, known, newest.expires)

    def _do(self, work: Callable[[Session], _T], hospital: str | None = None) -> _T:
        with self._noting_refusal(hospital):
            return with_tables(self._path, self._engine, work)

    @contextlib.contextmanager
    def _noting_refusal(self, hospital: str | None) -> Iterator[None]:
        """A refusal undoes its transaction, so it is written down in one of its own."""
        try:
            yield
        except ContractError as error:
            line = str(error)[:1000]
            with_tables(
                self._path,
                self._engine,
                lambda session: self._add_event(session, "refused", hospital, line),
            )
            raise

    def _add_event(self, session: Session, what: str, hospital: str | None, detail: str) -> None:
        row = EventRow(at=self._clock(), who=self._who, what=what, hospital=hospital, detail=detail)
        session.add(row)


def _new_kit(
    hospital: str, server: str, ca_pem: str, now: datetime, valid: timedelta, studies: Sequence[StudyCard]
) -> Kit:
    if not re.fullmatch(SITE_NAME, hospital):
        raise ContractError(
            "is no name for a hospital", where=hospital, remedy="Use up to 63 letters, digits, - and _"
        )
    return Kit(
        hospital=hospital,
        server=server,
        ca_pem=ca_pem,
        invitation=secrets.token_hex(16),
        secret=secrets.token_hex(32),
        issued=now,
        expires=now + valid,
        package=keys.package_version(),
        studies=tuple(studies),
    )


def _require(session: Session, hospital: str) -> None:
    if session.get(HospitalRow, hospital) is None:
        names = session.scalars(select(HospitalRow.name).order_by(HospitalRow.name)).all()
        known = ", ".join(names) or "none yet"
        raise ContractError("is not in the register", where=hospital, remedy=f"Known are: {known}")
