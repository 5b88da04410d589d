"""Other names for patients, studies and images, made with a key that never leaves the hospital.

A pseudonym is a keyed hash (HMAC-SHA256, RFC 2104): the same patient has the same one in every ingest, and
without the key nobody can find out whose it is, not even by trying all patient numbers that there are. Each use
of the key hashes under a label of its own, so that a patient and a study of the same number have nothing in
common.

Two spellings of a name are one patient if they differ in blanks around them or in how Unicode writes an
accented letter (NFC), for neither can be seen. They are two if they differ in anything else, upper and lower
case or leading zeros included: some hospitals number their patients so, and taking two patients for one would
mix up their images, while taking one for two is found by the check for duplicates.
"""

from __future__ import annotations

import re
import secrets
import stat
import unicodedata
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from phcc_model.errors import CaseError, StorageError
from phcc_model.storage import locked, storage_error, write_atomically

KEY_FILE = "key"
NAMES_FILE = "patients.csv"
"""Who is who; where it stands without a key, the key was lost."""
KEY_BYTES = 32
LONGEST_SHIFT_DAYS = 3650
_MARK = "phcc-site-key-1"
_LOST = (
    "Restore it from a copy: with another key every patient would get another pseudonym. Without a copy, move "
    "this folder and the site's folder away and ingest anew"
)


@dataclass(frozen=True)
class SiteKey:
    """A site's key and what is made with it.

    Attributes:
        secret: 32 random bytes; never shown.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def open_or_make(cls, private: Path) -> SiteKey:
        """The key in a site's private folder; made, together with the folder, where there is none yet.

        A key that is there is never replaced, whatever its state. Several processes may ask at once.

        Args:
            private: ``SITE.private``, beside the site's folder.

        Raises:
            StorageError: the key is damaged, lost, or can be read by others; the folder cannot be written.
        """
        path = private / KEY_FILE
        _make_private(private)
        with locked(path):
            if path.is_symlink() or path.exists():
                return cls(_read(path))
            if (private / NAMES_FILE).exists():
                raise StorageError("the key is gone", where=str(path), remedy=_LOST)
            secret = secrets.token_bytes(KEY_BYTES)
            write_atomically(path, f"{_MARK} {secret.hex()} {_check(secret)}\n")
            return cls(secret)

    @property
    def name(self) -> str:
        """Eight hexadecimal digits that tell one key from another and say nothing about it."""
        return self._hash("key", "")[:4].hex()

    def patient(self, patient_id: str) -> str:
        """A patient's pseudonym, ``P-`` and 16 hexadecimal digits.

        Raises:
            CaseError: the patient has no name at all.
        """
        return f"P-{self._hash('patient', _named(patient_id))[:8].hex()}"

    def study(self, uid: str) -> str:
        """An examination's pseudonym, ``S-`` and 16 hexadecimal digits.

        Raises:
            CaseError: it has no name at all.
        """
        return f"S-{self._hash('study', _named(uid))[:8].hex()}"

    def uid(self, uid: str) -> str:
        """A valid DICOM UID in another's place: ``2.25.`` and a UUID as a decimal (PS3.5, annex B.2).

        Raises:
            CaseError: it is empty.
        """
        # Version 8 (RFC 9562): the other 122 bits are the maker's own.
        digest = int.from_bytes(self._hash("uid", _named(uid))[:16])
        digest = digest & ~(0xF << 76) & ~(0x3 << 62) | (8 << 76) | (2 << 62)
        return f"2.25.{uuid.UUID(int=digest).int}"

    def days(self, patient_id: str) -> int:
        """By how many days a patient's dates are moved: the same for all of them, so that intervals stay.

        Returns:
            -3650 to -1: always into the past, so that no date lies in the future.

        Raises:
            CaseError: the patient has no name at all.
        """
        return -1 - int.from_bytes(self._hash("days", _named(patient_id))[:8]) % LONGEST_SHIFT_DAYS

    def _hash(self, use: str, text: str) -> bytes:
        mac = HMAC(self.secret, hashes.SHA256())
        mac.update(f"phcc/{use}\0{text}".encode())
        return mac.finalize()


def normal_id(text: str) -> str:
    """An identifier as it is compared: without blanks and NULs around it, Unicode composed (NFC)."""
    whole = text.encode("utf-8", "replace").decode()
    return re.sub(r"\A[\s\0]+|[\s\0]+\Z", "", unicodedata.normalize("NFC", whole))


def _named(text: str) -> str:
    normal = normal_id(text)
    if not normal:
        raise CaseError(
            "it has no name from which to make a pseudonym",
            remedy="Give every patient an identifier in the source",
        )
    return normal


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = folder.stat().st_mode
    except OSError as error:
        raise storage_error(folder, error) from error
    if not stat.S_ISDIR(mode) or folder.is_symlink():
        raise StorageError(
            "is a link or a file, not a folder", where=str(folder), remedy="Move it out of the way"
        )
    if stat.S_IMODE(mode) & 0o077:
        raise StorageError(
            "the folder that tells who is who can be opened by others than its owner",
            where=str(folder),
            remedy=f"Run chmod 700 {folder}",
        )


def _read(path: Path) -> bytes:
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise StorageError("is a link or a folder, not a key", where=str(path), remedy=_LOST)
        if stat.S_IMODE(mode) & 0o077:
            raise StorageError(
                "the key can be read by others than its owner",
                where=str(path),
                remedy=f"Run chmod 600 {path}; whoever read it can tell whose images these are",
            )
        words = path.read_bytes().split()
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        mark, digits, check = (word.decode("ascii") for word in words)
        secret = bytes.fromhex(digits)
    except ValueError as error:
        raise StorageError("the key is damaged", where=str(path), remedy=_LOST) from error
    if mark != _MARK or len(secret) != KEY_BYTES or check != _check(secret):
        raise StorageError("the key is damaged", where=str(path), remedy=_LOST)
    return secret


def _check(secret: bytes) -> str:
    """What shows that a key was not altered; from its hash, so that it says nothing about it."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"phcc/check\0" + secret)
    return digest.finalize()[:4].hex()
