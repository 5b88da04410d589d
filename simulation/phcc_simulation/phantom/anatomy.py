"""Where each tissue lies in one patient: the lesion's shape and parts, vessels, texture [R].

Everything is a function of position in mm relative to the middle of the volume, so one patient can be sampled
on any grid, and moved by a breath without resampling an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .fields import Axes, RandomField
from .signs import PatientSigns
from .tissues import Compartment

Map = NDArray[np.float32]
Zyx = tuple[float, float, float]

LESION, RIM, CORE, CAPSULE, RIM_MIMIC, CORE_MIMIC = range(1, 7)
LABELS: Final = {
    "lesion": LESION,
    "rim": RIM,
    "core": CORE,
    "capsule": CAPSULE,
    "rim mimic": RIM_MIMIC,
    "core mimic": CORE_MIMIC,
}
"""Values of the truth's label map; 0 is liver, and every other value lies within the lesion."""

_RADIUS_MM, _RADIUS_LOG_SD, _RADIUS_RANGE_MM = 17.0, 0.18, (12.0, 25.0)
_CENTRE_SD_MM, _CENTRE_LIMIT_MM = (2.5, 4.0, 4.0), (5.0, 8.0, 8.0)
_STRETCH_LOG_SD = 0.10  # of the three half axes
_RIM_OF_RADIUS, _RIM_MIN_MM = (0.22, 0.28), 4.0
_CORE_OF_RADIUS, _CORE_OFFSET = (0.58, 0.66), 0.08  # 20-29 % of the volume
_CORE_BLEND, _NECROSIS_SHARE = (0.50, 0.75), (0.40, 1.00)
_CAPSULE_PROBABILITY, _CAPSULE_MM, _CAPSULE_OPACITY = 0.30, 2.5, 0.7
_RIM_MIMIC, _CORE_MIMIC = (1.25, 1.45), (0.60, 0.80)
_BRIGHTNESS_LOG_SD = 0.42  # proton density and all else that no model here explains; the same in all phases
_TEXTURE, _LESION_TEXTURE, _ENHANCEMENT_TEXTURE = 0.05, 0.06, 0.10
_EDGE_MM, _INNER_EDGE_MM = 0.8, 1.0
_VESSEL_WIDTH = 0.33

# Lattice steps in mm: how coarse each random field is.
_STEP_MM: dict[str, Zyx] = {
    "surface": (9.0, 13.0, 13.0),
    "core surface": (9.0, 9.6, 9.6),
    "vessel a": (18.0, 20.0, 20.0),
    "vessel b": (18.0, 20.0, 20.0),
    "liver texture": (4.5, 3.2, 3.2),
    "lesion texture": (4.5, 3.2, 3.2),
    "enhancement texture": (6.0, 4.8, 4.8),
}


@dataclass(frozen=True)
class Parts:
    """Share of each part at every voxel, 0 to 1, and textures around 1; axes d, h, w.

    Attributes:
        lesion: inside the lesion.
        inner: deeper than the rim's thickness (inside the lesion or not).
        core: inside the core's surface.
        capsule: the outermost shell, if this lesion has a capsule.
        vessel: inside a vessel of the liver.
        liver_texture: of the liver's signal.
        lesion_texture: of the lesion's signal in every phase.
        enhancement_texture: of the lesion's signal after contrast.
    """

    lesion: Map
    inner: Map
    core: Map
    capsule: Map
    vessel: Map
    liver_texture: Map
    lesion_texture: Map
    enhancement_texture: Map


