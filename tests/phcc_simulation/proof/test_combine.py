"""Several seeds judged together: figures, claims, what is refused; the same folders give the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_seeds import STRENGTH, made_rounds, made_scores, made_study, make_seed, part_of

from phcc_model.arms import plan_arms
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError, StorageError
from phcc_model.shipped import find_study
from phcc_model.statistics import auc
from phcc_model.study_file import dump_study, load_study
from phcc_server.report.scores import read_scores, scores_csv
from phcc_server.report.summary import build_summary
from phcc_simulation.cli import main
from phcc_simulation.proof.claims import claims_of, without_pretraining
from phcc_simulation.proof.combine import combine
from phcc_simulation.proof.commands import combine_seeds, drawings
from phcc_simulation.proof.configuration import configuration
from phcc_simulation.proof.monitors import rounds_of, weighting_of
from phcc_simulation.proof.runs import read_run, read_runs
from phcc_simulation.proof.schema import (
    HOLDS,
    NOT,
    NOT_DEFINED,
    NOT_RUN,
    ON_AVERAGE,
    ArmFigure,
    Claim,
    Combined,
    DifferenceFigure,
    Figure,
)
from phcc_simulation.proof.text import markdown

PICTURES = ("forest", "differences", "curves", "monitors")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seeds") / "study"
    for seed in SEEDS:
        make_seed(out / f"seed-{seed}", seed)
    combine_seeds(out, replicates=200)
    return out


def written(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.iterdir()) if file.is_file()}


def judged(out: Path) -> tuple[Combined, str]:
    """What the seeds of a folder say, and its text, without pictures."""
    runs, left_out = read_runs(out)
    found = combine(runs, left_out, replicates=100)
    return found, markdown(found, [])


def claim(found: Combined, title: str) -> Claim:
    return next(one for one in found.claims if one.claim.startswith(title))


def test_all_files_are_written_and_say_that_data_are_synthetic(made: Path) -> None:
    files = written(made)
    assert set(files) == {
        "combined.json",
        "combined.md",
        *(f"{name}.{kind}" for name in PICTURES for kind in ("svg", "png")),
    }
    for name in PICTURES:
        assert b"synthetic" in files[f"{name}.svg"]
        assert files[f"{name}.png"].startswith(b"\x89PNG")
    text = files["combined.md"].decode()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert all("synthetic" in line for line in headings if line not in ("## Configuration", "## Seeds"))
    assert len(re.findall(r"^\d+\. ", text, re.MULTILINE)) <= 10
    assert "two-stage bootstrap" in text
    assert "200 replicates" in text


def test_means_are_the_means_of_the_seeds_own_figures(made: Path) -> None:
    found = Combined.model_validate_json((made / "combined.json").read_text())
    each = []
    for seed in SEEDS:
        rows = [r for r in read_scores(made / f"seed-{seed}" / "scores.csv") if r.split == "external"]
        by_arm = {
            arm: auc(*zip(*((r.label, r.score) for r in rows if r.arm == arm and r.label >= 0), strict=True))
            for arm in ("full", "afp")
        }
        assert by_arm["full"] is not None
        assert by_arm["afp"] is not None
        each.append((by_arm["full"], by_arm["full"] - by_arm["afp"]))
    of_full, delta = found.auc("full", "external"), found.delta("full", "afp", "external")
    assert of_full is not None
    assert delta is not None
    assert of_full.each == pytest.approx([area for area, _ in each])
    assert of_full.value == pytest.approx(np.mean([area for area, _ in each]))
    assert delta.each == pytest.approx([difference for _, difference in each])
    assert of_full.ci is not None
    assert of_full.ci[0] < of_full.value < of_full.ci[1]  # type: ignore[operator]
    # One patient of each part has no label; internal are the test parts of both training centres.
    assert (of_full.n, of_full.seeds) == (3 * 59, SEEDS)
    inside = found.auc("full", "internal")
    assert inside is not None
    assert inside.n == 3 * 2 * 29


def test_the_same_folders_give_the_same_bytes_in_any_order(made: Path, tmp_path: Path) -> None:
    before = written(made)
    combine_seeds(made, replicates=200)
    assert written(made) == before
    # Other folders' names stand in another order.
    for seed, name in zip(SEEDS, ("seed-c", "seed-a", "seed-b"), strict=True):
        shutil.copytree(made / f"seed-{seed}", tmp_path / name)
    combine_seeds(tmp_path, replicates=200)
    after = written(tmp_path)
    for name, seed in zip((b"seed-c", b"seed-a", b"seed-b"), SEEDS, strict=True):
        after["combined.json"] = after["combined.json"].replace(name, b"seed-%d" % seed)
    assert after == before


def test_every_seed_is_named_with_its_digests(made: Path) -> None:
    found = Combined.model_validate_json((made / "combined.json").read_text())
    assert [one.seed for one in found.seeds] == [one.phantom_seed for one in found.seeds] == list(SEEDS)
    for one in found.seeds:
        assert one.study == made_study(one.seed).digest
        assert one.phantom == "f" * 64
        assert one.package == "0.1.0"
        # Four rounds of pre-training, five of each of three classifiers, two seconds each.
        assert one.seconds == 2.0 * (4 + 3 * 5)
    assert len({one.scores for one in found.seeds}) == 3
    assert not found.same_patients
    assert set(found.combined_with) == {"package", "torch"}


def test_claims_hold_or_not_or_were_not_run(made: Path) -> None:
    found = Combined.model_validate_json((made / "combined.json").read_text())
    assert claim(found, "full − no-pretraining").verdict == HOLDS
    assert claim(found, "full − afp").verdict == HOLDS
    assert claim(found, "full − kinetics").verdict == NOT_RUN
    assert claim(found, "full − the best single phase").verdict == NOT_RUN
    assert claim(found, "gap").verdict == NOT_RUN
    assert claim(found, "redundancy").found == pytest.approx(0.5)
    assert claim(found, "share of the batch").verdict == HOLDS
    text = (made / "combined.md").read_text()
    assert "| full − kinetics | \\> 0 | – | not run |" in text


def test_a_claim_that_does_not_hold_is_said_plainly(tmp_path: Path) -> None:
    weak = {
        "full": 0.3,
        "no-pretraining": 1.5,
        "phase:arterial": 1.5,
        "phase:delayed": 0.1,
        "unregularised": 3.0,
    }
    for seed in SEEDS:
        make_seed(tmp_path / f"seed-{seed}", seed, weak, effective=0.4)
    found, text = judged(tmp_path)
    assert claim(found, "full − no-pretraining").verdict == NOT
    best = claim(found, "full − the best single phase")
    assert (best.verdict, best.note) == (NOT, "the best is phase:arterial")
    assert claim(found, "full ÷ best possible").verdict == NOT
    assert claim(found, "share of the batch").verdict == NOT
    assert claim(found, "gap").verdict in (HOLDS, ON_AVERAGE, NOT)
    assert re.search(r"\| full − no-pretraining \|.*\| does not hold \|", text)
    assert "does not hold: full − no-pretraining" in text


def test_gap_is_training_less_external_of_the_same_seed(tmp_path: Path) -> None:
    for seed in SEEDS:
        make_seed(tmp_path / f"seed-{seed}", seed, {"full": 1.0, "unregularised": 2.0})
    found, _ = judged(tmp_path)
    areas = {
        (arm, split): found.auc(arm, split)
        for arm in ("full", "unregularised")
        for split in ("train", "external")
    }
    gaps = {}
    for arm in ("full", "unregularised"):
        training, test = areas[arm, "train"], areas[arm, "external"]
        assert training is not None
        assert test is not None
        gaps[arm] = np.array(training.each) - np.array(test.each)
    each = gaps["full"] - gaps["unregularised"]
    gap = claim(found, "gap")
    assert gap.each == pytest.approx(each)
    expected = HOLDS if (each < 0).all() else ON_AVERAGE if each.mean() < 0 else NOT
    assert gap.verdict == expected


def test_without_full_nothing_is_claimed(tmp_path: Path) -> None:
    for seed in SEEDS:
        make_seed(tmp_path / f"seed-{seed}", seed, {"afp": 1.0}, synthetic=False)
    found = combine_seeds(tmp_path, replicates=50)
    assert {one.verdict for one in found.claims} == {NOT_RUN}
    assert found.differences == ()
    text = (tmp_path / "combined.md").read_text()
    assert "The arm full was not run" in text
    assert "synthetic" not in text
    assert not (tmp_path / "differences.svg").exists()


def test_arms_with_fewer_labels_are_drawn(tmp_path: Path) -> None:
    arms = ("full", "full+labels-10", "labels-25", "no-pretraining", "no-pretraining+labels-10")
    for seed in SEEDS:
        make_seed(tmp_path / f"seed-{seed}", seed, dict.fromkeys(arms, 1.0))
    combine_seeds(tmp_path, replicates=50)
    drawing = (tmp_path / "labels.svg").read_text()
    assert {f">{share}<" for share in (10, 25, 100)} <= set(re.findall(r">\d+<", drawing))


def test_a_picture_says_which_arms_have_fewer_seeds(tmp_path: Path) -> None:
    few = ("full+labels-10", "no-pretraining+labels-10")
    for seed in SEEDS:
        arms = ("full", "no-pretraining", *(few if seed == SEEDS[0] else ()))
        make_seed(tmp_path / f"seed-{seed}", seed, dict.fromkeys(arms, 1.0))
    combine_seeds(tmp_path, replicates=50)
    for name in ("forest", "differences"):
        rows = re.findall(r"<text[^>]*>([^<]*seeds?\))<", (tmp_path / f"{name}.svg").read_text())
        assert rows == [f"{arm} (1 seed)" for arm in few]
    shares = re.findall(r">(\d+ seeds?|\d+)<", (tmp_path / "labels.svg").read_text())
    assert shares[:3] == ["10", "1 seed", "100"]


def test_with_few_labels_too_pretraining_is_held_against_none(tmp_path: Path) -> None:
    strength = {"full": 1.4, "no-pretraining": 1.0, "full+labels-10": 1.2, "no-pretraining+labels-10": 0.5}
    strength["full+labels-5"] = 1.0  # whose rival was not run
    for seed in SEEDS:
        make_seed(tmp_path / f"seed-{seed}", seed, strength)
    found, text = judged(tmp_path)
    few = found.delta("full+labels-10", "no-pretraining+labels-10", found.split)
    assert few is not None
    areas = [found.auc(arm, found.split) for arm in ("full+labels-10", "no-pretraining+labels-10")]
    assert few.each == tuple(a - b for a, b in zip(*(one.each for one in areas if one), strict=True))
    table = text.split("## With less without pre-training, synthetic data")[1].split("##")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert rows[2:] == ["full", "full+labels-10"]


def test_an_arm_that_one_seed_lacks_is_judged_on_the_others(tmp_path: Path) -> None:
    for seed in SEEDS:
        arms = STRENGTH if seed else {"full": 3.0, "no-pretraining": 1.5}
        make_seed(tmp_path / f"seed-{seed}", seed, arms)
    found, _ = judged(tmp_path)
    delta = found.delta("full", "afp", "external")
    assert delta is not None
    assert delta.seeds == (1, 2)
    assert claim(found, "full − afp").note == "on 2 of 3 seeds"


def test_one_class_only_is_not_defined(tmp_path: Path) -> None:
    folder = make_seed(tmp_path / "seed-0", 0)
    scores = (folder / "scores.csv").read_text().splitlines()
    kept = [line for line in scores if ",external," not in line or ",0," in line]
    (folder / "scores.csv").write_text("\n".join(kept) + "\n")
    found, text = judged(tmp_path)
    outside = found.auc("full", "external")
    assert outside is not None
    assert outside.value is None
    assert outside.reason
    assert claim(found, "full − afp").verdict == NOT_DEFINED
    assert "not defined: " in text


def test_another_study_is_refused_by_the_key_that_differs(tmp_path: Path) -> None:
    make_seed(tmp_path / "seed-0", 0, changes=["finetune.learning_rate=0.25"])
    make_seed(tmp_path / "seed-1", 1, changes=["finetune.learning_rate=0.5", "name=other"])
    with pytest.raises(
        ConfigError, match=r"seed-1: finetune\.learning_rate is 0\.5 here, but 0\.25 in seed-0"
    ):
        read_runs(tmp_path)


def test_another_name_and_other_arms_are_the_same_study(tmp_path: Path) -> None:
    make_seed(tmp_path / "seed-0", 0)
    make_seed(tmp_path / "seed-1", 1, changes=["name=other", "evaluation.arms=[full]", "data.path=elsewhere"])
    assert [run.seed for run in read_runs(tmp_path)[0]] == [0, 1]


def test_seeds_that_share_patients_are_said_to(tmp_path: Path) -> None:
    for seed in SEEDS:
        make_seed(tmp_path / f"seed-{seed}", seed, {"full": 1.0}, ["data.phantom.seed=4"])
    found, text = judged(tmp_path)
    assert found.same_patients
    assert found.same_test
    assert "Every seed is judged on the same patients of the external test" in text
    assert "once for all of them" in text
    assert "Seeds 0, 1, 2; a seed stands for other first weights." in text
    other = tmp_path / "other"
    for seed in SEEDS:
        make_seed(other / f"seed-{seed}", seed, {"full": 1.0}, [f"data.phantom.seed={min(seed, 1)}"])
    found, text = judged(other)
    assert (found.same_patients, found.same_test) == (True, False)  # two of three
    assert "another split of the same patients" in text
    assert "the intervals are too narrow" in text


def test_without_an_external_centre_the_internal_test_judges(tmp_path: Path) -> None:
    """Real data whose test comes with them, shared out to other virtual centres by each seed."""
    for seed in SEEDS:
        rows = [
            replace(row, patient=f"{row.centre}-{row.patient}", case=f"{row.centre}-{row.case}")
            for row in made_scores(seed, {"full": 2.0, "pooled": 2.0, "full+labels-10": 1.0})
            if row.split != "external"
        ]
        dealt = [replace(row, centre=f"virtual-{1 + (int(row.case[-3:]) + seed) % 3}") for row in rows]
        changes = [f"seed={seed}", "data.path=/deep/file.npz", "data.crop.size=[16, 16, 16]"]
        study = load_study(find_study("adrenal"), changes)
        data = {"synthetic": False, "source": "medmnist", "patients": 140, "split": []}
        digests = {"splits": f"{seed}" * 64}
        summary = build_summary(dealt, study=study.name, data=data, digests=digests, bootstrap=0)
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        (folder / "study.yaml").write_text(dump_study(study))
        (folder / "scores.csv").write_text(scores_csv(dealt))
        (folder / "summary.json").write_text(summary.model_dump_json())
    runs, left_out = read_runs(tmp_path)
    found = combine(runs, left_out, replicates=100)
    assert (found.split, found.same_test, found.tests) == ("internal", True, ("internal",))
    assert {claim.claim: claim.verdict for claim in found.claims}["full − pooled"] not in (
        NOT_RUN,
        NOT_DEFINED,
    )
    text = markdown(found, [], configuration(runs[0].study, found))
    assert "The internal test is the validation part that comes with the data; its test part was not" in text
    assert "## Claims, internal test" in text
    assert "external" not in text
    assert "another share of the same training patients to centres" in text
    sets = "--set 'data.crop.size=[16,16,16]' --set data.path=file.npz"
    assert f"phcc-simulate seeds adrenal {sets} --seeds 0,1,2 --arm full --arm pooled " in text
    again = load_study(find_study("adrenal"), ["data.crop.size=[16,16,16]"])
    assert again.data.crop == runs[0].study.data.crop
    pictures = {one.picture.name: one.picture.document for one in drawings(found, runs)}
    assert {"forest", "differences", "labels"} <= set(pictures)
    for name in ("forest", "differences", "labels"):
        assert "internal test" in pictures[name]
        assert "external" not in pictures[name]
    assert "source: medmnist" in text
    assert "/deep" not in text


@settings(max_examples=6, deadline=None)
@given(first=st.sets(st.sampled_from(sorted(STRENGTH)), min_size=1, max_size=3))
def test_a_seed_in_two_folders_says_what_it_says_in_one(first: set[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole = make_seed(Path(name) / "whole" / "seed-7", 7)
        parts = Path(name) / "parts"
        for folder, arms in (("seed-7", first), ("seed-7-more", set(STRENGTH) - first)):
            part_of(parts / folder, whole, arms)
        one, other = (combine(read_runs(out)[0], replicates=20) for out in (whole.parent, parts))
    assert {area.arm: area.auc for area in other.arms if area.split == "external"} == {
        area.arm: area.auc for area in one.arms if area.split == "external"
    }
    assert [claim.found for claim in other.claims] == [claim.found for claim in one.claims]
    assert {work.arm: work for work in other.works} == {work.arm: work for work in one.works}
    assert other.seeds[0].seconds == one.seeds[0].seconds


def test_parts_of_a_seed_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    whole = make_seed(tmp_path / "whole" / "seed-0", 0)
    part_of(tmp_path / "seed-0", whole, {"full", "afp"})
    more = part_of(tmp_path / "seed-0-more", whole, {"pooled", "afp"})
    with pytest.raises(ConfigError, match="has the arm afp of seed 0, as seed-0 has"):
        read_runs(tmp_path)
    summary = json.loads((more / "summary.json").read_text())
    summary["digests"]["phantom"] = "0" * 64
    (more / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(ConfigError, match="other patients than seed-0, though both are of seed 0"):
        read_runs(tmp_path)


def test_what_is_not_finished_is_left_out_and_said(tmp_path: Path) -> None:
    make_seed(tmp_path / "seed-0", 0)
    (tmp_path / "seed-1").mkdir()
    found, text = judged(tmp_path)
    assert found.left_out == ("seed-1",)
    assert "left out: seed-1" in text
    assert "the interval says nothing about seeds" in text


def test_scores_of_other_arms_than_the_summarys_are_refused(tmp_path: Path) -> None:
    folder = make_seed(tmp_path / "seed-0", 0)
    lines = (folder / "scores.csv").read_text().splitlines()
    (folder / "scores.csv").write_text(
        "\n".join(line for line in lines if not line.startswith("afp,")) + "\n"
    )
    with pytest.raises(StorageError, match="not of the same arms"):
        read_run(folder)


def test_pretraining_that_another_arm_did_is_found(tmp_path: Path) -> None:
    folder = make_seed(tmp_path / "seed-0", 0, {"full": 1.0, "given": 1.0, "uniform": 1.0})
    plain = json.loads((folder / "summary.json").read_text())
    for record in plain["rounds"]:
        if (record["arm"], record["stage"]) == ("full", "pretrain"):
            record["arm"] = "given"  # pooled over another place: stage 1 is the same
    (folder / "summary.json").write_text(json.dumps(plain))
    run = read_run(folder)
    assert len(rounds_of(run, "full", "pretrain")) == 4
    assert rounds_of(run, "uniform", "pretrain") == []
    # The round of uniform weights plays no part.
    assert weighting_of(run, "full") == pytest.approx((0.01, 0.02, 0.8))
    assert len(made_rounds(0, ["full"])) == 9


@given(value=st.floats(-0.5, 0.5), below=st.floats(0.0, 0.3))
def test_a_verdict_follows_from_mean_and_interval(value: float, below: float) -> None:
    figure = Figure(value=value, ci=(value - below, value + 0.1), each=(value,), seeds=(0,))
    arms = ("no-pretraining", "afp", "kinetics", "pooled")
    found = Combined(
        study="made",
        synthetic=True,
        confidence=0.95,
        replicates=1,
        bootstrap="",
        split="external",
        seeds=(),
        arms=tuple(ArmFigure(arm=arm, split="external", auc=figure) for arm in arms),
        differences=tuple(DifferenceFigure(a="full", b=arm, split="external", delta=figure) for arm in arms),
        claims=(),
    )
    verdicts = {one.claim.removeprefix("full − "): one.verdict for one in claims_of(found, [])}
    low = value - below
    assert verdicts["no-pretraining"] == (HOLDS if value >= 0.05 and low > 0 else NOT)
    assert verdicts["afp"] == (NOT if value < 0.15 else HOLDS if low > 0 else ON_AVERAGE)
    assert verdicts["kinetics"] == (NOT if value <= 0 else HOLDS if low > 0 else ON_AVERAGE)
    assert verdicts["pooled"] == (NOT if value < -0.01 else HOLDS if low >= -0.01 else ON_AVERAGE)


def test_the_command_prints_what_it_found(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["combine", str(made)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "3 seeds together, synthetic data" in said
    assert "combined.md" in said


def test_the_command_says_where_nothing_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["combine", str(tmp_path)])
    assert ended.value.code == 1
    assert "no finished seed lies in this folder" in capsys.readouterr().err.replace("\n", " ")


def test_a_centre_that_fine_tunes_alone_is_compared_with_itself_pretrained_alone(tmp_path: Path) -> None:
    strength = {"full": 3.0, "local:C1": 0.5, "finetuned-at:C1": 1.5}
    runs = [read_run(make_seed(tmp_path / f"seed-{seed}", seed, strength)) for seed in (3, 4)]
    found = combine(runs, replicates=200)
    gain = found.delta("finetuned-at:C1", "local:C1", "external")
    areas = [found.auc(arm, "external") for arm in ("finetuned-at:C1", "local:C1")]
    assert gain is not None
    assert None not in areas
    assert gain.value == pytest.approx(areas[0].value - areas[1].value)  # type: ignore[union-attr, operator]
    page = markdown(found, [])
    table = page.split("## Pre-trained by all centres less by one's own, synthetic data")[1].split("##")[0]
    assert "| finetuned-at:C1 − local:C1 | +0." in table
    assert found.delta("local:C1", "finetuned-at:C1", "external") is None


def test_no_such_table_where_nothing_was_so_compared(made: Path) -> None:
    assert "by one's own" not in (made / "combined.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arm", "rival"),
    [
        ("full", "no-pretraining"),
        ("full+labels-10", "no-pretraining+labels-10"),
        ("given", "given+no-pretraining"),
        ("local:C1", "local:C1+no-pretraining"),
    ],
)
def test_each_arm_has_a_rival_that_was_not_pretrained(arm: str, rival: str) -> None:
    assert without_pretraining(arm) == rival
    plans = plan_arms([arm, rival], StudyConfig(), ["C1", "C2"])
    assert [plan.study.pretrain.rounds > 0 for plan in plans] == [True, False]
