"""Pseudonyms: the same for the same patient, meaningless without the key, and the key guarded."""

from __future__ import annotations

import re
import threading
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from phcc_client.ingest.pseudonyms import SiteKey, normal_id
from phcc_model.errors import CaseError, StorageError

KEY = SiteKey(bytes(range(32)))
IDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda t: t.strip())


def test_golden_values() -> None:
    # A change here gives every patient of every site another pseudonym.
    assert KEY.patient("4711") == "P-0be920afa2eceefa"
    assert KEY.study("1.2.3") == "S-5bdf30b0968a4bf4"
    assert KEY.uid("1.2.3") == "2.25.197485934384774175155780038439220428464"
    assert KEY.days("4711") == -484
    assert KEY.name == "0db69500"


@given(IDS)
def test_shapes_and_ranges(name: str) -> None:
    assert re.fullmatch(r"P-[0-9a-f]{16}", KEY.patient(name))
    assert re.fullmatch(r"S-[0-9a-f]{16}", KEY.study(name))
    uid = UID(KEY.uid(name))
    assert uid.is_valid
    assert uid.startswith("2.25.")
    assert len(uid) <= 64
    assert -3650 <= KEY.days(name) <= -1


@given(IDS, IDS)
def test_two_patients_are_two_and_spellings_nobody_can_see_are_one(one: str, other: str) -> None:
    assert (KEY.patient(one) == KEY.patient(other)) == (normal_id(one) == normal_id(other))
    assert KEY.patient(f"  {unicodedata.normalize('NFD', normal_id(one))}\0 ") == KEY.patient(one)


def test_what_can_be_seen_makes_two() -> None:
    assert len({KEY.patient(name) for name in ("a1", "A1", "a 1", "a-1", "0a1", "a10")}) == 6


def test_uses_of_the_key_are_kept_apart() -> None:
    digits = KEY.patient("1.2.3")[2:]
    assert digits != KEY.study("1.2.3")[2:]
    assert digits not in f"{int(KEY.uid('1.2.3')[5:]):032x}"


def test_another_key_gives_other_names() -> None:
    other = SiteKey(bytes(32))
    assert other.patient("4711") != KEY.patient("4711")
    assert other.name != KEY.name


@pytest.mark.parametrize("nothing", ["", "  ", "\0", " \t\0 \0"])
def test_nobody_gets_no_pseudonym(nothing: str) -> None:
    for make in (KEY.patient, KEY.study, KEY.uid, KEY.days):
        with pytest.raises(CaseError, match="no name"):
            make(nothing)


def test_a_lone_surrogate_is_no_crash() -> None:
    assert KEY.patient("a\udc80").startswith("P-")


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    private = tmp_path / "SITE.private"
    key = SiteKey.open_or_make(private)
    assert SiteKey.open_or_make(private) == key
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "key").stat().st_mode & 0o777 == 0o600
    assert key != SiteKey.open_or_make(tmp_path / "OTHER.private")


def test_the_key_is_never_shown() -> None:
    for shown in (repr(KEY), str(KEY)):
        assert KEY.secret.hex() not in shown
        assert "\\x" not in shown


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    private = tmp_path / "p"
    key = SiteKey.open_or_make(private)
    (private / "key").chmod(mode)
    with pytest.raises(StorageError, match="chmod 600"):
        SiteKey.open_or_make(private)
    (private / "key").chmod(0o600)
    private.chmod(0o755)
    with pytest.raises(StorageError, match="chmod 700"):
        SiteKey.open_or_make(private)
    private.chmod(0o700)
    assert SiteKey.open_or_make(private) == key


def _flipped(text: bytes) -> bytes:
    return text[:30] + (b"0" if text[30:31] != b"0" else b"1") + text[31:]


@pytest.mark.parametrize(
    "damaged", [b"", b"\0" * 102, b"phcc-site-key-1 00 00000000\n", b"\xff\xfe", _flipped]
)
def test_a_damaged_key_is_an_error_and_stays_as_it_is(tmp_path: Path, damaged: object) -> None:
    private = tmp_path / "p"
    SiteKey.open_or_make(private)
    path = private / "key"
    bad = damaged if isinstance(damaged, bytes) else _flipped(path.read_bytes())
    path.write_bytes(bad)
    with pytest.raises(StorageError, match="damaged"):
        SiteKey.open_or_make(private)
    assert path.read_bytes() == bad


def test_a_lost_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    SiteKey.open_or_make(tmp_path / "p")
    (tmp_path / "p" / "key").unlink()
    (tmp_path / "p" / "patients.csv").write_text("patient,pseudonym\n")
    with pytest.raises(StorageError, match="gone"):
        SiteKey.open_or_make(tmp_path / "p")
    assert not (tmp_path / "p" / "key").exists()


def test_a_link_is_no_key_and_no_folder(tmp_path: Path) -> None:
    SiteKey.open_or_make(tmp_path / "real")
    (tmp_path / "p").mkdir(mode=0o700)
    (tmp_path / "p" / "key").symlink_to(tmp_path / "real" / "key")
    with pytest.raises(StorageError, match="link"):
        SiteKey.open_or_make(tmp_path / "p")
    (tmp_path / "q").symlink_to(tmp_path / "real")
    with pytest.raises(StorageError, match="link"):
        SiteKey.open_or_make(tmp_path / "q")
    (tmp_path / "r").write_text("")
    with pytest.raises(StorageError):
        SiteKey.open_or_make(tmp_path / "r")


def test_many_at_once_get_one_key(tmp_path: Path) -> None:
    keys: list[SiteKey] = []
    threads = [
        threading.Thread(target=lambda: keys.append(SiteKey.open_or_make(tmp_path / "p"))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 12
    assert len(set(keys)) == 1
