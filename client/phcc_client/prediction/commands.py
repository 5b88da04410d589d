"""What ``phcc-client predict`` does: read, score, explain, write, say."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from phcc_client.ingest.nifti_image import nifti_bytes
from phcc_client.overlay import overlay_png
from phcc_client.prediction import wording
from phcc_client.prediction.ask import Ask, Progress
from phcc_client.prediction.case import kind_of_source, named_subject, prepared_subject
from phcc_client.prediction.dicom_case import DicomWork
from phcc_client.prediction.dicom_out import pdf_object, picture_object
from phcc_client.prediction.page import render_page
from phcc_client.prediction.result import NOT_FOR_DIAGNOSIS, NOTICE, PackageNote, Prediction
from phcc_client.prediction.scoring import Scored, score
from phcc_client.prediction.sheet import sheet_pdf, sheet_picture
from phcc_client.prediction.subject import Subject
from phcc_client.prediction.warnings import (
    cautions_of,
    looked_elsewhere,
    never_taught,
    not_checked,
    outside_training,
)
from phcc_model.command_line import plain
from phcc_model.config import PHASES, Phase
from phcc_model.contract.keys import package_version
from phcc_model.errors import DatasetError
from phcc_model.outcome import outcome_of
from phcc_model.package import ModelPackage
from phcc_model.storage import storage_error, write_atomically

JSON, PAGE, PDF, OVERLAY, DRAFT = (
    "prediction.json", "prediction.html", "prediction.pdf", "heatmap.png", "phases.draft.yaml",
)  # fmt: skip
PDF_OBJECT, PICTURE_OBJECT = "dicom/prediction-pdf.dcm", "dicom/prediction-picture.dcm"

console = Console(soft_wrap=True, highlight=False, emoji=False)


@dataclass(frozen=True)
class Output:
    """The folder that is written.

    Attributes:
        folder: ``--out``.
    """

    folder: Path

    def prepare(self, ask: Ask, package: Path) -> None:
        """Make the folder, and take away what an earlier prediction left in it.

        Raises:
            DatasetError: it holds something else, or lies in the input or around it.
            StorageError: it cannot be made or cleared.
        """
        here = self.folder.resolve()
        for given in (ask.source, package):
            there = given.resolve()
            if here == there or here.is_relative_to(there) or there.is_relative_to(here):
                raise DatasetError(
                    f"lies within {given}, or around it",
                    where=str(self.folder),
                    remedy="Choose another folder for --out",
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            ours = [self.folder / name for name in self._names()]
            if any(entry.is_file() and entry not in ours for entry in sorted(self.folder.rglob("*"))):
                raise DatasetError(
                    "holds something else than a prediction",
                    where=str(self.folder),
                    remedy="Choose a new or empty folder for --out",
                )
            for file in ours:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def _names(self) -> Iterator[str]:
        yield from (JSON, PAGE, PDF, OVERLAY, DRAFT, PDF_OBJECT, PICTURE_OBJECT)
        yield from (map_name(phase) for phase in PHASES)  # type: ignore[arg-type]

    def write(self, files: dict[str, bytes]) -> dict[str, str]:
        """Write files, each whole or not at all.

        Returns:
            The SHA-256 of each.

        Raises:
            StorageError: the disk is full or not writable.
        """
        for name, content in files.items():
            write_atomically(self.folder / name, content)
        return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def map_name(phase: Phase) -> str:
    """Where a phase's heat map is written."""
    return f"heatmaps/{phase}.nii.gz"


def run(package_folder: Path, ask: Ask, out: Path, *, dicom: bool, progress: Progress) -> Prediction:
    """Score one patient and write all that is said of it.

    Args:
        package_folder: the model.
        ask: whom.
        out: the folder to write.
        dicom: whether to make objects for the PACS, where the input is DICOM.
        progress: told how far it is.

    Raises:
        CaseError: the patient cannot be scored; why, and what to do.
        ConfigError: the package or phases.yaml cannot be used.
        DatasetError: the input cannot be used as a whole.
        StorageError: the package is damaged, or the disk cannot be written.
    """
    package = ModelPackage.open(package_folder)
    kind_of_source(ask.source)
    output = Output(out)
    output.prepare(ask, package_folder)
    subject = _subject(ask, package, out / DRAFT, progress)
    progress("score", 0, 0)
    scored = score(package, subject)
    prediction = _prediction(package, subject, scored)
    progress("pages", 0, 0)
    files = output.write(_files(prediction, subject, scored, package, dicom=dicom))
    prediction = prediction.model_copy(update={"files": files})
    write_atomically(out / JSON, prediction.model_dump_json(indent=1) + "\n")
    return prediction


