"""One patient out of a folder of DICOM: ingested exactly as for training, into a folder that is then thrown away.

So the images that a model is asked about were chosen, registered and cut by the code that made its training
images. What ingest would set aside is refused here with its reason; what it is unsure of is asked, not guessed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import Dataset

from phcc_client.imaging.itk import one_thread
from phcc_client.imaging.readers import read_cases
from phcc_client.ingest.candidate import Candidate
from phcc_client.ingest.choice import Choice, choose, meant_studies
from phcc_client.ingest.dicom_files import scan_file
from phcc_client.ingest.dicom_header import HeaderError, open_dataset
from phcc_client.ingest.dicom_seg import drawings_of
from phcc_client.ingest.examination import Drawing
from phcc_client.ingest.nifti_image import NiftiImage
from phcc_client.ingest.patient import STAGES, PatientMaker
from phcc_client.ingest.phase_rules import recognise_series
from phcc_client.ingest.phases_file import PhasesFile, load_phases, template, unsure_of
from phcc_client.ingest.record import Finding, LesionRecord, PatientRecord, SeriesRecord, Stage
from phcc_client.ingest.settings import IngestSettings
from phcc_client.ingest.site_folder import SiteFolder, usable
from phcc_client.ingest.sources import Sources, find_patients
from phcc_client.prediction.ask import Ask, Progress
from phcc_client.prediction.case import subject_of
from phcc_client.prediction.result import Caution, InputNote
from phcc_client.prediction.subject import Subject, digest_of, file_digest
from phcc_model.config import DataSettings
from phcc_model.errors import CaseError, DatasetError, PhccError
from phcc_model.storage import write_atomically

_NAME = "patient"
_SHOWN = 12  # names in an error's line
_SAY_SO = "Say in a phases.yaml which series is which phase, and give it with --phases"
_LOOK = "Look at the picture; if a series was taken for the wrong phase, say so in a phases.yaml (--phases)"
_ONLY_SAID = frozenset({"no-enhancement"})
"""What ingest sets a patient aside for, and is said beside a score here: the images can be scored."""
_REMEDIES = {
    "no-lesion": "Give the lesion with --mask or --box, or export its DICOM segmentation with the images",
    "several-studies": "Name its date or StudyInstanceUID with --examination",
    "study-not-found": "Correct --examination (a date as 2024-05-31, or the StudyInstanceUID)",
    "no-enhancement": "Look at the images: was contrast given, and are these the dynamic series?",
    "series-unsure": _SAY_SO,
    "phases-out-of-order": _SAY_SO,
    "enhancement-not-checked": "Look at the picture",
    "phase-not-enhanced": _LOOK,
    "darker-after-contrast": _LOOK,
    "arterial-brighter-than-portal": _LOOK,
}
"""What to do at this command, where ingest's own remedy speaks of its table or its contact sheet."""


