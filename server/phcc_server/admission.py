"""What makes an admission good.

An invitation admits one key, once, before it expires. A second key of the same hospital is a rotation: it must
be vouched for by a key that is admitted, and both are good until the old one is retired. The same file a second
time changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from phcc_model.contract.enrolment import Admission, check_admission, fingerprint, public_text
from phcc_model.errors import ContractError
from phcc_server.register_tables import InvitationRow, KeyRow, live_keys


@dataclass(frozen=True)
class Admitted:
    """What an admission file led to.

    Attributes:
        hospital: whose.
        fingerprint: of the key, to be compared by telephone.
        kind: ``first`` key, ``rotated`` (the old key is still good), or ``again`` (the same file a second time).
    """

    hospital: str
    fingerprint: str
    kind: Literal["first", "rotated", "again"]


def admit_key(session: Session, admission: Admission, where: str, now: datetime) -> Admitted:
    """Admit the key that an admission asks for.

    Args:
        session: on the register; the caller commits it.
        admission: what came back from a hospital.
        where: the file's name, for errors.
        now: the time.

    Raises:
        ContractError: it is refused; says why.
    """
    invitation = session.get(InvitationRow, admission.invitation)
    if invitation is None:
        raise ContractError(
            "carries an invitation that this server did not give out",
            where=where,
            remedy="Invite the hospital and send it the kit",
        )
    if invitation.hospital != admission.hospital:
        raise ContractError(
            f"names {admission.hospital}, but carries the invitation of {invitation.hospital}", where=where
        )
    key = public_text(check_admission(admission, invitation.secret, where))
    known = session.scalar(select(KeyRow).where(KeyRow.public_key == key))
    if known is not None:
        return _again(known, admission.hospital, where)
    live = live_keys(session, admission.hospital)
    _check_invitation(invitation, now, where, rotation=bool(live))
    if live:
        _check_vouched(admission, invitation.secret, live, where)
    invitation.used = invitation.used or now
    found = fingerprint(key)
    session.add(
        KeyRow(
            public_key=key,
            fingerprint=found,
            hospital=admission.hospital,
            invitation=invitation.id,
            state="admitted",
            admitted=now,
            changed=now,
        )
    )
    return Admitted(admission.hospital, found, "rotated" if live else "first")


def _again(known: KeyRow, hospital: str, where: str) -> Admitted:
    if known.hospital != hospital:
        raise ContractError(f"holds the key of {known.hospital}", where=where)
    if known.state != "admitted":
        raise ContractError(
            f"holds a key that was {known.state} on {known.changed:%Y-%m-%d}",
            where=where,
            remedy="The hospital must make a new key: such a one never comes back",
        )
    return Admitted(hospital, known.fingerprint, "again")


def _check_invitation(invitation: InvitationRow, now: datetime, where: str, *, rotation: bool) -> None:
    """Whether an invitation still counts; its date of expiry is for the first key only."""
    remedy = f"Invite {invitation.hospital} again and send it the new kit"
    if invitation.ended is not None:
        raise ContractError(
            f"carries an invitation that ended on {invitation.ended:%Y-%m-%d} "
            "(revoked, or in favour of a newer one)",
            where=where,
            remedy="Use the newest kit" if invitation.used is None else remedy,
        )
    if not rotation and now > invitation.expires:
        when = f"{invitation.expires:%Y-%m-%d %H:%M} UTC"
        raise ContractError(f"carries an invitation that expired on {when}", where=where, remedy=remedy)


def _check_vouched(admission: Admission, secret: str, live: Sequence[KeyRow], where: str) -> None:
    """Whether one of the keys that are admitted vouches for the new one."""
    for row in live:
        try:
            check_admission(admission, secret, where, old=row.public_key)
        except ContractError:
            continue
        return
    raise ContractError(
        f"holds a second key for {admission.hospital}, and no key that is admitted vouches for it",
        where=where,
        remedy="Ask the hospital by telephone whether it made this key; if the old one is lost, "
        "revoke the hospital and invite it anew",
    )
