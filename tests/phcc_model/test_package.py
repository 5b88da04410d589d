from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packages import CARD, tiny_package

from phcc_model.build import build_classifier, first_weights, load_state
from phcc_model.contract import keys
from phcc_model.errors import ConfigError, PhccError, StorageError
from phcc_model.package import DESCRIPTION, WEIGHTS, ModelPackage, write_package
from phcc_model.package_schema import Between, Seen, Span, Threshold, content_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_package(tmp_path / "package")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """One package for all examples of a property."""
    return ModelPackage.open(tiny_package(tmp_path_factory.mktemp("opened") / "package"))


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the description and give it the digest that then belongs to it."""
    path = folder / DESCRIPTION
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain | {"digest": content_digest(plain)}))


def test_what_was_written_is_read(folder: Path) -> None:
    package = ModelPackage.open(folder)
    assert package.arm == "full"
    assert package.threshold == 0.525
    assert package.calibration == (0.1, 0.8)
    assert package.card == CARD
    assert package.seen is None
    assert ModelPackage.open(folder, digest=package.digest.upper()).digest == package.digest


def test_its_model_is_the_one_that_was_packed(folder: Path) -> None:
    package = ModelPackage.open(folder)
    expected = build_classifier(package.study).eval()
    load_state(expected, first_weights(package.study, keys.FINETUNE))
    volumes = torch.randn(3, len(package.study.data.phases), *package.study.data.crop.size)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    lesion = torch.ones(3, *package.study.data.crop.size)
    with torch.no_grad():
        assert torch.equal(package.model()(volumes, present, lesion), expected(volumes, present, lesion))
    assert package.model() is not package.model()
    assert not package.model().training


def test_the_same_model_gives_the_same_package(folder: Path, tmp_path: Path) -> None:
    again = tiny_package(tmp_path / "again")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in again.iterdir()
    }


def test_no_path_of_anybodys_disk_leaves(tmp_path: Path) -> None:
    study = ModelPackage.open(tiny_package(tmp_path / "one")).study
    secret = study.model_copy(update={"data": study.data.model_copy(update={"path": "/home/dr-miller"})})
    folder = tiny_package(tmp_path / "two", secret)
    assert all(b"dr-miller" not in path.read_bytes() for path in folder.iterdir())
    assert ModelPackage.open(folder).study.digest == secret.digest


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=50)
def test_recalibration_keeps_the_order_and_stays_a_probability(
    opened: ModelPackage, a: float, b: float
) -> None:
    low, high = (opened.calibrated(value) for value in sorted((a, b)))
    assert 0.0 <= low <= high <= 1.0


def test_recalibration_is_intercept_and_slope_on_the_logit(folder: Path, tmp_path: Path) -> None:
    package = ModelPackage.open(folder)
    logit = np.log(0.7 / 0.3)
    assert package.calibrated(0.7) == pytest.approx(1.0 / (1.0 + np.exp(-(0.1 + 0.8 * logit))))
    plain = ModelPackage.open(tiny_package(tmp_path / "plain", calibration=None))
    assert plain.calibration is None
    assert plain.calibrated(0.7) == 0.7
    assert "no scores of validation patients" in plain.description.calibration_note
    with pytest.raises(ValueError, match="no probability"):
        package.calibrated(float("nan"))


def test_what_the_model_saw_comes_through(tmp_path: Path) -> None:
    seen = Seen(
        patients=40,
        spacing_mm=(Span(low=2.5, high=5.0), Span(low=0.7, high=1.6), Span(low=0.7, high=1.6)),
        enhancement={"arterial": Span(low=0.1, high=0.9)},
        seconds=(Between(first="arterial", then="portal-venous", seconds=Span(low=25.0, high=50.0)),),
    )
    assert ModelPackage.open(tiny_package(tmp_path / "p", seen=seen)).seen == seen
    assert seen.seconds[0].seconds.holds(30.0)
    assert not seen.seconds[0].seconds.holds(float("nan"))


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS, "model-card.md"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(PhccError, match=r"no model package|is missing") as caught:
        ModelPackage.open(folder)
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=60)
def test_no_byte_can_be_altered(opened: ModelPackage, data: st.DataObject) -> None:
    folder = opened.folder
    path = folder / data.draw(st.sampled_from([DESCRIPTION, WEIGHTS, "model-card.md"]))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[place] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(altered)
        if path.name == DESCRIPTION and _same_json(bytes(altered), whole):
            # White space between the words of the description is the only thing that means nothing.
            assert ModelPackage.open(folder).description == opened.description
        else:
            with pytest.raises(PhccError) as caught:
                ModelPackage.open(folder)
            assert "\n" not in str(caught.value)
            assert str(folder) in str(caught.value)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("length", [0, 1, 20, -1])
@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS, "model-card.md"])
def test_a_file_that_was_cut_short_is_refused(folder: Path, name: str, length: int) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:length])
    if name == DESCRIPTION and length == -1:
        ModelPackage.open(folder)  # its last byte ends the line
        return
    with pytest.raises(StorageError, match=r"does not match its digest|is damaged"):
        ModelPackage.open(folder)


@pytest.mark.parametrize(
    "trick", ["../secret", "/etc/hostname", "a/../../secret", ".hidden", "a//b", "a\\b", ""]
)
def test_a_path_that_leads_out_is_refused(folder: Path, trick: str) -> None:
    (folder.parent / "secret").write_text("a secret")
    rewritten(folder, lambda plain: plain["files"].update({trick: "0" * 64}))
    with pytest.raises(ConfigError, match="files"):
        ModelPackage.open(folder)


def test_links_and_pipes_are_refused_and_nothing_waits_for_them(folder: Path, tmp_path: Path) -> None:
    card = folder / "model-card.md"
    (tmp_path / "elsewhere.md").write_text(CARD)
    card.unlink()
    card.symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(StorageError, match="no plain file"):
        ModelPackage.open(folder)
    card.unlink()
    os.mkfifo(card)
    with pytest.raises(StorageError, match="no plain file"):
        ModelPackage.open(folder)
    description = folder / DESCRIPTION
    description.unlink()
    os.mkfifo(description)
    with pytest.raises(StorageError, match="no plain file"):
        ModelPackage.open(folder)


def test_a_linked_folder_within_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.onnx").write_bytes(b"model")
    folder = tmp_path / "package"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"model")
    tiny_package(folder, others=("onnx/model.onnx",))
    ModelPackage.open(folder)
    (folder / "onnx" / "model.onnx").unlink()
    (folder / "onnx").rmdir()
    (folder / "onnx").symlink_to(outside)
    with pytest.raises(StorageError, match="no plain file"):
        ModelPackage.open(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plain: plain.update(format=2, software="9.1.0"), "Install version 9.1.0"),
        (lambda plain: plain.update(format=0), "format"),
        (lambda plain: plain.update(extra=1), "extra"),
        (lambda plain: plain["threshold"].update(value=1.5), "threshold.value"),
        (lambda plain: plain["threshold"].update(value=float("nan")), "threshold.value"),
        (lambda plain: plain["calibration"].update(slope=-1.0), "calibration.slope"),
        (lambda plain: plain["files"].pop(WEIGHTS), "names no weights"),
        (lambda plain: plain["study"].update(seed=5), "does not match its digest"),
        (lambda plain: plain.update(weights_digest="1" * 64), "other arrays"),
        (lambda plain: plain["arrays"].pop(), "other arrays"),
        (lambda plain: plain["study"]["data"].update(phases=["arterial", "nonsense"]), "phases"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    rewritten(folder, change)
    with pytest.raises(PhccError, match=words) as caught:
        ModelPackage.open(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "[]", "null", "7", '{"format": 1}', "[" * 100_000, "{", "\xff"])
def test_nonsense_is_refused(folder: Path, text: str) -> None:
    (folder / DESCRIPTION).write_bytes(text.encode("latin-1"))
    with pytest.raises(PhccError):
        ModelPackage.open(folder)


def test_weights_of_another_study_are_refused(folder: Path, tmp_path: Path) -> None:
    package = ModelPackage.open(folder)
    other = package.study.model_copy(update={"seed": 99})
    tiny_package(tmp_path / "other", other)
    (folder / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    with pytest.raises(StorageError, match="does not match its digest"):
        ModelPackage.open(folder)
    with pytest.raises(StorageError, match="not the package that was asked for"):
        ModelPackage.open(tmp_path / "other", digest=package.digest)


def test_what_is_not_finite_is_not_packed(tmp_path: Path) -> None:
    study = ModelPackage.open(tiny_package(tmp_path / "p")).study
    state = first_weights(study, keys.FINETUNE)
    state["out.bias"] = np.array([np.nan], np.float32)
    with pytest.raises(ConfigError, match=r"out\.bias is not finite"):
        write_package(tmp_path / "q", study, "full", state, stage_round=0, threshold=_threshold(), card=CARD)
    assert not (tmp_path / "q").exists()


def test_a_package_that_was_not_finished_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_package(tmp_path / "p")

    def full(*_: object) -> None:
        raise StorageError("no space left on the disk")

    monkeypatch.setattr("phcc_model.package.save_checkpoint", full)
    with pytest.raises(StorageError, match="no space"):
        tiny_package(folder)
    with pytest.raises(ConfigError, match="is no model package"):
        ModelPackage.open(folder)


def test_a_model_that_does_not_fit_its_study_is_refused(tmp_path: Path) -> None:
    study = ModelPackage.open(tiny_package(tmp_path / "p")).study
    state = first_weights(study, keys.FINETUNE)
    state.pop("out.bias")
    write_package(tmp_path / "q", study, "full", state, stage_round=0, threshold=_threshold(), card=CARD)
    with pytest.raises(ConfigError, match=r"not those of this study's model"):
        ModelPackage.open(tmp_path / "q").model()


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


def _threshold() -> Threshold:
    return Threshold(value=0.5, source="nobody")