@dataclass(frozen=True)
class DicomWork:
    """Where a DICOM patient is worked on.

    Attributes:
        ask: what was asked for.
        settings: the study's.
        folder: for what is thrown away.
        draft: where a draft of phases.yaml is written when a person has to decide.
        progress: told how far it is.
    """

    ask: Ask
    settings: DataSettings
    folder: Path
    draft: Path
    progress: Progress

    def subject(self) -> Subject:
        """The patient's lesion, ready to be scored.

        Raises:
            CaseError: the patient cannot be used; says why and what to do.
            ConfigError: phases.yaml cannot be read as rules.
            DatasetError: the folder cannot be used, or holds no such patient.
        """
        ask = self.ask
        rules = load_phases(ask.phases) if ask.phases is not None else None
        private = self.folder / "private"
        private.mkdir(parents=True, exist_ok=True)
        sources = Sources(ask.source, None, private, self.settings.label)
        found = find_patients(sources, self.progress, jobs=os.cpu_count() or 1)
        candidate = self._drawn(_chosen(found.candidates, ask))
        needed = IngestSettings(registration=ask.registration, required_phases=self.settings.required_phases)
        choice = choose(candidate, needed.required_phases, rules)
        self._nothing_is_guessed(candidate, choice, rules)
        self.progress("registration", 0, 0)
        site = SiteFolder(self.folder / "site")
        with one_thread():
            record = PatientMaker(site, needed, rules, _ONLY_SAID).make(candidate, _NAME).record
        if not usable(record):
            raise _refusal(record, self._where(candidate))
        return self._of(site, candidate, choice, record)

    def _where(self, candidate: Candidate) -> str:
        return f"{self.ask.source}, patient {candidate.patient}"

    def _of(self, site: SiteFolder, candidate: Candidate, choice: Choice, record: PatientRecord) -> Subject:
        lesion = self._lesion(record, candidate)
        site.write_table([record], self.settings.label)
        reading = read_cases(self.settings.model_copy(update={"source": "nifti-csv"}), site.folder)
        raw = next(case for case in reading.cases if case.case == lesion.case)
        header = _header_of(candidate, choice, lesion)
        files = [*candidate.files, *((self.ask.mask,) if self.ask.mask is not None else ())]
        phases = file_digest(self.ask.phases) if self.ask.phases is not None else ""
        source = InputNote(
            kind="dicom",
            digest=digest_of(files, {**self.ask.plain, "phases": phases}),
            files=len(files),
            examined=_date(header),
            study_uid="" if header is None else str(header.get("StudyInstanceUID", "")),
            registration=self.ask.registration,
        )
        cautions = tuple(_caution(f) for f in record.findings if f.code != "label-unknown")
        try:
            subject = subject_of(
                raw, self.settings, record, cautions, source, number=int(lesion.case.rpartition("-")[2])
            )
        except PhccError as error:  # a path of the folder that is thrown away helps nobody
            raise CaseError(error.what, where=self._where(candidate), remedy=error.remedy) from error
        case = f"{candidate.patient}-{subject.lesion.number}"
        return replace(subject, patient=candidate.patient, case=case, header=header)

    def _lesion(self, record: PatientRecord, candidate: Candidate) -> LesionRecord:
        """The lesion that is meant.

        Raises:
            CaseError: there are several, and none was named; or there is none of that number.
        """
        numbers = {int(one.case.rpartition("-")[2]): one for one in record.lesions}
        if self.ask.lesion in numbers:
            return numbers[self.ask.lesion]
        if len(numbers) == 1 and self.ask.lesion is None:
            return record.lesions[0]
        said = ", ".join(f"{number} ({one.volume_ml:.1f} ml)" for number, one in sorted(numbers.items()))
        raise CaseError(
            f"it has {len(numbers)} {'lesion' if len(numbers) == 1 else 'lesions'} that can be used: {said}",
            where=self._where(candidate),
            remedy="Name one with --lesion",
        )

    def _drawn(self, candidate: Candidate) -> Candidate:
        """The patient with the lesion of the command line, where one is drawn there.

        Raises:
            CaseError: the mask's file cannot be used.
        """
        ask = self.ask
        candidate = replace(candidate, study=ask.examination)
        if ask.box is not None:
            return replace(candidate, drawings=(Drawing(box=ask.box, phase=ask.drawn_on),))
        if ask.mask is None:
            return candidate
        if ask.mask.name.lower().endswith((".nii", ".nii.gz")):
            drawing = Drawing(mask=NiftiImage(ask.mask), phase=ask.drawn_on)
            _ = drawing.mask.grid if drawing.mask is not None else None  # a bad header is said at once
            return replace(candidate, drawings=(drawing,))
        state = ask.mask.stat()
        file = scan_file(ask.mask.parent, ask.mask.name, state.st_size, state.st_mtime_ns)
        if file.kind != "drawing":
            raise CaseError(
                f"is no mask ({file.why or 'not a DICOM segmentation'})",
                where=str(ask.mask),
                remedy="Give a NIfTI file (.nii, .nii.gz) or a DICOM SEG",
            )
        frames = {one.frame_of_reference for one in candidate.series if one.frame_of_reference}
        drawings, refused = drawings_of(ask.mask.parent, [file], frames)
        if not drawings:
            why, _, remedy = refused[0][1].partition(". ")
            raise CaseError(why, where=str(ask.mask), remedy=remedy or "Draw the lesion again")
        return replace(candidate, drawings=drawings)

    def _nothing_is_guessed(self, candidate: Candidate, choice: Choice, rules: PhasesFile | None) -> None:
        """A phase that the study wants is missing, and a series that may be it was not recognised for sure.

        Raises:
            CaseError: so it is; a draft of phases.yaml is written.
        """
        missing = [phase for phase in self.settings.phases if phase not in choice.images]
        unsure = [one for one in choice.series if _may_be(one, missing)]
        if not missing or not unsure:
            return
        entries = [
            entry
            for study in meant_studies(candidate.series, candidate.study)
            for entry in unsure_of(
                candidate.patient, study, recognise_series(study, rules, patient=candidate.patient)
            )
        ]
        write_atomically(self.draft, template(entries))
        first = unsure[0]
        more = f" (and {len(unsure) - 1} more)" if len(unsure) > 1 else ""
        name = f" ({first.note})" if first.note else ""
        raise CaseError(
            f"phase {', '.join(missing)} is not decided: series {first.number}{name}{more} may be it, "
            f"but it is unsure: {first.rule}",
            where=self._where(candidate),
            remedy=f"{_SAY_SO}; {self.draft} is a draft of it",
        )


