from __future__ import annotations

from pathlib import Path

import pytest
from builders import tiny_study

from phcc_model.errors import ConfigError
from phcc_model.shipped import find_study
from phcc_model.study_file import load_study
from phcc_simulation.places import default_out


@pytest.mark.parametrize("name", ["demo", "adrenal", "federation", "hippocampus", "hospital"])
def test_a_shipped_study_is_found_by_its_name_and_is_valid(name: str) -> None:
    path = find_study(name)
    assert path.name == f"{name}.yaml"
    assert load_study(path).name == name


@pytest.mark.parametrize("name", ["here.yaml", "deep/there.yml", "demo.yaml"])
def test_a_file_is_taken_as_it_is_given(name: str) -> None:
    assert find_study(name) == Path(name)


def test_a_home_is_written_out() -> None:
    assert find_study("~/study.yaml") == Path.home() / "study.yaml"


def test_a_study_that_is_neither_is_refused_with_those_that_are() -> None:
    shipped = "adrenal, arms, demo, federation, hippocampus, hospital, phases, study"
    with pytest.raises(ConfigError, match=f"dmo: is neither .*one of {shipped}"):
        find_study("dmo")


def test_every_study_as_configured_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {default_out(study) for study in (tiny_study(), tiny_study(seed=1), tiny_study(name="other"))}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "phcc-ssl-federated"}
    assert default_out(tiny_study()) == default_out(tiny_study(data={"path": "/elsewhere"}))
    for unset in ("", None):
        monkeypatch.setenv("XDG_CACHE_HOME", unset) if unset is not None else monkeypatch.delenv(
            "XDG_CACHE_HOME"
        )
        assert Path.home() / ".cache" in default_out(tiny_study()).parents
