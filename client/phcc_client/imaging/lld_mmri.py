"""LLD-MMRI as published, raw layout: whole volumes, and an annotation with a box per phase and lesion [F].

    images/<patient>/<studyUID>/<seriesUID>.nii.gz
    labels/Annotation.json
    clinical.csv                     ours, optional: patient, centre, scanner, afp_ng_ml, <label>

The annotation, not the file, tells the spacing: ``pixel_spacing`` is (between rows, between columns),
``slice_spacing`` the step between slices and, where it is absent, ``slice_thickness``. In a box ``z_max`` is
the last slice inside; ``x_max`` and ``y_max`` are the first voxel outside. Axes are taken as stored.

Known defects and what becomes of them. A phase missing, in the annotation or on disk: the case is used
without it, with a remark where it was annotated. Slices repeated, a phase upside down, a box outside its
volume: the case is set aside when its voxels are read (`quality`, `case`). The official cropping takes the
size of x for y: not here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from phcc_client.imaging.case import Box, PhaseImage, RawCase, Reading, Rejection, Remark
from phcc_client.imaging.paths import folder_of, inside
from phcc_client.imaging.phases import recognise
from phcc_client.imaging.tables import Clinical, read_clinical
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import DataSettings, Phase
from phcc_model.errors import CaseError, DatasetError

CATEGORY_LABEL = "category="
"""``data.label: category=Hepatocellular_carcinoma`` labels a lesion by the annotation's category."""

_HIDDEN_CATEGORIES = ("", "-1", "Inaccessible")

_Millimetres = Annotated[float, Field(gt=0.0, lt=1000.0)]


class _Annotated(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, coerce_numbers_to_str=True)


class _Corners(_Annotated):
    x_min: float
    x_max: float
    y_min: float
    y_max: float
    z_min: float
    z_max: float

    def box(self) -> Box:
        """The voxels that the corners cover, half open."""
        low = (math.floor(self.z_min), math.floor(self.y_min), math.floor(self.x_min))
        return Box(low, (math.floor(self.z_max) + 1, math.ceil(self.y_max), math.ceil(self.x_max)))


class _Boxes(_Annotated):
    corners: _Corners = Field(alias="3D_box")


class _Lesion(_Annotated):
    category: str = ""
    bbox: _Boxes


class _Lesions(_Annotated):
    lesion: dict[str, object]


class _Series(_Annotated):
    study: str = Field(alias="studyUID")
    series: str = Field(alias="seriesUID")
    phase: str
    pixel_spacing: tuple[_Millimetres, _Millimetres]
    slice_thickness: _Millimetres | None = None
    slice_spacing: _Millimetres | None = None
    annotation: _Lesions

    @field_validator("slice_spacing", mode="before")
    @classmethod
    def _absent_slice_spacing(cls, value: object) -> object:
        return None if value in ("", 0, "0") else value

    @property
    def spacing_mm_dhw(self) -> tuple[float, float, float]:
        between_slices = self.slice_spacing or self.slice_thickness
        if between_slices is None:
            raise CaseError(
                f"phase {self.phase} has neither slice_spacing nor slice_thickness",
                remedy="Complete the annotation",
            )
        return between_slices, self.pixel_spacing[0], self.pixel_spacing[1]


def read_lld_raw(path: Path, settings: DataSettings) -> Reading:
    """Read a folder in LLD-MMRI's raw layout; of the voxels nothing is read yet.

    The first lesion of a patient is the case named like the patient, as in the published crops; lesion k > 0
    is ``<patient>_<k>``.

    Raises:
        DatasetError: the folder, its annotation or its clinical table cannot be used as a whole.
    """
    folder = folder_of(path)
    file = folder / "labels" / "Annotation.json"
    patients = _load(file)
    by_category = settings.label.startswith(CATEGORY_LABEL)
    clinical, remarks = read_clinical(folder / "clinical.csv", None if by_category else settings.label)
    cases: list[RawCase] = []
    rejections: list[Rejection] = []
    for patient, entries in patients.items():
        try:
            lesions = _lesions_of(folder, patient, entries, remarks)
            row = clinical.get(patient, Clinical())
            if row.error is not None:
                raise row.error
        except CaseError as error:
            rejections.append(Rejection.of(error, case=patient, patient=patient))
            continue
        for number, found in lesions.items():
            case = patient if number == "0" else f"{patient}_{number}"
            if isinstance(found, CaseError):
                rejections.append(Rejection.of(found, case=case, patient=patient))
                continue
            images, category = found
            label = _category_label(category, settings.label) if by_category else row.label
            cases.append(RawCase(case, patient, images, row.centre, row.scanner, label, row.afp))
    without = len(set(clinical) - set(patients))
    if without:
        remarks.append(Remark("clinical.csv", f"{without} of its patients have no images here"))
    return Reading(tuple(cases), tuple(rejections), tuple(remarks))


