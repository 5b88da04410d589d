"""From headers to examinations: whose a file is, which series and time point, and whether it makes a volume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from phcc_client.ingest.dicom_facts import facts_of, moving_clock, start_of
from phcc_client.ingest.dicom_files import Scan, Scanned
from phcc_client.ingest.dicom_geometry import Defect, plane_of, repeated_places, stack_of, thickness_of
from phcc_client.ingest.dicom_parting import Frame, Part, parts_of
from phcc_client.ingest.dicom_pixels import DicomImage, Samples, one_frame, promise_defect, samples_of
from phcc_client.ingest.dicom_seg import drawings_of
from phcc_client.ingest.dicom_values import Values, text, whole
from phcc_client.ingest.examination import Examination, Series
from phcc_model.errors import CaseError

_AGAIN = "Export the series again, all of it"
_ENHANCED = ".4.1"
"""The end of an enhanced class's UID (1.2.840.10008.5.1.4.1.1.4.1)."""


@dataclass
class _Patient:
    """What belongs to one patient, as it is gathered."""

    name: str
    images: dict[tuple[str, str], list[Scanned]] = field(default_factory=dict)
    drawings: list[Scanned] = field(default_factory=list)
    others: list[Scanned] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def examinations(scan: Scan) -> tuple[Examination, ...]:
    """The patients of a source, sorted; their series in order of acquisition.

    A patient is PatientID with its issuer; without PatientID, name and date of birth; without those, the study.
    One UID under two patients does not make them one: both stay, and both are told.

    Args:
        scan: the source's files.
    """
    patients = _gathered(scan)
    _tell_of_shared_uids(patients.values())
    unreadable = _unreadable_by_patient(scan, patients)
    return tuple(_examination(scan, patients[key], unreadable.get(key, ())) for key in sorted(patients))


def _gathered(scan: Scan) -> dict[str, _Patient]:
    patients: dict[str, _Patient] = {}
    issuers: dict[str, set[str]] = {}
    for file in scan.files:
        if file.header is not None:
            said = file.header.file
            issuers.setdefault(text(said, "PatientID"), set()).add(text(said, "IssuerOfPatientID"))
    for file in scan.files:
        if file.header is None:
            continue
        name, remark = _patient_of(file.header.file, issuers)
        patient = patients.setdefault(name, _Patient(name, remarks=[remark] if remark else []))
        if file.kind == "image":
            said = file.header.file
            key = (text(said, "StudyInstanceUID"), text(said, "SeriesInstanceUID"))
            patient.images.setdefault(key, []).append(file)
        else:
            (patient.drawings if file.kind == "drawing" else patient.others).append(file)
    return patients


def _patient_of(said: Values, issuers: Mapping[str, set[str]]) -> tuple[str, str]:
    """The patient's name in the source, and what to know of how it was found."""
    number, issuer = text(said, "PatientID"), text(said, "IssuerOfPatientID")
    if number:
        if len(issuers[number]) > 1:
            named = issuer or "no issuer"
            return f"{number} ({named})", "its PatientID was given by several issuers; each is one patient"
        return number, ""
    name, born = text(said, "PatientName"), text(said, "PatientBirthDate")
    if name and born:
        return f"{name} {born}", "its headers have no PatientID; name and date of birth were taken"
    study = text(said, "StudyInstanceUID")
    return (
        study or "without any identity",
        "its headers do not say who it is; the study was taken for a patient",
    )


def _tell_of_shared_uids(patients: Iterable[_Patient]) -> None:
    owners: dict[tuple[str, str], list[_Patient]] = {}
    for patient in patients:
        for study, series in patient.images:
            for named, uid in (("StudyInstanceUID", study), ("SeriesInstanceUID", series)):
                if uid and patient not in owners.setdefault((named, uid), []):
                    owners[named, uid].append(patient)
    for (named, _), several in owners.items():
        if len(several) > 1:
            for patient in several:
                remark = f"its {named} stands under {len(several)} patients; they were not merged"
                if remark not in patient.remarks:
                    patient.remarks.append(remark)


def _unreadable_by_patient(
    scan: Scan, patients: Mapping[str, _Patient]
) -> dict[str, tuple[tuple[str, str], ...]]:
    """A file that cannot be read is the patient's whose are all others in its folder, or in the nearest above."""
    owners: dict[str, set[str]] = {}
    for key, patient in patients.items():
        files = [f for group in patient.images.values() for f in group]
        for file in (*files, *patient.drawings, *patient.others):
            for folder in _folders(file.path):
                owners.setdefault(folder, set()).add(key)
    found: dict[str, list[tuple[str, str]]] = {}
    for path, why in scan.unreadable:
        here = next((owners[folder] for folder in _folders(path) if folder in owners), set())
        if len(here) == 1:
            found.setdefault(next(iter(here)), []).append((path, why))
    return {key: tuple(pairs) for key, pairs in found.items()}


