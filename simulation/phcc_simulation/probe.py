"""What an encoder's frozen features hold, asked by logistic regression: the label, and a phantom's planted signs.

An arm's AUC does not say why it is what it is. Here the encoder of one arm is looked at with random weights,
after stage 1 and after stage 2, pooled over the lesion as it is given, so that finding it plays no part: can a
linear reader tell the signs, and how many labels does it take to tell the diagnosis? Stage 2 has seen the arm's
labels: how few its reader is given says nothing there.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from phcc_model.arms import ArmPlan
from phcc_model.build import build_classifier
from phcc_model.cases import CaseSet
from phcc_model.checkpoint import load_checkpoint
from phcc_model.classifier import Classifier
from phcc_model.errors import DatasetError
from phcc_model.seeds import derive_seed, generator
from phcc_model.training import effective_rank
from phcc_model.training.batches import Batch, in_order
from phcc_model.training.steps import evaluation_mode
from phcc_server.progress import pretrained_file
from phcc_simulation.finished import RunModel, splits_of
from phcc_simulation.phantom.signs import SIGNS
from phcc_simulation.study_run import CHECKPOINTS

POOLING = "gap+lesion+rim+core+spread"
"""What is read: means over the crop, the lesion, its rim and core, and the spread within it."""
RANDOM, PRETRAINED, FINETUNED = "random weights", "pre-trained", "fine-tuned"
LABEL = "label"
FOLDS = 4
PENALTIES = tuple(10.0**power for power in range(-5, 2))
CASES_AT_ONCE = 16

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Reading:
    """One linear reader of one encoder.

    Attributes:
        network: `RANDOM`, `PRETRAINED` or `FINETUNED`.
        rank: effective rank of the training patients' features.
        target: a planted sign or `LABEL`.
        patients: with the target known that it was fitted on.
        draws: of so many patients, over which the AUCs are means.
        internal, external: AUC on test patients of the training centres, of the external ones; None where there
            are none of both classes.
    """

    network: str
    rank: float
    target: str
    patients: int
    draws: int
    internal: float | None
    external: float | None


@dataclass(frozen=True)
class Patients:
    """Who is read: training, internal test and external cases, and the signs of each, -1 where not known."""

    parts: tuple[CaseSet, CaseSet, CaseSet]
    signs: tuple[Mapping[str, NDArray[np.int64]], ...]

    @classmethod
    def of(cls, found: RunModel) -> Patients:
        """A run's patients.

        Raises:
            DatasetError: there are no training patients, or a site's folder is damaged.
        """
        splits = splits_of(found.run)
        training, internal = found.cases(splits.centres, "train"), found.cases(splits.centres, "test")
        external = found.cases(splits.external, "test") if splits.external else training.take([])
        parts = training, internal, external
        known = read_signs(found.data / "truth" / "signs.csv")
        signs = tuple(
            {sign: np.array([known.get(p, {}).get(sign, -1) for p in part.patient]) for sign in SIGNS}
            for part in parts
        )
        return cls(parts, signs if known else ({}, {}, {}))

    def target(self, name: str, part: int) -> NDArray[np.int64]:
        """The target of each case of a part: 1, 0, or -1 where it is not known."""
        cases = self.parts[part]
        return np.asarray(cases.label_n if name == LABEL else self.signs[part][name], dtype=np.int64)


def read_signs(path: Path) -> dict[str, dict[str, int]]:
    """The planted signs of each patient of a phantom; empty where there is no such file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["patient"]: {sign: int(row[sign]) for sign in SIGNS} for row in csv.DictReader(file)}


