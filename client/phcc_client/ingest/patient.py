"""One patient from candidate to site: phases chosen, lesion found, registered, checked, written, recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.ingest import lesion as lesions
from phcc_client.ingest.bias_field import correct_bias
from phcc_client.ingest.candidate import Candidate
from phcc_client.ingest.choice import Choice, choose
from phcc_client.ingest.deidentify import scrub
from phcc_client.ingest.examination import Image
from phcc_client.ingest.lesion import Lesion
from phcc_client.ingest.nifti_image import must_be_finite
from phcc_client.ingest.patient_files import Made, PatientFiles, Placed
from phcc_client.ingest.phases_file import PhasesFile
from phcc_client.ingest.quality_checks import check_enhancement, check_mask, check_order, check_volume
from phcc_client.ingest.record import Finding, Stage
from phcc_client.ingest.registration import register
from phcc_client.ingest.settings import IngestSettings
from phcc_client.ingest.site_folder import SiteFolder
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import Phase
from phcc_model.errors import CaseError

STAGES = tuple(Stage)


@dataclass(frozen=True)
class PatientMaker:
    """Makes patients, one at a time and each for itself.

    Attributes:
        site: where they are written.
        settings: the hospital's choices.
        rules: its own rules for series, if it has any.
        only_said: codes of findings that stop nobody here: to be trained on is more than to be scored.
    """

    site: SiteFolder
    settings: IngestSettings
    rules: PhasesFile | None = None
    only_said: frozenset[str] = frozenset()

    def make(self, candidate: Candidate, pseudonym: str) -> Made:
        """Make one patient, and write it down.

        Args:
            candidate: the patient as the source has it.
            pseudonym: its name from here on.

        Returns:
            What became of it. Whatever is wrong with the patient stands there as a finding.

        Raises:
            StorageError: the disk is full or not writable.
        """
        choice = choose(candidate, self.settings.required_phases, self.rules)
        findings = [*candidate.findings, *choice.findings]
        located: tuple[Lesion, ...] = ()
        placed: dict[Phase, Placed] = {}
        if choice.images and not stopped_before(findings, Stage.LESION):
            located = tuple(_located(candidate, choice, findings))
        if located:
            try:
                placed = self._place(choice.images, located, candidate, findings)
            except CaseError as error:
                text = scrub(f"one of its images cannot be used: {error.what}", candidate.identity)
                findings.append(_finding("image-unusable", text, error.remedy, Stage.READABLE))
        if placed and not candidate.fitted:
            findings += _seen(placed, located, choice)
        if candidate.label == UNKNOWN_LABEL and not stopped_before(findings, Stage.USED):
            findings.append(_PRETRAINING_ONLY)
        findings = [f.model_copy(update={"stops": None}) if f.code in self.only_said else f for f in findings]
        clean = tuple(dict.fromkeys(findings))
        reached = stage_reached(clean) if placed or stopped_before(clean, Stage.USED) else Stage.READABLE
        files = PatientFiles(self.site, pseudonym, candidate, self.settings)
        return files.write(choice.series, clean, reached, located, placed)

    def _place(
        self,
        images: Mapping[Phase, Image],
        located: Sequence[Lesion],
        candidate: Candidate,
        findings: list[Finding],
    ) -> dict[Phase, Placed]:
        """Every phase in the space of the phase that the first lesion was drawn on.

        Raises:
            CaseError: an image is damaged.
        """
        first = located[0]
        grid = images[first.phase].grid
        fixed = self._read(first.phase, images[first.phase], candidate, findings)
        centre = lesions.centre_mm(first.mask_dhw, grid)
        together = lesions.with_boxes_together(located, first.phase, images)
        placed = {first.phase: Placed(fixed, grid, "reference")}
        for phase, image in images.items():
            if phase == first.phase:
                continue
            moving = self._read_if_it_can(phase, image, candidate, findings)
            if moving is None:
                continue
            before = together.get(phase, np.zeros(3))
            start = lesions.moved(image.grid, before)
            if candidate.fitted:
                placed[phase] = Placed(moving, start, "off")
                continue
            done = register(
                (fixed, grid),
                (moving, start),
                method=self._method(phase, located),
                lesion_centre_mm_zyx=centre,
                lesion_mask_dhw=first.mask_dhw,
            )
            shift = float(np.linalg.norm(before)) if done.aligned == "off" else done.shift_mm
            placed[phase] = Placed(done.array_dhw, done.grid, done.aligned, shift, done.residual_mm)
            if done.note:
                findings.append(Finding(code="registration", text=f"{phase}: {done.note}"))
        return {phase: placed[phase] for phase in images if phase in placed}

    def _method(self, phase: Phase, located: Sequence[Lesion]) -> Literal["rigid", "off", "deformable"]:
        """A phase that a lesion was drawn on is not bent: its mask could not follow."""
        drawn = any(lesion.phase == phase for lesion in located)
        return "rigid" if drawn and self.settings.registration == "deformable" else self.settings.registration

    def _read_if_it_can(
        self, phase: Phase, image: Image, candidate: Candidate, findings: list[Finding]
    ) -> NDArray[np.float32] | None:
        """A phase's voxels; None, and a remark, where it is damaged and the patient can do without it.

        Raises:
            CaseError: it is damaged, and required.
        """
        if phase in self.settings.required_phases:
            return self._read(phase, image, candidate, findings)
        said: list[Finding] = []
        try:
            voxels = self._read(phase, image, candidate, said)
        except CaseError as error:
            text = scrub(f"{phase} was left out: {error.what}", candidate.identity)
            findings.append(Finding(code="phase-left-out", text=text, remedy=error.remedy or ""))
            return None
        findings += [finding.model_copy(update={"stops": None}) for finding in said]
        return None if any(finding.stops for finding in said) else voxels

    def _read(
        self, phase: Phase, image: Image, candidate: Candidate, findings: list[Finding]
    ) -> NDArray[np.float32]:
        voxels = image.read()
        must_be_finite(voxels, image.where)
        found = check_volume(voxels, image.grid, phase, fitted=candidate.fitted)
        findings += found
        if self.settings.bias_field and not candidate.fitted and not any(f.stops for f in found):
            voxels = correct_bias(voxels, image.grid)
        return voxels


def stopped_before(findings: Sequence[Finding], stage: Stage) -> bool:
    """Whether a finding keeps the patient from reaching a stage, or one before it."""
    return any(f.stops is not None and STAGES.index(f.stops) < STAGES.index(stage) for f in findings)


def stage_reached(findings: Sequence[Finding]) -> Stage:
    """The last stage that nothing keeps the patient from; who is used is known only with a study."""
    stops = [STAGES.index(finding.stops) for finding in findings if finding.stops is not None]
    last = min([*stops, STAGES.index(Stage.USED)]) - 1
    return STAGES[max(last, 0)]


_PRETRAINING_ONLY = Finding(
    code="label-unknown",
    text="its label is not known: it serves the pre-training only",
    remedy="Fill the label's column of the table, if it is known",
)
_NO_LESION = Finding(
    code="no-lesion",
    text="nothing says where its lesion is",
    remedy="Name a mask or a box in the table, or export the DICOM segmentation with the images",
    stops=Stage.LESION,
)


def _finding(code: str, text: str, remedy: str | None, stops: Stage) -> Finding:
    return Finding(code=code, text=text, remedy=remedy or "", stops=stops)


def _located(candidate: Candidate, choice: Choice, findings: list[Finding]) -> Iterator[Lesion]:
    """The lesions that can be used; one that cannot is a loss only where no other can."""
    found: list[Lesion] = []
    problems: list[Finding] = []
    if candidate.fitted:  # crops around the lesion: all of the image is lesion
        phase = next(iter(choice.images))
        whole = np.ones(choice.images[phase].grid.shape_dhw, np.uint8)
        yield Lesion(1, phase, whole, {})
        return
    for drawing in candidate.drawings:
        try:
            lesion = lesions.locate(drawing, choice.images, choice.series_phase)
            grid = choice.images[lesion.phase].grid
            drawn = drawing.mask
            # As it was drawn: on the phase's grid nothing of it can lie outside any more.
            said = (
                check_mask(drawn.read(), drawn.grid, grid)
                if drawn
                else check_mask(lesion.mask_dhw, grid, grid)
            )
        except CaseError as error:
            text = scrub(error.what, candidate.identity)
            problems.append(_finding("lesion-unusable", text, error.remedy, Stage.LESION))
            continue
        problems += said
        if not any(finding.stops for finding in said):
            found.append(lesion)
    if not candidate.drawings and not any(f.stops == Stage.LESION for f in findings):
        problems.append(_NO_LESION)
    findings += [f.model_copy(update={"stops": None}) if found else f for f in problems]
    yield from found


def _seen(placed: Mapping[Phase, Placed], located: Sequence[Lesion], choice: Choice) -> list[Finding]:
    """What only a look at the images tells: contrast that never arrives, phases out of order."""
    first = located[0]
    grid: Grid = placed[first.phase].grid
    radius = float((3 * lesions.volume_ml(first.mask_dhw, grid) * 1000 / (4 * np.pi)) ** (1 / 3))
    views = {phase: (one.array_dhw, one.grid) for phase, one in placed.items()}
    found = list(check_enhancement(views, lesions.centre_mm(first.mask_dhw, grid), radius))
    clocks = {
        phase: facts.acquired for phase, facts in choice.facts.items() if facts.acquired and phase in placed
    }
    if clocks:
        start = min(clocks.values())
        seconds = {phase: (at - start).total_seconds() for phase, at in clocks.items()}
        found += check_order(seconds)
    return found