def _subject(ask: Ask, package: ModelPackage, draft: Path, progress: Progress) -> Subject:
    kind = kind_of_source(ask.source)
    settings = package.study.data
    if kind == "prepared":
        return prepared_subject(ask, settings)
    if kind != "dicom":
        return named_subject(ask, kind, settings)
    with tempfile.TemporaryDirectory(prefix="phcc-predict-") as folder:
        return DicomWork(ask, settings, Path(folder), draft, progress).subject()


def _prediction(package: ModelPackage, subject: Subject, scored: Scored) -> Prediction:
    phases = tuple(
        note.model_copy(update={"attention": scored.attention.get(note.phase)}) for note in subject.phases
    )
    warnings = [
        *cautions_of(subject, package.study.data),
        *outside_training(subject, package.seen),
        *looked_elsewhere(scored.looked),
        *never_taught(scored.untaught, alone=scored.on_untaught_alone),
    ]
    return Prediction(
        patient=subject.patient,
        case=subject.case,
        score=scored.score,
        probability=scored.probability,
        recalibrated=package.calibration is not None,
        threshold=package.threshold,
        verdict=scored.verdict,
        phases=phases,
        lesion=subject.lesion,
        warnings=tuple(dict.fromkeys(warnings)),
        not_checked=not_checked(subject, ranges=package.seen is not None),
        package=PackageNote(
            study=package.study.name,
            study_digest=package.study.digest,
            arm=package.arm,
            digest=package.digest,
            event=outcome_of(package.study.data).event,
        ),
        input=subject.source,
        software=package_version(),
    )


def _files(
    prediction: Prediction, subject: Subject, scored: Scored, package: ModelPackage, *, dicom: bool
) -> dict[str, bytes]:
    """Every file but the JSON."""
    phases = package.study.data.phases
    shares = np.array([scored.attention.get(phase, 0.0) for phase in phases])
    picture = overlay_png(
        subject.shown_pdhw,
        scored.maps_pdhw,
        subject.prepared.lesion_dhw,
        phases,
        subject.prepared.present_p,
        spacing_mm=package.study.data.crop.spacing_mm,
        attention_p=shares if scored.attention else None,
        caption=f"{NOTICE}. Outlined: the lesion as given",
    )
    files = {OVERLAY: picture, PAGE: render_page(prediction, picture).encode()}
    files[PDF] = sheet_pdf(prediction, picture)
    for number, phase in enumerate(phases):
        if subject.prepared.present_p[number] and subject.grid is not None:
            files[map_name(phase)] = nifti_bytes(scored.maps_pdhw[number], subject.grid)
    if dicom and subject.header is not None:
        files[PDF_OBJECT] = pdf_object(prediction, subject.header, files[PDF])
        files[PICTURE_OBJECT] = picture_object(prediction, subject.header, sheet_picture(prediction, picture))
    return files


def predict(package: Path, ask: Ask, out: Path, *, dicom: bool) -> None:
    """Score one patient, write the folder, and say what came of it.

    Raises:
        PhccError: as `run`.
    """
    with console.status("reading the package") as status:

        def progress(what: str, done: int, total: int) -> None:
            status.update(f"{what} {done} of {total}" if total else what)

        prediction = run(package, ask, out, dicom=dicom, progress=progress)
    for line in told(prediction, out):
        console.print(line)


def told(prediction: Prediction, out: Path) -> Iterator[str]:
    """What the terminal shows, with markup."""
    yield f"[bold red]{NOTICE}.[/] {NOT_FOR_DIAGNOSIS}"
    yield plain(wording.title(prediction))
    yield f"[bold]{plain(prediction.patient)}[/]: {plain(wording.lesion_line(prediction.lesion))}"
    for name, value in wording.figures(prediction):
        yield f"  {name}: [bold]{escape(value)}[/]"
    yield f"  {wording.verdict_words(prediction)}"
    for note in prediction.phases:
        yield f"  {note.phase}: {plain(note.rule) if note.used else '[yellow]missing[/]'}"
    for line in wording.warning_lines(prediction) if prediction.warnings else ():
        yield f"  [yellow]warning:[/] {plain(line)}"
    if unchecked := wording.unchecked_line(prediction):
        yield f"  {plain(unchecked)}"
    yield f"Written: {plain(str(out / PAGE))}, {PDF}, {JSON}, heat maps" + (
        f"; for the PACS: {PDF_OBJECT}, {PICTURE_OBJECT}" if PDF_OBJECT in prediction.files else ""
    )
