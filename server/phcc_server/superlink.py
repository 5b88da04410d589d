"""Flower's SuperLink and SuperExec as this server runs them, and its Control API.

The SuperLink listens on loopback only; hospitals come in by the front door. The ServerApp runs in a process of
its own (process isolation), and all state lies in a database file, so that a run survives the SuperLink. Nothing
is installed at run time: what runs is the installed package.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import httpx
import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.cli.build import build_fab_from_files
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from phcc_model.contract.enrolment import public_text, read_public
from phcc_model.errors import RoundError
from phcc_model.marked import GRACE_S
from phcc_model.study_file import read_text
from phcc_model.supervised import TICK_S, read_status
from phcc_model.supervision import Program, program_path
from phcc_server.bundle import README, bundle
from phcc_server.instance import Instance
from phcc_server.nodes import Node

INSTANCE_VARIABLE = "PHCC_SERVER_INSTANCE"
NAME = "superlink"
LOOPBACK = "127.0.0.1"
LOCAL = "127.0.0.1,localhost"
"""Never asked through a proxy."""
TIMEOUT_S = 20.0
LONGEST_PAUSE_S = 5.0
RESTART_S = 90.0
"""A SuperLink takes some seconds to start on an idle machine."""
GONE = "unknown"
"""Status of a run that the SuperLink has never heard of."""


def programs(instance: Instance) -> tuple[Program, ...]:
    """SuperLink and SuperExec.

    Raises:
        StorageError: Flower is not installed.
    """
    settings, environment = instance.settings, flower_environment(instance)
    tls = ["--ssl-ca-certfile", str(instance.ca_pem), "--ssl-certfile", str(instance.server_pem)]
    superlink = [
        *(sys.executable, "-m", "phcc_server.patient_superlink"),
        *("--host", LOOPBACK, "--port", str(settings.superlink_port)),
        *(*tls, "--ssl-keyfile", str(instance.server_key), "--enable-supernode-auth"),
        *("--database", str(instance.flower_database), "--disable-runtime-dependency-installation"),
        *("--isolation", "process", "--superexec-auth-secret-file", str(instance.superexec_secret)),
        *("--health-server-address", f"{LOOPBACK}:{settings.superlink_health_port}"),
    ]
    superexec = [
        *(program_path("flower-superexec"), "--runtime-api-address", f"localhost:{settings.superlink_port}"),
        *("--root-certificates", str(instance.ca_pem)),
        *("--superexec-auth-secret-file", str(instance.superexec_secret)),
        *("--health-server-address", f"{LOOPBACK}:{settings.superexec_health_port}"),
    ]
    return (
        Program(NAME, superlink, environment, LONGEST_PAUSE_S),
        Program("superexec", superexec, environment, LONGEST_PAUSE_S),
    )


def flower_environment(instance: Instance) -> dict[str, str]:
    """What Flower's programs, and the ServerApp that they start, are told."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        **os.environ,
        "PATH": beside,
        INSTANCE_VARIABLE: str(instance.folder),
        "FLWR_HOME": str(instance.flower),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "NO_PROXY": LOCAL,
        "no_proxy": LOCAL,
        "PYTHONUNBUFFERED": "1",
    }


def restart(instance: Instance) -> bool:
    """Have a running SuperLink started anew, for it reads its certificate only when it starts.

    It is asked to end: it answers the requests that it has, takes no other, and the supervisor starts the next
    one. Its state lies in its database, and sites, SuperExec and ServerApp ask again for as long as nothing
    answers, so a run that is under way goes on to the same weights.

    Returns:
        Whether a server was running.

    Raises:
        RoundError: no SuperLink comes back that shows the certificate on disk.
    """
    status = read_status(instance.folder)
    if status is None:
        return False
    for program in status.programs:
        if program.name == NAME and program.pid is not None:
            _end(program.pid)
    end = time.monotonic() + RESTART_S
    while not _shows_its_certificate(instance):
        if time.monotonic() > end:
            raise RoundError(
                "the SuperLink does not show the new certificate",
                where=str(instance.folder),
                remedy="Look at phcc-server logs superlink, then stop and start the server",
            )
        time.sleep(TICK_S)
    return True


def _end(pid: int) -> None:
    """Ask a SuperLink to end; a request that does not end is cut off, and made again by whoever made it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.terminate()
        try:
            process.wait(GRACE_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _shows_its_certificate(instance: Instance) -> bool:
    """Whether what listens for the SuperLink shows the certificate on disk."""
    try:
        shown = ssl.get_server_certificate((LOOPBACK, instance.settings.superlink_port), timeout=TIMEOUT_S)
    except OSError:
        return False
    return ssl.PEM_cert_to_DER_cert(shown) == ssl.PEM_cert_to_DER_cert(read_text(instance.server_pem))


class Control:
    """The SuperLink's Control API; use it in a ``with``.

    Args:
        instance: whose SuperLink is meant.

    Raises:
        RoundError: by every method: nothing answers, or the SuperLink refuses.
    """

    def __init__(self, instance: Instance) -> None:
        os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), LOCAL]))
        self._client = ControlHttpClient(
            f"https://localhost:{instance.settings.superlink_port}",
            verify=_verified(instance.ca_pem),
            timeout=TIMEOUT_S,
            interceptors=[
                CliClientHttpInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="phcc-server"),
            ],
        )

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def nodes(self) -> tuple[Node, ...]:
        """The registered nodes."""
        with _answered():
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return tuple(
            Node(node.node_id, node.name, _openssh(node.public_key), node.status)
            for node in found
            if node.status != "unregistered"
        )

    def register(self, public_key: str, name: str) -> int:
        """Let a node in; its id."""
        pem = public_key_to_bytes(read_public(public_key, name))
        with _answered():
            return int(self._client.RegisterNode(RegisterNodeRequest(public_key=pem, name=name)).node_id)

    def unregister(self, node_id: int) -> None:
        """Shut a node out; what it asks from now on is refused."""
        with _answered():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self, run: str) -> int:
        """Have Flower run one attempt at a run of ours; Flower's own number of it."""
        text = bundle("phcc_server", "phcc_client", 'run = ""\n')
        content, _ = build_fab_from_files({"pyproject.toml": text.encode(), "README.md": README.encode()})
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto({"run": run}), federation=""
        )
        with _answered():
            return int(self._client.StartRun(request).run_id)

    def run_status(self, number: int) -> str:
        """Such as ``running`` or ``finished:failed``; `GONE` where the SuperLink does not know the run."""
        with _answered():
            runs = self._client.ListRuns(ListRunsRequest()).run_dict
        if number not in runs:
            return GONE
        status = runs[number].status
        return f"{status.status}:{status.sub_status}" if status.sub_status else str(status.status)

    def stop_run(self, number: int) -> None:
        """Stop an attempt."""
        with _answered():
            self._client.StopRun(StopRunRequest(run_id=number))


@contextmanager
def _answered() -> Iterator[None]:
    """Whatever goes wrong between us and the SuperLink, as one line."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise RoundError(
            f"the SuperLink refuses ({error.response.status_code}: {error.response.text[:200].strip()})",
            remedy="Look at phcc-server logs superlink",
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise RoundError(
            f"the SuperLink does not answer ({type(error).__name__})",
            remedy="Start the server with phcc-server start",
        ) from error


def _verified(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


def _openssh(pem: bytes) -> str:
    key = load_pem_public_key(pem)
    return public_text(key) if isinstance(key, ec.EllipticCurvePublicKey) else ""
