"""The front door, as a real nginx before a small SuperLink of our own."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from phcc_model.errors import ConfigError, StorageError
from phcc_server import certificates, front_door
from phcc_server.instance import Instance, split_address

PATIENCE_S = 20.0


@dataclass
class Upstream:
    """What answers in the SuperLink's place, and what reached it."""

    seen: list[tuple[str, str, int]] = field(default_factory=list)

    @contextlib.contextmanager
    def serving(self, port: int, certificate: Path, key: Path) -> Iterator[None]:
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append((self.command, self.path, len(body)))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so it is called above
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@contextlib.contextmanager
def front(instance: Instance, header_s: int = 10) -> Iterator[subprocess.Popen[bytes]]:
    program = front_door.program(instance)
    (instance.folder / front_door.CONFIGURATION).write_text(front_door.configuration(instance, header_s))
    process = start(instance, program.command)
    try:
        yield process
    finally:
        for each in front_door._nginx_in(instance.folder):
            each.kill()
        process.wait()


def start(instance: Instance, command: object) -> subprocess.Popen[bytes]:
    with (instance.logs / "front-door.log").open("ab") as log:
        process = subprocess.Popen(
            list(command),  # type: ignore[call-overload]
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until(lambda: listens(instance) and process.poll() is None)
    return process


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def listens(instance: Instance) -> bool:
    with contextlib.suppress(OSError), connect(instance):
        return True
    return False


def connect(instance: Instance) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=instance.ca_pem)
    plain = socket.create_connection(split_address(instance.settings.listen), timeout=PATIENCE_S)
    try:
        return context.wrap_socket(plain, server_hostname="localhost")
    except OSError:
        plain.close()
        raise


