from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from phcc_client.imaging.case import PhaseImage, RawCase, Reading, Rejection
from phcc_client.imaging.readers import READERS, read_cases
from phcc_model.config import DataSettings, Phase
from phcc_model.errors import DatasetError


def test_every_source_of_the_schema_has_a_reader() -> None:
    assert set(READERS) == set(get_args(DataSettings.model_fields["source"].annotation))


def test_a_case_without_a_required_phase_is_set_aside(tmp_path: Path, write_lld: Any, textured: Any) -> None:
    image = (textured(), (2, 4, 4), (5, 10, 12))
    patients = {
        "a": {"pre-contrast": image, "arterial": image},
        "b": {"arterial": image},
        "c": {"delayed": image},
    }
    folder = write_lld(tmp_path / "lld", patients)
    phases = ("pre-contrast", "arterial")
    reading = read_cases(DataSettings(phases=phases), folder)
    assert [c.case for c in reading.cases] == ["a", "b"]
    assert [(r.case, r.reason) for r in reading.rejections] == [("c", "it has none of the study's phases")]
    settings = DataSettings(source="lld-raw", phases=phases, required_phases=("pre-contrast",))
    reading = read_cases(settings, folder)
    assert [c.case for c in reading.cases] == ["a"]
    assert [(r.case, r.reason) for r in reading.rejections] == [
        ("b", "it lacks pre-contrast"),
        ("c", "it has none of the study's phases"),
    ]


def test_nothing_left_is_an_error_with_the_first_reason(
    tmp_path: Path, write_lld: Any, textured: Any
) -> None:
    folder = write_lld(tmp_path / "lld", {"a": {"delayed": (textured(), (2, 4, 4), (5, 10, 12))}})
    with pytest.raises(
        DatasetError, match=r"none of its 1 cases can be used; the first, a, because it has none"
    ) as e:
        read_cases(DataSettings(phases=("arterial",)), folder)
    assert e.value.where == str(folder)
    (folder / "labels" / "Annotation.json").write_text('{"Annotation_info": {}}')
    with pytest.raises(DatasetError, match="there is no case in this data set"):
        read_cases(DataSettings(), folder)


@pytest.mark.parametrize("source", ["phantom", "lld-raw", "lld-crops", "nifti-csv", "medmnist"])
def test_a_path_that_leads_nowhere_ends_in_one_line(tmp_path: Path, source: str) -> None:
    settings = DataSettings.model_validate({"source": source, "phases": ("image",)})
    with pytest.raises(DatasetError) as caught:
        read_cases(settings, tmp_path / "none")
    assert str(tmp_path / "none") in str(caught.value)
    assert "Check data.path" in str(caught.value)
    if source != "medmnist":
        (tmp_path / "none").mkdir()
        with pytest.raises(DatasetError, match="the folder is empty"):
            read_cases(settings, tmp_path / "none")


def test_two_cases_of_one_name_are_both_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images: dict[Phase, PhaseImage] = {"image": PhaseImage("image", tmp_path / "a.nii")}
    twice = [RawCase(name, "p", images) for name in ("a", "b", "a")]
    before = Rejection("z", "z", "why", "what")
    monkeypatch.setitem(READERS, "nifti-csv", lambda path, settings: Reading(tuple(twice), (before,)))
    reading = read_cases(DataSettings(source="nifti-csv", phases=("image",)), tmp_path)
    assert [c.case for c in reading.cases] == ["b"]
    assert [r.case for r in reading.rejections] == ["z", "a", "a"]
    assert "2 cases of the data set have this name" in reading.rejections[1].reason
