"""The front door: nginx between hospitals and SuperLink, which passes Flower's Fleet API and nothing else.

Flower serves its Fleet, Control and Runtime APIs on one port, and knows no accounts: whoever reaches the
Control API can start runs in every hospital. So the SuperLink listens on loopback, and this is all that the
outside sees. Nothing outside the instance's folder is written, and no root is needed (but for a port below 1024).

A supervisor finds programs that an earlier one left behind by a mark in their environment, but nginx writes
over its own, and a worker whose master was killed holds the port for ever. So what is supervised is
``python -m phcc_server.front_door INSTANCE``: it ends every nginx that works in the instance's folder, then
becomes nginx.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import jinja2
import psutil

from phcc_model.errors import ConfigError, StorageError
from phcc_model.storage import storage_error, write_atomically
from phcc_model.supervision import Program
from phcc_server.instance import Instance, split_address

NAME = "front-door"
CONFIGURATION = "front/nginx.conf"
"""Relative to the instance, as all paths in it are: the folder's name, whatever it is, is not in it."""
ACCESS_LOG = "front/access.log"
LONGEST_LOG = 50 * 2**20
REMEDY = "Install it: apt-get install nginx-light, or dnf install nginx"
CHECK_S = 30.0
PATIENCE_S = 5.0
TIMEOUT_S = 3.0
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where all addresses are listened on, ask the loopback

_TEMPLATE = """\
# Written by phcc-server at every start; changes here are lost.
daemon off;
worker_processes 2;
worker_rlimit_nofile 4096;
pid front/nginx.pid;
error_log stderr warn;

events {
    worker_connections 2000;
}

http {
    default_type text/plain;
    server_tokens off;
    client_body_temp_path front/tmp/body;
    proxy_temp_path front/tmp/proxy;
    fastcgi_temp_path front/tmp/fastcgi;
    uwsgi_temp_path front/tmp/uwsgi;
    scgi_temp_path front/tmp/scgi;

    log_format line escape=json '{"time":"$time_iso8601","address":"$remote_addr","method":"$request_method",'
        '"path":"$request_uri","status":"$status","bytes_in":"$request_length","bytes_out":"$bytes_sent",'
        '"seconds":"$request_time"}';
    access_log front/access.log line;

    ssl_certificate ../tls/server.pem;
    ssl_certificate_key ../tls/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
    ssl_session_cache shared:front:1m;
    ssl_session_tickets off;

    # Who is slow on purpose holds a connection no longer than this, and not many of them.
    client_header_timeout {{ header_s }}s;
    client_body_timeout 20s;
    send_timeout 30s;
    keepalive_timeout 75s;
    reset_timedout_connection on;
    client_header_buffer_size 2k;
    large_client_header_buffers 4 4k;
    client_max_body_size {{ body_mb }}m;
    limit_conn_zone $binary_remote_addr zone=addresses:1m;
    limit_conn addresses {{ connections }};
    limit_conn_status 429;

    # As the path was sent, before nginx makes it canonical: plain words only, so no "..", no "%2e", no "//".
    map $request_uri $is_fleet {
        default 0;
        "~^/v1/fleet(/[A-Za-z0-9_-]+)+$" 1;
    }

    server {
        listen {{ listen }} ssl;
        location = /v1/fleet {
            return 403 "Hospitals only.\\n";  # without this line, nginx would answer with the way in
        }
        location / {
            return 403 "Hospitals only.\\n";
        }
        location ^~ /v1/fleet/ {
            if ($is_fleet = 0) {
                return 403 "Hospitals only.\\n";
            }
            # A connection for every request: one that is kept could be closed by the SuperLink in the moment
            # of its use, and what a hospital pushes cannot be sent twice.
            proxy_pass https://127.0.0.1:{{ superlink_port }};
            proxy_http_version 1.1;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate ../tls/ca.pem;
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_set_header Host $host;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_connect_timeout 5s;
            proxy_read_timeout 300s;
            proxy_send_timeout 60s;
        }
    }
}
"""