def ask(instance: Instance, path: str, body: bytes = b"", method: str = "POST") -> tuple[int, bytes]:
    """Status and body of the answer; the path goes out as it is."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connect(instance)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def make(folder: Path) -> Instance:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Instance.create(
        folder,
        "c",
        f"localhost:{port}",
        listen=f"127.0.0.1:{port}",
        largest_body_mb=8,
        connections_per_address=20,
    )


@dataclass
class Running:
    instance: Instance
    upstream: Upstream


@pytest.fixture(scope="module")
def running(nginx: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    instance = make(tmp_path_factory.mktemp("front") / "it's $a {folder};")
    upstream = Upstream()
    with (
        upstream.serving(instance.settings.superlink_port, instance.server_pem, instance.server_key),
        front(instance, header_s=2),
    ):
        yield Running(instance, upstream)


pytestmark = pytest.mark.process


def test_the_fleet_api_passes_and_leaves_a_line(running: Running) -> None:
    running.upstream.seen.clear()
    assert ask(running.instance, "/v1/fleet/push-object", b"x" * 5_300_000) == (200, b"ok")
    assert running.upstream.seen == [("POST", "/v1/fleet/push-object", 5_300_000)]

    def logged() -> list[dict[str, str]]:
        lines = (running.instance.front / "access.log").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["path"] == "/v1/fleet/push-object"]

    until(lambda: bool(logged()))
    assert logged()[0]["status"] == "200"
    assert logged()[0]["address"] == "127.0.0.1"
    assert int(logged()[0]["bytes_in"]) > 5_300_000
    assert float(logged()[0]["seconds"]) >= 0


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/control/start-run",
        "/v1/runtime/push",
        "/v1/fleet",
        "/v1/fleet/",
        "/V1/fleet/pull-messages",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/%252e%252e/control/start-run",
        "/v1/fleet/.%2e/control",
        "/v1/fleet/..;/control",
        "/v1/fleet/..\\control",
        "/v1/control/../fleet/pull-messages",
        "/v1/control/%2e%2e/fleet/pull-messages",
        "//v1/fleet/pull-messages",
        "/v1//fleet/pull-messages",
        "/v1/fleet//control",
        "/v1/fleet/pull-messages?run=1",
        "/v1/fleet/pull-messages%0aX",
        "/v1/fleet/pull-messages#x",
        "/health",
        "http://127.0.0.1/v1/control/list-runs",
    ],
)
def test_everything_else_is_refused_before_it_reaches_the_superlink(running: Running, path: str) -> None:
    running.upstream.seen.clear()
    status, body = ask(running.instance, path)
    assert status in (400, 403)
    assert len(body) < 200
    assert running.upstream.seen == []


def test_a_body_that_is_too_large_is_refused(running: Running) -> None:
    running.upstream.seen.clear()
    with contextlib.closing(connect(running.instance)) as client:
        head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: {9 * 2**20}\r\n\r\n"
        client.sendall(head.encode())
        assert b" 413 " in client.recv(1000).splitlines()[0]
    assert running.upstream.seen == []


def test_a_header_that_is_too_large_is_refused(running: Running) -> None:
    with contextlib.closing(connect(running.instance)) as client:
        client.sendall(b"POST /v1/fleet/x HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")
        assert b" 400 " in client.recv(1000).splitlines()[0]


def test_who_is_slow_with_a_header_is_cut_off(running: Running) -> None:
    began = time.monotonic()
    with contextlib.closing(connect(running.instance)) as client:
        with contextlib.suppress(OSError):
            client.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n")
            for _ in range(50):  # a byte now and then does not buy time: the whole header has its limit
                client.sendall(b"a")
                client.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    if client.recv(1000) == b"":
                        break
        assert time.monotonic() - began < 6
    assert ask(running.instance, "/v1/fleet/pull-messages")[0] == 200


def test_one_address_has_a_limited_number_of_connections(running: Running) -> None:
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(contextlib.closing(connect(running.instance)))
            client.sendall(head)
        until(lambda: ask(running.instance, "/v1/fleet/pull-messages")[0] == 429)
    until(lambda: ask(running.instance, "/v1/fleet/pull-messages")[0] == 200)


def test_nothing_tells_the_version_and_old_tls_is_not_spoken(running: Running) -> None:
    with contextlib.closing(connect(running.instance)) as client:
        assert client.version() == "TLSv1.3"
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Server: nginx\r\n" in client.recv(2000)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(running.instance.ca_pem)
    old.set_ciphers("AES256-SHA256")  # without forward secrecy
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    address = split_address(running.instance.settings.listen)
    with (
        socket.create_connection(address) as plain,
        pytest.raises(ssl.SSLError),
        old.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


def test_all_that_nginx_writes_is_in_the_instance(running: Running) -> None:
    process = front_door._nginx_in(running.instance.folder)[0]
    assert process.open_files()
    for file in process.open_files():
        assert Path(file.path).is_relative_to(running.instance.folder)
    assert not list((running.instance.front / "tmp" / "body").glob("*"))  # bodies go through, never to disk


def test_a_superlink_with_a_foreign_certificate_is_not_spoken_to(nginx: None, tmp_path: Path) -> None:
    instance, other = make(tmp_path / "one"), make(tmp_path / "two")
    upstream = Upstream()
    with (
        upstream.serving(instance.settings.superlink_port, other.server_pem, other.server_key),
        front(instance),
    ):
        assert ask(instance, "/v1/fleet/pull-messages")[0] == 502
    assert upstream.seen == []
    assert "certificate verify error" in (instance.logs / "front-door.log").read_text()


def test_a_renewed_certificate_is_taken_up_while_it_runs(nginx: None, tmp_path: Path) -> None:
    instance = make(tmp_path / "one")
    assert not front_door.reload(instance)

    def serial() -> str:
        with contextlib.closing(connect(instance)) as client:
            shown = client.getpeercert()
            assert shown is not None
            return str(shown["serialNumber"])

    with front(instance) as process:
        before = serial()
        certificates.renew(instance.tls, instance.settings.hosts, 30)
        assert front_door.reload(instance)
        until(lambda: serial() != before)
        assert process.poll() is None


def test_a_worker_whose_master_was_killed_does_not_keep_the_port(nginx: None, tmp_path: Path) -> None:
    instance = make(tmp_path / "one")
    with front(instance) as process:
        workers = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert listens(instance)  # the worker goes on
        again = start(instance, front_door.program(instance).command)
        until(lambda: psutil.Process(again.pid).name() == "nginx" and listens(instance))
        assert not any(worker.is_running() for worker in workers)
        again.terminate()
        assert again.wait(PATIENCE_S) == 0
        assert not front_door._nginx_in(instance.folder)


def test_a_port_that_is_taken_is_said(nginx: None, tmp_path: Path) -> None:
    instance = make(tmp_path / "one")
    with socket.socket() as taken:
        taken.bind(split_address(instance.settings.listen))
        taken.listen()
        front_door.check(instance)  # nginx -t does not mind: a reload tests while the old one listens


def test_what_nginx_refuses_is_one_line(nginx: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = make(tmp_path / "one")
    monkeypatch.setattr(front_door, "_TEMPLATE", "nonsense on;")
    with pytest.raises(ConfigError, match=r"nginx refuses the configuration \(unknown directive") as caught:
        front_door.check(instance)
    assert "\n" not in str(caught.value)


def test_without_nginx_the_remedy_is_named(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(
        StorageError, match=r"nginx: is not installed\. Install it: apt-get install nginx-light"
    ):
        front_door.check(instance)


def test_a_low_port_without_the_right_is_explained(instance: Instance) -> None:
    said = "nginx: syntax is ok\nnginx: [emerg] bind() to 0.0.0.0:443 failed (13: Permission denied)"
    assert "ip_unprivileged_port_start" in str(front_door._refusal(instance, said))


def test_a_long_access_log_is_moved_aside(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    log = instance.front / "access.log"
    log.write_text("x" * 100)
    front_door.shorten_log(instance)
    assert log.stat().st_size == 100
    monkeypatch.setattr(front_door, "LONGEST_LOG", 10)
    front_door.shorten_log(instance)
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size == 100