def probe(
    found: RunModel, patients: Patients, labels: Sequence[int], draws: int, progress: Progress
) -> Iterator[Reading]:
    """Read the arm's encoder as it was at each stage.

    Args:
        found: the arm.
        patients: of its run.
        labels: how many labelled training patients to draw; a number that there are not is left out. All of
            them are always read as well.
        draws: of each number.
        progress: called with (what, done, total).

    Raises:
        DatasetError: the training patients are not of two classes.
        StorageError: a checkpoint is damaged.
    """
    networks = list(_encoders(found))
    for done, (name, model) in enumerate(networks, start=1):
        features = [pooled_features(model, part) for part in patients.parts]
        rank = effective_rank(features[0])
        everyone = int((patients.target(LABEL, 0) >= 0).sum())
        asked = [(LABEL, count, draws) for count in labels if count < everyone] + [(LABEL, everyone, 1)]
        asked += [(sign, len(patients.parts[0]), 1) for sign in patients.signs[0]]
        for target, count, times in asked:
            pairs = [(x, patients.target(target, part)) for part, x in enumerate(features)]
            auc = np.array([_read(pairs, count, found.study.seed, draw) for draw in range(times)])
            internal, external = (None if np.isnan(a).any() else float(a.mean()) for a in auc.T)
            yield Reading(name, rank, target, count, times, internal, external)
        progress("reading encoders", done, len(networks))


def pooled_features(model: Classifier, cases: CaseSet) -> NDArray[np.float64]:
    """What the encoder makes of each case, pooled: [n, tokens * channels * parts of the pooling]."""
    device = torch.device("cpu")
    with evaluation_mode(model, device):
        batches = (Batch.of(cases, at_b, device) for at_b in in_order(len(cases), CASES_AT_ONCE))
        parts = [
            model.features(b.volumes_bpdhw, b.present_bp, b.lesion_bdhw, model.draw_paths(b.present_bp))[0]
            for b in batches
        ]
    return torch.cat(parts).flatten(1).double().numpy() if parts else np.zeros((0, 1))


def _encoders(found: RunModel) -> Iterator[tuple[str, Classifier]]:
    """The arm's classifier with this module's pooling; its encoder at the start and after each stage."""
    yield RANDOM, _reader(found.plan, None)
    path = pretrained_file(found.run / CHECKPOINTS, found.plan)
    if found.plan.pretrain_key is not None and path.is_file():
        yield PRETRAINED, _reader(found.plan, load_checkpoint(path)[0])
    yield FINETUNED, _reader(found.plan, {n: a.numpy() for n, a in found.model.state_dict().items()})


def _reader(plan: ArmPlan, weights: Mapping[str, NDArray[Any]] | None) -> Classifier:
    head = plan.study.model.classifier.model_copy(update={"pooling": POOLING})
    settings = plan.study.model.model_copy(update={"classifier": head})
    model = build_classifier(plan.study.model_copy(update={"model": settings}))
    if weights is not None:
        model.load_encoder({name: torch.from_numpy(array) for name, array in weights.items()})
    return model


def _read(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]], count: int, seed: int, draw: int
) -> tuple[float, float]:
    """AUC inside and outside of a reader fitted on so many patients of one draw; NaN where it is not defined."""
    (x_nf, y_n), *tests = pairs
    order = generator(seed, "probe", draw).permutation(np.flatnonzero(y_n >= 0))[:count]
    folds = min(FOLDS, *np.bincount(y_n[order], minlength=2).tolist())
    if folds < 2:
        raise DatasetError(
            f"{count} training patients, and not two of each class among them",
            where="--labels",
            remedy="Ask for more labels",
        )
    scaler = StandardScaler().fit(x_nf)  # takes no label
    sides = StratifiedKFold(folds, shuffle=True, random_state=derive_seed(seed, "probe", draw) % 2**32)
    search = GridSearchCV(
        make_pipeline(LogisticRegression(max_iter=2000)),
        {"logisticregression__C": PENALTIES},
        scoring="neg_log_loss",
        cv=sides,
    )
    search.fit(scaler.transform(x_nf[order]), y_n[order])
    inside, outside = (_auc(search, scaler, x, y) for x, y in tests)
    return inside, outside


def _auc(
    search: GridSearchCV, scaler: StandardScaler, x_nf: NDArray[np.float64], y_n: NDArray[np.int64]
) -> float:
    known_n = y_n >= 0
    if len(set(y_n[known_n].tolist())) < 2:
        return float("nan")
    return float(roc_auc_score(y_n[known_n], search.decision_function(scaler.transform(x_nf[known_n]))))
