"""The heat maps of a finished run held against the truth, and against networks that have learnt less.

The patients are those that no network was trained on. The truth is the phantom's own lesion, cut as the images
were; for other data it is the lesion as given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from phcc_client.imaging.case import RawCase, anchor_phase
from phcc_client.imaging.preprocess import prepare
from phcc_model.build import build_classifier
from phcc_model.cases import CaseSet
from phcc_model.classifier import Classifier
from phcc_model.explain import CamResult, Method, heat_maps
from phcc_model.explain_measures import Place, place_of, redrawn, with_rim
from phcc_model.seeds import derive_seed
from phcc_simulation.finished import RunModel

RIM_MM = 5.0
"""What counts as a lesion's rim: so far out, in mm."""
DRAWS = 3
"""Networks per depth of drawing anew: one alone says little, as every one has a bias of its own."""
TRAINED = "trained"
MOVED = "trained, images moved"
MOVED_BY = 4
"""Images are moved by one in so many of their voxels along each axis, what leaves comes in on the other side."""

Progress = Callable[[str, int, int], None]


def true_lesion(
    found: RunModel, raw: RawCase | None, given_dhw: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], bool]:
    """The lesion on the crop's grid, and whether it is the phantom's truth.

    Raises:
        CaseError: the phantom's truth cannot be read.
    """
    truth = found.run / "data" / "truth" / f"{raw.patient}.nii.gz" if raw is not None else None
    if raw is None or truth is None or found.study.data.source != "phantom" or not truth.is_file():
        return given_dhw > 0, False
    phase = anchor_phase(raw)
    only = found.plan.study.data.model_copy(
        update={"phases": (phase,), "required_phases": (), "normalisation": "none"}
    )
    return prepare(replace(raw, mask=truth, lesion_phase=phase), only).lesion_dhw > 0, True


def explain_case(model: Classifier, cases: CaseSet, at: int, method: Method | None = None) -> CamResult:
    """The heat map of one case; without a method, the model's usual one."""
    return heat_maps(model, *_one(cases, at), method=method)


def _one(cases: CaseSet, at: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One case as a batch: volumes, presence, lesion."""
    return (
        torch.from_numpy(cases.volumes_npdhw[at : at + 1].astype(np.float32)),
        torch.from_numpy(cases.present_np[at : at + 1]),
        torch.from_numpy(cases.lesion_ndhw[at : at + 1].astype(np.float32)),
    )


@dataclass(frozen=True)
class Measured:
    """One case's map under one network, all phases added up.

    Attributes:
        network: `TRAINED`; `MOVED`, the same before images moved within the crop, the map moved back: crops are
            cut around the lesion, and a network may have learnt to point at their middle; or what was drawn anew.
        draw: which of the draws; 0 for the trained one.
        alike: correlation of the map with the trained network's, voxel by voxel; None where one is flat.
    """

    network: str
    draw: int
    case: str
    patient: str
    lesion: Place
    with_rim: Place
    alike: float | None


def measure(
    found: RunModel,
    cases: CaseSet,
    lesions: list[NDArray[np.bool_]],
    progress: Progress,
    method: Method | None = None,
) -> Iterator[Measured]:
    """Every case under the trained network, then under networks drawn anew from the head down to the stem."""
    crop = found.plan.study.data.crop
    rims = [with_rim(lesion, crop.spacing_mm, RIM_MM) for lesion in lesions]
    networks = [(TRAINED, 0, found.model), (MOVED, 0, found.model), *_controls(found)]
    d, h, w = _shift(cases)
    moved = _rolled(cases, (d, h, w))
    reference: list[NDArray[np.float32]] = []
    for done, (name, draw, model) in enumerate(networks, start=1):
        for i, (case, patient) in enumerate(zip(cases.case, cases.patient, strict=True)):
            seen = moved if name == MOVED else cases
            map_dhw = explain_case(model, seen, i, method).maps_bpdhw[0].sum(dim=0).numpy()
            if name == MOVED:
                map_dhw = np.roll(map_dhw, (-d, -h, -w), (0, 1, 2))
            if name == TRAINED:
                reference.append(map_dhw)
            yield Measured(
                name,
                draw,
                case,
                patient,
                place_of(map_dhw, lesions[i]),
                place_of(map_dhw, rims[i]),
                _alike(map_dhw, reference[i]),
            )
        progress("networks", done, len(networks))


@dataclass(frozen=True)
class Looked:
    """Where a network looks that finds lesions by itself, means over cases.

    Attributes:
        share: the lesion as given, of the crop: what a look that knows nothing has there.
        within: of the look, within the lesion.
        moved: the same with everything moved in the crop.
    """

    share: float
    within: float
    moved: float


def looked(model: Classifier, cases: CaseSet) -> Looked | None:
    """How much of where a network looks lies in the lesion, and stays there; None where it does not look."""

    def within(seen: CaseSet) -> float | None:
        parts = []
        for i in range(len(seen)):
            with torch.no_grad():
                part_b = model.looked_within(*_one(seen, i))
            if part_b is None:
                return None
            parts.append(float(part_b[0]))
        return float(np.mean(parts))

    usual, moved = within(cases), within(_rolled(cases, _shift(cases)))
    if usual is None or moved is None:
        return None
    return Looked(float((cases.lesion_ndhw > 0).mean()), usual, moved)


def _shift(cases: CaseSet) -> tuple[int, int, int]:
    """How far images are moved along D, H, W, in voxels."""
    d, h, w = (size // MOVED_BY for size in cases.lesion_ndhw.shape[1:])
    return d, h, w


def _rolled(cases: CaseSet, voxels: tuple[int, int, int]) -> CaseSet:
    """The same cases with everything in their crops moved along D, H, W."""
    return replace(
        cases,
        volumes_npdhw=np.roll(cases.volumes_npdhw, voxels, (2, 3, 4)),
        lesion_ndhw=np.roll(cases.lesion_ndhw, voxels, (1, 2, 3)),
    )


def _controls(found: RunModel) -> Iterator[tuple[str, int, Classifier]]:
    """From the top: the head, the blocks one after another, at last the stem, and with it everything."""
    top = found.model.encoder.layers
    for depth in range(top, -1, -1):
        name = (
            "head drawn anew"
            if depth == top
            else "all drawn anew"
            if depth == 0
            else f"from layer {depth} up"
        )
        for draw in range(1, DRAWS + 1):
            seed = derive_seed(found.study.seed, "explain", "control", draw)
            fresh = build_classifier(found.plan.study.model_copy(update={"seed": seed}))
            yield name, draw, redrawn(found.model, fresh, depth)


def _alike(a_dhw: NDArray[np.float32], b_dhw: NDArray[np.float32]) -> float | None:
    if a_dhw.std() == 0 or b_dhw.std() == 0:
        return None
    return float(np.corrcoef(a_dhw.ravel(), b_dhw.ravel())[0, 1])
