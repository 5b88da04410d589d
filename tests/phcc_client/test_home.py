from __future__ import annotations

import stat
from pathlib import Path

import pytest

from phcc_client.home import ClientSettings, Home
from phcc_model.errors import ConfigError, StorageError

SETTINGS = ClientSettings(hospital="H1", server="pool.example:443")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.make(tmp_path / "home", SETTINGS)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_is_opened_as_it_was_made(home: Home) -> None:
    assert Home.open(home.folder) == home


def test_only_the_owner_can_look_into_it(home: Home) -> None:
    folders = [home.folder, *(path for path in home.folder.iterdir() if path.is_dir())]
    assert len(folders) == 10
    assert {mode(folder) for folder in folders} == {0o700}
    assert mode(home.folder / "client.yaml") == 0o600


def test_the_file_says_what_each_key_means(home: Home) -> None:
    text = (home.folder / "client.yaml").read_text(encoding="utf-8")
    for key, field in ClientSettings.model_fields.items():
        assert field.description
        assert f"# {field.description}\n{key}:" in text


def test_a_folder_without_settings_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="phcc-client init"):
        Home.open(tmp_path)


def test_an_unknown_key_is_refused_with_the_nearest_one(home: Home) -> None:
    file = home.folder / "client.yaml"
    file.write_text("hospital: H1\nserver: a:1\ntreads: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"client\.yaml: treads: unknown key \(did you mean threads\?\)"):
        Home.open(home.folder)


@pytest.mark.parametrize("permissions", [0o640, 0o604, 0o666, 0o660])
@pytest.mark.parametrize("name", ["node", "node.next"])
def test_a_private_key_that_others_can_read_is_refused(home: Home, permissions: int, name: str) -> None:
    key = home.folder / "keys" / name
    key.touch(mode=0o600)
    Home.open(home.folder)
    key.chmod(permissions)
    with pytest.raises(StorageError, match=f"chmod 600 {key}"):
        Home.open(home.folder)


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("device=cuda:1", "device", "cuda:1"),
        ("device=[cuda:0, cuda:1]", "device", ("cuda:0", "cuda:1")),
        ("data=/srv/images of ours", "data", "/srv/images of ours"),
        ("threads=null", "threads", None),
        ("minimum_count=10", "minimum_count", 10),
        ("proxy=http://proxy.example:3128", "proxy", "http://proxy.example:3128"),
    ],
)
def test_one_setting_is_changed_and_kept(home: Home, change: str, key: str, value: object) -> None:
    changed = Home.make(home.folder, home.settings.changed(change))
    assert getattr(changed.settings, key) == value
    opened = Home.open(home.folder).settings
    assert opened == changed.settings
    assert opened.model_copy(update={key: getattr(SETTINGS, key)}) == SETTINGS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("devise=cuda", "did you mean device"),
        ("device=gpu", "device"),
        ("device=[cuda:0, cuda:0]", "name each GPU once"),
        ("device=[cuda:0, cpu]", "must be GPUs"),
        ("device=[]", "at least one"),
        ("threads=0", "threads"),
        ("minimum_count=-1", "minimum_count"),
        ("minimum_count=0", "minimum_count"),
        ("heartbeat_s=.inf", "heartbeat_s"),
        ("health_port=9501", "must differ"),
        ("proxy=ftp://x", "proxy"),
        ("proxy=http://x:70000", "no port 70000"),
        ("proxy=http://x/path", "proxy"),
        ("server=a:0", "no port 0"),
        ("hospital=../up", "hospital"),
        ("server=nowhere", "server"),
        ("data", "KEY=VALUE"),
        ("=x", "KEY=VALUE"),
        ("data=a\nhospital: H2", "KEY=VALUE"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SETTINGS.changed(change)


def test_a_place_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        Home.make(tmp_path / "file", SETTINGS)
