from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phcc_client.imaging.dataset import prepare_all, stack
from phcc_client.imaging.medmnist import read_array, read_medmnist
from phcc_client.imaging.preprocess import prepare
from phcc_model.cases import CaseSet
from phcc_model.config import DataSettings
from phcc_model.errors import DatasetError

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
STUDY = DataSettings.model_validate(
    {
        "source": "medmnist",
        "phases": ("image",),
        "normalisation": "signed-distance",
        "crop": {"size": (8, 8, 8), "spacing_mm": (2.0, 2.0, 2.0)},
    }
)


def arrays(n: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        parts[f"{part}_images"] = (rng.random((n, 16, 16, 16)) < 0.2).astype(np.uint8) * 255
        parts[f"{part}_labels"] = rng.integers(0, 2, (n, 1)).astype(np.uint8)
    return parts


def saved(path: Path, parts: dict[str, Any]) -> Path:
    np.savez_compressed(path, **parts)
    return path


def test_only_training_and_validation_are_read(tmp_path: Path) -> None:
    parts = arrays()
    reading = read_medmnist(saved(tmp_path / "m.npz", parts), STUDY)
    assert [c.given_split for c in reading.cases] == ["train"] * 3 + ["validation"] * 3
    labels = [*parts["train_labels"].ravel(), *parts["val_labels"].ravel()]
    assert [c.label for c in reading.cases] == labels
    assert len({c.patient for c in reading.cases}) == 6
    held = reading.cases[4].images["image"].array_dhw
    assert held is not None
    assert np.array_equal(held, parts["val_images"][1])


def test_a_named_array_is_read_without_labels_for_prediction(tmp_path: Path) -> None:
    parts = arrays()
    path = saved(tmp_path / "m.npz", {"test_images": parts["test_images"]})
    reading = read_array(path, "test_images")
    assert [c.case for c in reading.cases] == ["test_images-00000", "test_images-00001", "test_images-00002"]
    assert {c.label for c in reading.cases} == {-1}
    cases = stack(reading.cases, [prepare(raw, STUDY) for raw in reading.cases])
    assert isinstance(cases, CaseSet)
    assert cases.volumes_npdhw.shape == (3, 1, 8, 8, 8)
    assert np.isnan(cases.afp_n).all()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"val_images": None}, "has no array val_images; it holds"),
        ({"train_images": np.zeros((3, 16, 16), np.uint8)}, r"train_images is uint8 of shape \(3, 16, 16\)"),
        ({"train_images": np.zeros((3, 4, 4, 4), np.float32)}, "train_images is float32"),
        ({"train_images": np.zeros((0, 4, 4, 4), np.uint8)}, "not uint8 of"),
        ({"train_labels": np.zeros((2, 1), np.uint8)}, "not a label of 0 or 1 for each of 3 images"),
        ({"train_labels": np.full((3, 1), 7, np.uint8)}, "not a label of 0 or 1"),
        ({"train_images": np.array([{"a": 1}], dtype=object)}, "no readable .npz file"),
    ],
)
def test_files_that_are_no_binary_medmnist_of_volumes(
    tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    parts = {name: value for name, value in (arrays() | changes).items() if value is not None}
    with pytest.raises(DatasetError, match=what):
        read_medmnist(saved(tmp_path / "m.npz", parts), STUDY)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_medmnist(tmp_path / "none.npz", STUDY)
    with pytest.raises(DatasetError, match="is a folder"):
        read_medmnist(tmp_path, STUDY)
    path = saved(tmp_path / "m.npz", arrays())
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:-200], whole[:200]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="no readable"):
            read_medmnist(path, STUDY)
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(DatasetError, match="no readable"):
        read_medmnist(path, STUDY)
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    with pytest.raises(DatasetError, match="single array"):
        read_medmnist(single, STUDY)


def test_phases_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.npz", arrays())
    with pytest.raises(DatasetError, match=r"Set data.phases: \[image\]"):
        read_medmnist(path, DataSettings(source="medmnist"))


def test_an_empty_shape_is_set_aside(tmp_path: Path) -> None:
    parts = arrays()
    parts["train_images"][1] = 0
    reading = read_medmnist(saved(tmp_path / "m.npz", parts), STUDY)
    preparation = prepare_all(reading, STUDY, tmp_path / "cache")
    assert [r.case for r in preparation.rejections] == ["train-00001"]
    assert "has the value 0" in preparation.rejections[0].reason
    assert len(preparation.entries) == 5


def test_real_adrenal_glands() -> None:
    path = SHARED / "adrenalmnist3d" / "adrenal64_train_val.npz"
    if not path.is_file():
        pytest.skip("the real shapes are not here")
    reading = read_medmnist(path, STUDY)
    assert [sum(c.given_split == part for c in reading.cases) for part in ("train", "validation")] == [
        1188,
        98,
    ]
    assert {c.label for c in reading.cases} == {0, 1}
    settings = STUDY.model_copy(update={"crop": STUDY.crop.model_copy(update={"size": (32, 32, 32)})})
    prepared = prepare(reading.cases[-1], settings)
    raw = reading.cases[-1].images["image"].array_dhw
    assert raw is not None
    # The same share of the volume is shape, before and after: half the resolution, positive inside.
    assert prepared.lesion_dhw.mean() == pytest.approx(np.count_nonzero(raw) / raw.size, rel=0.15)
    assert np.abs(prepared.volumes_pdhw).max() <= settings.clip
