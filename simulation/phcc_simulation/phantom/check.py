"""Can the planted signs be seen? Asked of small networks trained on the signs, before any method is studied.

A phantom on which a network learns one sign of three and stops says nothing about a method. So: every sign
must be visible with all phases; the kinetic sign must stay hidden in any single phase; and a network that is
shown nothing but the label must not live on one sign alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from phcc_model.config import CropSettings, PhantomSettings, Phase
from phcc_model.errors import DatasetError
from phcc_model.seeds import derive_seed

from .centres import external_centre, training_centres
from .crops import PatientCrop, arterial_portal_ratio, crop_patient, network_input
from .layout import Task
from .oracle import best_possible_auc
from .patient import PHANTOM_PHASES, PhantomPatient, make_patient, patient_signs, present_phases
from .pool import map_ordered
from .scanner import ScannerProfile
from .signs import SIGNS
from .signs_net import SignsNet, predict_signs, train_signs_net

TARGETS = (*SIGNS, "proliferative")
ALL_PHASES = "all phases"
EXTERNAL_ROW = "all phases, external"
LABEL_ROW = "trained on the label"

VISIBLE = 0.90
"""A sign's AUC with all phases, at least."""
VISIBLE_EXTERNAL = 0.85
"""The same at a scanner that the network was not trained on."""
HIDDEN: dict[Phase, float] = {"pre-contrast": 0.60, "arterial": 0.65, "portal-venous": 0.60, "delayed": 0.60}
"""The kinetic sign's AUC from one phase, at most; the arterial phase is where wash-out begins."""
DOMINANT = 0.15
"""No sign may be easier to see than another by more than this AUC."""
LEARNED = 0.60
"""AUC for every sign, at least, of a score that was trained on the label alone."""

StageProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class VisibilityRow:
    """One network: what it saw, and the AUC of its scores for each target on cases it was not trained on."""

    inputs: str
    auc: dict[str, float]


@dataclass(frozen=True)
class VisibilityReport:
    """What could be seen.

    Attributes:
        rows: one per network.
        ratio_auc: AUC for the label of one number, the arterial over the portal venous contrast.
        best_possible: AUC of the planted signs themselves, by what the score may see.
        cases: training cases.
        test_cases: test cases, other patients of the same centres.
        failures: rules that do not hold, each as a sentence.
    """

    rows: tuple[VisibilityRow, ...]
    ratio_auc: float
    best_possible: dict[str, float]
    cases: int
    test_cases: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return not self.failures

    def table(self) -> list[list[str]]:
        """A header and one line per network, as text."""
        body = [[row.inputs, *(f"{row.auc[name]:.3f}" for name in TARGETS)] for row in self.rows]
        return [["inputs", *TARGETS], *body]


def check_visibility(
    settings: PhantomSettings,
    *,
    cases: int = 1000,
    test_cases: int = 1000,
    external_cases: int = 300,
    epochs: int = 10,
    jobs: int = 1,
    crop: CropSettings | None = None,
    progress: StageProgress | None = None,
) -> VisibilityReport:
    """Render patients on their scanners' grids, cut them out, train the networks and judge the phantom.

    One network sees all phases and is scored at the training centres and at the external one; one network per
    phase sees that phase; all of these are trained on the three signs and the label together. A last one sees
    all phases and is trained on the label alone; its score is held against each sign.

    Args:
        settings: of the phantom; its numbers of patients do not count.
        cases: training cases, from the training centres in turn.
        test_cases: test cases from the same centres; 1,000 give an AUC's standard error of about 0.02.
        external_cases: test cases from the external centre; 0 leaves that row out.
        epochs: of each training.
        jobs: processes for the rendering.
        crop: the crop's grid.
        progress: called with (stage, done, total).

    Raises:
        DatasetError: a sign never occurs or always does, so that nothing can be scored.
    """
    tasks = _complete_cases(settings, training_centres(settings), cases + test_cases)
    tasks += _complete_cases(settings, (external_centre(settings),), external_cases)
    drawn = _render(settings, tasks, crop or CropSettings(), jobs, progress)
    train, test = drawn.part(0, cases), drawn.part(cases, cases + test_cases)
    rows = _rows(train, test, drawn.part(cases + test_cases), epochs, settings.seed, progress)
    return VisibilityReport(
        rows=tuple(rows),
        ratio_auc=_auc(test.target[:, -1], np.array([arterial_portal_ratio(case) for case in test.crops])),
        best_possible=best_possible_auc(settings),
        cases=cases,
        test_cases=test_cases,
        failures=judge(rows),
    )


