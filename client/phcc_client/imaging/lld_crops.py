"""LLD-MMRI's published crops around each lesion, without spacing and without boxes [F].

    classification_dataset/images/<case>/<phase>.nii.gz
    classification_dataset/labels/labels*.txt        lines of ``case class``, -1 where it is hidden
    clinical.csv                                     ours, optional, as beside the raw layout

Sizes differ from phase to phase and millimetres are unknown, so that every crop is stretched over the whole
grid and counts as lesion throughout. The raw layout is the better source wherever it is at hand.
"""

from __future__ import annotations

import re
from pathlib import Path

from phcc_client.imaging.case import PhaseImage, RawCase, Reading, Rejection, Remark
from phcc_client.imaging.lld_mmri import CATEGORY_LABEL
from phcc_client.imaging.paths import folder_of, inside
from phcc_client.imaging.phases import recognise
from phcc_client.imaging.tables import Clinical, read_clinical
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import DataSettings, Phase
from phcc_model.errors import CaseError, DatasetError

_ENDINGS = (".nii.gz", ".nii")


def read_lld_crops(path: Path, settings: DataSettings) -> Reading:
    """Read a folder of published crops: ``classification_dataset`` itself, or the folder that holds it.

    The label is the clinical table's where there is one; else, for ``data.label: category=6``, whether the
    class is 6; else the class itself, if the file knows no other than 0 and 1.

    Raises:
        DatasetError: there is no folder of images, or a file of labels or the clinical table is unreadable.
    """
    folder = folder_of(path)
    root = folder / "classification_dataset" if (folder / "classification_dataset").is_dir() else folder
    images = folder_of(root / "images")
    classes = _read_classes(root / "labels")
    by_category = settings.label.startswith(CATEGORY_LABEL)
    table = folder / "clinical.csv" if (folder / "clinical.csv").exists() else root / "clinical.csv"
    clinical, remarks = read_clinical(table, None if by_category else settings.label)
    names = sorted({entry.name for entry in images.iterdir() if entry.is_dir()} | set(classes))
    binary = {c for found in classes.values() for c in found} <= {"-1", "0", "1"}
    if not by_category and not clinical and not binary:
        remarks.append(
            Remark(
                "labels.txt",
                "holds more classes than 0 and 1: all labels count as unknown; to tell one class from the "
                "others set data.label, for example to category=6",
            )
        )
    cases: list[RawCase] = []
    rejections: list[Rejection] = []
    for case in names:
        patient = _patient_of(case, names)
        row = clinical.get(patient, Clinical())
        try:
            if row.error is not None:
                raise row.error
            label = row.label
            if by_category or (not clinical and binary):
                wanted = settings.label.removeprefix(CATEGORY_LABEL) if by_category else "1"
                label = _label_of(classes.get(case, set()), wanted)
            found = _phases_of(root, case, remarks)
        except CaseError as error:
            rejections.append(Rejection.of(error, case=case, patient=patient))
            continue
        cases.append(RawCase(case, patient, found, row.centre, row.scanner, label, row.afp))
    return Reading(tuple(cases), tuple(rejections), tuple(remarks))


def _patient_of(case: str, names: list[str]) -> str:
    """The official crops name lesion k > 0 of a patient ``<patient>_<k>``, beside ``<patient>``."""
    parts = re.fullmatch(r"(.+)_\d+", case)
    return parts[1] if parts and parts[1] in names else case


def _read_classes(labels: Path) -> dict[str, set[str]]:
    """The classes that the files of labels give each case; hidden ones give way to known ones."""
    classes: dict[str, set[str]] = {}
    for file in sorted(labels.glob("labels*.txt")):
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(
                "cannot be read as text", where=str(file), remedy="Copy the file again"
            ) from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            parts = line.rsplit(maxsplit=1)
            if len(parts) != 2 or not re.fullmatch(r"-?\d+", parts[1]):
                raise DatasetError(
                    f"line {number} is not a case and its class", where=str(file), remedy="Correct the line"
                )
            classes.setdefault(parts[0].strip(), set()).add(parts[1])
    return {case: found - {"-1"} or {"-1"} for case, found in classes.items()}


def _label_of(classes: set[str], wanted: str) -> int:
    if len(classes) > 1:
        raise CaseError(
            f"its classes disagree ({', '.join(sorted(classes))})", remedy="Correct the files of labels"
        )
    if not classes or classes == {"-1"}:
        return UNKNOWN_LABEL
    return int(wanted in classes)


def _phases_of(root: Path, case: str, remarks: list[Remark]) -> dict[Phase, PhaseImage]:
    folder = inside(root, f"images/{case}")
    if not folder.is_dir():
        raise CaseError("it has a label but no images", where=str(folder), remedy="Copy its images again")
    found: dict[Phase, PhaseImage] = {}
    for file in sorted(folder.iterdir()):
        ending = next((e for e in _ENDINGS if file.name.lower().endswith(e)), None)
        if ending is None:
            continue
        phase = recognise(file.name[: -len(ending)])
        if phase is None:
            remarks.append(Remark(case, f"{file.name} is no phase known here and is not used"))
        if phase is None or phase == "other":
            continue
        if phase in found:
            raise CaseError(
                f"two of its files are phase {phase}", where=str(folder), remedy="Keep the right one"
            )
        found[phase] = PhaseImage(phase, inside(root, f"images/{case}/{file.name}"), fitted=True)
    return found
