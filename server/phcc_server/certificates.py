"""The coordinator's own certificate authority, and the certificate of its server.

Hospitals are given the authority's certificate in their kit and trust nothing else, so no public authority is
needed. Both keys are ECDSA on P-384. The authority's certificate is good for one thing: to sign servers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from phcc_model.errors import ConfigError, StorageError
from phcc_model.storage import storage_error, write_atomically

CA_CERTIFICATE, CA_KEY = "ca.pem", "ca.key"
SERVER_CERTIFICATE, SERVER_KEY = "server.pem", "server.key"
SLOW_CLOCK = timedelta(hours=1)
"""A certificate is valid from so long before it was made: a hospital's clock may be slow."""
WARN_DAYS = 30
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Always in the server's certificate: the front door and the coordinator connect so to the SuperLink."""


@dataclass(frozen=True)
class Expiry:
    """When a certificate ends.

    Attributes:
        name: for people.
        path: the file.
        ends: its last moment, UTC.
        days_left: whole days until then; negative where it has ended.
    """

    name: str
    path: Path
    ends: datetime
    days_left: int

    @property
    def warning(self) -> str | None:
        """What to do about it, in one line; None where there is time."""
        if self.days_left >= WARN_DAYS:
            return None
        when = "has ended" if self.days_left < 0 else f"ends in {self.days_left} days"
        if self.path.name == CA_CERTIFICATE:
            return f"the {self.name} {when}: make a new instance, and invite every hospital again"
        return f"the {self.name} {when}: phcc-server renew-certificate"


def make_authority(folder: Path, name: str, days: int) -> None:
    """Make the authority: ``ca.pem`` and ``ca.key``.

    Args:
        folder: for both.
        name: of the instance, for people who look at the certificate.
        days: it is valid.

    Raises:
        StorageError: there is one already, or the folder cannot be written.
    """
    if (folder / CA_KEY).exists():
        raise StorageError("there is an authority already", where=str(folder / CA_KEY))
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} phcc authority"[:64])])
    builder = _builder(subject, subject, key.public_key(), _now() + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    certificate = builder.sign(key, hashes.SHA384())
    write_atomically(folder / CA_KEY, _key_text(key))
    write_atomically(folder / CA_CERTIFICATE, _text(certificate))


def renew(folder: Path, hosts: Sequence[str], days: int) -> Expiry:
    """Make the server's certificate, or a new one in place of the old.

    The server's key stays the same, so that one file changes, in one step: a crash cannot leave a key and a
    certificate that do not belong together. (Should the key ever become known to others, a new certificate
    would not help: the old one stays valid. The authority would have to be made anew.)

    Args:
        folder: where the authority lies.
        hosts: DNS names and IP addresses of the server; those of loopback are added.
        days: it is valid; never longer than the authority.

    Raises:
        StorageError: the authority cannot be read, or the folder cannot be written.
        ConfigError: the authority has ended, or a host is no name and no address.
    """
    ca, ca_key = read_certificate(folder / CA_CERTIFICATE), _read_key(folder / CA_KEY)
    ends = min(_now() + timedelta(days=days), ca.not_valid_after_utc)
    if ends <= _now():
        raise ConfigError(
            f"ended on {ends:%Y-%m-%d}",
            where=str(folder / CA_CERTIFICATE),
            remedy="Make a new instance, and invite every hospital again",
        )
    names = [_general_name(host) for host in dict.fromkeys([*hosts, *LOOPBACK])]
    key_path = folder / SERVER_KEY
    if key_path.exists():
        key = _read_key(key_path)
    else:
        key = ec.generate_private_key(ec.SECP384R1())
        write_atomically(key_path, _key_text(key))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(hosts[0])[:64])])
    builder = _builder(subject, ca.subject, key.public_key(), ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )
    certificate = builder.add_extension(authority, critical=False).sign(ca_key, hashes.SHA384())
    write_atomically(folder / SERVER_CERTIFICATE, _text(certificate))
    return expiry(folder)[1]


def expiry(folder: Path) -> tuple[Expiry, Expiry]:
    """When the authority's certificate ends, and the server's.

    Raises:
        StorageError: one of them is missing or damaged.
    """
    return (
        _expiry("authority's certificate", folder / CA_CERTIFICATE),
        _expiry("server's certificate", folder / SERVER_CERTIFICATE),
    )


def warnings(folder: Path, hosts: Sequence[str]) -> tuple[str, ...]:
    """What is to be done about the certificates, a line each: one ends soon, or a host is not in it.

    Args:
        folder: where they lie.
        hosts: what the settings say now; they may have been edited since the certificate was made.

    Raises:
        StorageError: one of them is missing or damaged.
    """
    said = [each.warning for each in expiry(folder) if each.warning]
    server = read_certificate(folder / SERVER_CERTIFICATE)
    covered = set(server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    said += [
        f"the server's certificate is not for {host}: phcc-server renew-certificate"
        for host in hosts
        if _general_name(host) not in covered
    ]
    return tuple(said)


def certificate_fingerprint(path: Path) -> str:
    """SHA-256 of a certificate as openssl shows it, to be read out over the telephone.

    Raises:
        StorageError: the certificate is missing or damaged.
    """
    return read_certificate(path).fingerprint(hashes.SHA256()).hex(":").upper()


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate in PEM.

    Raises:
        StorageError: it is missing or damaged.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise storage_error(path, error) from error
    except ValueError as error:
        raise StorageError("is no certificate", where=str(path), remedy="Restore it from a backup") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - SLOW_CLOCK)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(
            "is neither a DNS name nor an IP address", where=host, remedy="Write umlauts as xn--..."
        ) from error


def _expiry(name: str, path: Path) -> Expiry:
    ends = read_certificate(path).not_valid_after_utc
    return Expiry(name, path, ends, (ends - _now()).days)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise storage_error(path, error) from error
    except (ValueError, TypeError) as error:
        raise StorageError("is no private key", where=str(path), remedy="Restore it from a backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StorageError("is no key on an elliptic curve", where=str(path))
    return key


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, plain).decode("ascii")


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _now() -> datetime:
    return datetime.now(UTC)
