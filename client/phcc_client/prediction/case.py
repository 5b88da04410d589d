"""From what a person points at to the lesion that is scored: NIfTI, an ingested site, LLD-MMRI, a prepared crop.

DICOM has a module of its own, `dicom_case`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from phcc_client.imaging import cache
from phcc_client.imaging.case import PhaseImage, RawCase, Rejection
from phcc_client.imaging.measure import enhancement_in, spacing_of
from phcc_client.imaging.readers import read_cases
from phcc_client.ingest.named_sources import kind_of
from phcc_client.ingest.record import PatientRecord
from phcc_client.ingest.site_folder import record_of
from phcc_client.prediction.ask import Ask
from phcc_client.prediction.result import Caution, InputNote, LesionNote, PhaseNote
from phcc_client.prediction.subject import (
    Subject,
    crop_grid,
    crops_of,
    digest_of,
    lesion_note,
    lesion_of,
)
from phcc_model.config import DataSettings, Phase
from phcc_model.errors import CaseError, DatasetError

Named = Literal["nifti-csv", "lld-raw", "lld-crops"]
_SHOWN = 12  # names in an error's line


def named_subject(ask: Ask, kind: Named, settings: DataSettings) -> Subject:
    """A case of a source that names its phases itself.

    Images are taken as they lie: what was ingested is registered, and nothing else is moved.

    Raises:
        CaseError: the case cannot be used.
        DatasetError: the source cannot be used, or holds no such case.
    """
    reading = read_cases(settings.model_copy(update={"source": kind}), ask.source)
    raw = _drawn(_chosen(reading.cases, reading.rejections, ask), ask)
    record = record_of(ask.source, raw.patient)
    remarks = [Caution(code="remark", text=r.text) for r in reading.remarks if r.case == raw.case]
    if record is not None:
        remarks += [Caution(code=f.code, text=f.text) for f in record.findings if f.code != "label-unknown"]
    files = {image.path for image in raw.images.values() if image.path is not None}
    files |= {raw.mask} if raw.mask is not None else set()
    source = InputNote(
        kind=kind,
        digest=digest_of(files, {**ask.plain, "registration": "as it lies"}),
        files=len(files),
        registration="as it lies",
    )
    return subject_of(raw, settings, record, tuple(remarks), source)


def subject_of(
    raw: RawCase,
    settings: DataSettings,
    record: PatientRecord | None,
    cautions: tuple[Caution, ...],
    source: InputNote,
    *,
    number: int = 1,
) -> Subject:
    """A case read, cut and described.

    Args:
        raw: where its images are.
        settings: the study's.
        record: what ingest wrote of the patient, where it did.
        cautions: what is known already.
        source: what was read.
        number: of the lesion within the patient.

    Raises:
        CaseError: the case cannot be used.
    """
    prepared, shown_pdhw = crops_of(raw, settings)
    fitted = any(image.fitted for image in raw.images.values())
    lesion = None if fitted else lesion_of(raw)
    notes = [phase_note(phase, raw, record, fitted=fitted) for phase in settings.phases]
    bright = enhancement_in(prepared, settings)
    return Subject(
        patient=raw.patient,
        case=raw.case,
        prepared=prepared,
        shown_pdhw=shown_pdhw,
        grid=None if lesion is None else crop_grid(lesion, settings.crop),
        phases=tuple(n.model_copy(update={"enhancement": bright.get(n.phase)}) for n in notes),
        lesion=_whole_crop(settings) if lesion is None else lesion_note(lesion, settings.crop, number),
        cautions=cautions,
        source=source,
    )


def phase_note(phase: Phase, raw: RawCase, record: PatientRecord | None, *, fitted: bool) -> PhaseNote:
    """What is known of one phase: from the record of ingest where there is one, from the image otherwise.

    Raises:
        CaseError: the image cannot be read.
    """
    image = raw.images.get(phase)
    if image is None:
        return PhaseNote(phase=phase, used=False)
    note = PhaseNote(phase=phase, used=True, rule="named so by the source", certainty="sure")
    spacing = None if fitted else spacing_of(image)
    if record is None:
        return note.model_copy(update={"spacing_mm_dhw": spacing})
    series = record.series_of(phase)
    placed = next((one for one in record.phases if one.phase == phase), None)
    known: dict[str, object] = {}
    if series is not None:
        known |= {
            "rule": series.rule,
            "certainty": series.certainty,
            "series_number": series.number,
            "field_strength_t": series.field_strength_t,
            "manufacturer": series.manufacturer,
            "seconds": series.seconds_after_first,
        }
    if placed is not None:
        known |= {
            "aligned": placed.aligned,
            "shift_mm": placed.shift_mm,
            "residual_mm": placed.residual_mm,
        }
    return note.model_copy(update={**known, "spacing_mm_dhw": spacing})


def prepared_subject(ask: Ask, settings: DataSettings) -> Subject:
    """A crop that a site prepared for this very study, out of its cache.

    Raises:
        CaseError: it is damaged, or was cut for another study.
    """
    path = ask.source
    found = cache.load(path.parent.parent, path.stem) if path.parent.name == path.stem[:2] else None
    if found is None:
        raise CaseError(
            "is no prepared crop, or a damaged one",
            where=str(path),
            remedy="Give a file of a site's cache where it lies (cache/ab/ab....safetensors), or the images",
        )
    shape = (len(settings.phases), *settings.crop.size)
    if found.volumes_pdhw.shape != shape or found.lesion_dhw.shape != shape[1:]:
        raise CaseError(
            f"its crop has {found.volumes_pdhw.shape} voxels, and the package's study {shape}",
            where=str(path),
            remedy="Prepare the images for the study of this package, or give the images themselves",
        )
    bright = enhancement_in(found, settings)
    phases = tuple(
        PhaseNote(
            phase=phase,
            used=bool(there),
            rule="as prepared" if there else "",
            certainty="sure" if there else "",
            enhancement=bright.get(phase),
        )
        for phase, there in zip(settings.phases, found.present_p, strict=True)
    )
    note = Caution(
        code="prepared-elsewhere",
        text="the crop was prepared beforehand: that it was done with this study's settings is not written in it",
    )
    source = InputNote(
        kind="prepared", digest=digest_of([path], ask.plain), files=1, registration="as prepared"
    )
    volume = float(found.lesion_dhw.sum() * np.prod(settings.crop.spacing_mm) / 1000.0)
    lesion = _whole_crop(settings).model_copy(update={"volume_ml": round(volume, 3)})
    shown = found.volumes_pdhw.astype(np.float32)
    return Subject(path.stem[:16], path.stem[:16], found, shown, None, phases, lesion, (note,), source)


def kind_of_source(source: Path) -> Literal["prepared", "dicom", "nifti-csv", "lld-raw", "lld-crops"]:
    """What a person points at.

    Raises:
        DatasetError: there is nothing, or a file that is no prepared crop.
    """
    if source.is_file() and source.suffix == ".safetensors":
        return "prepared"
    if source.is_file():
        raise DatasetError(
            "is a single file",
            where=str(source),
            remedy="Give the folder that holds all series of the examination",
        )
    if not source.is_dir():
        raise DatasetError("there is no such folder", where=str(source), remedy="Correct PATIENT")
    return kind_of(source)  # type: ignore[return-value]


def _chosen(cases: Sequence[RawCase], rejections: Sequence[Rejection], ask: Ask) -> RawCase:
    """The case that is meant; several are never chosen among in silence.

    Raises:
        CaseError: it was set aside.
        DatasetError: there is none of that name, or more than one.
    """

    def meant(case: str, patient: str) -> bool:
        return (ask.case is None or case == ask.case) and (ask.patient is None or patient == ask.patient)

    found = [raw for raw in cases if meant(raw.case, raw.patient)]
    if len(found) == 1:
        return found[0]
    if found:
        names = [raw.case for raw in found]
        raise DatasetError(
            f"holds {len(names)} cases: {_listed(names)}",
            where=str(ask.source),
            remedy="Name one with --case",
        )
    for one in rejections:
        if meant(one.case, one.patient):
            raise CaseError(one.reason, where=f"{ask.source}, case {one.case}", remedy=one.remedy)
    raise DatasetError(
        f"holds no such case; it holds {_listed([raw.case for raw in cases])}",
        where=str(ask.source),
        remedy="Correct --case or --patient",
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _drawn(raw: RawCase, ask: Ask) -> RawCase:
    """The case with the lesion that was drawn on the command line, where one was.

    Raises:
        CaseError: it is drawn on a phase that is not there.
    """
    if ask.mask is None and ask.box is None:
        return raw
    plain = {phase: replace(image, box=None) for phase, image in raw.images.items()}
    drawn_on = ask.drawn_on or raw.lesion_phase
    if ask.mask is not None:
        return replace(raw, images=plain, mask=ask.mask, lesion_phase=drawn_on)
    phase = ask.drawn_on
    if phase is None or phase not in plain:
        raise CaseError(
            f"the box is drawn on phase {phase}, of which there is no image",
            where=f"{ask.source}, case {raw.case}",
            remedy="Name another phase with --drawn-on",
        )
    boxed: dict[Phase, PhaseImage] = {**plain, phase: replace(plain[phase], box=ask.box)}
    return replace(raw, images=boxed, mask=None, lesion_phase=phase)


def _whole_crop(settings: DataSettings) -> LesionNote:
    d, h, w = (n * s for n, s in zip(settings.crop.size, settings.crop.spacing_mm, strict=True))
    return LesionNote(volume_ml=round(d * h * w / 1000.0, 3), extent_mm_dhw=(d, h, w))