def configuration(instance: Instance, header_s: int = 10) -> str:
    """The nginx configuration of an instance.

    Args:
        instance: whose settings it follows.
        header_s: seconds that a client has for its handshake and its header.
    """
    settings = instance.settings
    template = jinja2.Template(_TEMPLATE, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    text: str = template.render(
        header_s=header_s,
        body_mb=settings.largest_body_mb,
        connections=settings.connections_per_address,
        listen=settings.listen,
        superlink_port=settings.superlink_port,
    )
    return text


def check(instance: Instance) -> None:
    """Write the configuration and let nginx test it.

    Raises:
        StorageError: nginx is not installed, or the configuration cannot be written.
        ConfigError: nginx refuses the configuration.
    """
    write_atomically(instance.folder / CONFIGURATION, configuration(instance))
    try:
        (instance.front / "tmp").mkdir(mode=0o700, exist_ok=True)
        tested = subprocess.run(  # noqa: S603 - a command of our own
            [*_command(instance.folder), "-t"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_S,
            check=False,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise storage_error(instance.front, error) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError("nginx -t does not end", where=NAME) from error
    if tested.returncode != 0:
        raise _refusal(instance, tested.stderr)


def program(instance: Instance) -> Program:
    """The front door as a program to supervise.

    Raises:
        StorageError: nginx is not installed, or the configuration cannot be written.
        ConfigError: nginx refuses the configuration.
    """
    check(instance)
    command = [sys.executable, "-m", "phcc_server.front_door", str(instance.folder)]
    return Program(NAME, command, {"PATH": os.environ.get("PATH", os.defpath)}, longest_pause_s=10.0)


def answers(instance: Instance) -> bool:
    """Whether our own nginx answers where it should listen, and nobody else there."""
    host, port = split_address(instance.settings.listen)
    context = ssl.create_default_context(cafile=str(instance.ca_pem))
    try:
        with (
            socket.create_connection((_LOCAL.get(host, host), port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost"),
        ):
            return True
    except OSError:
        return False


def reload(instance: Instance) -> bool:
    """Let a running front door take up a new certificate; requests under way are finished first.

    Returns:
        Whether one was running.

    Raises:
        StorageError: nginx is not installed, or the configuration cannot be written.
        ConfigError: nginx refuses the configuration; it goes on with the old one.
    """
    check(instance)
    masters = [process for process in _nginx_in(instance.folder) if _is_master(process)]
    for process in masters:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGHUP)
    return bool(masters)


def shorten_log(instance: Instance) -> None:
    """Move an access log that has grown too long aside; nginx appends, so it can be emptied under it.

    For the supervisor's tick: hospitals ask every few seconds, for months.
    """
    log = instance.folder / ACCESS_LOG
    with contextlib.suppress(OSError):
        if log.stat().st_size > LONGEST_LOG:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def become_nginx(folder: Path) -> None:
    """End what an earlier front door left behind, and turn this process into nginx; does not return.

    Raises:
        StorageError: nginx is not installed.
    """
    command = _command(folder)
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        left = _nginx_in(folder)
        for process in left:
            with contextlib.suppress(psutil.Error):
                stop(process)
        psutil.wait_procs(left, timeout=PATIENCE_S)
    os.chdir(folder)
    os.execv(command[0], command)  # noqa: S606 - a command of our own


def _command(folder: Path) -> list[str]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise StorageError("is not installed", where="nginx", remedy=REMEDY)
    return [program, "-e", "stderr", "-p", str(folder), "-c", CONFIGURATION]


def _nginx_in(folder: Path) -> list[psutil.Process]:
    """The nginx processes, masters and workers, that were started in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == "nginx" and Path(process.cwd()) == folder.resolve():
                found.append(process)
    return found


def _is_master(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        parent = process.parent()
        return parent is None or parent.name() != "nginx"
    return False


def _refusal(instance: Instance, said: str) -> ConfigError:
    """What nginx wrote, as one line with its remedy."""
    lines = (
        [line for line in said.splitlines() if "[emerg]" in line] or said.splitlines() or ["no reason given"]
    )
    reason = re.sub(r"^\d+#\d+: ", "", lines[0].partition("[emerg] ")[2]) or lines[0]
    remedy = "Check server.yaml"
    if "Permission denied" in reason and "bind()" in reason:
        remedy = (
            "Choose a port above 1023 for listen in server.yaml and forward the public one to it, "
            "or allow the low ones: sysctl net.ipv4.ip_unprivileged_port_start=443"
        )
    elif "bind()" in reason:
        remedy = "Choose another listen in server.yaml, or stop what listens there"
    elif "invalid option" in reason:
        remedy = "nginx 1.20 or newer is needed"
    return ConfigError(
        f"nginx refuses the configuration ({reason})", where=str(instance.folder), remedy=remedy
    )


if __name__ == "__main__":
    become_nginx(Path(sys.argv[1]))
