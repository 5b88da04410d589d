"""Authority and server certificate: what they may do, for whom, until when."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from phcc_model.errors import ConfigError, StorageError
from phcc_server import certificates
from phcc_server.instance import Instance


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    certificates.make_authority(tmp_path, "c" * 80, 3650)
    certificates.renew(tmp_path, ["phcc.example.org", "10.0.0.1"], 397)
    return tmp_path


@pytest.mark.parametrize("host", ["phcc.example.org", "10.0.0.1", "localhost", "127.0.0.1", "::1"])
def test_a_strict_verifier_takes_the_server_under_each_of_its_names(tls: Path, host: str) -> None:
    try:
        subject: x509.IPAddress | x509.DNSName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    ca, server = (certificates.read_certificate(tls / name) for name in ("ca.pem", "server.pem"))
    chain = PolicyBuilder().store(Store([ca])).build_server_verifier(subject).verify(server, [])
    assert chain == [server, ca]


def test_the_authority_signs_servers_and_nothing_else(tls: Path) -> None:
    ca, server = (certificates.read_certificate(tls / name) for name in ("ca.pem", "server.pem"))
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.oid.ExtendedKeyUsageOID.SERVER_AUTH
    ]


def test_a_renewal_keeps_authority_and_key(tls: Path) -> None:
    before = {path.name: path.read_bytes() for path in tls.iterdir()}
    renewed = certificates.renew(tls, ["new.example.org"], 30)
    after = {path.name: path.read_bytes() for path in tls.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"server.pem"}
    assert renewed.days_left in (29, 30)
    names = certificates.read_certificate(tls / "server.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["new.example.org", "localhost"]


def test_what_ends_soon_is_said_with_its_remedy(tls: Path) -> None:
    authority, server = certificates.expiry(tls)
    assert (authority.warning, server.warning) == (None, None)
    certificates.renew(tls, ["h"], 29)
    assert certificates.expiry(tls)[1].warning == (
        "the server's certificate ends in 28 days: phcc-server renew-certificate"
    )


def test_a_name_that_was_added_to_the_settings_since_is_missed(tls: Path) -> None:
    assert certificates.warnings(tls, ["phcc.example.org", "10.0.0.1"]) == ()
    assert certificates.warnings(tls, ["phcc.example.org", "new.example.org"]) == (
        "the server's certificate is not for new.example.org: phcc-server renew-certificate",
    )


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    certificates.make_authority(tmp_path, "c", 10)
    certificates.renew(tmp_path, ["h"], 397)
    authority, server = certificates.expiry(tmp_path)
    assert server.ends == authority.ends
    assert authority.warning is not None
    assert "make a new instance" in authority.warning


def test_an_authority_that_has_ended_signs_nothing(tmp_path: Path) -> None:
    certificates.make_authority(tmp_path, "c", 0)
    with pytest.raises(ConfigError, match=r"ended on .*Make a new instance"):
        certificates.renew(tmp_path, ["h"], 397)


def test_an_authority_is_never_overwritten(tls: Path) -> None:
    with pytest.raises(StorageError, match="there is an authority already"):
        certificates.make_authority(tls, "c", 10)


def test_damage_is_named(tls: Path) -> None:
    (tls / "ca.key").write_text("nonsense")
    with pytest.raises(StorageError, match=r"ca.key: is no private key"):
        certificates.renew(tls, ["h"], 10)
    (tls / "ca.pem").write_text("nonsense")
    with pytest.raises(StorageError, match=r"ca.pem: is no certificate"):
        certificates.expiry(tls)
    (tls / "ca.pem").unlink()
    with pytest.raises(StorageError, match="No such file"):
        certificates.expiry(tls)


def test_the_fingerprint_is_openssls(instance: Instance) -> None:
    found = certificates.certificate_fingerprint(instance.ca_pem)
    assert len(found.split(":")) == 32
    assert found == found.upper()
