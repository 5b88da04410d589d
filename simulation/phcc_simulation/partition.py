"""Virtual centres: which patient belongs to which hospital of a simulated federation.

A pure function of the patients, the settings and the seed: neither the order of the rows nor anything drawn
elsewhere matters. All lesions of one patient stay together, whatever the mode (``data.centres.mode``):

    by-centre   the centre that the data name
    scanner     one centre per scanner
    iid         shuffled and dealt evenly, as if every hospital drew from one population
    dirichlet   label skew [F: Li et al., ICDE 2022, after Yurochkin et al., ICML 2019]: the patients of each
                label are shared out by proportions from Dirichlet(alpha); sizes come out uneven too
    quantity    sizes from Dirichlet(alpha), labels by chance [F: Li et al., ICDE 2022]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phcc_client.splits import apportion, external_centres, patient_labels
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import CentreSettings
from phcc_model.errors import SplitError
from phcc_model.seeds import derive_seed, generator

FEWEST_PATIENTS = 2
"""A training centre with fewer patients has none to learn from or none to be judged on."""

_DRAWS = 200  # label skew is drawn again until every centre has its patients, as Li et al. do


@dataclass(frozen=True)
class PatientRow:
    """One patient, or one lesion of a patient, as a data set's table tells it.

    Attributes:
        patient: name of the patient, unique in the data set.
        centre: the data's own centre, None where unknown.
        scanner: the scanner, None where unknown.
        label: 1 proliferative, 0 not, -1 unknown.
    """

    patient: str
    centre: str | None = None
    scanner: str | None = None
    label: int = UNKNOWN_LABEL


def assign_centres(rows: Sequence[PatientRow], settings: CentreSettings, seed: int) -> dict[str, str]:
    """Deal patients to centres.

    Args:
        rows: the patients; several rows of one patient (several lesions) are one patient.
        settings: the mode and its numbers. ``external`` names centres of the data, whose patients stay there
            in every mode; ``leave_out`` names any centre of the result.
        seed: the study's.

    Returns:
        The centre of each patient, by name of patient. The centres that a mode makes are called
        ``virtual-1``, ``virtual-2``...; `external_centres` tells which centres stay out of training.

    Raises:
        SplitError: a patient at two centres, a centre that the data do not know, a training centre with fewer
            than `FEWEST_PATIENTS`, or a name that cannot be a folder's.
    """
    if not rows:
        raise SplitError("there is no patient to deal to centres", where="data", remedy="Check data.path")
    centres = _one_each(rows, "centre")
    _refuse_unknown(settings.external, centres.values(), "data.centres.external")
    kept = {patient: centre for patient, centre in centres.items() if centre in settings.external}
    free = {patient: label for patient, label in patient_labels(rows).items() if patient not in kept}
    match settings.mode:
        case "by-centre":
            dealt = _known(centres, free, "centre")
        case "scanner":
            dealt = _known(
                _one_each([row for row in rows if row.patient in free], "scanner"), free, "scanner"
            )
        case "iid":
            dealt = _deal_evenly(free, settings, seed)
        case "dirichlet":
            dealt = _deal_by_label(free, settings, seed)
        case "quantity":
            dealt = _deal_by_size(free, settings, seed)
    assignment = dict(sorted({**kept, **dealt}.items()))
    both = set(kept.values()) & set(dealt.values())
    if both:
        raise SplitError(
            f"{min(both)} would be an external and a training centre", where="data.centres.external"
        )
    _refuse_unknown(external_centres(settings), assignment.values(), "data.centres.leave_out")
    _refuse_small(assignment, external_centres(settings))
    _refuse_names(assignment.values())
    return assignment


def _deal_evenly(labels: Mapping[str, int], settings: CentreSettings, seed: int) -> dict[str, str]:
    _refuse_too_many_centres(labels, settings)
    sizes = apportion(len(labels), np.full(settings.count, 1 / settings.count))
    return _share_out(labels, sizes, seed)


def _deal_by_size(labels: Mapping[str, int], settings: CentreSettings, seed: int) -> dict[str, str]:
    """Every centre has its least number of patients; the others follow the proportions drawn."""
    _refuse_too_many_centres(labels, settings)
    proportions = generator(seed, "centres", "quantity").dirichlet(np.full(settings.count, settings.alpha))
    spare = len(labels) - FEWEST_PATIENTS * settings.count
    return _share_out(labels, FEWEST_PATIENTS + apportion(spare, proportions), seed)


def _deal_by_label(labels: Mapping[str, int], settings: CentreSettings, seed: int) -> dict[str, str]:
    """Patients of unknown label are a class of their own."""
    _refuse_too_many_centres(labels, settings)
    groups = [
        [patient for patient in labels if labels[patient] == label] for label in sorted(set(labels.values()))
    ]
    for draw in range(_DRAWS):
        proportions = generator(seed, "centres", "dirichlet", draw).dirichlet(
            np.full(settings.count, settings.alpha), size=len(groups)
        )
        sizes = [apportion(len(group), share) for group, share in zip(groups, proportions, strict=True)]
        if np.sum(sizes, axis=0).min() >= FEWEST_PATIENTS:
            dealt: dict[str, str] = {}
            for group, size in zip(groups, sizes, strict=True):
                dealt |= _share_out(group, size, seed)
            return dealt
    raise SplitError(
        f"each of {_DRAWS} draws left one of {settings.count} centres with fewer than {FEWEST_PATIENTS} "
        f"of {len(labels)} patients",
        where="data.centres.alpha",
        remedy="Raise it or lower data.centres.count",
    )


def _share_out(patients: Iterable[str], sizes: NDArray[np.int64], seed: int) -> dict[str, str]:
    """Deal patients in an order of their own (by seed and name), so many to each virtual centre."""
    order = sorted(patients, key=lambda patient: derive_seed(seed, "centres", patient))
    centres = [f"virtual-{k}" for k, size in enumerate(sizes, start=1) for _ in range(size)]
    return dict(zip(order, centres, strict=True))


def _one_each(rows: Iterable[PatientRow], what: str) -> dict[str, str | None]:
    """The centre or scanner of each patient, from whichever of the patient's rows name it."""
    found: dict[str, str | None] = {}
    for row in rows:
        value = row.centre if what == "centre" else row.scanner
        before = found.setdefault(row.patient, value)
        if None not in (before, value) and before != value:
            pair = sorted((str(before), str(value)))
            raise SplitError(
                f"stands at two {what}s, {pair[0]} and {pair[1]}",
                where=f"patient {row.patient}",
                remedy="Give each patient a name of its own in the data set"
                if what == "centre"
                else "Choose another data.centres.mode",
            )
        found[row.patient] = before if value is None else value
    return found


