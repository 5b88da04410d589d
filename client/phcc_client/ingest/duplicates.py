"""One person under two names: identical pixels, and images that are nearly the same.

Identical images have one digest, whatever they are called. A second export of an examination (another
rounding, another intensity scale, a mask whose centre lies a voxel further on) has other pixels and still
the same picture: it is found by a small signature, a cube of grey values about the lesion.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.record import Finding, PatientRecord, Stage
from phcc_model.cases import UNKNOWN_LABEL

SIDE = 16
"""Samples along each edge of a signature."""
EDGE_MM = 80.0
"""Edge of the cube that a signature covers: a lesion and the tissue around it, which no two people share."""
NEAR = 0.94
"""From this correlation on two signatures count as one picture.

Seen: 120 distinct phantom patients up to 0.78 and 90 hippocampi, cut to 35 x 51 x 35 mm and so as alike as
images of different people get, up to 0.91; the same images after another scale, rounding and a shift by one
voxel along every axis 0.95 and above.
"""

_SMOOTH = 2.0  # samples; what is smoother than this is alike in all bodies, and is taken away
_SHIFTS = (0.0, -0.25, 0.25, -0.5, 0.5)  # samples by which each of two is moved, in opposite directions
_WORTH_A_LOOK = 0.6  # correlation of nearly unmoved signatures, from which a pair is looked at closely
_NEIGHBOURS = 3  # of each patient, looked at closely
_BLOCK, _PAIRS = 1024, 256  # patients, and pairs, correlated at once


@dataclass(frozen=True)
class Duplicate:
    """Two patients who seem to be one.

    Attributes:
        first, second: pseudonyms, in order; of identical ones a patient with a known label is the first.
        kind: ``identical`` pixels in a phase, or a ``near``-identical picture.
        likeness: correlation of the two signatures after the best shift; 1 for identical pixels.
        apart: what the two are said to be and one person cannot be (labels, splits); empty where they agree.
    """

    first: str
    second: str
    kind: Literal["identical", "near"]
    likeness: float
    apart: tuple[str, ...] = ()


def signature(array_dhw: NDArray[np.generic], grid: Grid, centre_mm_zyx: NDArray[np.float64]) -> str:
    """A cube of 16 x 16 x 16 grey values about a place, along the patient's axes, as base64.

    Smoothed to its sampling, and stretched from the 1st to the 99th percentile, so that gain and offset of
    the intensities do not matter. Outside the image its edge goes on.

    Args:
        array_dhw: the image.
        grid: where its voxels lie.
        centre_mm_zyx: the lesion's place, LPS.

    Returns:
        Base64 of 4096 bytes; empty where the image has no contrast there, or voxels that are not numbers.
    """
    step = EDGE_MM / SIDE
    places = (np.arange(SIDE) - (SIDE - 1) / 2) * step
    cube = np.stack(np.meshgrid(places, places, places, indexing="ij")).reshape(3, -1)
    index = np.linalg.solve(grid.matrix, np.asarray(centre_mm_zyx)[:, None] + cube - grid.origin_mm[:, None])
    spacing = grid.spacing_mm_dhw
    margin = np.ceil(2 * step / spacing).astype(int)
    last = np.array(array_dhw.shape) - 1
    low = np.clip(np.floor(index.min(axis=1)).astype(int) - margin, 0, last)
    high = np.clip(np.ceil(index.max(axis=1)).astype(int) + margin, low, last)
    region = array_dhw[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))].astype(np.float32)
    if not np.isfinite(region).all():
        return ""
    blur = np.sqrt(np.maximum((step / 2) ** 2 - (spacing / 2) ** 2, 0.0)) / spacing
    smooth = gaussian_filter(region, blur, mode="nearest")
    values = map_coordinates(smooth, index - low[:, None], order=1, mode="nearest")
    bottom, top = np.percentile(values, (1, 99))
    if top - bottom <= 1e-6 * max(abs(top), abs(bottom)):
        return ""
    grey = np.round(np.clip((values - bottom) / (top - bottom), 0.0, 1.0) * 255).astype(np.uint8)
    return base64.b64encode(grey.tobytes()).decode()


def duplicates(
    records: Sequence[PatientRecord], parts: Mapping[str, str] | None = None
) -> tuple[Duplicate, ...]:
    """Every pair of patients who share an image, exactly or nearly.

    Args:
        records: of one site.
        parts: the part of a study (train, validation, test) in which a patient stands, where one was
            prepared; beside it counts the split that the source itself gives.

    Returns:
        In the order of the pseudonyms; a pair once.
    """
    by_name = {record.patient: record for record in records}
    found: dict[tuple[str, str], tuple[Literal["identical", "near"], float]] = {}
    holders: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for phase in record.phases:
            holders[phase.pixels].add(record.patient)
    for names in holders.values():
        # A chain is enough, and a thousand copies of one image are not half a million pairs. Who is labelled
        # comes first: of one person's two names the one that an outcome is known of is worth keeping.
        ordered = sorted(names, key=lambda name: (by_name[name].label == UNKNOWN_LABEL, name))
        for first, second in itertools.pairwise(ordered):
            found[first, second] = ("identical", 1.0)
    for first, second, likeness in _near([by_name[name] for name in sorted(by_name)]):
        if (second, first) not in found:
            found.setdefault((first, second), ("near", likeness))
    return tuple(
        Duplicate(first, second, kind, likeness, _apart(by_name[first], by_name[second], parts or {}))
        for (first, second), (kind, likeness) in sorted(found.items())
    )


def duplicate_findings(
    records: Sequence[PatientRecord], parts: Mapping[str, str] | None = None
) -> dict[str, tuple[Finding, ...]]:
    """What duplicates mean for each patient: of identical ones one stays, the pair's first.

    Where their labels disagree nobody knows which is right, and none stays. Near-identical ones stay, and a
    person has to look. A phase that is a copy of another phase of the same patient stops the patient.

    Args:
        records: of one site.
        parts: as `duplicates` takes it.
    """
    found: dict[str, list[Finding]] = defaultdict(list)
    for pair in duplicates(records, parts):
        apart = f"; they differ in {', '.join(pair.apart)}" if pair.apart else ""
        for name, other in ((pair.first, pair.second), (pair.second, pair.first)):
            found[name].append(_identical(name, other, pair, apart) if pair.kind == "identical" else
                               _alike(other, pair, apart))  # fmt: skip
    for record in records:
        seen: dict[str, str] = {}
        for phase in record.phases:
            if phase.pixels in seen:
                found[record.patient].append(
                    Finding(
                        code="one-image-twice",
                        text=f"{seen[phase.pixels]} and {phase.phase} are the same image, voxel by voxel",
                        remedy="Say in phases.yaml which phase the series is, and export the other one",
                        stops=Stage.USABLE,
                    )
                )
            seen.setdefault(phase.pixels, phase.phase)
    return {name: tuple(findings) for name, findings in sorted(found.items())}


def stopped(findings: Mapping[str, Sequence[Finding]]) -> frozenset[str]:
    """Who does not go on because of findings, of any kind, by patient: they are not listed for training."""
    return frozenset(name for name, own in findings.items() if any(one.stops is not None for one in own))


def _identical(name: str, other: str, pair: Duplicate, apart: str) -> Finding:
    goes = name == pair.second or any(word.startswith("label") for word in pair.apart)
    return Finding(
        code="duplicate-identical",
        text=f"has an image that is {other}'s too, voxel by voxel{apart}",
        remedy="Find out whether both are one person; keep one, or correct the file that was exported twice",
        stops=Stage.USABLE if goes else None,
    )


def _alike(other: str, pair: Duplicate, apart: str) -> Finding:
    return Finding(
        code="duplicate-near",
        text=f"looks like {other} (correlation {pair.likeness:.2f}){apart}",
        remedy="Compare their rows of the contact sheet; if both are one person, take one out of the source",
    )


def _apart(one: PatientRecord, other: PatientRecord, parts: Mapping[str, str]) -> tuple[str, ...]:
    words = {1: "proliferative", 0: "not proliferative"}
    apart = []
    if one.label != other.label and UNKNOWN_LABEL not in (one.label, other.label):
        apart.append(f"label ({words[one.label]}, {words[other.label]})")
    if one.split and other.split and one.split != other.split:
        apart.append(f"split ({one.split}, {other.split})")
    mine, theirs = parts.get(one.patient), parts.get(other.patient)
    if mine and theirs and mine != theirs:
        apart.append(f"part of the study ({mine}, {theirs})")
    return tuple(apart)


def _near(records: Sequence[PatientRecord]) -> list[tuple[str, str, float]]:
    """Pairs whose signatures are one picture."""
    decoded = [(record.patient, cube) for record in records if (cube := _cube(record.signature)) is not None]
    if len(decoded) < 2:
        return []
    names = [name for name, _ in decoded]
    cubes = np.stack([cube for _, cube in decoded])
    flat = cubes - gaussian_filter(cubes, (0, _SMOOTH, _SMOOTH, _SMOOTH), mode="nearest")
    pairs = np.array(_candidates(flat), dtype=np.int64).reshape(-1, 2)
    found = []
    for start in range(0, len(pairs), _PAIRS):
        part = pairs[start : start + _PAIRS]
        for (i, j), likeness in zip(part, _closely(flat[part[:, 0]], flat[part[:, 1]]), strict=True):
            if likeness >= NEAR:
                found.append((names[i], names[j], min(round(float(likeness), 4), 1.0)))
    return found


def _closely(one_ndhw: NDArray[np.float32], other_ndhw: NDArray[np.float32]) -> NDArray[np.float32]:
    """How alike each of n pairs is after the best shift, sought along one axis after the other.

    Each of a pair is moved half the way, so that interpolation blurs both alike.
    """
    best = np.full(len(one_ndhw), -1.0, np.float32)
    for axis in (1, 2, 3):
        ones, others = one_ndhw.copy(), other_ndhw.copy()
        for shift in _SHIFTS:
            moved = _shifted(one_ndhw, axis, shift), _shifted(other_ndhw, axis, -shift)
            likeness = (_unit(_inner(moved[0])) * _unit(_inner(moved[1]))).sum(axis=1)
            better = likeness > best
            best[better] = likeness[better]
            ones[better], others[better] = moved[0][better], moved[1][better]
        one_ndhw, other_ndhw = ones, others
    return best


def _cube(text: str) -> NDArray[np.float32] | None:
    """A signature's grey values; None where it holds none, whatever else it holds."""
    try:
        grey = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, ValueError):
        return None
    if grey.size != SIDE**3 or grey.min() == grey.max():
        return None
    return grey.reshape(SIDE, SIDE, SIDE).astype(np.float32)


