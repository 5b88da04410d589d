"""Folders of finished seeds, made up in milliseconds with the project's own writers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phcc_model.config import StudyConfig
from phcc_model.seeds import generator
from phcc_model.study_file import dump_study, load_study
from phcc_server.report.evaluation import ScoredCase
from phcc_server.report.scores import read_scores, scores_csv
from phcc_server.report.summary import build_summary

REPOSITORY = Path(__file__).parents[3]
PARTS = (
    ("C1", "train", 40),
    ("C2", "train", 40),
    ("C1", "test", 30),
    ("C2", "test", 30),
    ("X1", "external", 60),
)
STRENGTH = {"full": 3.0, "no-pretraining": 1.5, "afp": 0.8, "pooled": 3.0}
"""How far apart an arm's scores of the two classes lie, in standard deviations."""


def made_study(seed: int, *changes: str) -> StudyConfig:
    seeds = [f"seed={seed}", f"data.phantom.seed={seed}"]
    return load_study(REPOSITORY / "configs" / "demo.yaml", [*seeds, *changes])


def made_scores(seed: int, strength: Mapping[str, float], unknown: int = 1) -> list[ScoredCase]:
    """Each arm's scores of the same patients; the last patients of every part have no label."""
    source = generator(seed, "made")
    rows = []
    for centre, split, count in PARTS:
        label = (np.arange(count) % 5 < 2).astype(int)
        common = source.normal(size=count)
        for arm, apart in strength.items():
            value = apart * label + 0.5 * common + source.normal(size=count)
            for i in range(count):
                known = int(label[i]) if i < count - unknown else -1
                name = f"{split}-{i:03d}"
                rows.append(ScoredCase(arm, name, name, centre, split, known, float(value[i]), 0.5))
    return rows


def made_round(arm: str, stage: str, number: int, seed: int, **metrics: float) -> dict[str, Any]:
    moved = {"bytes_up": 1_000, "bytes_down": 3_000}
    sites = {
        c: {"metrics": {"loss": 1.0 / (number + 1), **metrics}, "cases": 40, **moved} for c in ("C1", "C2")
    }
    of_seed = 0.01 * seed
    validation = {"loss": 0.9 ** (number + 1) + of_seed}
    if stage == "finetune":
        validation["auc"] = min(0.95, 0.6 + 0.05 * number + of_seed)
    return {
        "arm": arm,
        "stage": stage,
        "round": number,
        "status": "COMPLETE",
        "sites": sites,
        "seconds": 2.0,
        "validation": validation,
        "versions": {"package": "0.1.0"},
    }


def made_rounds(seed: int, arms: Sequence[str], effective: float = 0.8) -> list[dict[str, Any]]:
    rounds = [
        made_round(
            "full",
            "pretrain",
            number,
            seed,
            effective_rank=5.0 + number,
            # The first round is of uniform weights, as a study's first share of the pre-training is.
            effective_sample_size=1.0 if number == 0 else effective,
            decorrelation_weighted=0.02 if number == 0 else 0.01,
            decorrelation_uniform=0.02,
        )
        for number in range(4)
        if "full" in arms
    ]
    trained = [arm for arm in arms if arm != "afp"]
    return rounds + [made_round(arm, "finetune", number, seed) for arm in trained for number in range(5)]


def make_seed(
    folder: Path,
    seed: int,
    strength: Mapping[str, float] = STRENGTH,
    changes: Sequence[str] = (),
    *,
    effective: float = 0.8,
    synthetic: bool = True,
) -> Path:
    """One finished seed's folder."""
    folder.mkdir(parents=True)
    study = made_study(seed, *changes)
    scored = made_scores(seed, strength)
    summary = build_summary(
        scored,
        study=study.name,
        data={
            "synthetic": synthetic,
            "source": "phantom",
            "patients": 200,
            "split": [
                {"centre": centre, "split": split, "positives": 2 * count // 5, "negatives": 3 * count // 5}
                for centre, split, count in PARTS
            ],
        },
        rounds=made_rounds(seed, list(strength), effective),
        best_possible_auc={"one sign": 0.72, "three signs": 0.98} if synthetic else {},
        timing={"total_s": 12.5},
        digests={"study": study.digest, "splits": "5" * 64, "phantom": "f" * 64},
        bootstrap=0,
    )
    (folder / "study.yaml").write_text(dump_study(study), encoding="utf-8")
    (folder / "scores.csv").write_text(scores_csv(scored), encoding="utf-8")
    (folder / "summary.json").write_text(summary.model_dump_json(), encoding="utf-8")
    return folder


def part_of(folder: Path, whole: Path, arms: set[str]) -> Path:
    """A folder with some of a finished seed's arms, as if these alone had been run."""
    shutil.copytree(whole, folder)
    scored = [row for row in read_scores(whole / "scores.csv") if row.arm in arms]
    (folder / "scores.csv").write_text(scores_csv(scored), encoding="utf-8")
    summary = json.loads((whole / "summary.json").read_text())
    summary["arms"] = {arm: figures for arm, figures in summary["arms"].items() if arm in arms}
    summary["rounds"] = [record for record in summary["rounds"] if record["arm"] in arms]
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder
