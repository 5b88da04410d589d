"""How a hospital joins: the kit that the coordinator hands out, and the admission file that comes back.

Both are YAML text that a person can read and mail. A kit holds no private key: the hospital's key pair is made
at the hospital, and only the public key returns, bound to the invitation by a secret that only the kit holds
and signed by the key itself. Whoever reads a kit on its way can use it once, before the hospital does; the
coordinator sees the fingerprint of the key that came back and compares it by telephone.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import yaml
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phcc_model.errors import ContractError

SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
"""A hospital's name: it becomes a file's name, a log's word and a TLS-free identifier."""
LONGEST_FILE = 1_000_000
"""Characters of a kit or an admission file, at most."""

SiteName = Annotated[str, Field(pattern=SITE_NAME)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{32,128}$")]
Address = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyCard(_File):
    """What a kit says of one study, and the study itself: a hospital can read it, and make ready for it."""

    name: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    purpose: Annotated[str, Field(max_length=4000)] = ""
    text: Annotated[str, Field(max_length=200_000)] = ""


class Kit(_File):
    """What the coordinator gives a hospital."""

    format: Literal["phcc-kit/1"] = "phcc-kit/1"
    hospital: SiteName
    server: Address
    ca_pem: Annotated[str, Field(max_length=20_000)]
    invitation: Hex
    secret: Hex
    issued: AwareDatetime
    expires: AwareDatetime
    package: str
    studies: tuple[StudyCard, ...] = ()


class Admission(_File):
    """What a hospital sends back: its public key, and the proof that it holds kit and private key.

    A new key for a hospital that is admitted already carries the invitation of the first one, and the
    signature of the key that it takes the place of, in ``vouched``.
    """

    format: Literal["phcc-admission/1"] = "phcc-admission/1"
    hospital: SiteName
    invitation: Hex
    public_key: Annotated[str, Field(max_length=2000)]
    made: AwareDatetime
    proof: Hex
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{16,400}$")]
    vouched: Annotated[str, Field(pattern=r"^([0-9a-f]{16,400})?$")] = ""


_Kind = TypeVar("_Kind", Kit, Admission)


def write_file(file: Kit | Admission) -> str:
    """A kit or an admission as text."""
    return yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False, width=100)


def read_file(text: str, kind: type[_Kind], where: str) -> _Kind:
    """The kit or admission that a text holds.

    Args:
        text: of the file.
        kind: what is expected.
        where: the file's name, for the error.

    Raises:
        ContractError: it holds something else; names the field.
    """
    try:
        if len(text) > LONGEST_FILE:
            raise ValueError(f"longer than {LONGEST_FILE} characters")
        return kind.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = ".".join(map(str, first["loc"])) or "the file"
        raise ContractError(
            f"is no {kind.__name__.lower()} ({what}: {first['msg'].lower()})",
            where=where,
            remedy="Ask for the file again, and send it unchanged",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = str(error).splitlines()[0]
        raise ContractError(f"is no {kind.__name__.lower()} ({line})", where=where) from error


def make_admission(
    hospital: str,
    invitation: str,
    secret: str,
    key: ec.EllipticCurvePrivateKey,
    made: datetime,
    old: ec.EllipticCurvePrivateKey | None = None,
) -> Admission:
    """The admission of a key.

    Args:
        hospital: its name, as the kit has it.
        invitation: of the kit.
        secret: of the kit.
        key: the private key; it stays here.
        made: now.
        old: the private key that this one takes the place of.
    """
    public_key = public_text(key.public_key())
    said = _said(hospital, invitation, public_key)
    return Admission(
        hospital=hospital,
        invitation=invitation,
        public_key=public_key,
        made=made,
        proof=hmac.new(bytes.fromhex(secret), said, hashlib.sha256).hexdigest(),
        signature=key.sign(said, ec.ECDSA(hashes.SHA256())).hex(),
        vouched=old.sign(said, ec.ECDSA(hashes.SHA256())).hex() if old is not None else "",
    )


def check_admission(
    admission: Admission, secret: str, where: str, old: str | None = None
) -> ec.EllipticCurvePublicKey:
    """The key that an admission asks for, if every proof in it holds.

    Args:
        admission: what came back.
        secret: of the invitation.
        where: the file's name, for the error.
        old: the public key that the new one takes the place of, which must vouch for it.

    Raises:
        ContractError: the key is none of a kind that Flower takes, or a proof does not hold.
    """
    key = read_public(admission.public_key, where)
    said = _said(admission.hospital, admission.invitation, admission.public_key)
    proof = hmac.new(bytes.fromhex(secret), said, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(proof, admission.proof):
        raise ContractError("was not made from the kit of this hospital", where=where)
    _check_signature(key, admission.signature, said, where)
    if old is not None:
        _check_signature(read_public(old, where), admission.vouched, said, where)
    return key


def public_text(key: ec.EllipticCurvePublicKey) -> str:
    """A public key as OpenSSH writes it."""
    ssh = serialization.PublicFormat.OpenSSH
    return key.public_bytes(serialization.Encoding.OpenSSH, ssh).decode("ascii")


def read_public(text: str, where: str) -> ec.EllipticCurvePublicKey:
    """The public key that `public_text` wrote.

    Raises:
        ContractError: it is no elliptic-curve key on P-256, P-384 or P-521.
    """
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise ContractError(f"holds no public key ({error})", where=where) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not key.curve.name.startswith("secp"):
        raise ContractError("holds a key of another kind than ECDSA (P-384)", where=where)
    return key


def fingerprint(public_key: str) -> str:
    """A key's fingerprint, in groups that can be read out over the telephone."""
    plain = hashlib.sha256(" ".join(public_key.split()[:2]).encode()).hexdigest()[:32]
    return "-".join(plain[at : at + 4] for at in range(0, 32, 4))


def _said(hospital: str, invitation: str, public_key: str) -> bytes:
    return "\n".join(["phcc-admission/1", hospital, invitation, public_key]).encode()


def _check_signature(key: ec.EllipticCurvePublicKey, signature: str, said: bytes, where: str) -> None:
    try:
        key.verify(bytes.fromhex(signature), said, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise ContractError("is not signed by the key that it names", where=where) from error
