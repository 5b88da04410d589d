"""Which patients a centre trains on, chooses on and is judged on; written to ``splits.json``, with a digest.

Always by patient, and by label within each training centre. A patient's place depends on the seed and on
which patients of the same label the centre has, never on the order of a table. Patients of unknown label
train (stage 1 needs no label); an external centre's patients only judge.

A centre with two patients, or with one class, works: what it lacks is told in `Splits.warnings`. The round is
chosen on the validation patients of all centres together, so a centre without any borrows the others' choice;
where no centre has one, nothing can be chosen and the last round counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import CentreSettings, SplitSettings
from phcc_model.errors import SplitError, StorageError
from phcc_model.seeds import derive_seed

if TYPE_CHECKING:
    from phcc_client.site import Split as SiteSplit

Split = Literal["train", "validation", "test", "external"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Labelled(Protocol):
    """A case, as far as its patient's label goes: 1, 0 or -1 (unknown)."""

    @property
    def patient(self) -> str:
        """Whose case it is."""
        ...

    @property
    def label(self) -> int:
        """Of the case."""
        ...


class Place(NamedTuple):
    """Where one patient stands."""

    centre: str
    split: Split
    patient: str


class SplitCount(NamedTuple):
    """Patients of one split of one centre, by label."""

    centre: str
    split: Split
    positives: int
    negatives: int
    unknown: int


