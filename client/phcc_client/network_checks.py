"""The way from a hospital to the coordinator, step by step: name, proxy, port, certificate, clock, server.

Each step is tried as a study would take it: through the proxy where there is one, and believing the kit's
certificate only.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

import httpx
from cryptography import x509

from phcc_client.checks import Check, failed, ok, warning
from phcc_client.home import Home

TIMEOUT_S = 5.0
AHEAD_S, BEHIND_S = 5.0, 305.0
"""Flower's signatures are taken from a clock that is so much ahead, or behind, at most."""
NOTICEABLE_S = 2.0
EXPIRES_SOON_DAYS = 30
FLEET = "/v1/fleet/"

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


def examine_network(home: Home, timeout_s: float = TIMEOUT_S) -> Iterator[Check]:
    """Every step of the way to the coordinator; what follows a step that failed cannot be tried."""
    steps = (name_of_server, proxy, port, certificate)
    for step in steps:
        check = step(home, timeout_s)
        yield check
        if check.verdict == "failed":
            return
    yield from server(home, timeout_s)


def name_of_server(home: Home, timeout_s: float) -> Check:  # noqa: ARG001 - the resolver has its own patience
    """Whether the next machine's name is known: the proxy's where there is one, or the server's."""
    host, _ = _next_hop(home)
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError):
        whose = "proxy" if home.settings.proxy else "server"
        return failed(
            "name",
            f"{host} is not known to this machine's DNS",
            f"Check the {whose}'s name in client.yaml, and /etc/resolv.conf",
        )
    return ok("name", f"{host} is {', '.join(found[:3])}")


def proxy(home: Home, timeout_s: float) -> Check:
    """Whether the proxy answers and lets this machine through to the server."""
    if home.settings.proxy is None:
        return ok("proxy", "none is used")
    host, number = _next_hop(home)
    try:
        with _connected(home, timeout_s):
            return ok("proxy", f"{host}:{number} lets us through to {home.settings.server}")
    except _ProxyRefusal as error:
        return failed("proxy", f"{host}:{number} {error}", _proxy_remedy(error.status, home.settings.server))
    except OSError as error:
        return failed(
            "proxy",
            f"{host}:{number} does not answer ({_reason(error)})",
            "Check proxy in client.yaml: it is http://host:port",
        )


def port(home: Home, timeout_s: float) -> Check:
    """Whether the server's port takes a connection."""
    server_name = home.settings.server
    try:
        with _connected(home, timeout_s):
            return ok("port", f"{server_name} takes connections")
    except ConnectionRefusedError:
        return failed(
            "port",
            f"{server_name} refuses the connection",
            "Ask the coordinator whether the server is up; if it is, a firewall on the way refuses in its place",
        )
    except OSError as error:
        return failed(
            "port",
            f"{server_name} cannot be reached ({_reason(error)})",
            f"Have the firewall let this machine out to {server_name} (TCP), or set proxy in client.yaml",
        )


def certificate(home: Home, timeout_s: float) -> Check:
    """Whether it is the coordinator who answers: its certificate against the kit's, name and dates included."""
    host, _ = _split(home.settings.server)
    try:
        context = ssl.create_default_context(cafile=str(home.ca))
        with _connected(home, timeout_s) as plain, context.wrap_socket(plain, server_hostname=host) as secure:
            end = x509.load_der_x509_certificate(
                secure.getpeercert(binary_form=True) or b""
            ).not_valid_after_utc
            version = secure.version()
    except ssl.SSLCertVerificationError as error:
        return failed("certificate", error.verify_message, _certificate_remedy(error.verify_code, host))
    except ssl.SSLError as error:
        return failed(
            "certificate",
            f"no TLS with {home.settings.server} ({error.reason or error})",
            "Check server in client.yaml; a firewall that reads TLS must leave this address alone",
        )
    except OSError as error:
        return failed("certificate", f"{home.ca}: {_reason(error)}", "Run phcc-client init KIT again")
    left = (end - datetime.now(UTC)).days
    text = f"the coordinator's, {version}, good until {end:%Y-%m-%d} ({left} days)"
    if left < EXPIRES_SOON_DAYS:
        return warning("certificate", text, "Tell the coordinator to renew it")
    return ok("certificate", text)


