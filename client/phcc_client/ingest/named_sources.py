"""Sources that name their phases themselves: NIfTI with ``cases.csv``, and both layouts of LLD-MMRI."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from phcc_client.imaging.case import RawCase, Reading, Rejection, anchor_phase
from phcc_client.imaging.lld_crops import read_lld_crops
from phcc_client.imaging.lld_mmri import read_lld_raw
from phcc_client.imaging.nifti_csv import TABLE, read_nifti_csv
from phcc_client.ingest.candidate import Candidate
from phcc_client.ingest.deidentify import scrub
from phcc_client.ingest.examination import Drawing
from phcc_client.ingest.nifti_image import NiftiImage
from phcc_client.ingest.record import Finding, Stage
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import DataSettings, Phase

_READERS = {"lld-raw": read_lld_raw, "lld-crops": read_lld_crops, "nifti-csv": read_nifti_csv}


def kind_of(source: Path) -> str:
    """What a folder holds, by its layout: ``lld-raw``, ``lld-crops``, ``nifti-csv``, or else ``dicom``."""
    if (source / "labels" / "Annotation.json").is_file():
        return "lld-raw"
    crops = source / "classification_dataset"
    if (crops / "images").is_dir() or (
        (source / "images").is_dir() and any((source / "labels").glob("labels*.txt"))
    ):
        return "lld-crops"
    return "nifti-csv" if (source / TABLE).is_file() else "dicom"


def named_candidates(kind: str, source: Path, label: str) -> tuple[Candidate, ...]:
    """The patients of a source that names its phases.

    Args:
        kind: from `kind_of`.
        source: the folder.
        label: the column or category that holds the label.

    Raises:
        DatasetError: the source cannot be used as a whole.
    """
    settings = DataSettings(source=kind, label=label)
    reading = _READERS[kind](source, settings)
    cases: dict[str, list[RawCase]] = {}
    rejections: dict[str, list[Rejection]] = {}
    for raw in reading.cases:
        cases.setdefault(raw.patient, []).append(raw)
    for rejection in reading.rejections:
        rejections.setdefault(rejection.patient or rejection.case, []).append(rejection)
    return tuple(
        _candidate(patient, cases.get(patient, []), rejections.get(patient, []), reading)
        for patient in sorted(cases.keys() | rejections.keys())
    )


def _candidate(
    patient: str, cases: Sequence[RawCase], rejections: Sequence[Rejection], reading: Reading
) -> Candidate:
    names = {patient, *(raw.case for raw in cases), *(r.case for r in rejections)}
    identity = {"patient": frozenset(names)}
    remarks = [
        Finding(code="remark", text=scrub(r.text, identity)) for r in reading.remarks if r.case in names
    ]
    # A lesion that cannot be used is a loss only where no other of the patient can.
    findings = [
        Finding(
            code="rejected-by-reader",
            text=scrub(_without_paths(r.reason), identity),
            remedy=r.remedy,
            stops=None if cases else Stage.READABLE,
        )
        for r in rejections
    ]
    labels = {raw.label for raw in cases} - {UNKNOWN_LABEL}
    if len(labels) > 1:
        findings.append(
            Finding(
                code="label-contradicts",
                text="its lesions have different labels",
                remedy="Correct the table: the label is the patient's",
                stops=Stage.LABEL,
            )
        )
    shared = [raw for raw in cases if _same_images(raw, cases[0])]
    if len(shared) < len(cases):
        findings.append(
            Finding(
                code="images-of-their-own",
                text=f"{len(cases) - len(shared)} lesions with images of their own were left out",
                remedy="Give them as patients of their own, or train on the source as it is",
            )
        )
    named = {phase: image for raw in reversed(shared) for phase, image in raw.images.items()}
    return Candidate(
        patient=patient,
        named={p: NiftiImage(i.path, i.spacing_mm_dhw) for p, i in named.items() if i.path is not None},
        drawings=tuple(d for number, raw in enumerate(shared, start=1) for d in _drawings(number, raw)),
        label=labels.pop() if len(labels) == 1 else UNKNOWN_LABEL,
        afp=next((raw.afp for raw in cases if not math.isnan(raw.afp)), math.nan),
        centre=next((raw.centre for raw in cases if raw.centre), None),
        split=next((raw.given_split for raw in cases if raw.given_split), None),
        findings=(*findings, *remarks),
        identity=identity,
        files=tuple(sorted(_files(cases))),
        fitted=any(image.fitted for image in named.values()),
    )


def _same_images(raw: RawCase, first: RawCase) -> bool:
    """Two lesions of one patient lie in the same images, so far as both have them."""
    both = set(raw.images) & set(first.images)
    return bool(both) and all(raw.images[phase].path == first.images[phase].path for phase in both)


def _drawings(number: int, raw: RawCase) -> Iterator[Drawing]:
    anchor = anchor_phase(raw)
    if raw.mask is not None:
        yield Drawing(number, NiftiImage(raw.mask, raw.images[anchor].spacing_mm_dhw), phase=anchor)
        return
    boxes: dict[Phase, object] = {p: i.box for p, i in raw.images.items() if i.box is not None}
    if len(boxes) == 1:
        yield Drawing(number, box=raw.images[anchor].box, phase=anchor)
    elif boxes:
        yield Drawing(number, boxes={p: i.box for p, i in raw.images.items() if i.box is not None})


def _files(cases: Sequence[RawCase]) -> set[Path]:
    files = {image.path for raw in cases for image in raw.images.values() if image.path is not None}
    return files | {raw.mask for raw in cases if raw.mask is not None}


def _without_paths(reason: str) -> str:
    """A reader's reason without the file that it begins with: a path may name the patient."""
    head, _, tail = reason.partition(": ")
    return tail if tail and "/" in head else reason