def _candidates(cubes: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Each patient's nearest neighbours, moved along the body by up to a sample at most."""
    here, up, down = (_unit(_shifted(cubes, 1, shift).reshape(len(cubes), -1)) for shift in (0.0, 0.5, -0.5))
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(cubes), _BLOCK):
        rows = slice(start, start + _BLOCK)
        likeness = np.maximum(here[rows] @ here.T, up[rows] @ down.T)
        np.maximum(likeness, down[rows] @ up.T, out=likeness)
        own = np.arange(likeness.shape[0])
        likeness[own, own + start] = -1.0
        nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :_NEIGHBOURS]
        for row, others in enumerate(nearest):
            i = row + start
            pairs.update((min(i, int(j)), max(i, int(j))) for j in others if likeness[row, j] > _WORTH_A_LOOK)
    return sorted(pairs)


def _shifted(cubes_ndhw: NDArray[np.float32], axis: int, shift: float) -> NDArray[np.float32]:
    if shift == 0.0:
        return cubes_ndhw
    lines = np.moveaxis(cubes_ndhw, axis, -1) @ _mover(shift).T
    return np.ascontiguousarray(np.moveaxis(lines, -1, axis))


def _inner(cubes_ndhw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the outermost samples, beyond which there was nothing to shift in; flat."""
    return cubes_ndhw[:, 1:-1, 1:-1, 1:-1].reshape(len(cubes_ndhw), -1)


def _mover(shift: float) -> NDArray[np.float32]:
    """The matrix that shifts a line of samples, linearly interpolated, its ends going on."""
    places = np.clip(np.arange(SIDE) + shift, 0, SIDE - 1)
    low = np.minimum(places.astype(int), SIDE - 2)
    matrix = np.zeros((SIDE, SIDE), np.float32)
    matrix[np.arange(SIDE), low] = 1 - (places - low)
    matrix[np.arange(SIDE), low + 1] += places - low
    return matrix


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (centred / np.maximum(length, 1e-6)).astype(np.float32)
    return unit