def _known(found: Mapping[str, str | None], patients: Collection[str], what: str) -> dict[str, str]:
    known = {patient: value for patient in patients if (value := found[patient]) is not None}
    missing = sorted(set(patients) - set(known))
    if missing:
        raise SplitError(
            f"{len(missing)} of {len(patients)} patients have no {what} (the first: {missing[0]})",
            where="data.centres.mode",
            remedy=f"Fill in the {what}s or choose the mode iid",
        )
    return known


def _refuse_unknown(names: Iterable[str], centres: Iterable[str | None], where: str) -> None:
    have = sorted({centre for centre in centres if centre is not None})
    for name in names:
        if name not in have:
            raise SplitError(
                f"there is no centre {name}",
                where=where,
                remedy=f"Choose among {', '.join(have)}" if have else "These data name no centre",
            )


def _refuse_too_many_centres(patients: Collection[str], settings: CentreSettings) -> None:
    if len(patients) < FEWEST_PATIENTS * settings.count:
        raise SplitError(
            f"{len(patients)} patients cannot fill {settings.count} centres with {FEWEST_PATIENTS} each",
            where="data.centres.count",
            remedy=f"Lower it to {len(patients) // FEWEST_PATIENTS}"
            if len(patients) >= FEWEST_PATIENTS
            else "Add patients",
        )


def _refuse_small(assignment: Mapping[str, str], external: Collection[str]) -> None:
    sizes = Counter(centre for centre in assignment.values() if centre not in external)
    if not sizes:
        raise SplitError(
            "every centre is external, none is left to train",
            where="data.centres",
            remedy="Name fewer in data.centres.external",
        )
    centre, size = min(sizes.items(), key=lambda item: (item[1], item[0]))
    if size < FEWEST_PATIENTS:
        raise SplitError(
            f"has {size} patient, fewer than {FEWEST_PATIENTS}",
            where=f"centre {centre}",
            remedy="Name it in data.centres.external or choose another data.centres.mode",
        )


def _refuse_names(centres: Iterable[str]) -> None:
    """A centre's name becomes a folder's: nothing that climbs out of it, or that another system refuses."""
    for centre in sorted(set(centres)):
        if (
            not centre.isprintable()
            or not 0 < len(centre) <= 64
            or centre[0] in ". "
            or set(centre) & set('/\\:*?"<>|')
        ):
            raise SplitError(
                f"{centre!r} cannot be the name of a centre's folder",
                where="data.centres",
                remedy="Use letters, digits, spaces, dots and dashes",
            )
