"""Leave one centre out over rats' curves: the temporal head beside logistic regression, over several seeds.

Of each centre in turn nothing is known: settings are chosen on the curves of the others, leaving out one of
*them* in turn, and everything is fitted on these. Animals are never parted: a centre's are all its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from phcc_model.errors import DatasetError
from phcc_model.statistics import auc, auc_interval, paired_delong
from phcc_simulation.real.rats import Scans
from phcc_simulation.real.rats_schema import BASELINE, FEDERATED, HEAD, ArmAtCentre, CentreFacts, HeldOut
from phcc_simulation.real.temporal import HeadSettings, candidates, score_scans, train_head

CONFIDENCE = 0.95
FOLDS = 3
"""Where a single centre trains, its animals are parted into so many."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class CentreScores:
    """A held-out centre's scans, and the logits of every arm: axes seed, scan."""

    scans: Scans
    logits: dict[str, NDArray[np.float64]]


def leave_one_out(
    scans: Scans, centres: Sequence[str], seeds: Sequence[int], say: Say
) -> Iterator[tuple[HeldOut, CentreScores]]:
    """Hold out some centres in turn.

    Args:
        scans: of all centres.
        centres: those to hold out.
        seeds: of the head's first weights and all that is drawn in its training.
        say: told what is being done.

    Raises:
        DatasetError: there is one centre only, or the others' scans are of one class.
        TrainingError: the loss is not finite.
    """
    if len(scans.centres) < 2:
        raise DatasetError(
            f"all scans are of one centre, {scans.centres[0]}",
            where="leave one centre out",
            remedy="Give the data of several centres",
        )
    for centre in centres:
        if centre not in scans.centres:
            raise DatasetError(
                "there is no scan of this centre",
                where=f"centre {centre}",
                remedy=f"Choose among {', '.join(scans.centres)}",
            )
        training = scans.of(set(scans.centres) - {centre})
        if len(set(training.label_n.tolist())) < 2:
            raise DatasetError(
                "the scans of all other centres are of one class",
                where=f"centre {centre} held out",
                remedy="Give the data of more centres",
            )
        say(f"centre {centre} held out: choosing settings on {', '.join(training.centres)}")
        choice = [judge(training, settings, seeds[0]) for settings in candidates()]
        chosen = min(range(len(choice)), key=lambda i: (-choice[i][0], choice[i][1]))
        held_out = scans.of([centre])
        logits = {BASELINE: fit_baseline(training).decision_function(_ratios(held_out))[None]}
        for arm, sites in ((HEAD, {"all": training}), (FEDERATED, _by_centre(training))):
            say(f"centre {centre} held out: {arm}, {len(seeds)} seeds")
            trained = [train_head(sites, candidates()[chosen], seed) for seed in seeds]
            logits[arm] = np.stack([score_scans(model, held_out) for model in trained])
        arms = tuple(_arm(arm, held_out, logits) for arm in logits)
        found = HeldOut(facts=_facts(held_out, centre), chosen=chosen, choice=tuple(choice), arms=arms)
        yield found, CentreScores(held_out, logits)


def judge(training: Scans, settings: HeadSettings, seed: int) -> tuple[float, float]:
    """What settings are chosen by: mean AUC, then mean log loss (classes balanced), of scans not trained on.

    Args:
        training: scans of the training centres; one centre is left out in turn, of a single centre a third of the
            animals.
        settings: of the head.
        seed: of the head.
    """
    areas, losses = [], []
    for learn, test in folds(training):
        logit_n = score_scans(train_head({"all": learn}, settings, seed), test)
        area = auc(test.label_n, logit_n)
        if area is not None:
            areas.append(area)
            weight_n = compute_sample_weight("balanced", test.label_n)
            probability_n = 1.0 / (1.0 + np.exp(-logit_n))
            losses.append(float(log_loss(test.label_n, probability_n, sample_weight=weight_n, labels=[0, 1])))
    return (float(np.mean(areas)), float(np.mean(losses))) if areas else (0.0, 0.0)


def folds(training: Scans) -> Iterator[tuple[Scans, Scans]]:
    """Scans to learn on and scans to judge by: no animal stands on both sides."""
    if len(training.centres) > 1:
        for centre in training.centres:
            yield training.of(set(training.centres) - {centre}), training.of([centre])
        return
    parts = StratifiedGroupKFold(FOLDS).split(training.ratio_nt, training.label_n, training.animal)
    for learn, test in parts:
        yield training.take(learn), training.take(test)


def fit_baseline(training: Scans) -> Pipeline:
    """Logistic regression on the curve over its pre-contrast mean, standardised; scikit-learn's usual penalty."""
    model: Pipeline = make_pipeline(
        SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=5000)
    )
    return model.fit(_ratios(training), training.label_n)


def _ratios(scans: Scans) -> NDArray[np.float64]:
    return np.where(scans.present_nt, scans.ratio_nt, np.nan)


def _by_centre(scans: Scans) -> dict[str, Scans]:
    return {centre: scans.of([centre]) for centre in scans.centres}


def _arm(arm: str, scans: Scans, logits: dict[str, NDArray[np.float64]]) -> ArmAtCentre:
    each = [auc(scans.label_n, logit_n) for logit_n in logits[arm]]
    mean_n = logits[arm].mean(axis=0)
    found = auc_interval(scans.label_n, mean_n, scans.animal, confidence=CONFIDENCE)
    against = paired_delong(
        scans.label_n, mean_n, logits[BASELINE].mean(axis=0), scans.animal, confidence=CONFIDENCE
    )
    itself = arm == BASELINE
    return ArmAtCentre(
        arm=arm,
        seeds=tuple(area for area in each if area is not None),
        auc=found.auc,
        ci=_limits(found.low, found.high),
        method=found.method,
        reason=found.reason,
        against=None if itself else against.delta,
        against_ci=None if itself else _limits(against.low, against.high),
        warnings=found.warnings,
    )


def _limits(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _facts(scans: Scans, centre: str) -> CentreFacts:
    return CentreFacts(
        centre=centre,
        scans=len(scans),
        animals=scans.animals,
        inhibited=int(scans.label_n.sum()),
        studies=tuple(sorted({name.split("/")[0] for name in scans.name})),
    )
