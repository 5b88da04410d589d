"""The report of a finished run, made again from its folder: the same page, figure by figure, byte for byte."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from test_flower import TINY

from phcc_client.session import Runtime, Session
from phcc_model.config import StudyConfig
from phcc_model.errors import StorageError
from phcc_model.study_file import dump_study, load_study
from phcc_server.journal import Journal
from phcc_server.report.again import report_again
from phcc_simulation.cli import main
from phcc_simulation.federation import MemorySites
from phcc_simulation.study_run import StudyRun
from phcc_simulation.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]
ARMS = "[full, uniform, afp]"


def study(arms: str = ARMS) -> StudyConfig:
    changed = TINY | {"evaluation.arms": arms, "evaluation.bootstrap": "20", "finetune.rounds": "1"}
    return load_study(
        REPOSITORY / "configs" / "demo.yaml", [f"{key}={value}" for key, value in changed.items()]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in_memory(study(), tmp_path_factory.mktemp("again") / "run")


def run_in_memory(study: StudyConfig, out: Path) -> Path:
    """A whole run in this process, as ``--in-memory`` makes it."""
    out.mkdir()
    (out / "study.yaml").write_text(dump_study(study), encoding="utf-8")
    runtime = Runtime("cpu", 1)

    def federated(workspace: Workspace) -> MemorySites:
        return MemorySites({c: Session(workspace.site(c), c, runtime) for c in workspace.centres})

    StudyRun(study, out, runtime, 1, Journal(out / "progress.jsonl")).run(federated)
    return out


def written(folder: Path) -> dict[str, bytes]:
    """Everything that a report consists of."""
    names = ("report.html", "summary.json", "model-card.md", "checklists.md")
    return {
        **{name: (folder / name).read_bytes() for name in names},
        **{f"figures/{file.name}": file.read_bytes() for file in sorted((folder / "figures").iterdir())},
    }


def test_the_report_made_again_is_the_runs_own_to_the_byte(finished: Path) -> None:
    before = written(finished)
    assert {f"figures/{name}" for name in ("roc-internal.svg", "subgroups.svg")} <= set(before)
    assert sum(name.endswith(".png") for name in before) > 4
    for name in before:
        (finished / name).unlink() if name != "summary.json" else None
    report_again(finished)
    again = written(finished)
    assert set(again) == set(before)
    assert [name for name in before if before[name] != again[name]] == []


def test_the_command_writes_it_again_and_prints_the_table(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(finished)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(finished)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "synthetic" in said
    assert str(finished / "report.html") in said.replace("\n", "")
    assert written(finished) == before


def test_the_command_names_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 1
    assert "this folder holds no finished run" in capsys.readouterr().err.replace("\n", " ")


def test_scores_tell_by_what_patients_are_parted(finished: Path) -> None:
    with (finished / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["vendor"] for row in rows} == {"Aster", "Borea", "Epona"}
    assert {row["field strength"] for row in rows} == {"1.5 T", "3 T"}
    assert {row["phases missing"] for row in rows} >= {"none"}
    with (finished / "data" / "truth" / "signs.csv").open(newline="") as file:
        truth = {row["patient"]: row for row in csv.DictReader(file)}
    for row in rows:
        # A box holds the lesion's surface, which is rough, and is drawn in whole voxels.
        assert float(row["lesion_mm"]) == pytest.approx(
            2 * float(truth[row["patient"]]["radius_mm"]), rel=0.25
        )
        missing = row["phases missing"].partition(": ")[2]
        assert bool(missing) == bool(truth[row["patient"]]["missing_phases"])
    traits = {one["trait"] for one in json.loads((finished / "summary.json").read_text())["subgroups"]}
    assert traits == {"centre", "lesion size", "phases missing", "vendor", "field strength"}


def test_pictures_of_both_pretrainings_stand_in_the_page(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    for arm in ("full", "uniform"):
        assert len(re.findall(rf"<h3>{arm}: filled in, \S+ \(C[12]\)</h3>", page)) == 2
    assert "after round 1" in page
    assert "after round 2" in page


def test_a_run_without_kept_slices_has_a_report_without_them(finished: Path) -> None:
    kept = finished / "pictures"
    moved = kept.rename(finished / "aside")
    try:
        page = report_again(finished).read_text()
        assert "<img" not in page
        moved.rename(kept)
        (kept / "mistakes.safetensors").write_bytes(b"damaged")
        with pytest.raises(StorageError, match=r"mistakes\.safetensors.*cannot be read"):
            report_again(finished)
    finally:
        if moved.exists():
            moved.rename(kept)
