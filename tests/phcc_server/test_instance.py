"""An instance's folder: who may read it, what is refused, and that a setting's fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from phcc_model.errors import ConfigError, PhccError, StorageError
from phcc_server.instance import LOOPBACK_PORTS, PORTS, Instance, split_address


def test_what_is_made_is_its_owners_alone_and_opens_again(instance: Instance) -> None:
    for path in (instance.folder, *instance.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert Instance.open(instance.folder) == instance
    assert len(instance.superexec_secret.read_text()) == 64


def test_ports_are_chosen_once_each_below_the_systems_own(instance: Instance) -> None:
    ports = {getattr(instance.settings, key) for key in LOOPBACK_PORTS}
    assert len(ports) == len(LOOPBACK_PORTS)
    assert ports <= set(PORTS)
    assert instance.settings.listen == "0.0.0.0:9443"


def test_what_is_given_is_kept(tmp_path: Path) -> None:
    made = Instance.create(
        tmp_path / "s",
        "c",
        "[2001:db8::1]:443",
        listen="127.0.0.1:8443",
        sans=["10.0.0.1", "phcc.internal"],
        superlink_port=20001,
    )
    settings = Instance.open(made.folder).settings
    assert settings.listen == "127.0.0.1:8443"
    assert settings.superlink_port == 20001
    assert settings.hosts == ("2001:db8::1", "10.0.0.1", "phcc.internal")
    assert split_address(settings.address) == ("2001:db8::1", 443)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"address": "example.org"}, r"address: 'example.org' is not of the form host:port .*brackets\)\.$"),
        ({"address": "2001:db8::1:443"}, "address: .*brackets"),
        ({"address": "[2001:db8::1%;]:443"}, "address: .*neither"),
        ({"address": "example.org:443\n"}, "address: "),
        ({"address": "example.org\n:443"}, "address: "),
        ({"address": "example.org:70000"}, "address: 70000 is no port"),
        ({"address": "a..b:1"}, "address: .*is neither a DNS name nor an IP address"),
        ({"address": "h:1;}:1"}, "address: "),
        ({"listen": "example.org:9443"}, "listen: example.org is no IP address"),
        ({"sans": ["two words"]}, r"sans\[0\]: .*is neither a DNS name"),
        ({"superlink_port": 9443}, "port 9443 is given to two programs"),
        ({"largest_body_mb": 1}, "largest_body_mb: "),
        ({"certificate_day": 3}, r"unknown key \(did you mean certificate_days\?\)"),
        ({"name": "../x"}, "name: "),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_made(
    tmp_path: Path, settings: dict[str, object], match: str
) -> None:
    plain: dict[str, object] = {"name": "c", "address": "example.org:9443"} | settings
    with pytest.raises(ConfigError, match=match) as caught:
        Instance.create(tmp_path / "s", **plain)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_an_unknown_key_in_the_file_is_refused_by_name(instance: Instance) -> None:
    path = instance.folder / "server.yaml"
    path.write_text(path.read_text() + "largest_body: 3\n")
    with pytest.raises(ConfigError, match=r"server.yaml: largest_body: .*did you mean largest_body_mb\?"):
        Instance.open(instance.folder)
    path.write_text("just words")
    with pytest.raises(ConfigError, match=r"server.yaml: is not the settings of a server"):
        Instance.open(instance.folder)


def test_a_folder_that_is_used_is_refused(instance: Instance, tmp_path: Path) -> None:
    def create(folder: Path) -> None:
        Instance.create(folder, "c", "example.org:9443")

    with pytest.raises(StorageError, match="there is a server here already"):
        create(instance.folder)
    with pytest.raises(StorageError, match=r"is not empty \(it holds a server's folder"):
        create(tmp_path)
    (instance.folder / "server.yaml").unlink()
    with pytest.raises(StorageError, match="was begun here and not finished"):
        create(instance.folder)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written or read"):
        create(tmp_path / "file")
    (tmp_path / "new").mkdir()
    create(tmp_path / "new")


@pytest.mark.parametrize("name", ["ca_key", "server_key", "superexec_secret"])
def test_a_secret_that_others_can_read_or_that_is_missing_stops_everything(
    instance: Instance, name: str
) -> None:
    secret: Path = getattr(instance, name)
    secret.chmod(0o640)
    with pytest.raises(StorageError, match=r"others than its owner .*\(mode 0640\).*chmod 600 '"):
        Instance.open(instance.folder)
    secret.unlink()
    with pytest.raises(StorageError, match="is missing"):
        Instance.open(instance.folder)


def test_a_folder_without_a_server_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PhccError, match="phcc-server init"):
        Instance.open(tmp_path)
