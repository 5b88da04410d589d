"""The command on a tiny run of the phantom: pictures, files, figures, and every wrong turn."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from builders import TINY, merged

from phcc_model.build import build_classifier
from phcc_model.cases import CaseSet
from phcc_model.command_line import run_program
from phcc_model.explain import CamResult
from phcc_model.explain_measures import Place
from phcc_model.look import OwnLook
from phcc_model.model_settings import ClassifierSettings
from phcc_simulation import explain
from phcc_simulation.cli import app
from phcc_simulation.explain import MOVED, TRAINED, Measured, looked, measure, true_lesion
from phcc_simulation.explain_table import tabulate, verdict
from phcc_simulation.finished import RunModel

STUDY = {
    "data": {
        "source": "phantom",
        "normalisation": "log-ratio",
        "crop": {"size": [4, 16, 16], "spacing_mm": [9.0, 4.8, 4.8]},
        "phantom": {"patients": 16, "external_patients": 4, "training_centres": 2},
        "centres": {"external": ["X1"]},
        "split": {"test": 0.25, "validation": 0.25},
    },
    "pretrain": {"rounds": 0},
    "finetune": {"rounds": 1},
    "federation": {"minimum_sites": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    (folder / "study.yaml").write_text(yaml.safe_dump(merged(TINY, STUDY)), encoding="utf-8")
    words = [
        "run",
        folder / "study.yaml",
        "--out",
        folder / "run",
        "--in-memory",
        "--threads",
        1,
        "--jobs",
        1,
    ]
    assert run_program(app, [str(word) for word in words]) == 0
    return folder / "run"


def test_a_run_s_maps_are_drawn_and_measured_the_same_each_time(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        words = ["explain", "--run", run, "--cases", 5, "--pictures", 2, "--out", tmp_path / name]
        assert run_program(app, [str(word) for word in words]) == 0
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    found = json.loads((tmp_path / "a" / "explain.json").read_text(encoding="utf-8"))
    assert len(found["cases"]) == 5
    assert found["lesion"] == "the phantom's truth"
    names = [row["network"] for row in found["networks"]]
    assert names == [
        TRAINED,
        MOVED,
        "head drawn anew",
        "from layer 2 up",
        "from layer 1 up",
        "all drawn anew",
    ]
    assert found["networks"][0]["alike"]["value"] == pytest.approx(1.0)
    assert len([f for f in files if f.endswith(".png")]) == 2


def test_a_map_s_file_lies_on_the_lesion_of_the_image_that_it_is_of(run: Path, tmp_path: Path) -> None:
    words = ["explain", "--run", run, "--cases", 2, "--pictures", 1, "--out", tmp_path]
    assert run_program(app, [str(word) for word in words]) == 0
    opened = RunModel.open(run, "full")
    case = opened.unseen(2).case[0]
    raw = opened.raw()[case]
    written = sorted(tmp_path.glob("*.nii.gz"))
    assert written
    for path in written:
        phase = path.name.removesuffix(".nii.gz").rsplit("_", 1)[1]
        image = next(i for p, i in raw.images.items() if p == phase)
        assert image.box is not None
        assert image.path is not None
        source, own = nib.load(image.path), nib.load(path)
        of_box = source.affine @ (*image.box.centre_dhw[::-1], 1)  # type: ignore[attr-defined]
        middle = own.affine @ (*((np.array(own.shape) - 1) / 2), 1)  # type: ignore[attr-defined]
        np.testing.assert_allclose(middle, of_box, atol=1e-3)


def test_the_truth_lies_within_the_box_that_was_given(run: Path) -> None:
    opened = RunModel.open(run, "full")
    cases = opened.unseen(8)
    raw = opened.raw()
    for i, case in enumerate(cases.case):
        truth, known = true_lesion(opened, raw[case], cases.lesion_ndhw[i])
        assert known
        assert 0 < truth.sum() <= cases.lesion_ndhw[i].sum() * 1.2
    given, known = true_lesion(opened, None, cases.lesion_ndhw[0])
    assert not known
    np.testing.assert_array_equal(given, cases.lesion_ndhw[0] > 0)


def test_a_map_that_points_at_the_middle_is_found_out_when_the_images_move(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the middle of the crop, whatever lies there; and of the brightest voxels, which a move takes along."""
    opened = RunModel.open(run, "full")
    cases = opened.unseen(4)
    d, h, w = cases.lesion_ndhw.shape[1:]
    lesions = [np.zeros((d, h, w), bool) for _ in cases.case]
    for i, lesion in enumerate(lesions):
        lesion[d // 2, h // 2, w // 2] = True
        cases.volumes_npdhw[i] = 10.0 * lesion

    def middle(_model: object, _cases: CaseSet, _at: int, _method: object) -> CamResult:
        maps = torch.zeros(1, 1, d, h, w)
        maps[0, 0, d // 2, h // 2, w // 2] = 1.0
        return CamResult(maps, None, torch.zeros(1))

    def brightest(_model: object, seen: CaseSet, at: int, _method: object) -> CamResult:
        return CamResult(torch.from_numpy(seen.volumes_npdhw[at : at + 1]).float(), None, torch.zeros(1))

    for drawn, alike in ((middle, False), (brightest, True)):
        monkeypatch.setattr(explain, "explain_case", drawn)
        rows = tabulate(list(measure(opened, cases, lesions, lambda *_: None)), seed=0)
        assert rows[0].mass.value == 1.0
        assert rows[1].network == MOVED
        assert (rows[1].mass.value == 1.0) == alike
        assert rows[1].alike.value is not None
        assert (rows[1].alike.value > 0.99) == alike


def test_where_a_network_looks_is_told_before_and_after_the_images_move(run: Path) -> None:
    """One that looks everywhere alike has the lesion's share in it, wherever that is; another is not asked."""
    opened = RunModel.open(run, "full")
    cases = opened.unseen(4)
    study = opened.study.model_copy(
        update={
            "model": opened.study.model.model_copy(update={"classifier": ClassifierSettings(pooling="found")})
        }
    )
    model = build_classifier(study).eval()
    assert isinstance(model.pool.look, OwnLook)
    torch.nn.init.zeros_(model.pool.look.weight)
    found = looked(model, cases)
    assert found is not None
    share = float(cases.lesion_ndhw.astype(bool).mean())
    assert (found.share, found.within, found.moved) == pytest.approx((share, share, share), rel=1e-5)
    plain = study.model.model_copy(update={"classifier": ClassifierSettings(pooling="gap")})
    assert looked(build_classifier(study.model_copy(update={"model": plain})).eval(), cases) is None


def test_a_wrong_turn_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(app, ["explain", "--run", str(tmp_path), "--out", str(tmp_path / "o")]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert run_program(app, ["explain", "--run", str(run), "--arm", "afp", "--out", str(tmp_path / "o")]) == 1
    assert "no network" in capsys.readouterr().err
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "study.yaml").write_bytes((run / "study.yaml").read_bytes())
    assert run_program(app, ["explain", "--run", str(begun), "--out", str(tmp_path / "o")]) == 1
    assert "stopped before its patients were dealt" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def measured(network: str, patient: str, mass: float | None, draw: int = 0) -> Measured:
    place = Place(0.1, mass, None if mass is None else mass > 0.2)
    return Measured(network, draw, f"{patient}-{draw}", patient, place, place, None)


def test_rows_are_means_over_patients_and_the_verdict_follows_from_them() -> None:
    found = [measured(TRAINED, "p", 0.4), measured(TRAINED, "q", 0.6), measured(TRAINED, "r", None)]
    found += [measured(MOVED, p, 0.3) for p in ("p", "q", "r")]
    found += [measured("all drawn anew", p, m, d) for d, m in ((1, 0.1), (2, 0.3)) for p in ("p", "q", "r")]
    rows = tabulate(found, seed=0)
    assert (rows[0].maps, rows[0].empty) == (3, 1)
    assert rows[0].mass.value == pytest.approx(0.5)
    assert rows[0].concentration.value == pytest.approx(5.0)
    assert rows[2].mass.value == pytest.approx(0.2)
    assert rows[2].trained_over_this.value == pytest.approx(2.5)
    judged = verdict(rows)
    assert judged["reached"]
    assert [judged[what] for what in ("concentration", "over_random", "moved")] == pytest.approx(
        [5.0, 2.5, 3.0]
    )
    weaker = [measured(TRAINED, p, 0.25) for p in ("p", "q", "r")]
    assert not verdict(tabulate([*weaker, *found[3:]], seed=0))["reached"]
    of_the_middle = [measured(MOVED, p, 0.1) for p in ("p", "q", "r")]
    assert not verdict(tabulate([*found[:3], *of_the_middle, *found[6:]], seed=0))["reached"]
    assert not verdict(tabulate([*found[:3], *found[6:]], seed=0))["reached"]  # not asked, so not known
