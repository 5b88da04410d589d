"""What is written for one patient, once nothing more is to be decided: volumes, masks, picture, record."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from phcc_client.imaging.grid import Grid
from phcc_client.ingest import lesion as lesions
from phcc_client.ingest.candidate import Candidate
from phcc_client.ingest.contact_sheet import thumbnail_row
from phcc_client.ingest.duplicates import signature
from phcc_client.ingest.lesion import Lesion
from phcc_client.ingest.nifti_image import nifti_bytes, pixel_digest
from phcc_client.ingest.record import (
    Finding,
    LesionRecord,
    PatientRecord,
    PhaseRecord,
    SeriesRecord,
    Stage,
)
from phcc_client.ingest.settings import IngestSettings
from phcc_client.ingest.site_folder import CONTACT, IMAGES, SiteFolder
from phcc_model.config import Phase

_SHELL_MM = 10.0
_LABELS: dict[int, Literal[-1, 0, 1]] = {-1: -1, 0: 0, 1: 1}


@dataclass(frozen=True)
class Placed:
    """One phase in the space of the reference.

    Attributes:
        array_dhw: voxels as measured (resampled only where it was bent).
        grid: where they lie now.
        aligned: how they came there.
        shift_mm: how far the lesion's place was moved.
        residual_mm: the shift that was measured afterwards.
    """

    array_dhw: NDArray[np.float32]
    grid: Grid
    aligned: Literal["reference", "off", "rigid", "deformable"]
    shift_mm: float = 0.0
    residual_mm: float | None = None


@dataclass(frozen=True)
class Made:
    """A patient's record, and the files that were written for it (relative to the site's folder)."""

    record: PatientRecord
    files: tuple[str, ...]


@dataclass(frozen=True)
class PatientFiles:
    """Writes one patient.

    Attributes:
        site: where.
        pseudonym: its name.
        candidate: as the source has it.
        settings: the hospital's choices.
    """

    site: SiteFolder
    pseudonym: str
    candidate: Candidate
    settings: IngestSettings

    def write(
        self,
        series: tuple[SeriesRecord, ...],
        findings: tuple[Finding, ...],
        reached: Stage,
        located: Sequence[Lesion],
        placed: Mapping[Phase, Placed],
    ) -> Made:
        """Write all that is kept of a patient, and remove what an earlier run kept and this one does not.

        Of a patient who cannot be used only the record is kept, and the picture where there is one.

        Raises:
            StorageError: the disk is full or not writable.
        """
        row, looks = "", ""
        phases: list[PhaseRecord] = []
        masks: list[LesionRecord] = []
        if placed:
            row = self._picture(located, placed, findings)
        if placed and reached == Stage.USABLE:
            first = located[0]
            at = placed[first.phase]
            phases = [self._phase(phase, one, first, at.grid) for phase, one in placed.items()]
            masks = [self._lesion(one, placed[one.phase].grid) for one in located]
            looks = signature(at.array_dhw, at.grid, lesions.centre_mm(first.mask_dhw, at.grid))
        candidate = self.candidate
        record = PatientRecord(
            patient=self.pseudonym,
            inputs=self.settings.digest,
            reached=reached,
            label=_LABELS[candidate.label],
            afp_ng_ml=None if math.isnan(candidate.afp) else candidate.afp,
            centre=candidate.centre,
            split=candidate.split,
            findings=findings,
            series=series,
            phases=tuple(phases),
            lesions=tuple(masks),
            unreadable_files=len(candidate.unreadable),
            signature=looks,
            fitted=candidate.fitted,
            thumbnails=row,
        )
        files = [p.file for p in phases] + [m.mask for m in masks] + ([row] if row else [])
        self.site.tidy(self.pseudonym, files)
        self.site.write_record(record)
        return Made(record, tuple(files))

    def _picture(
        self, located: Sequence[Lesion], placed: Mapping[Phase, Placed], findings: Sequence[Finding]
    ) -> str:
        first = located[0]
        notes = [finding.code for finding in findings if finding.stops is not None]
        picture = thumbnail_row(
            {phase: (one.array_dhw, one.grid) for phase, one in placed.items()},
            first.mask_dhw,
            placed[first.phase].grid,
            pseudonym=self.pseudonym,
            label=self.candidate.label,
            notes=notes,
        )
        name = f"{CONTACT}/{self.pseudonym}.png"
        self.site.write(name, picture)
        return name

    def _phase(self, phase: Phase, one: Placed, lesion: Lesion, reference: Grid) -> PhaseRecord:
        content = nifti_bytes(one.array_dhw, one.grid)
        name = f"{IMAGES}/{self.pseudonym}/{phase}.nii.gz"
        self.site.write(name, content)
        inside, around = _signal(one, lesion, reference)
        return PhaseRecord(
            phase=phase,
            file=name,
            sha256=hashlib.sha256(content).hexdigest(),
            pixels=pixel_digest(one.array_dhw, one.grid),
            aligned=one.aligned,
            shift_mm=round(one.shift_mm, 2),
            residual_mm=None if one.residual_mm is None else round(one.residual_mm, 2),
            lesion_median=inside,
            surroundings_median=around,
        )

    def _lesion(self, lesion: Lesion, grid: Grid) -> LesionRecord:
        content = nifti_bytes(lesion.mask_dhw, grid)
        name = f"{IMAGES}/{self.pseudonym}/lesion-{lesion.number}.nii.gz"
        self.site.write(name, content)
        z, y, x = (round(float(mm), 1) for mm in lesions.centre_mm(lesion.mask_dhw, grid))
        return LesionRecord(
            case=f"{self.pseudonym}-{lesion.number}",
            mask=name,
            sha256=hashlib.sha256(content).hexdigest(),
            drawn_on=lesion.phase,
            volume_ml=round(lesions.volume_ml(lesion.mask_dhw, grid), 3),
            centre_mm_zyx=(z, y, x),
        )


def _signal(one: Placed, lesion: Lesion, reference: Grid) -> tuple[float | None, float | None]:
    """Median signal in the lesion, and in a shell around it; None where the phase does not reach there."""
    if not one.grid.same_as(reference):
        mask = lesions.on_grid(lesion.mask_dhw, reference, one.grid)
    else:
        mask = lesion.mask_dhw
    if not mask.any():
        return None, None
    reach = np.maximum(1, np.round(_SHELL_MM / one.grid.spacing_mm_dhw)).astype(int)
    cut = lesions.region(mask, reach)
    inside = mask[cut] != 0
    away_mm = distance_transform_edt(~inside, sampling=one.grid.spacing_mm_dhw)
    around = (away_mm > 0) & (away_mm <= _SHELL_MM)
    values = one.array_dhw[cut]
    shell = round(float(np.median(values[around])), 3) if around.any() else None
    return round(float(np.median(values[inside])), 3), shell
