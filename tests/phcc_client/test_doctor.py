"""The doctor before servers that are well and servers that are not: what it finds, and what it advises."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from exports import study_of, write_data
from rich.console import Console
from test_joining import kit, written

from phcc_client import doctor, network_checks
from phcc_client.checks import Check
from phcc_client.home import Home
from phcc_client.joining import join
from phcc_client.network_checks import clock, examine_network
from phcc_client.policy import Policy
from phcc_model.study_file import dump_study

NOW = datetime.now(UTC)
PATIENCE_S = 2.0


class Authority:
    """A certificate authority and what it signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._sign(self.name, self.key, NOW + timedelta(days=400), None)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, host: str, expires: datetime) -> ssl.SSLContext:
        """A server's TLS context for this host."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        pem = self._sign(subject, key, expires, host).public_bytes(serialization.Encoding.PEM)
        file = self.folder / f"{host}-{expires.timestamp():.0f}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(pem + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _sign(self, subject: x509.Name, key: Any, expires: datetime, host: str | None) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(NOW, expires) - timedelta(days=400))
            .not_valid_after(expires)
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if host is not None:
            name: x509.GeneralName = x509.DNSName(host)
            with contextlib.suppress(ValueError):
                name = x509.IPAddress(ipaddress.ip_address(host))
            builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@contextlib.contextmanager
def front_door(
    context: ssl.SSLContext, fleet: int = 404, door: int = 403, clock_off_s: float = 0.0
) -> Iterator[int]:
    """A server that answers as the coordinator's does; its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(fleet if self.path.startswith("/v1/fleet/") else door)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate((timestamp or time.time()) + clock_off_s, usegmt=True)

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None: ...

    with Server(("127.0.0.1", 0), Answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def proxy_server(answer: bytes | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """An HTTP proxy that tunnels, or says the same to everyone; its port, and what it was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with client:
            request = client.recv(65536)
            asked.append(request)
            if answer is not None:
                client.sendall(answer)
                return
            host, _, port = request.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as far:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=pump, args=(far, client))
                back.start()
                pump(client, far)
                back.join()

    def accept() -> None:
        threads = []
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(client,)))
                threads[-1].start()
        for thread in threads:
            thread.join()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def at(tmp_path: Path, authority: Authority) -> Callable[..., Home]:
    """A hospital's home whose coordinator listens at this port of this machine."""

    def home(port: int, host: str = "localhost", **settings: Any) -> Home:
        given = kit(server=f"{host}:{port}", ca_pem=authority.pem)
        made = join(written(tmp_path / "mail", given), tmp_path / "home", replace=True).home
        return Home.make(made.folder, made.settings.model_copy(update=settings))

    return home


def by_name(home: Home) -> dict[str, Check]:
    return {check.name: check for check in examine_network(home, PATIENCE_S)}


SOON, LATER, BEFORE = (NOW + timedelta(days=days) for days in (10, 200, -1))


def test_a_way_that_is_clear(authority: Authority, at: Callable[..., Home]) -> None:
    with front_door(authority.issue("localhost", LATER)) as port:
        checks = by_name(at(port))
    assert list(checks) == ["name", "proxy", "port", "certificate", "clock", "front door", "server"]
    assert {check.verdict for check in checks.values()} == {"ok"}


@pytest.mark.parametrize(
    ("host", "expires", "verdict", "words"),
    [
        ("localhost", BEFORE, "failed", "renew"),
        ("localhost", SOON, "warning", "renew"),
        ("elsewhere.example", LATER, "failed", "is not for localhost"),
    ],
)
def test_a_certificate_that_is_not_right(
    authority: Authority, at: Callable[..., Home], host: str, expires: datetime, verdict: str, words: str
) -> None:
    with front_door(authority.issue(host, expires)) as port:
        checks = by_name(at(port))
    assert checks["certificate"].verdict == verdict
    assert words in checks["certificate"].remedy
    assert ("server" in checks) == (verdict == "warning")


def test_somebody_else_who_answers_in_the_coordinators_place(tmp_path: Path, at: Callable[..., Home]) -> None:
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger")
    with front_door(stranger.issue("localhost", LATER)) as port:
        check = by_name(at(port))["certificate"]
    assert check.verdict == "failed"
    assert "do not go on" in check.remedy


def test_a_server_that_speaks_no_tls(at: Callable[..., Home]) -> None:
    with proxy_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (port, _):
        check = by_name(at(port))["certificate"]
    assert check.verdict == "failed"


@pytest.mark.parametrize(
    ("off_s", "verdict"), [(0, "ok"), (-600, "failed"), (-7, "failed"), (60, "warning"), (600, "failed")]
)
def test_a_clock_that_is_off(
    authority: Authority, at: Callable[..., Home], off_s: float, verdict: str
) -> None:
    with front_door(authority.issue("localhost", LATER), clock_off_s=off_s) as port:
        check = by_name(at(port))["clock"]
    assert check.verdict == verdict
    if verdict != "ok":
        assert "NTP" in check.remedy
        assert ("behind" if off_s > 0 else "ahead of") in check.found


@pytest.mark.parametrize("date", [None, "", "yesterday", "\x00"])
def test_a_server_that_says_no_time_is_no_failure(date: str | None) -> None:
    assert clock(date, 0.0).verdict == "warning"


@pytest.mark.parametrize(
    ("door", "fleet", "expected"),
    [
        (200, 404, {"front door": "warning", "server": "ok"}),
        (403, 502, {"front door": "ok", "server": "failed"}),
        (403, 403, {"front door": "ok", "server": "failed"}),
    ],
)
def test_a_front_door_that_is_not_as_it_should_be(
    authority: Authority, at: Callable[..., Home], door: int, fleet: int, expected: dict[str, str]
) -> None:
    with front_door(authority.issue("localhost", LATER), fleet=fleet, door=door) as port:
        checks = by_name(at(port))
    assert {name: checks[name].verdict for name in expected} == expected


def test_a_port_that_nobody_listens_at(at: Callable[..., Home]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    checks = by_name(at(port))
    assert list(checks)[-1] == "port"
    assert "firewall" in checks["port"].remedy


def test_a_name_that_nobody_knows(at: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(network_checks.socket, "getaddrinfo", unknown)
    (check,) = by_name(at(443, host="nowhere.invalid")).values()
    assert (check.name, check.verdict) == ("name", "failed")


def test_a_proxy_that_lets_us_through(authority: Authority, at: Callable[..., Home]) -> None:
    with front_door(authority.issue("localhost", LATER)) as port, proxy_server() as (through, asked):
        checks = by_name(at(port, proxy=f"http://ward:s%40fe@localhost:{through}"))
    assert {check.verdict for check in checks.values()} == {"ok"}
    assert all(request.startswith(b"CONNECT localhost:") for request in asked)
    assert all(b"Basic d2FyZDpzQGZl" in request for request in asked)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "user and password"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "allow CONNECT"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", "cannot reach"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "http://host:port"),
        (b"", "http://host:port"),
    ],
)
def test_a_proxy_that_does_not(at: Callable[..., Home], answer: bytes, words: str) -> None:
    with proxy_server(answer) as (through, _):
        checks = by_name(at(443, proxy=f"http://localhost:{through}"))
    assert list(checks)[-1] == "proxy"
    assert checks["proxy"].verdict == "failed"
    assert words in checks["proxy"].remedy


def test_a_machine_is_looked_at_whole(authority: Authority, at: Callable[..., Home], tmp_path: Path) -> None:
    export = write_data(tmp_path / "data", {"H1": 6})
    with front_door(authority.issue("localhost", LATER)) as port:
        home = at(port, data=str(export))
        Policy(home.folder).see(dump_study(study_of(export)))
        checks = {check.name: check for check in doctor.examine(home)}
        console = Console(record=True, width=160)
        assert doctor.report(home, console) == all(c.verdict != "failed" for c in checks.values())
    assert checks["package"].verdict == checks["key"].verdict == checks["permissions"].verdict == "ok"
    assert checks["data"].found.endswith("cases.csv, about 8 rows")
    assert checks["data for tiny"].found == "8 cases, 0 set aside"
    assert "data for tiny" in console.export_text()


def test_no_check_hides_the_others(at: Callable[..., Home]) -> None:
    home = at(1)
    home.kit.unlink()
    home.private_key.write_text("nothing", encoding="utf-8")
    checks = {check.name: check for check in doctor.examine(home)}
    for name in ("port", "package", "key", "data"):
        assert checks[name].verdict == "failed"
        assert checks[name].remedy
    assert not doctor.report(home, Console(quiet=True))


@pytest.mark.parametrize("device", ["cuda", "cuda:3", ("cuda:0", "cuda:9")])
def test_a_gpu_that_is_not_there(at: Callable[..., Home], device: Any) -> None:
    check = doctor.gpu(at(1, device=device))
    assert check.verdict == "failed" or device == "cuda"
    assert check.verdict == "ok" or "device=c" in check.remedy


def test_a_home_that_others_can_look_into(at: Callable[..., Home]) -> None:
    home = at(1)
    home.folder.chmod(0o755)
    assert doctor.permissions(home).verdict == "warning"


@pytest.mark.parametrize(
    ("files", "verdict", "words"),
    [
        ({}, "failed", "neither cases.csv"),
        ({"a/b.dcm": ""}, "warning", "DICOM"),
        ({"cases.csv": "case,patient\n1,1\n\n"}, "ok", "about 1 rows"),
        ({"labels/Annotation.json": '{"Annotation_info": {"a": 1, "b": 2}}'}, "ok", "2 patients"),
        ({"Annotation.json": "{"}, "ok", "an unknown number"),
    ],
)
def test_a_folder_of_images_is_known_by_its_files(
    tmp_path: Path, files: dict[str, str], verdict: str, words: str
) -> None:
    for name, text in files.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "images").mkdir(exist_ok=True)
    check = doctor.layout(tmp_path / "images")
    assert check.verdict == verdict
    assert words in check.found