def _rows(
    train: _Cases, test: _Cases, external: _Cases, epochs: int, seed: int, progress: StageProgress | None
) -> list[VisibilityRow]:
    rows = []
    for inputs, phase in ((ALL_PHASES, None), *((str(p), p) for p in PHANTOM_PHASES)):
        net = _train(train, train.target, inputs, phase, epochs, seed, progress)
        rows.append(VisibilityRow(inputs, _aucs(test.scores(net, phase), test.target)))
        if phase is None and external.crops:
            rows.append(VisibilityRow(EXTERNAL_ROW, _aucs(external.scores(net, None), external.target)))
    net = _train(train, train.target[:, -1:], LABEL_ROW, None, epochs, seed, progress)
    score = np.repeat(test.scores(net, None), len(TARGETS), axis=1)
    rows.append(VisibilityRow(LABEL_ROW, _aucs(score, test.target)))
    return rows


def judge(rows: list[VisibilityRow]) -> tuple[str, ...]:
    """The rules of METHOD 8 and 9 that these rows break, each as a sentence."""
    table = {row.inputs: row.auc for row in rows}
    broken = [
        f"{sign} cannot be seen: AUC {table[name][sign]:.3f} with {name}, below {least:.2f}"
        for name, least in ((ALL_PHASES, VISIBLE), (EXTERNAL_ROW, VISIBLE_EXTERNAL))
        for sign in SIGNS
        if name in table and table[name][sign] < least
    ]
    for phase, most in HIDDEN.items():
        if phase in table and table[phase]["washout"] > most:
            broken.append(
                f"wash-out shows in the {phase} phase alone: AUC {table[phase]['washout']:.3f}, "
                f"above {most:.2f}"
            )
    if ALL_PHASES in table:
        seen = [table[ALL_PHASES][sign] for sign in SIGNS]
        if max(seen) - min(seen) > DOMINANT:
            broken.append(
                f"one sign dominates: AUC from {min(seen):.3f} to {max(seen):.3f} with {ALL_PHASES}"
            )
    if LABEL_ROW in table:
        broken.extend(
            f"{sign} plays no part in a score trained on the label: AUC {table[LABEL_ROW][sign]:.3f}"
            for sign in SIGNS
            if table[LABEL_ROW][sign] < LEARNED
        )
    return tuple(broken)


def region_visibility(settings: PhantomSettings, cases: int, jobs: int = 1) -> dict[str, dict[str, float]]:
    """The quick form: logistic regression on mean signals of true regions instead of a network.

    Features are log mean signal over the liver's median, in the outer shell, the deeper part and the core's
    place, for each phase; scores are cross-validated.

    Args:
        settings: of the phantom.
        cases: patients, from the training centres in turn.
        jobs: processes for the rendering.

    Returns:
        For all phases and for each single phase, the AUC of each target.
    """
    tasks = _complete_cases(settings, training_centres(settings), cases)
    features = np.stack(list(map_ordered(partial(_regions_of, settings), tasks, jobs)))
    target = _targets(settings, tasks)
    result = {}
    for name, chosen in (
        (ALL_PHASES, slice(None)),
        *((p, slice(i, i + 1)) for i, p in enumerate(PHANTOM_PHASES)),
    ):
        x = features[:, chosen].reshape(len(features), -1)
        scores = []
        for column in range(len(TARGETS)):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=10.0, solver="liblinear"))
            folds = StratifiedKFold(5, shuffle=True, random_state=0)
            scores.append(
                cross_val_predict(model, x, target[:, column], cv=folds, method="decision_function")
            )
        result[str(name)] = _aucs(np.stack(scores, axis=1), target)
    return result