def _folders(path: str) -> list[str]:
    """A file's folder, the one above, and so on; the source itself is the empty name."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def _examination(scan: Scan, patient: _Patient, unreadable: tuple[tuple[str, str], ...]) -> Examination:
    series = [
        replace(one, remarks=(*one.remarks, *patient.remarks))
        for key in sorted(patient.images)
        for one in _series_of(scan, key, patient.images[key])
    ]
    series.sort(key=lambda one: (start_of(one), one.study, one.uid, one.facts.temporal_position or 0))
    frames = {one.frame_of_reference for one in series if one.frame_of_reference}
    drawings, refused = drawings_of(scan.source, patient.drawings, frames)
    files = [f for group in (*patient.images.values(), patient.drawings, patient.others) for f in group]
    return Examination(
        patient=patient.name,
        series=tuple(series),
        drawings=drawings,
        unreadable=(*unreadable, *refused),
        identity=_identity(files),
        paths=tuple(sorted({*(file.path for file in files), *(path for path, _ in unreadable)})),
    )


def _identity(files: Sequence[Scanned]) -> dict[str, frozenset[str]]:
    """What identifies in any of the files; those of a series share most of it, often as one object."""
    found: dict[str, set[str]] = {}
    headers = [file.header for file in files if file.header is not None]
    for values in {id(header.identity): header.identity for header in headers}.values():
        for name, some in values.items():
            found.setdefault(name, set()).update(some)
    uids = {uid for header in headers for frame in header.frames if (uid := text(frame, "SOPInstanceUID"))}
    if uids:
        found["SOPInstanceUID"] = uids
    return {name: frozenset(found[name]) for name in sorted(found)}


def _series_of(scan: Scan, key: tuple[str, str], files: Sequence[Scanned]) -> list[Series]:
    """The stacks of one series, or one entry that says why there is none."""
    study, uid = key
    said = [file.header for file in files if file.header is not None]
    plain = Series(
        uid=uid, study=study, image=None, facts=facts_of(said[0].file, [said[0].frames[0]]), files=len(files),
        frame_of_reference=text(said[0].file, "FrameOfReferenceUID"),
    )  # fmt: skip
    damaged = [why for file in files if (why := _damage(file))]
    if damaged:
        defect = damaged[0]
        of = f"{len(damaged)} of {len(files)} files cannot be used: " if len(files) > 1 else ""
        return [replace(plain, defect=f"{of}{defect.text}", remedy=defect.remedy)]
    frames, lost = _frames_of(files)
    if lost:
        return [replace(plain, defect=lost.text, remedy=lost.remedy)]
    frames, remarks = _without_copies(scan, frames)
    parts = parts_of(frames)
    if any(part.clash for part in parts):
        frames, more = _without_copies(scan, frames, every=True)
        parts, remarks = (parts_of(frames), [*remarks, *more]) if more else (parts, remarks)
    clocks = {part.stack: moving_clock(_points(parts, part.stack)) for part in parts if part.points > 1}
    return [
        replace(_one(scan, plain, part, clocks.get(part.stack, "")), remarks=(*remarks, *_remarks(part)))
        for part in parts
    ]


def _points(parts: Sequence[Part], stack: int) -> list[list[Values]]:
    """All that is said of each frame of the time points of one stack."""
    return [
        [{**(frame.file.header.file if frame.file.header else {}), **frame.said} for frame in part.frames]
        for part in parts
        if part.stack == stack
    ]


def _damage(file: Scanned) -> Defect | None:
    """Why one image's pixels cannot be had, as far as header and length tell."""
    if file.why:
        return Defect(file.why, _AGAIN)
    header = file.header
    if header is None:
        return Defect("it has no header", _AGAIN)
    samples = samples_of(header)
    return samples if isinstance(samples, Defect) else promise_defect(header, samples)


def _frames_of(files: Sequence[Scanned]) -> tuple[list[Frame], Defect | None]:
    """Every frame with its place; or why one has none."""
    frames = []
    for file in files:
        said = file.header.frames if file.header else ()
        promised = whole(file.header.file, "NumberOfFrames") if file.header else None
        if promised is not None and promised > 1 and promised != len(said):
            why = f"headers describe {len(said)} frames of {promised}: where each lies is not said"
            return [], Defect(why, "Export it as enhanced or as single images")
        for number, values in enumerate(said):
            plane = plane_of(values)
            if isinstance(plane, Defect):
                return [], plane
            frames.append(Frame(file, number, values, plane))
    frames.sort(key=_in_order)
    return frames, None


