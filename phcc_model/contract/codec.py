"""How a site's change is written on the wire: the change is coded, never the weights.

A site sends ``after - before`` of its float32 weights in one of three encodings, each an array of codes and,
but for fp32, an array of float32 scales; arrays of other dtypes (counters) are no change: they travel whole,
as ``replace.<dtype>``, and the coordinator keeps the largest value of each element over the sites.

- fp32: x itself.
- fp16: half(x / s) with one scale per message, the power of two that puts max |x| / s into [2^14, 2^15);
  the error is at most |x| 2^-11 + s 2^-25.
- int8: round(x / s) with s = max |x| / 127 of each block of 256; the error is at most s / 2 (1 + 2^-15).

So no value, however large, becomes infinite in silence: one that is not finite, or so near to the end of
float32's range (2^127) that rounding could carry it over, is refused before it is coded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from phcc_model.contract import keys
from phcc_model.contract.manifest import Array, Manifest, check_flats
from phcc_model.errors import ContractError

BLOCK = 256
"""Values that share one scale in int8."""
CHUNK = 256 * BLOCK
"""Values worked on at a time: what is in between stays in the cache, and memory stays at one model."""
HALF_EXPONENT = 15
"""Codes of fp16 lie below 2^15; the largest half is 65504."""
TINY = np.finfo(np.float32).tiny
LARGEST = 2.0**127
"""The largest value that may be coded by fp16 and int8."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """What one site's training did to the shared state.

    Attributes:
        delta: float32, 1-D: weights after minus weights before, in the manifest's order.
        replaced: flat arrays of the other dtypes by dtype, whole.
        control: the change of the site's control variate, laid out as `delta`; None but under SCAFFOLD.
    """

    delta: Float
    replaced: dict[str, Array] = field(default_factory=dict)
    control: Float | None = None

    @functools.cached_property
    def norm(self) -> float:
        """Euclidean length of the delta."""
        return norm(self.delta)


def norm(delta: Float) -> float:
    """Euclidean length, summed in float64 by chunks; inf or NaN where a value is."""
    total = 0.0
    for start in range(0, delta.size, CHUNK):
        part = delta[start : start + CHUNK].astype(np.float64)
        total += float(part @ part)
    return math.sqrt(total)


def change_of(before: Mapping[str, Array], after: Mapping[str, Array]) -> Change:
    """The change between two sets of flat arrays, as `Manifest.pack` makes them."""
    delta = np.subtract(after[keys.FLOAT], before[keys.FLOAT], dtype=np.float32)
    return Change(delta, {kind: flat for kind, flat in after.items() if kind != keys.FLOAT})


def encode_change(change: Change, encoding: str) -> dict[str, Array]:
    """All arrays of a reply.

    Raises:
        ContractError: the encoding is unknown, or a value is not finite.
    """
    return encode(change.delta, encoding) | {
        keys.REPLACE + kind: flat for kind, flat in change.replaced.items()
    }


def decode_change(arrays: Mapping[str, Array], encoding: str, manifest: Manifest) -> Change:
    """A site's change out of the arrays of its reply, each checked against the manifest before it is read.

    Raises:
        ContractError: an array is missing or unknown, of a wrong shape or dtype, or holds what is not finite.
    """
    others = {kind: size for kind, size in manifest.sizes.items() if kind != keys.FLOAT}
    expected = layout(encoding, manifest.size)
    check_flats(arrays, expected | {keys.REPLACE + kind: (kind, size) for kind, size in others.items()})
    delta = decode({name: arrays[name] for name in expected}, encoding, manifest.size)
    return Change(delta, {kind: arrays[keys.REPLACE + kind] for kind in others})


def layout(encoding: str, size: int) -> dict[str, tuple[str, int]]:
    """The arrays of an encoding: dtype and number of elements by name.

    Raises:
        ContractError: the encoding is unknown.
    """
    if encoding == keys.FP32:
        return {keys.CHANGE: ("float32", size)}
    if encoding == keys.FP16:
        return {keys.CHANGE: ("float16", size), keys.SCALES: ("float32", 1)}
    if encoding == keys.INT8:
        return {keys.CHANGE: ("int8", size), keys.SCALES: ("float32", -(-size // BLOCK))}
    raise ContractError(f"encoding {encoding!r} is unknown; known are {', '.join(keys.ENCODINGS)}")


def encode(delta: Float, encoding: str) -> dict[str, Array]:
    """A change as codes and scales.

    Args:
        delta: float32, 1-D.
        encoding: ``fp32``, ``fp16`` or ``int8``.

    Returns:
        One array per name of `layout`; fp32's is the delta itself, not a copy.

    Raises:
        ContractError: the encoding is unknown, the delta is not float32 and 1-D, or a value is not finite or
            too large.
    """
    expected = layout(encoding, delta.size)
    if delta.dtype != np.float32 or delta.ndim != 1:
        raise ContractError(
            f"a change must be float32 and 1-D, not {delta.dtype} {delta.shape}", where=keys.CHANGE
        )
    largest = _largest(delta)
    if not math.isfinite(largest):
        raise ContractError("the change holds values that are not finite", where=keys.CHANGE)
    if encoding == keys.FP32:
        return {keys.CHANGE: delta}
    if largest > LARGEST:
        raise ContractError(f"the change holds values too large for {encoding}", where=keys.CHANGE)
    codes, scales = (
        np.zeros(size, dtype=kind) for kind, size in (expected[keys.CHANGE], expected[keys.SCALES])
    )
    if encoding == keys.FP16:
        _to_half(delta, largest, codes, scales)
    else:
        _to_int8(delta, codes, scales)
    return {keys.CHANGE: codes, keys.SCALES: scales}


def decode(arrays: Mapping[str, Array], encoding: str, size: int) -> Float:
    """The change out of codes and scales.

    Args:
        arrays: as `encode` returns them.
        encoding: ``fp32``, ``fp16`` or ``int8``.
        size: the number of values that must come out.

    Returns:
        float32, 1-D; fp32's is the array that came in, not a copy.

    Raises:
        ContractError: an array is missing, unknown, or of a wrong shape or dtype, or a value is not finite.
    """
    check_flats(arrays, layout(encoding, size))
    codes = arrays[keys.CHANGE]
    delta = codes if encoding == keys.FP32 else np.empty(size, dtype=np.float32)
    if encoding != keys.FP32:
        scales = arrays[keys.SCALES]
        if not is_finite(scales) or bool(np.any(scales < 0)):
            raise ContractError("a scale is negative or not finite", where=keys.SCALES)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by the check below
            (_from_half if encoding == keys.FP16 else _from_int8)(codes, scales, delta)
    if not is_finite(delta):
        raise ContractError("the change holds values that are not finite", where=keys.CHANGE)
    return delta


def is_finite(values: Array) -> bool:
    """Whether no value is NaN or infinite, by chunks."""
    return all(bool(np.isfinite(values[at : at + CHUNK]).all()) for at in range(0, values.size, CHUNK))


def _largest(delta: Float) -> float:
    """The largest absolute value; NaN or inf where one is."""
    peaks = [np.abs(delta[at : at + CHUNK]).max() for at in range(0, delta.size, CHUNK)]
    return float(np.max(peaks)) if peaks else 0.0


def _to_half(delta: Float, largest: float, codes: Array, scales: Array) -> None:
    """Fill fp16 codes and their one scale; powers of two, so that scaling itself costs no accuracy."""
    # frexp: largest < 2^exponent. Both the factor and its inverse must be normal float32 numbers.
    shift = min(HALF_EXPONENT - math.frexp(largest)[1], 126)
    scales[0] = math.ldexp(1.0, -shift)
    factor = np.float32(math.ldexp(1.0, shift))
    for at in range(0, delta.size, CHUNK):
        codes[at : at + CHUNK] = delta[at : at + CHUNK] * factor


def _from_half(codes: Array, scales: Array, delta: Float) -> None:
    for at in range(0, delta.size, CHUNK):
        np.multiply(codes[at : at + CHUNK], scales[0], out=delta[at : at + CHUNK], dtype=np.float32)


def _to_int8(delta: Float, codes: Array, scales: Array) -> None:
    """Fill int8 codes in -127..127 and the scales of their blocks; the last block may be short."""
    for at in range(0, delta.size, CHUNK):
        part = delta[at : at + CHUNK]
        blocks = np.zeros((-(-part.size // BLOCK), BLOCK), dtype=np.float32)
        blocks.reshape(-1)[: part.size] = part
        scale = np.maximum(np.abs(blocks).max(axis=1) / np.float32(127), TINY)
        scales[at // BLOCK : at // BLOCK + len(scale)] = scale
        rounded = np.rint(blocks / scale[:, None]).clip(-127, 127)
        codes[at : at + CHUNK] = rounded.reshape(-1)[: part.size]


def _from_int8(codes: Array, scales: Array, delta: Float) -> None:
    for at in range(0, delta.size, CHUNK):
        part = delta[at : at + CHUNK]
        scale = scales[at // BLOCK : (at + CHUNK) // BLOCK]
        np.multiply(codes[at : at + CHUNK], np.repeat(scale, BLOCK)[: part.size], out=part, dtype=np.float32)