def _may_be(series: SeriesRecord, missing: Sequence[str]) -> bool:
    return series.certainty == "unsure" and (series.taken_for is None or series.taken_for in missing)


def _chosen(candidates: Sequence[Candidate], ask: Ask) -> Candidate:
    """The patient that is meant.

    Raises:
        DatasetError: there are several, and none was named; or there is none of that name.
    """
    meant = [c for c in candidates if ask.patient is None or c.patient == ask.patient]
    if len(meant) == 1:
        return meant[0]
    names = [c.patient for c in candidates]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise DatasetError(
        f"holds {len(names)} patients: {', '.join(names[:_SHOWN])}{more}",
        where=str(ask.source),
        remedy="Name one with --patient" if ask.patient is None else "Correct --patient",
    )


def _refusal(record: PatientRecord, where: str) -> CaseError:
    """Why ingest sets the patient aside: the earliest reason, and how many more there are."""
    stops = [f for f in record.findings if f.stops is not None and f.stops != Stage.LABEL]
    first = min(stops, key=lambda f: STAGES.index(f.stops or Stage.USED), default=None)
    if first is None:
        return CaseError("it cannot be used", where=where, remedy="Run phcc-client ingest to see why")
    more = f" (and {len(stops) - 1} more reasons)" if len(stops) > 1 else ""
    return CaseError(f"{first.text}{more}", where=where, remedy=_remedy(first))


def _remedy(finding: Finding) -> str:
    if finding.code.startswith("no-") and finding.stops == Stage.PHASES:
        return "Export that series too; or, if it is there under another name, say so in a phases.yaml (--phases)"
    return _REMEDIES.get(finding.code, finding.remedy)


def _caution(finding: Finding) -> Caution:
    return Caution(code=finding.code, text=finding.text, remedy=_remedy(finding))


def _header_of(candidate: Candidate, choice: Choice, lesion: LesionRecord) -> Dataset | None:
    """The header of an image of the lesion's phase, or else of any phase that was used."""
    wanted = {uid for uid, phase in choice.series_phase.items() if phase == lesion.drawn_on}
    for path in candidate.files:
        try:
            with path.open("rb") as file:
                header = open_dataset(path, file)
        except (HeaderError, OSError):
            continue
        if str(header.get("SeriesInstanceUID", "")) in (wanted or set(choice.series_phase)):
            return header
    return None


def _date(header: Dataset | None) -> str:
    """The day of the examination, ISO; empty where the header has none that can be read."""
    if header is None:
        return ""
    for name in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        digits = str(header.get(name, "") or "").strip()
        if len(digits) == 8 and digits.isdigit():
            return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
    return ""