def _in_order(frame: Frame) -> tuple[object, ...]:
    """An order that depends on nothing but what headers say, then on the frame's number."""
    return (
        whole(frame.said, "InstanceNumber") or 0,
        text(frame.said, "SOPInstanceUID"),
        frame.number,
        frame.file.path,
    )


def _without_copies(scan: Scan, frames: list[Frame], *, every: bool = False) -> tuple[list[Frame], list[str]]:
    """Frames without those that are there twice, pixel for pixel.

    Asked only of files with one UID, and of places that are taken more often than others: the time points of a
    dynamic series are no copies. `every` asks of every place that is taken twice.
    """
    places = repeated_places([frame.plane for frame in frames])
    usual = 1 if every else min(len(place) for place in places)
    suspects: dict[object, list[int]] = {}
    for index, frame in enumerate(frames):
        suspects.setdefault(("uid", text(frame.said, "SOPInstanceUID"), frame.number), []).append(index)
    for number, place in enumerate(places):
        if len(place) > usual:
            suspects["place", number] = place
    dropped: set[int] = set()
    for group in suspects.values():
        seen: set[object] = set()
        for index in group if len(group) > 1 else ():
            content = _content(scan, frames[index])
            if content in seen:
                dropped.add(index)
            seen.add(content)
    kept = [frame for index, frame in enumerate(frames) if index not in dropped]
    remark = (
        [f"{len(dropped)} images are there twice and identical; one of each was taken"] if dropped else []
    )
    return kept, remark


def _content(scan: Scan, frame: Frame) -> object:
    """What tells whether two frames are one: their place and their pixels, however they are packed."""
    place = (frame.plane.shape, tuple(frame.plane.corner_mm.round(3).tolist()))
    try:
        values = one_frame(scan.source, frame)
    except (CaseError, OSError):
        return place, frame.file.path, frame.number  # the reading that follows says what is wrong
    return place, hashlib.sha256(values.astype(np.int64).tobytes()).digest()


def _one(scan: Scan, plain: Series, part: Part, clock: str) -> Series:
    """One stack as a series with its image, or with what is wrong with it."""
    first = part.frames[0]
    header = first.file.header
    assert header is not None  # frames are made of headers
    facts = facts_of(header.file, [frame.said for frame in part.frames], part.position, part.points, clock)
    entry = replace(plain, facts=facts, files=len({frame.file.path for frame in part.frames}))
    defect = _stack_defect(part)
    if defect:
        return replace(entry, defect=defect.text, remedy=defect.remedy)
    alone = thickness_of({**header.file, **first.said}) if _is_enhanced(header.file) else None
    stack = stack_of([frame.plane for frame in part.frames], alone)
    if isinstance(stack, Defect):
        return replace(entry, defect=stack.text, remedy=stack.remedy)
    kinds = {samples_of(f.file.header) for f in part.frames if f.file.header is not None}
    samples = next(iter(kinds))
    if len(kinds) > 1 or not isinstance(samples, Samples):
        return replace(entry, defect="its images store their samples in different ways", remedy=_AGAIN)
    where = f"{first.file.path} ({len(part.frames)} images)" if len(part.frames) > 1 else first.file.path
    image = DicomImage.of(
        scan.source, [part.frames[index] for index in stack.order], samples, stack.grid, where
    )
    if isinstance(image, Defect):
        return replace(entry, defect=image.text, remedy=image.remedy)
    return replace(entry, image=image)


def _stack_defect(part: Part) -> Defect | None:
    if part.clash:
        return Defect(
            "several different images lie at one place, and nothing in the headers tells them apart",
            "Export the series again; if it holds several time points, export them as series of their own",
        )
    if part.short:
        return Defect(f"slices are missing: {part.short} that the other time points have", _AGAIN)
    return None


def _remarks(part: Part) -> list[str]:
    found = []
    if part.by == "InstanceNumber":
        found.append("its time points are told apart by the numbers of the images only")
    header = part.frames[0].file.header
    if header is not None and text(header.file, "PhotometricInterpretation") == "MONOCHROME1":
        found.append("its grey values were turned round (MONOCHROME1)")
    return found


def _is_enhanced(said: Values) -> bool:
    return text(said, "SOPClassUID").endswith(_ENHANCED)