def server(home: Home, timeout_s: float) -> Iterator[Check]:
    """Whether the coordinator's front door and the server behind it answer, and how the clocks differ."""
    context = ssl.create_default_context(cafile=str(home.ca))
    host, number = _split(home.settings.server)
    url = f"https://{f'[{host}]' if ':' in host else host}:{number}"
    try:
        with httpx.Client(
            verify=context, proxy=home.settings.proxy, timeout=timeout_s, trust_env=False
        ) as client:
            begin = time.time()
            door = client.get(f"{url}/")
            middle = (begin + time.time()) / 2
            fleet = client.get(f"{url}{FLEET}doctor")
    except httpx.HTTPError as error:
        yield failed("server", f"no answer ({type(error).__name__})", "Ask the coordinator whether it is up")
        return
    yield clock(door.headers.get("Date"), middle)
    if door.status_code == 403:
        yield ok("front door", "answers, and lets hospitals in only")
    else:
        yield warning(
            "front door",
            f"answers {door.status_code} where 403 is expected",
            "Ask the coordinator: without it, any hospital could start runs here",
        )
    yield _behind(fleet.status_code)


def clock(date: str | None, own: float) -> Check:
    """How far this machine's clock is from the server's.

    Args:
        date: what the server's answer says, as HTTP writes it.
        own: this machine's time when it was asked for, in seconds since the epoch.
    """
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return warning("clock", "the server does not say its time", "Compare the clocks by hand")
    ahead = own - theirs - 0.5  # the header has whole seconds, cut off
    text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if ahead > AHEAD_S or ahead < -BEHIND_S:
        return failed(
            "clock",
            f"{text}; the server takes at most {AHEAD_S:.0f} s ahead and {BEHIND_S:.0f} s behind",
            "Set it by NTP, e.g. timedatectl set-ntp true",
        )
    if abs(ahead) > NOTICEABLE_S:
        return warning("clock", text, "Set it by NTP, e.g. timedatectl set-ntp true")
    return ok("clock", "agrees with the server's")


def _behind(status: int) -> Check:
    """What the answer to a path of the Fleet API says about the server behind the front door."""
    if status in (502, 503, 504):
        return failed(
            "server",
            f"the front door answers, the server behind it does not ({status})",
            "Ask the coordinator to start it",
        )
    if status == 403:
        return failed(
            "server", "the front door keeps hospitals out as well (403)", "Ask the coordinator to look at it"
        )
    return ok("server", f"answers ({status} to a question that it does not know)")


class _ProxyRefusal(OSError):
    """The proxy's answer to CONNECT, where it is not 200."""

    def __init__(self, status: int | None) -> None:
        self.status = status
        super().__init__(f"answers {status}" if status else "is no HTTP proxy")


def _connected(home: Home, timeout_s: float) -> contextlib.closing[socket.socket]:
    """A connection to the server, through the proxy where there is one.

    Raises:
        OSError: it cannot be made; `_ProxyRefusal` where the proxy says no.
    """
    connection = socket.create_connection(_next_hop(home), timeout=timeout_s)
    if home.settings.proxy is None:
        return contextlib.closing(connection)
    try:
        _tunnel(connection, home.settings.proxy, home.settings.server)
    except OSError:
        connection.close()
        raise
    return contextlib.closing(connection)


def _tunnel(connection: socket.socket, proxy_url: str, server_name: str) -> None:
    lines = [f"CONNECT {server_name} HTTP/1.1", f"Host: {server_name}"]
    parts = urlsplit(proxy_url)
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < 65536:
        more = connection.recv(4096)
        if not more:
            break
        answer += more
    status = _STATUS.match(answer)
    if status is None or status[1] != b"200":
        raise _ProxyRefusal(int(status[1]) if status else None)


def _next_hop(home: Home) -> tuple[str, int]:
    """Whom this machine itself connects to."""
    if home.settings.proxy is None:
        return _split(home.settings.server)
    parts = urlsplit(home.settings.proxy)
    return parts.hostname or "", parts.port or 80


def _split(server_name: str) -> tuple[str, int]:
    host, _, number = server_name.rpartition(":")
    return host.strip("[]"), int(number)


def _reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)


def _proxy_remedy(status: int | None, server_name: str) -> str:
    match status:
        case 407:
            return "Put user and password into proxy in client.yaml: http://user:password@host:port"
        case 403 | 405:
            return f"Have the proxy allow CONNECT to {server_name}"
        case 502 | 503 | 504:
            return (
                f"The proxy cannot reach {server_name}: check server in client.yaml, or ask the coordinator"
            )
    return "Check proxy in client.yaml: it is http://host:port"


def _certificate_remedy(code: int, host: str) -> str:
    match code:
        case 10:
            return "Ask the coordinator to renew it; if this machine's clock is wrong, set it"
        case 9:
            return "Set this machine's clock; it is behind"
        case 62 | 64:
            return f"The certificate is not for {host}: check server in client.yaml, or tell the coordinator"
    return (
        "It is not signed by the kit's certificate: do not go on, ask the coordinator for a new kit; "
        "a firewall that reads TLS must leave this address alone"
    )