def region_features(patient: PhantomPatient) -> NDArray[np.float64]:
    """Log of mean signal over the liver's median; axes phase, region (outer shell, deeper part, core)."""
    parts = patient.anatomy.parts(patient.profile.axes)
    inside, deep, core = parts.lesion > 0.8, parts.inner > 0.8, parts.core > 0.8
    liver = (parts.lesion < 0.02) & (parts.vessel < 0.1)
    regions = (inside & (parts.inner < 0.2), inside & deep & ~core, inside & core)
    rows = []
    for phase in PHANTOM_PHASES:
        volume = patient.images[phase].volume_zyx.astype(np.float64)
        rows.append([np.log(volume[region].mean() / np.median(volume[liver])) for region in regions])
    return np.array(rows)


@dataclass(frozen=True)
class _Cases:
    """Rendered cases: crops, the lesion's box (n, d, h, w) and what is to be seen (n, target)."""

    crops: tuple[PatientCrop, ...]
    box: NDArray[np.float32]
    target: NDArray[np.int64]

    def part(self, start: int, stop: int | None = None) -> _Cases:
        return _Cases(self.crops[start:stop], self.box[start:stop], self.target[start:stop])

    def inputs(self, phase: Phase | None) -> NDArray[np.float32]:
        return np.stack([network_input(crop, phase) for crop in self.crops])

    def scores(self, net: SignsNet, phase: Phase | None) -> NDArray[np.float32]:
        return predict_signs(net, self.inputs(phase), self.box)


def _train(
    cases: _Cases,
    target: NDArray[np.int64],
    name: str,
    phase: Phase | None,
    epochs: int,
    seed: int,
    progress: StageProgress | None,
) -> SignsNet:
    return train_signs_net(
        cases.inputs(phase),
        cases.box,
        target,
        epochs=epochs,
        seed=derive_seed(seed, "signs-net", name),
        progress=partial(progress, f"network: {name}") if progress else None,
    )


def _complete_cases(settings: PhantomSettings, centres: tuple[ScannerProfile, ...], count: int) -> list[Task]:
    """The first patients that have all phases, from the centres in turn."""
    turns = ((centre, number) for number in range(2 * count + 100) for centre in centres)
    return list(islice((t for t in turns if len(present_phases(settings, *t)) == len(PHANTOM_PHASES)), count))


def _render(
    settings: PhantomSettings,
    tasks: list[Task],
    grid: CropSettings,
    jobs: int,
    progress: StageProgress | None,
) -> _Cases:
    stage = partial(progress, "patients") if progress else None
    crops = tuple(map_ordered(partial(_crop_of, settings, grid), tasks, jobs, stage))
    return _Cases(crops, np.stack([crop.box_dhw for crop in crops]), _targets(settings, tasks))


def _targets(settings: PhantomSettings, tasks: list[Task]) -> NDArray[np.int64]:
    rows = [patient_signs(settings, *task).as_row() for task in tasks]
    return np.array([[int(row[name]) for name in TARGETS] for row in rows], dtype=np.int64)


def _crop_of(settings: PhantomSettings, grid: CropSettings, task: Task) -> PatientCrop:
    return crop_patient(make_patient(settings, *task), grid)


def _regions_of(settings: PhantomSettings, task: Task) -> NDArray[np.float64]:
    return region_features(make_patient(settings, *task))


def _aucs(score_nt: NDArray[np.float32], target_nt: NDArray[np.int64]) -> dict[str, float]:
    return {name: _auc(target_nt[:, i], score_nt[:, i]) for i, name in enumerate(TARGETS)}


def _auc(target: NDArray[np.int64], score: NDArray[np.float64] | NDArray[np.float32]) -> float:
    if len(np.unique(target)) < 2:
        raise DatasetError(
            "a sign is present in all of the cases or in none, so it cannot be scored",
            where="phantom check",
            remedy="Ask for more cases, or for sign probabilities between 0 and 1",
        )
    return float(roc_auc_score(target, score))
