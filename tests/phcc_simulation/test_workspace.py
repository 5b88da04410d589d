"""A run's folder made ready from files, again and again: nothing is done twice, nothing slips in or out."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import tiny_study
from exports import CENTRES, ITK, study_of, write_data

from phcc_client.preparations import open_prepared
from phcc_client.site import SPLITS
from phcc_client.splits import read_splits
from phcc_model.cases import CaseSet
from phcc_model.config import StudyConfig
from phcc_model.errors import DatasetError, SplitError
from phcc_model.seeds import generator
from phcc_simulation.workspace import POOLED, Preparer, Workspace

Told = list[tuple[str, int, int]]


def prepare(out: Path, study: StudyConfig, told: Told | None = None) -> Workspace:
    told = [] if told is None else told
    return Preparer(out, 1, lambda what, done, total: told.append((what, done, total))).prepare(study)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def everyone(workspace: Workspace, study: StudyConfig, centre: str) -> CaseSet:
    site = open_prepared(workspace.site(centre), study, centre, workspace.study)
    return CaseSet.join([site.load(split) for split in SPLITS])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "export")


@pytest.fixture(scope="module")
def ready(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, StudyConfig, Told]:
    told: Told = []
    study = study_of(data)
    return prepare(tmp_path_factory.mktemp("run"), study, told), study, told


def test_every_centre_has_its_own_patients_in_the_places_of_the_split(
    ready: tuple[Workspace, StudyConfig, Told],
) -> None:
    workspace, study, _ = ready
    assert workspace.centres == ("Alma", "Berg")
    assert workspace.splits.external == ("Ende",)
    assert workspace.set_aside == ()
    assert read_splits(workspace.out / "splits.json").digest == workspace.splits.digest
    for centre, patients in CENTRES.items():
        site = open_prepared(workspace.site(centre), study, centre, workspace.study)
        found = {split: set(site.load(split).patient) for split in SPLITS}
        assert sorted(p for members in found.values() for p in members) == sorted(
            f"{centre}{n}" for n in range(patients)
        )  # everyone, and nobody twice
        for patient, split in workspace.splits.site(centre).items():
            assert patient in found[next(s for s in SPLITS if s == split)]
        cases = everyone(workspace, study, centre)
        assert len(cases) == patients + math.ceil(patients / 3)
        assert {p: int(label) for p, label in zip(cases.patient, cases.label_n, strict=True)} == {
            f"{centre}{n}": n % 2 for n in range(patients)
        }
        assert np.isnan(cases.afp_n).sum() == 1
        assert cases.present_np.all()


def test_an_external_centres_patients_only_judge(ready: tuple[Workspace, StudyConfig, Told]) -> None:
    workspace, study, _ = ready
    site = open_prepared(workspace.site("Ende"), study, "Ende")
    assert [len(site.load(split)) > 0 for split in SPLITS] == [False, False, True]


def test_the_pooled_site_is_all_training_centres_and_no_external_one(
    ready: tuple[Workspace, StudyConfig, Told],
) -> None:
    workspace, study, _ = ready
    for split in SPLITS:
        pooled = open_prepared(workspace.site(POOLED), study, POOLED).load(split)
        apart = [open_prepared(workspace.site(c), study, c).load(split) for c in workspace.centres]
        assert sorted(pooled.case) == sorted(case for part in apart for case in part.case)


def test_progress_is_told_to_the_last_case(ready: tuple[Workspace, StudyConfig, Told]) -> None:
    _, _, told = ready
    cases = sum(n + math.ceil(n / 3) for n in CENTRES.values())
    assert told == [("preparing cases", at, cases) for at in range(1, cases + 1)]


def test_a_second_start_changes_nothing_and_prepares_nothing(
    ready: tuple[Workspace, StudyConfig, Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, study, _ = ready
    before = contents(workspace.out)

    def no(*args: object) -> None:
        raise AssertionError("a crop that is in the cache was prepared again")

    monkeypatch.setattr("phcc_client.imaging.dataset.prepare", no)
    again = prepare(workspace.out, study)
    assert contents(workspace.out) == before
    assert again.splits == workspace.splits
    assert again.labels == workspace.labels


def test_two_folders_made_from_the_same_files_are_the_same(
    ready: tuple[Workspace, StudyConfig, Told], tmp_path: Path
) -> None:
    workspace, study, _ = ready
    again = prepare(tmp_path / "run", study)
    assert {k: v for k, v in contents(again.out).items() if "digests.json" not in k} == {
        k: v for k, v in contents(workspace.out).items() if "digests.json" not in k
    }


def test_a_folder_with_another_split_of_the_patients_is_refused_and_left_alone(
    ready: tuple[Workspace, StudyConfig, Told], data: Path
) -> None:
    workspace, _, _ = ready
    sites, splits = contents(workspace.out / "sites"), (workspace.out / "splits.json").read_bytes()
    with pytest.raises(
        SplitError, match=r"splits.json: this run's folder holds another split .*another --out"
    ):
        prepare(workspace.out, study_of(data, seed=1))
    assert contents(workspace.out / "sites") == sites
    assert (workspace.out / "splits.json").read_bytes() == splits


def test_a_patient_who_was_set_aside_before_is_named_when_the_split_differs(tmp_path: Path) -> None:
    """As when an image was being copied while the run read it, and is whole when the run is begun again."""
    data = write_data(tmp_path / "export")
    study = study_of(data)
    files = [file for file in data.rglob("*.nii.gz") if file.name.startswith("Alma2-0")]
    whole = {file: file.read_bytes() for file in files}
    assert whole
    for file in files:
        file.write_bytes(b"")
    before = prepare(tmp_path / "run", study)
    assert [one.patient for one in before.set_aside] == ["Alma2"]
    for file, content in whole.items():
        file.write_bytes(content)
    count = len(before.splits.places)
    with pytest.raises(SplitError, match=rf"\({count} there, {count + 1} now, Alma2 in one of them alone\)"):
        prepare(tmp_path / "run", study)


def test_an_arm_that_sees_a_single_phase_gets_the_same_patients_prepared_so(
    data: Path, tmp_path: Path
) -> None:
    study = study_of(data)
    told: Told = []
    preparer = Preparer(tmp_path / "run", 1, lambda *progress: told.append(progress))
    workspace = preparer.prepare(study)
    single = study_of(data, data={"phases": ["arterial"]}, model={"classifier": {"features": ["absolute"]}})
    preparer.variant(workspace, single)
    for centre in (*workspace.centres, "Ende", POOLED):
        both, one = everyone(workspace, study, centre), everyone(workspace, single, centre)
        assert one.case == both.case
        assert one.volumes_npdhw.shape[1] == 1
        np.testing.assert_array_equal(one.volumes_npdhw[:, 0], both.volumes_npdhw[:, 1])


# ---- Bad input


def damage(data: Path, case: str, phase: str, how: str) -> None:
    file = data / f"{case}-{phase}.nii.gz"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:200])
        return
    voxels = ITK.GetArrayFromImage(ITK.ReadImage(str(file))).astype(np.float32)
    voxels[2, 8:12, 8:12] = np.nan
    image = ITK.GetImageFromArray(voxels)
    image.SetSpacing((2.0, 2.0, 3.0))
    ITK.WriteImage(image, str(file))


def replace_in_table(data: Path, case: str, **cells: str) -> None:
    with (data / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if row["case"] == case:
            row.update(cells)
    with (data / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_cases_that_cannot_be_used_are_set_aside_counted_and_named(tmp_path: Path) -> None:
    data = write_data(tmp_path / "export")
    damage(data, "Alma1-0", "arterial", "truncated")
    damage(data, "Berg2-0", "pre-contrast", "NaN")
    replace_in_table(data, "Alma2-0", x_max="99")
    replace_in_table(data, "Alma3-1", arterial="gone.nii.gz")
    study = study_of(data)
    workspace = prepare(tmp_path / "run", study)
    reasons = {rejection.case: rejection.reason for rejection in workspace.set_aside}
    assert set(reasons) == {"Alma1-0", "Berg2-0", "Alma2-0", "Alma3-1"}
    assert "x = 98" in reasons["Alma2-0"]
    assert "gone.nii.gz" in reasons["Alma3-1"]
    used = {c for centre in CENTRES for c in everyone(workspace, study, centre).case}
    assert not used & set(reasons)
    assert len(used) + len(reasons) == sum(n + math.ceil(n / 3) for n in CENTRES.values())
    assert "Alma3-0" in used  # the patient's other lesion is as good as before


def test_a_study_that_does_not_say_where_its_data_lie_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"data.path: the study does not say .* --set data.path="):
        prepare(tmp_path, study_of(tmp_path, data={"path": None}))


def test_a_data_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.*(no such|not there|no folder|does not exist)"):
        prepare(tmp_path / "run", study_of(tmp_path / "nowhere"))


def test_an_empty_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty: the folder is empty. Check data.path."):
        prepare(tmp_path / "run", study_of(tmp_path / "empty"))


def test_a_data_set_of_which_nothing_is_left_is_told_with_an_example(tmp_path: Path) -> None:
    data = write_data(tmp_path / "export", {"Alma": 2})
    for file in data.glob("*.nii.gz"):
        file.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"none of its 3 cases can be used; the first, Alma0-0, because"):
        prepare(tmp_path / "run", study_of(data, centres={"external": []}))


def test_more_centres_than_patients_is_refused(data: Path, tmp_path: Path) -> None:
    centres = {"mode": "iid", "count": 30, "external": []}
    with pytest.raises(SplitError, match="30"):
        prepare(tmp_path / "run", study_of(data, centres=centres))


def test_an_external_centre_that_the_data_do_not_know_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="Enede"):
        prepare(tmp_path / "run", study_of(data, centres={"external": ["Enede"]}))


def test_a_centre_whose_name_means_all_of_them_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "export", {"Alma": 4, POOLED: 4})
    with pytest.raises(SplitError, match=r"data\.centres: 'pooled' stands for all training centres together"):
        prepare(tmp_path / "run", study_of(data, centres={"external": []}))
    assert not (tmp_path / "run" / "sites").exists()


# ---- A data set with parts of its own


def write_medmnist(path: Path, train: int = 20, validation: int = 6) -> Path:
    draw = generator(0, "medmnist")
    parts: dict[str, np.ndarray] = {}
    for part, count in (("train", train), ("val", validation), ("test", 4)):
        parts[f"{part}_images"] = draw.integers(0, 255, (count, 8, 16, 16)).astype(np.uint8)
        parts[f"{part}_labels"] = (np.arange(count) % 2)[:, None]
    np.savez(path, **parts)  # type: ignore[arg-type]
    return path


def test_a_data_sets_own_validation_part_is_held_out_whole(tmp_path: Path) -> None:
    file = write_medmnist(tmp_path / "organ.npz")
    study = tiny_study(
        data={
            "source": "medmnist",
            "path": str(file),
            "phases": ["image"],
            "centres": {"mode": "iid", "count": 2},
            "split": {"validation": 0.2},
        },
        model={"classifier": {"features": ["absolute"]}},
    )
    workspace = prepare(tmp_path / "run", study)
    cases = {split: everyone_in(workspace, study, split) for split in SPLITS}
    assert cases["test"] == {f"val-{n:05d}" for n in range(6)}
    assert cases["train"] | cases["validation"] == {f"train-{n:05d}" for n in range(20)}
    assert len(cases["validation"]) == 4
    assert not cases["train"] & cases["validation"]


def everyone_in(workspace: Workspace, study: StudyConfig, split: Any) -> set[str]:
    return {
        case
        for centre in workspace.centres
        for case in open_prepared(workspace.site(centre), study, centre, workspace.study).load(split).case
    }
