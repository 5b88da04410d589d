"""Did the contrast agent arrive, and do the phases stand in order: from the images themselves, and the clock.

Scanners may scale each series as they like, so that the same tissue has other numbers in the next phase.
Two measures of the logarithm of the ratio to the image before contrast are therefore looked at together:

- *brightening*, its median in a shell around the lesion, where liver is: direct, and wrong by the gain;
- *spread*, from its 10th to its 95th percentile over the body: a gain moves both alike. Without contrast
  the ratio is the same everywhere but for noise; with contrast vessels, liver and spleen part from muscle
  and fat.

Contrast counts as missing only where both say so. Seen on 120 phantom patients, whose images hold liver and
vessels only and so have the least spread that there can be: none is doubted as acquired; the image before
contrast in place of every phase, with fresh noise and a breath, is found in all; and with another gain for
every phase (0.3 to 3) nobody is stopped, and four in ten get a remark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.record import Finding, Stage
from phcc_model.config import Phase

BRIGHTER = 0.10
"""Natural logarithm, about 10 %: a smaller brightening of the surroundings is none."""
SPREAD = 0.25
"""A spread below this is noise and breathing."""

_BLOCK_MM = 6.0  # images are averaged to about this, so that noise and breath count little
_SHELL_MM = (3.0, 30.0)  # beyond the lesion's border
_AIR = 0.15  # of the 95th percentile; darker is air
_ENOUGH = 30  # averaged voxels, without which nothing can be said
_ORDER: tuple[Phase, ...] = get_args(Phase)
_BASES: tuple[Phase, ...] = ("pre-contrast", "arterial")

Volume = tuple[NDArray[np.generic], Grid]


class Change(NamedTuple):
    """How one phase differs from the one that it is compared with; natural logarithms of ratios."""

    brightening: float
    spread: float

    @property
    def none(self) -> bool:
        """Neither measure sees contrast."""
        return abs(self.brightening) < BRIGHTER and self.spread < SPREAD


def check_order(seconds: Mapping[Phase, float]) -> tuple[Finding, ...]:
    """Whether the clock puts the phases into the order that their names say.

    Args:
        seconds: when each phase was acquired, on one clock; phases without a clock are left out.
    """
    phases = [phase for phase in _ORDER if phase in seconds]
    wrong = [
        (earlier, later)
        for i, earlier in enumerate(phases)
        for later in phases[i + 1 :]
        if seconds[earlier] > seconds[later]
    ]
    if not wrong:
        return ()
    said = "; ".join(
        f"{earlier} was acquired {seconds[earlier] - seconds[later]:.0f} s after {later}"
        for earlier, later in wrong
    )
    return (
        Finding(
            code="phases-out-of-order",
            text=said,
            remedy="Say in phases.yaml which series is which phase",
            stops=Stage.PHASES,
        ),
    )


def check_enhancement(
    phases: Mapping[Phase, Volume], centre_mm_zyx: NDArray[np.float64], radius_mm: float = 15.0
) -> tuple[Finding, ...]:
    """Whether contrast arrived, in all phases and in each, and whether the liver's course fits their names.

    Only a missing contrast in all phases stops a patient. The rest may be a scanner's scaling or an unusual
    liver, and is for a person to look at.

    Args:
        phases: images with their grids; they may differ.
        centre_mm_zyx: the lesion's place, LPS.
        radius_mm: of the lesion.
    """
    base: Phase | None = next((phase for phase in _BASES if phase in phases), None)
    later = [phase for phase in _ORDER if phase in phases and phase != base and phase != "image"]
    if base is None or not later:
        return ()
    changes: dict[Phase, Change] = {
        phase: change
        for phase in later
        if (change := measure_change(phases[base], phases[phase], centre_mm_zyx, radius_mm)) is not None
    }
    if len(changes) < len(later):
        missing = ", ".join(phase for phase in later if phase not in changes)
        return (
            Finding(
                code="enhancement-not-checked",
                text=f"too little tissue around the lesion to compare {missing} with {base}",
                remedy="Look at its row of the contact sheet",
            ),
        )
    if all(change.none for change in changes.values()):
        return (_never_arrives(base, changes),)
    return tuple(_doubts(base, changes))


def measure_change(
    before: Volume, after: Volume, centre_mm_zyx: NDArray[np.float64], radius_mm: float
) -> Change | None:
    """How an image differs from an earlier one; None where too little tissue is in both.

    Args:
        before: an image with its grid.
        after: a later one; its grid may be another.
        centre_mm_zyx: the lesion's place, LPS.
        radius_mm: of the lesion.
    """
    first, grid = _averaged(*before)
    second, other = _averaged(*after)
    index = np.indices(first.shape).reshape(3, -1)
    places = grid.origin_mm[:, None] + grid.matrix @ index
    there = np.linalg.solve(other.matrix, places - other.origin_mm[:, None])
    b = map_coordinates(second, there, order=1, mode="constant", cval=np.nan)
    a = first.reshape(-1)
    with np.errstate(invalid="ignore"):
        body = (a > _air(first)) & (b > _air(second))
    away = np.linalg.norm(places - np.asarray(centre_mm_zyx)[:, None], axis=0) - radius_mm
    shell = body & (away > _SHELL_MM[0]) & (away < _SHELL_MM[1])
    if np.count_nonzero(shell) < _ENOUGH:
        return None
    ratio = np.full(a.shape, np.nan)
    ratio[body] = np.log(b[body] / a[body])
    low, high = np.percentile(ratio[body], (10, 95))
    return Change(float(np.median(ratio[shell])), float(high - low))


def _averaged(array_dhw: NDArray[np.generic], grid: Grid) -> tuple[NDArray[np.float32], Grid]:
    """An image averaged over blocks of whole voxels; what is over at its end is left out."""
    block = np.clip(np.round(_BLOCK_MM / grid.spacing_mm_dhw), 1, array_dhw.shape).astype(int)
    d, h, w = (int(n) for n in np.array(array_dhw.shape) // block)
    whole = array_dhw[: d * block[0], : h * block[1], : w * block[2]]
    parts = whole.reshape(d, block[0], h, block[1], w, block[2])
    mean: NDArray[np.float32] = parts.mean(axis=(1, 3, 5), dtype=np.float32)
    origin = grid.to_mm((block - 1) / 2)
    return mean, Grid((d, h, w), grid.matrix * block, origin)


def _air(mean_dhw: NDArray[np.float32]) -> float:
    """Below this an image shows air; always above zero, so that a logarithm can be taken."""
    return max(_AIR * float(np.percentile(mean_dhw, 95)), float(np.finfo(np.float32).tiny))


def _never_arrives(base: Phase, changes: Mapping[Phase, Change]) -> Finding:
    seen = ", ".join(f"{phase} {_percent(change)}" for phase, change in changes.items())
    return Finding(
        code="no-enhancement",
        text=f"contrast never arrives: the liver's signal is that of {base} in every phase ({seen})",
        remedy="Look at its row of the contact sheet; was contrast given, and are these the dynamic series?",
        stops=Stage.USABLE,
    )


def _doubts(base: Phase, changes: Mapping[Phase, Change]) -> list[Finding]:
    look = "Look at its row of the contact sheet, and say in phases.yaml which series is which phase"
    found = [
        Finding(
            code="phase-not-enhanced",
            text=f"{phase} looks like {base} although other phases are enhanced",
            remedy=look,
        )
        for phase, change in changes.items()
        if change.none
    ]
    if base == "pre-contrast" and all(change.brightening < -BRIGHTER for change in changes.values()):
        found.append(
            Finding(
                code="darker-after-contrast",
                text=f"the liver is brighter before contrast than in any later phase "
                f"({', '.join(f'{phase} {_percent(change)}' for phase, change in changes.items())}): "
                "another phase, or another scale of intensities",
                remedy=look,
            )
        )
    arterial, portal = changes.get("arterial"), changes.get("portal-venous")
    if (
        base == "pre-contrast"
        and arterial is not None
        and portal is not None
        and arterial.brightening > portal.brightening + BRIGHTER
    ):
        found.append(
            Finding(
                code="arterial-brighter-than-portal",
                text=f"the liver is brighter in arterial ({_percent(arterial)}) than in portal-venous "
                f"({_percent(portal)}), against its usual course: swapped, or scaled otherwise",
                remedy=look,
            )
        )
    return found


def _percent(change: Change) -> str:
    return f"{np.expm1(change.brightening):+.0%}"
