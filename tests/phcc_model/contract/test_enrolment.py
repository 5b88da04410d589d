"""Kits and admissions: what is told, what is proved, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from phcc_model.contract.enrolment import (
    Admission,
    Kit,
    check_admission,
    fingerprint,
    make_admission,
    public_text,
    read_file,
    read_public,
    write_file,
)
from phcc_model.errors import ContractError

NOW = datetime(2026, 11, 24, tzinfo=UTC)
KEY, OTHER = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
SECRET = "5e" * 32
FOREIGN = OTHER.sign(b"something else", ec.ECDSA(hashes.SHA256())).hex()


def kit(**changes: object) -> Kit:
    plain: dict[str, object] = {
        "hospital": "H1",
        "server": "phcc.example.org:443",
        "ca_pem": "-----BEGIN CERTIFICATE-----\n",
        "invitation": "ab" * 16,
        "secret": SECRET,
        "issued": NOW,
        "expires": NOW + timedelta(days=14),
        "package": "0.1.0",
    }
    return Kit.model_validate(plain | changes)


def admission(**changes: object) -> Admission:
    return make_admission("H1", "ab" * 16, SECRET, KEY, NOW).model_copy(update=changes)


def test_a_kit_comes_back_as_it_was_written() -> None:
    assert read_file(write_file(kit()), Kit, "kit.yaml") == kit()


def test_a_good_admission_gives_the_key() -> None:
    text = write_file(admission())
    assert check_admission(read_file(text, Admission, "a"), SECRET, "a").public_numbers() == (
        KEY.public_key().public_numbers()
    )


@pytest.mark.parametrize(
    ("changes", "secret", "why"),
    [
        ({"hospital": "H2"}, SECRET, "was not made from the kit"),
        ({"invitation": "cd" * 16}, SECRET, "was not made from the kit"),
        ({}, "00" * 32, "was not made from the kit"),
        ({"signature": FOREIGN}, SECRET, "is not signed by the key"),
        ({"signature": "00" * 20}, SECRET, "is not signed by the key"),
    ],
)  # fmt: skip
def test_an_admission_that_proves_nothing_is_refused(
    changes: dict[str, object], secret: str, why: str
) -> None:
    with pytest.raises(ContractError, match=why):
        check_admission(admission(**changes), secret, "file")


def test_a_stolen_key_cannot_be_named_without_owning_it() -> None:
    """Someone who holds a kit names another hospital's public key: the signature is missing."""
    stolen = make_admission("H1", "ab" * 16, SECRET, OTHER, NOW).model_copy(
        update={"public_key": public_text(KEY.public_key())}
    )
    with pytest.raises(ContractError):
        check_admission(stolen, SECRET, "file")


def test_a_new_key_must_be_vouched_for_by_the_old_one() -> None:
    old = public_text(OTHER.public_key())
    good = make_admission("H1", "ab" * 16, SECRET, KEY, NOW, old=OTHER)
    check_admission(good, SECRET, "file", old=old)
    with pytest.raises(ContractError, match="is not signed"):
        check_admission(admission(), SECRET, "file", old=old)


@pytest.mark.parametrize("name", ["", "../H1", "a/b", "H 1", "-x", "x" * 64, "H1\n", ".."])
def test_a_name_that_could_be_a_path_or_a_line_is_refused(name: str) -> None:
    text = write_file(kit()).replace("hospital: H1", f"hospital: {name!r}")
    with pytest.raises(ContractError, match="hospital"):
        read_file(text, Kit, "kit.yaml")


@given(st.text(max_size=300))
def test_no_text_crashes_the_reader(text: str) -> None:
    with pytest.raises(ContractError):
        read_file(text, Kit, "kit.yaml")


def test_another_kind_of_key_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    text = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    with pytest.raises(ContractError, match="another kind"):
        read_public(text, "file")
    with pytest.raises(ContractError, match="no public key"):
        read_public("ssh-rsa nonsense", "file")


def test_a_fingerprint_does_not_depend_on_the_comment() -> None:
    text = public_text(KEY.public_key())
    assert fingerprint(text) == fingerprint(text + " someone@somewhere")
    assert len(fingerprint(text).split("-")) == 8
    assert fingerprint(text) != fingerprint(public_text(OTHER.public_key()))