def _category_label(category: str, wanted: str) -> int:
    if category in _HIDDEN_CATEGORIES:
        return UNKNOWN_LABEL
    return int(category == wanted.removeprefix(CATEGORY_LABEL))


def _load(file: Path) -> dict[str, object]:
    """The annotation's patients.

    Raises:
        DatasetError: the file is missing, unreadable, no JSON, or says nothing of patients.
    """
    where, again = str(file), "Copy the annotation again from its source"
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DatasetError(
            "there is no such file", where=where, remedy="Check that data.path holds images/ and labels/"
        ) from error
    except OSError as error:
        raise DatasetError(
            f"cannot be read ({error.strerror})", where=where, remedy="Check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"is no JSON ({error})", where=where, remedy=again) from error
    patients = content.get("Annotation_info") if isinstance(content, dict) else None
    if not isinstance(patients, dict):
        raise DatasetError("has no table Annotation_info of patients", where=where, remedy=again)
    return patients


Found = tuple[dict[Phase, PhaseImage], str]


def _lesions_of(
    folder: Path, patient: str, entries: object, remarks: list[Remark]
) -> dict[str, Found | CaseError]:
    """The lesions of one patient by number: images by phase and category, or why one cannot be used.

    Raises:
        CaseError: nothing of this patient can be used.
    """
    series = list(_series_of(patient, entries, remarks))
    numbers = dict.fromkeys(number for _, one in series for number in one.annotation.lesion)
    if not numbers:
        raise CaseError("none of the study's kind of phases has a lesion", remedy="Complete the annotation")
    files: dict[Phase, Path] = {}
    for phase, one in series:
        file = inside(folder, f"images/{patient}/{one.study}/{one.series}.nii.gz")
        if not file.is_file() and file.with_suffix("").is_file():
            file = file.with_suffix("")
        if file.is_file():
            files[phase] = file
        else:
            remarks.append(
                Remark(patient, f"phase {phase} is annotated, but {file} is not there: used without it")
            )
    lesions: dict[str, Found | CaseError] = {}
    for number in numbers:
        try:
            lesions[number] = _lesion(number, patient, series, files, remarks)
        except CaseError as error:
            lesions[number] = error
    return lesions


def _series_of(patient: str, entries: object, remarks: list[Remark]) -> Iterator[tuple[Phase, _Series]]:
    """The series of one patient whose phase this project knows, in the annotation's order."""
    if not isinstance(entries, list):
        raise CaseError("its annotation is no list of phases", remedy="Correct the annotation")
    seen: set[Phase] = set()
    for entry in entries:
        name = entry.get("phase") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise CaseError("one of its series names no phase", remedy="Correct the annotation")
        phase = recognise(name)
        if phase is None:
            remarks.append(Remark(patient, f"series {name!r} is no phase known here and is not used"))
        if phase is None or phase == "other":
            continue
        if phase in seen:
            raise CaseError(
                f"two of its series are phase {phase}", remedy="Keep the right one in the annotation"
            )
        seen.add(phase)
        try:
            yield phase, _Series.model_validate(entry)
        except ValidationError as error:
            raise CaseError(f"its phase {phase}: {_first(error)}", remedy="Correct the annotation") from error


def _lesion(
    number: str,
    patient: str,
    series: Iterable[tuple[Phase, _Series]],
    files: dict[Phase, Path],
    remarks: list[Remark],
) -> Found:
    images: dict[Phase, PhaseImage] = {}
    categories: set[str] = set()
    for phase, one in series:
        if phase not in files:
            continue
        if number not in one.annotation.lesion:
            remarks.append(
                Remark(patient, f"lesion {number} has no box in phase {phase}: used without this phase")
            )
            continue
        try:
            lesion = _Lesion.model_validate(one.annotation.lesion[number])
            images[phase] = PhaseImage(phase, files[phase], one.spacing_mm_dhw, lesion.bbox.corners.box())
        except ValidationError as error:
            raise CaseError(
                f"lesion {number} in phase {phase}: {_first(error)}", remedy="Correct the box"
            ) from error
        except CaseError as error:
            raise CaseError(f"phase {phase}: {error.what}", where=error.where, remedy=error.remedy) from error
        categories.add(lesion.category)
    if not images:
        raise CaseError("no image of it is there", remedy="Copy the data set's images again")
    if len(categories) > 1:
        raise CaseError(
            f"its phases name different categories ({', '.join(sorted(categories))})",
            remedy="Correct the annotation",
        )
    return images, categories.pop()


def _first(error: ValidationError) -> str:
    """The first complaint of a validation, in one line: which key, and what about it."""
    complaint = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, complaint['loc']))}: {complaint['msg'].lower()}"