@dataclass(frozen=True)
class Anatomy:
    """One patient's liver around the lesion.

    Attributes:
        centre_mm: the lesion's centre (z, y, x) relative to the middle of the volume.
        half_axes_mm: of the lesion's ellipsoid.
        radius_mm: its mean radius.
        rim_mm: thickness of the rim.
        core_radius: of the core, as a share of the lesion's.
        core_offset_mm: of the core's centre from the lesion's.
        core_blend: how much of the core's tissue is fibrosis or necrosis.
        necrosis_share: necrosis among the two.
        has_capsule: whether the lesion has one.
        rim_mimic: brightness of a mimic's rim relative to its lesion.
        core_mimic: brightness of a mimic's core.
        brightness: of the whole lesion, in all phases.
        fields: random fields by name.
    """

    centre_mm: Zyx
    half_axes_mm: Zyx
    radius_mm: float
    rim_mm: float
    core_radius: float
    core_offset_mm: Zyx
    core_blend: float
    necrosis_share: float
    has_capsule: bool
    rim_mimic: float
    core_mimic: float
    brightness: float
    fields: dict[str, RandomField]

    @classmethod
    def draw(cls, signs: PatientSigns, half_extent_mm: Zyx, rng: np.random.Generator) -> Anatomy:
        """Draw a patient's anatomy; the size follows ``signs.size_score``."""
        radius = float(np.clip(_RADIUS_MM * np.exp(_RADIUS_LOG_SD * signs.size_score), *_RADIUS_RANGE_MM))
        centre = np.clip(rng.normal(0.0, _CENTRE_SD_MM), -np.array(_CENTRE_LIMIT_MM), _CENTRE_LIMIT_MM)
        return cls(
            centre_mm=_zyx(centre),
            half_axes_mm=_zyx(radius * np.exp(rng.normal(0.0, _STRETCH_LOG_SD, 3))),
            radius_mm=radius,
            rim_mm=max(float(rng.uniform(*_RIM_OF_RADIUS)) * radius, _RIM_MIN_MM),
            core_radius=float(rng.uniform(*_CORE_OF_RADIUS)),
            core_offset_mm=_zyx(rng.normal(0.0, _CORE_OFFSET * radius, 3)),
            core_blend=float(rng.uniform(*_CORE_BLEND)),
            necrosis_share=float(rng.uniform(*_NECROSIS_SHARE)),
            has_capsule=bool(rng.random() < _CAPSULE_PROBABILITY),
            rim_mimic=float(rng.uniform(*_RIM_MIMIC)),
            core_mimic=float(rng.uniform(*_CORE_MIMIC)),
            brightness=float(np.exp(rng.normal(0.0, _BRIGHTNESS_LOG_SD))),
            fields={name: RandomField.draw(rng, half_extent_mm, step) for name, step in _STEP_MM.items()},
        )

    def parts(self, axes: Axes, shift_mm: Zyx = (0.0, 0.0, 0.0)) -> Parts:
        """The parts on the grid of these axes, with the liver moved by ``shift_mm``."""
        z, y, x = (axis - moved for axis, moved in zip(axes, shift_mm, strict=True))
        body: Axes = (z, y, x)
        field = {name: field.at(body) for name, field in self.fields.items()}
        depth = (1.0 - self._radial(body, (0.0, 0.0, 0.0), 0.06 * field["surface"])) * self.radius_mm
        core = (
            self.core_radius - self._radial(body, self.core_offset_mm, 0.12 * field["core surface"])
        ) * self.radius_mm
        lesion = _step(depth / _EDGE_MM)
        capsule = lesion * _step((_CAPSULE_MM - depth) / 0.6) * np.float32(self.has_capsule)
        # Two smooth random surfaces meet in curves: the tubes of a vascular tree, without its order.
        tube = _VESSEL_WIDTH**2 - field["vessel a"] ** 2 - field["vessel b"] ** 2
        return Parts(
            lesion=lesion,
            inner=_step((depth - self.rim_mm) / _EDGE_MM),
            core=_step(core / _INNER_EDGE_MM),
            capsule=capsule,
            vessel=_step(tube * 40.0) * (1.0 - lesion),
            liver_texture=1.0 + _TEXTURE * field["liver texture"],
            lesion_texture=1.0 + _LESION_TEXTURE * field["lesion texture"],
            enhancement_texture=1.0 + _ENHANCEMENT_TEXTURE * field["enhancement texture"],
        )

    def _radial(self, body: Axes, offset_mm: Zyx, roughness: Map) -> Map:
        """Distance from the lesion's centre (plus an offset) in units of the ellipsoid's radius; rough."""
        squares = [
            (((axis - centre - offset) / half) ** 2).astype(np.float32)
            for axis, centre, offset, half in zip(
                body, self.centre_mm, offset_mm, self.half_axes_mm, strict=True
            )
        ]
        radial = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
        return np.asarray(radial * (1.0 + roughness), dtype=np.float32)

    def paint(
        self, parts: Parts, signs: PatientSigns, signal: dict[Compartment, float], enhanced: bool
    ) -> Map:
        """The true signal of one phase; axes d, h, w.

        Args:
            parts: where the tissues are in this phase.
            signs: what is planted.
            signal: of every compartment in this phase.
            enhanced: whether the phase is after contrast.
        """
        liver = signal["liver"] * parts.liver_texture * (1.0 - parts.vessel) + signal["vessel"] * parts.vessel
        tumour = np.full_like(parts.lesion, signal["lesion"])
        if signs.rim:
            tumour = signal["inner"] * parts.inner + signal["rim"] * (1.0 - parts.inner)
        if signs.rim_mimic:
            tumour = tumour * (1.0 + (self.rim_mimic - 1.0) * (1.0 - parts.inner))
        if signs.core_mimic:
            tumour = tumour * (1.0 - (1.0 - self.core_mimic) * parts.core)
        if signs.core:
            share = self.core_blend * parts.core
            dead = self.necrosis_share * signal["necrosis"] + (1.0 - self.necrosis_share) * signal["fibrosis"]
            tumour = tumour * (1.0 - share) + dead * share
        shell = _CAPSULE_OPACITY * parts.capsule
        tumour = tumour * (1.0 - shell) + signal["capsule"] * shell
        tumour = tumour * self.brightness * parts.lesion_texture
        if enhanced:
            tumour = tumour * parts.enhancement_texture
        return np.asarray(liver * (1.0 - parts.lesion) + tumour * parts.lesion, dtype=np.float32)

    def label_map(self, parts: Parts, signs: PatientSigns) -> NDArray[np.uint8]:
        """The truth: which part each voxel belongs to, as in `LABELS`; axes d, h, w."""
        inside = parts.lesion > 0.5
        labels = np.where(inside, LESION, 0).astype(np.uint8)
        outer, core = inside & (parts.inner <= 0.5), inside & (parts.core > 0.5)
        for present, where, value in (
            (signs.rim, outer, RIM),
            (signs.rim_mimic, outer, RIM_MIMIC),
            (self.has_capsule, inside & (parts.capsule > 0.5), CAPSULE),
            (signs.core, core, CORE),
            (signs.core_mimic, core, CORE_MIMIC),
        ):
            if present:
                labels[where] = value
        return labels


def _zyx(values: NDArray[np.float64]) -> Zyx:
    z, y, x = (float(v) for v in values)
    return z, y, x


def _step(x: Map) -> Map:
    """A smooth step from 0 to 1: partial volume at a surface."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0))), dtype=np.float32)
