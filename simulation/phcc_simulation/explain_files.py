"""One case's heat maps on disk: a picture, and a NIfTI file for each phase that lies on that phase's image."""

from __future__ import annotations

import re
from pathlib import Path

from phcc_client.imaging.case import RawCase
from phcc_client.overlay import overlay_png, write_map_nifti
from phcc_client.overlay_place import crop_affines
from phcc_model.cases import CaseSet
from phcc_model.explain import Method
from phcc_model.storage import write_atomically
from phcc_simulation.explain import explain_case
from phcc_simulation.finished import RunModel


def draw_case(
    found: RunModel, cases: CaseSet, at: int, raw: RawCase | None, out: Path, method: Method | None = None
) -> None:
    """Write ``<case>.png`` and ``<case>_<phase>.nii.gz``.

    Raises:
        CaseError: the images carry no place in the patient, or cannot be read; the picture is there even so.
        StorageError: the disk is full or not writable.
    """
    result = explain_case(found.model, cases, at, method)
    maps_pdhw = result.maps_bpdhw[0].numpy()
    settings = found.plan.study.data
    name = re.sub(r"[^\w.-]+", "_", cases.case[at])
    picture = overlay_png(
        cases.volumes_npdhw[at],
        maps_pdhw,
        cases.lesion_ndhw[at],
        settings.phases,
        cases.present_np[at],
        spacing_mm=settings.crop.spacing_mm,
        attention_p=None if result.attention_bp is None else result.attention_bp[0].numpy(),
        caption=f"case {cases.case[at]}, logit {float(result.logit_b[0]):.2f}. Blue line: the lesion as given",
    )
    write_atomically(out / f"{name}.png", picture)
    if raw is None:
        return
    for phase, affine in crop_affines(raw, settings).items():
        write_map_nifti(out / f"{name}_{phase}.nii.gz", maps_pdhw[settings.phases.index(phase)], affine)
