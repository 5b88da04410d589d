"""A made-up study that looks like a real one: three training centres, one external, three arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from scipy.special import expit

from phcc_model.seeds import generator
from phcc_server.report.summary import ScoredCase, Summary, build_summary

CENTRES = {"Aarhus": (90, 24), "Bergen": (150, 38), "Cádiz": (120, 31)}
EXTERNAL = ("Graz", 200)
STRENGTH = {"full": 1.25, "no-pretraining": 1.0, "afp": 0.6}


def make_scored(arms: dict[str, float] | None = None) -> list[ScoredCase]:
    """Scores of every arm on the same patients; the arms share part of their noise."""
    draw = generator(7, "fabricated")
    patients = []
    for centre, (train, test) in CENTRES.items():
        patients += [(centre, "train", f"{centre[0]}{n:03d}") for n in range(train)]
        patients += [(centre, "test", f"{centre[0]}{n:03d}") for n in range(train, train + test)]
    patients += [(EXTERNAL[0], "external", f"G{n:03d}") for n in range(EXTERNAL[1])]
    rows = []
    for centre, split, patient in patients:
        label = int(draw.random() < 0.42)
        shared = draw.normal()
        for arm, strength in (arms or STRENGTH).items():
            own = 0.6 * shared + 0.8 * draw.normal()
            gain = 1.7 if split == "train" and arm != "afp" else 1.0
            score = float(expit(1.3 * (own + gain * strength * (label - 0.5)) - 0.3))
            rows.append(ScoredCase(arm, f"{patient}-1", patient, centre, split, label, score, 0.41))
    return rows


def make_round(arm: str, stage: str, number: int, **changes: Any) -> dict[str, Any]:
    """One record as the ledger keeps it, dumped."""
    draw = generator(8, arm, stage, number)
    fall = 0.9 * 0.8**number + 0.35 if stage == "pretrain" else 0.62 * 0.9**number + 0.1
    sites = {}
    for place, (centre, (train, _)) in enumerate(CENTRES.items()):
        metrics = {"loss": fall * (1 + 0.05 * place) + 0.01 * draw.normal()}
        if stage == "pretrain":
            metrics |= {
                "effective_sample_size": 1.0 if number == 0 else 0.72 + 0.03 * draw.normal(),
                "decorrelation_weighted": 0.06 * 0.9**number,
                "decorrelation_uniform": 0.09 * 0.93**number,
                "effective_rank": 6.0 + 1.5 * number,
            }
        else:
            metrics["auc_training"] = min(1.0, 0.6 + 0.035 * number)
        sites[centre] = {
            "status": "accepted",
            "reason": None,
            "patients": train,
            "cases": train,
            "steps": train // 16,
            "seconds": 3.2 + place,
            "bytes_up": 412_000,
            "bytes_down": 824_000,
            "metrics": metrics,
            "delta_norm": 0.8,
            "weight": train / 360,
        }
    auc = None if stage == "pretrain" else 0.62 + 0.02 * number - 0.001 * number**2
    record = {
        "arm": arm,
        "stage": stage,
        "round": number,
        "status": "COMPLETE",
        "started": "2025-01-01T10:00:00Z",
        "seconds": 6.1,
        "sites": sites,
        "validation": {"loss": fall + 0.08, "auc": auc, "cases": 54},
        "best": False,
        "versions": {"torch": "2.13.0"},
    }
    return record | changes


def make_rounds() -> list[dict[str, Any]]:
    rounds = [make_round("full", "pretrain", n, best=n == 7) for n in range(8)]
    rounds += [make_round("full", "finetune", n, best=n == 9) for n in range(12)]
    rounds += [make_round("no-pretraining", "finetune", n, best=n == 10) for n in range(12)]
    return rounds


def make_data(synthetic: bool = True) -> dict[str, Any]:
    split = []
    for centre, (train, test) in CENTRES.items():
        for name, size in (("train", train - 18), ("validation", 18), ("test", test)):
            split.append((centre, name, round(0.42 * size), size - round(0.42 * size) - 2, 2))
    split.append((EXTERNAL[0], "external", 84, 116, 0))
    names = ("centre", "split", "positives", "negatives", "unknown")
    return {
        "synthetic": synthetic,
        "source": "phantom" if synthetic else "nifti-csv",
        "patients": 653,
        "cases": 653,
        "split": [dict(zip(names, row, strict=True)) for row in split],
        "funnel": {
            "Aarhus": {
                "found": 117,
                "used": 114,
                "set_aside": {"box outside the volume": 2, "NaN voxels": 1},
            },
            "Bergen": {"found": 188, "used": 188},
            "Cádiz": {"found": 153, "used": 151, "set_aside": {"arterial phase cut short": 2}},
            "Graz": {"found": 200, "used": 200},
        },
    }


def make_summary(scored: list[ScoredCase] | None = None, **changes: Any) -> Summary:
    arguments: dict[str, Any] = {
        "study": "demo",
        "data": make_data(),
        "rounds": make_rounds(),
        "best_possible_auc": {"three signs": 0.86, "three signs, AFP and size": 0.89, "AFP": 0.65},
        "timing": {"phantom": 41.3, "arms": {"full": 183.0, "no-pretraining": 96.2, "afp": 0.4}},
        "digests": {"study": "a" * 64, "splits": "b" * 64, "full": "c" * 64},
        "bootstrap": 200,
    }
    return build_summary(make_scored() if scored is None else scored, **(arguments | changes))


@pytest.fixture(scope="session")
def scored() -> list[ScoredCase]:
    return make_scored()


@pytest.fixture(scope="session")
def summary(scored: list[ScoredCase]) -> Summary:
    return make_summary(scored)


@pytest.fixture(scope="session")
def fabricate() -> Callable[..., Summary]:
    """Make a summary of other inputs."""
    return make_summary


@pytest.fixture(scope="session")
def fabricate_round() -> Callable[..., dict[str, Any]]:
    """Make a record of a round."""
    return make_round


@pytest.fixture(scope="session")
def renamed(scored: list[ScoredCase]) -> Callable[[str], list[ScoredCase]]:
    """The same cases, the external centre under another name."""

    def rename(name: str) -> list[ScoredCase]:
        return [dataclasses.replace(row, centre=name) if row.centre == EXTERNAL[0] else row for row in scored]

    return rename
