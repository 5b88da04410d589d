"""What a study predicts, in words, and that saying so renames no study of before."""

from __future__ import annotations

import hashlib
import json

import pytest

from phcc_model.config import _ADDED_LATER, DataSettings, StudyConfig
from phcc_model.outcome import outcome_of
from phcc_model.shipped import find_study
from phcc_model.study_file import load_study


@pytest.mark.parametrize(
    ("study", "event"),
    [
        ("demo", "a hepatocellular carcinoma is proliferative"),
        ("hospital", "a hepatocellular carcinoma is proliferative"),
        ("adrenal", "an adrenal gland holds a mass"),
    ],
)
def test_the_shipped_studies_are_known(study: str, event: str) -> None:
    assert outcome_of(load_study(find_study(study)).data).event == event


def test_another_label_is_never_called_a_carcinoma() -> None:
    found = outcome_of(DataSettings(source="nifti-csv", label="mvi"))
    assert found.event == "mvi is 1"
    assert "carcinoma" not in found.subject
    said = outcome_of(DataSettings(label="mvi", outcome="a carcinoma invades microvessels"))
    assert said.event == "a carcinoma invades microvessels"
    assert outcome_of(DataSettings(source="medmnist", label="nodule")).images == "a MedMNIST file"
    hippocampus = outcome_of(load_study(find_study("hippocampus")).data)
    assert hippocampus.event == "a hippocampus is larger than the training volumes' median"
    assert hippocampus.images == "one image of each case"


def test_the_digest_changes_only_where_it_is_said() -> None:
    study = StudyConfig()
    plain = study.model_dump(mode="json")
    del plain["data"]["path"]
    for path, key, _ in _ADDED_LATER:
        section = plain
        for name in path.split("."):
            section = section[name]
        del section[key]
    said = study.model_copy(update={"data": study.data.model_copy(update={"outcome": "it is malignant"})})
    assert said.digest != study.digest
    assert study.digest == StudyConfig.model_validate(plain).digest
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    assert study.digest == hashlib.sha256(text.encode()).hexdigest()
    # The name that this study has had since it was first run: a key that is added must not change it.
    assert study.digest == "bf49dd2071a6f4fc8c9355d5cc1f45369e72bd9d517b413133dc603418aa75ea"