@dataclass(frozen=True)
class Splits:
    """Every patient's place, sorted by centre, split and name.

    Attributes:
        places: one per patient.
        warnings: what a centre lacks, one line each.

    Raises:
        SplitError: a patient stands at two places.
    """

    places: tuple[Place, ...]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        first: dict[str, Place] = {}
        for place in self.places:
            other = first.setdefault(place.patient, place)
            if other is not place:
                raise SplitError(
                    f"stands on two sides, {other.centre}/{other.split} and {place.centre}/{place.split}",
                    where=f"patient {place.patient}",
                    remedy="Split by patient, each in one place",
                )
        object.__setattr__(self, "places", tuple(sorted(self.places, key=_order)))

    @property
    def centres(self) -> tuple[str, ...]:
        """The training centres, sorted."""
        return tuple(sorted({place.centre for place in self.places if place.split != "external"}))

    @property
    def external(self) -> tuple[str, ...]:
        """The external centres, sorted."""
        return tuple(sorted({place.centre for place in self.places if place.split == "external"}))

    def patients(self, centre: str, split: Split) -> tuple[str, ...]:
        """The patients of one split of one centre, sorted."""
        return tuple(place.patient for place in self.places if (place.centre, place.split) == (centre, split))

    def site(self, centre: str) -> dict[str, SiteSplit]:
        """What a centre's own folder says of each patient; all that an external centre has is a test."""
        return {
            place.patient: "test" if place.split == "external" else place.split
            for place in self.places
            if place.centre == centre
        }

    @property
    def digest(self) -> str:
        """SHA-256 of every patient's place; the warnings are no part of it."""
        text = json.dumps(self.places, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def patient_labels(cases: Iterable[Labelled]) -> dict[str, int]:
    """The label of each patient, by name: 1 if any lesion is, -1 if none is known."""
    labels: dict[str, int] = {}
    for case in cases:
        labels[case.patient] = max(case.label, labels.get(case.patient, UNKNOWN_LABEL))
    return dict(sorted(labels.items()))


def external_centres(settings: CentreSettings) -> tuple[str, ...]:
    """The centres that take no part in training, the one left out included."""
    left_out = () if settings.leave_out is None else (settings.leave_out,)
    return tuple(dict.fromkeys((*settings.external, *left_out)))


def split_patients(
    assignment: Mapping[str, str],
    labels: Mapping[str, int],
    settings: SplitSettings,
    seed: int,
    *,
    external: Collection[str] = (),
    given: Mapping[str, str] | None = None,
) -> Splits:
    """Split each training centre's patients, stratified by label.

    Args:
        assignment: the centre of each patient.
        labels: 1, 0 or -1 (unknown) for each patient; a patient without one is unknown.
        settings: shares of a centre's patients; every split of a label is within 1 of its share, and a label
            with any patient at a centre has one there to train on.
        seed: the study's.
        external: centres that are kept out of training, whole.
        given: a split that comes with the data, ``train``, ``validation`` or ``test`` for every patient of a
            training centre. It is kept as it stands; only where it holds no validation patient at all,
            ``settings.validation`` of those given to training become such. ``settings.test`` is not used.

    Raises:
        SplitError: ``given`` leaves a patient out or names another split.
    """
    placed: dict[str, Split] = {p: "external" for p, centre in assignment.items() if centre in external}
    test = settings.test
    if given is not None:
        placed |= _taken_over(given, [patient for patient in assignment if patient not in placed])
        test = 0.0
    groups: dict[tuple[str, int], list[str]] = {}
    for patient, centre in assignment.items():
        if patient not in placed:
            groups.setdefault((centre, labels.get(patient, UNKNOWN_LABEL)), []).append(patient)
    for (_, label), group in groups.items():
        placed |= _deal(group, label, test, settings.validation, seed)
    places = tuple(Place(assignment[patient], split, patient) for patient, split in placed.items())
    return Splits(places, tuple(_shortages(Splits(places), labels)))


def split_table(splits: Splits, labels: Mapping[str, int]) -> list[SplitCount]:
    """Patients by centre, split and label: what the picture of the split shows.

    Every training centre has its three rows, empty ones too; external centres come last, with one row each.
    """
    counts = Counter((p.centre, p.split, labels.get(p.patient, UNKNOWN_LABEL)) for p in splits.places)
    sides = [(centre, split) for centre in splits.centres for split in SPLITS[:3]]
    sides += [(centre, SPLITS[3]) for centre in splits.external]
    return [
        SplitCount(*side, counts[(*side, 1)], counts[(*side, 0)], counts[(*side, UNKNOWN_LABEL)])
        for side in sides
    ]


def write_splits(splits: Splits, path: Path) -> None:
    """Write ``splits.json``: centres, their splits, the patients of each, warnings and the digest.

    Raises:
        StorageError: the file cannot be written.
    """
    centres: dict[str, dict[Split, list[str]]] = {}
    for place in splits.places:
        centres.setdefault(place.centre, {}).setdefault(place.split, []).append(place.patient)
    file = _SplitsFile(digest=splits.digest, warnings=splits.warnings, centres=centres)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(file.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot be written ({error.strerror})", where=str(path)) from error


def read_splits(path: Path) -> Splits:
    """Read ``splits.json`` and check it.

    Raises:
        StorageError: the file cannot be read or is none of ours.
        SplitError: a patient stands on two sides, or the places are not those the digest was taken of.
    """
    try:
        file = _SplitsFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise StorageError(
            f"is not a file of splits ({key + ': ' if key else ''}{problem['msg']})", where=str(path)
        ) from error
    splits = Splits(
        tuple(
            Place(centre, split, patient)
            for centre, sides in file.centres.items()
            for split, patients in sides.items()
            for patient in patients
        ),
        file.warnings,
    )
    if splits.digest != file.digest:
        raise SplitError(
            "was changed after it was written (its digest does not fit)",
            where=str(path),
            remedy="Make the splits anew with the study's seed",
        )
    return splits


def apportion(total: int, shares: ArrayLike) -> NDArray[np.int64]:
    """Whole numbers that add up to ``total``, each within 1 of its share (largest remainders).

    Args:
        total: how many to share out, 0 or more.
        shares: one fraction each, adding up to 1.
    """
    quota = total * np.asarray(shares, dtype=np.float64)
    counts = np.floor(quota + 1e-9).astype(np.int64)  # 0.15 * 20 is 2.9999999999999996
    first = np.argsort(-(quota - counts), kind="stable")
    counts[first[: total - int(counts.sum())]] += 1
    return counts


class _SplitsFile(BaseModel):
    """The layout of ``splits.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["phcc-splits/1"] = "phcc-splits/1"
    digest: str
    warnings: tuple[str, ...]
    centres: dict[str, dict[Split, list[str]]]


def _deal(patients: Iterable[str], label: int, test: float, validation: float, seed: int) -> dict[str, Split]:
    """Places for the patients of one label at one centre."""
    order = sorted(patients, key=lambda patient: derive_seed(seed, "split", patient))
    if label == UNKNOWN_LABEL:
        return dict.fromkeys(order, "train")
    shares = np.array([1.0 - test - validation, validation, test])
    counts = apportion(len(order), shares)
    if counts[0] == 0:  # one to train on, from whichever side was rounded up the most
        counts[1 + np.argmax((counts - len(order) * shares)[1:])] -= 1
        counts[0] = 1
    sides = np.repeat(np.arange(3), counts)
    return {patient: SPLITS[side] for patient, side in zip(order, sides, strict=True)}


def _taken_over(given: Mapping[str, str], patients: Collection[str]) -> dict[str, Split]:
    """The places that a given split settles: all, or all but its training patients where none validates."""
    known: dict[str, Split] = {"train": "train", "validation": "validation", "test": "test"}
    for patient in patients:
        if given.get(patient) not in known:
            what = f"has the split {given[patient]!r}" if patient in given else "has no split"
            raise SplitError(
                f"{what} in the split that comes with the data",
                where=f"patient {patient}",
                remedy=f"Give every patient one of {', '.join(known)}",
            )
    complete = any(given[patient] == "validation" for patient in patients)
    return {p: known[given[p]] for p in patients if complete or given[p] != "train"}


def _shortages(splits: Splits, labels: Mapping[str, int]) -> Iterator[str]:
    for row in split_table(splits, labels):
        if row.positives + row.negatives == 0:
            consequence = {
                "train": "it can only pre-train" if row.unknown else "it cannot train",
                "validation": "the other centres choose the round",
                "test": "it is not judged",
                "external": "it is not judged",
            }[row.split]
            yield f"{row.centre}: no labelled patient in {row.split}, {consequence}"
        elif 0 in (row.positives, row.negatives):
            missing = "negative" if row.positives else "positive"
            consequence = (
                "it cannot learn to tell the classes apart"
                if row.split == "train"
                else "it has no AUC of its own"
            )
            yield f"{row.centre}: no {missing} patient in {row.split}, {consequence}"
    if not any(place.split == "validation" for place in splits.places) and splits.centres:
        yield "no centre has a validation patient: no round can be chosen, the last one counts"


def _order(place: Place) -> tuple[str, int, str]:
    return place.centre, SPLITS.index(place.split), place.patient
