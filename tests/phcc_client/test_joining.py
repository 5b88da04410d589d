from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from phcc_client.home import Home
from phcc_client.joining import activate_key, join, load_key, read_kit, rotate_key
from phcc_client.policy import Policy
from phcc_model.contract import keys
from phcc_model.contract.enrolment import (
    Admission,
    Kit,
    StudyCard,
    check_admission,
    fingerprint,
    read_file,
    write_file,
)
from phcc_model.errors import ConfigError, ContractError, PhccError, StorageError, VersionMismatch

NOW = datetime.now(UTC)


def certificate(expires: datetime) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(expires - timedelta(days=900))
        .not_valid_after(expires)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


CA = certificate(NOW + timedelta(days=300))
STUDY = StudyCard(name="liver", digest="a" * 64, purpose="Find pHCC")


def kit(**changes: object) -> Kit:
    plain: dict[str, object] = {
        "hospital": "H1",
        "server": "phcc.example.org:443",
        "ca_pem": CA,
        "invitation": "ab" * 16,
        "secret": secrets.token_hex(32),
        "issued": NOW,
        "expires": NOW + timedelta(days=14),
        "package": keys.package_version(),
        "studies": (STUDY,),
    }
    return Kit.model_validate(plain | changes)


def sha256_of(pem: str) -> str:
    body = "".join(line for line in pem.splitlines() if not line.startswith("-"))
    return hashlib.sha256(base64.b64decode(body)).hexdigest()


def written(folder: Path, given: Kit) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "kit-H1.yaml"
    path.write_text(write_file(given), encoding="utf-8")
    return path


def admission_in(path: Path) -> Admission:
    return read_file(path.read_text(encoding="utf-8"), Admission, path.name)


def test_a_kit_becomes_a_home_and_an_admission_that_holds(tmp_path: Path) -> None:
    given = kit()
    joined = join(written(tmp_path / "mail", given), tmp_path / "home")
    assert joined.admission == tmp_path / "mail" / "admission-H1.yaml"
    admission = admission_in(joined.admission)
    check_admission(admission, given.secret, "admission")
    assert fingerprint(admission.public_key) == joined.fingerprint
    home = Home.open(tmp_path / "home")
    assert (home.settings.hospital, home.settings.server) == ("H1", given.server)
    assert home.ca.read_text() == CA
    assert home.public_key.read_text().strip() == admission.public_key
    assert [study.name for study in Policy(home.folder).studies()] == ["liver"]
    for path in (home.private_key, home.kit):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert joined.authority.replace(":", "").lower() == sha256_of(CA)
    assert "PRIVATE" not in joined.admission.read_text()
    assert given.secret not in joined.admission.read_text()


@pytest.mark.process
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_the_key_is_as_ssh_keygen_makes_it(tmp_path: Path) -> None:
    home = join(written(tmp_path / "mail", kit()), tmp_path / "home").home
    said = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", str(home.private_key)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split()[:2] == home.public_key.read_text().split()[:2]
    assert said.stdout.startswith("ecdsa-sha2-nistp384 ")
    assert home.private_key.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")


def test_the_same_kit_again_keeps_the_key_and_the_settings(tmp_path: Path) -> None:
    mail = written(tmp_path / "mail", kit())
    first = join(mail, tmp_path / "home")
    Home.make(tmp_path / "home", first.home.settings.changed("threads=3"))
    again = join(mail, tmp_path / "home", out=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert again.home.settings.threads == 3
    assert again.admission.parent == tmp_path


def test_another_kit_is_taken_only_when_told_to_and_needs_a_new_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = join(written(tmp_path / "mail", kit()), home)
    other = written(tmp_path / "other", kit(invitation="cd" * 16, server="elsewhere:1"))
    with pytest.raises(StorageError, match=r"joined by another kit already.*--replace"):
        join(other, home)
    assert Home.open(home).settings.server == "phcc.example.org:443"
    replaced = join(other, home, replace=True)
    assert replaced.fingerprint != first.fingerprint
    assert replaced.home.settings.server == "elsewhere:1"


def test_another_hospitals_kit_is_refused(tmp_path: Path) -> None:
    join(written(tmp_path / "mail", kit()), tmp_path / "home")
    with pytest.raises(StorageError, match="this folder is the hospital H1's, the kit is for H2"):
        join(written(tmp_path / "other", kit(hospital="H2")), tmp_path / "home", replace=True)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"expires": NOW - timedelta(seconds=1)}, ContractError, "the kit expired on"),
        ({"package": "9.9.9"}, VersionMismatch, "9.9.9"),
        ({"ca_pem": "nothing"}, ContractError, "certificate in it cannot be read"),
        ({"ca_pem": certificate(NOW - timedelta(days=1))}, ContractError, "certificate in it has expired"),
    ],
)
def test_a_kit_that_cannot_be_used_makes_nothing(
    tmp_path: Path, changes: dict[str, object], kind: type[PhccError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        join(written(tmp_path / "mail", kit(**changes)), tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "text", ["", "- a", "hospital: ../../etc", "\x00", "a: [", write_file(kit()).replace("H1", "../H1")]
)
def test_a_file_that_is_no_kit_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kit.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ContractError, match="is no kit"):
        read_kit(path)


def test_a_kit_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_kit(tmp_path / "kit.yaml")


def test_a_key_is_rotated_under_the_old_ones_word(tmp_path: Path) -> None:
    given = kit()
    home = join(written(tmp_path / "mail", given), tmp_path / "home").home
    old = home.public_key.read_text().strip()
    rotated = rotate_key(home)
    admission = admission_in(rotated.admission)
    check_admission(admission, given.secret, "admission", old=old)
    assert home.public_key.read_text().strip() == old
    assert rotate_key(home, tmp_path).fingerprint == rotated.fingerprint
    assert activate_key(home) == rotated.fingerprint
    assert home.public_key.read_text().strip() == admission.public_key
    assert not home.next_private_key.exists()
    with pytest.raises(StorageError, match="there is no next key"):
        activate_key(home)


def test_a_strangers_word_for_a_new_key_does_not_count(tmp_path: Path) -> None:
    given = kit()
    home = join(written(tmp_path / "mail", given), tmp_path / "home").home
    other = join(written(tmp_path / "other", kit(hospital="H2")), tmp_path / "home2").home
    admission = admission_in(rotate_key(home).admission)
    with pytest.raises(ContractError, match="is not signed"):
        check_admission(admission, given.secret, "admission", old=other.public_key.read_text())


def test_a_damaged_key_is_one_line(tmp_path: Path) -> None:
    home = join(written(tmp_path / "mail", kit()), tmp_path / "home").home
    home.private_key.write_text("nothing", encoding="utf-8")
    with pytest.raises(StorageError, match="is no private key"):
        load_key(home.private_key)


def test_an_admission_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="--out"):
        join(written(tmp_path / "mail", kit()), tmp_path / "home", tmp_path / "file")
