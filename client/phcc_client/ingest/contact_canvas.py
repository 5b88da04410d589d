"""What a contact sheet is drawn on: one byte a pixel, greys and a few colours, text in matplotlib's own font."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GREYS = 240
"""Palette entries 0 (black) to 239 (white); the colours stand above them."""
ABOVE, BELOW = GREYS - 1, 0
INK, QUIET, PALE = 20, 85, GREYS - 1
OUTLINE, BLANK = 240, 241
COLOURS = {1: (242, "proliferative"), 0: (243, "not proliferative"), -1: (244, "label unknown")}
"""A label's colour and words; Okabe & Ito's vermilion and blue, which colour-blind readers can tell apart."""

_PALETTE = {OUTLINE: (255, 212, 0), BLANK: (226, 230, 234), 242: (213, 94, 0), 243: (0, 114, 178),
            244: (187, 187, 187)}  # fmt: skip


class Canvas:
    """White paper.

    Args:
        width: pixels.
        height: pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("L", (width, height), ABOVE)
        self._draw = ImageDraw.Draw(self._image)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Palette entries, (height, width)."""
        return np.asarray(self._image, dtype=np.uint8)

    def fill(self, left: int, top: int, width: int, height: int, entry: int) -> None:
        """A rectangle."""
        self._draw.rectangle((left, top, left + width - 1, top + height - 1), fill=entry)

    def paste(self, left: int, top: int, tile: NDArray[np.uint8]) -> None:
        """A tile of palette entries."""
        self._image.paste(Image.fromarray(tile), (left, top))

    def text(
        self,
        left: int,
        top: int,
        words: str,
        grey: int,
        *,
        small: bool = False,
        bold: bool = False,
        centred: bool = False,
        to_right: bool = False,
    ) -> None:
        """A line of text, on white or on an image; `left` is its middle or its end where asked for.

        Pale text has a dark rim, so that it can be read on any image.
        """
        font = _font("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf", 10 if small else 12)
        length = font.getlength(words)
        left -= round(length / 2) if centred else round(length) if to_right else 0
        rim = 1 if grey == PALE else 0
        self._draw.text((left, top), words, font=font, fill=grey, stroke_width=rim, stroke_fill=BELOW)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Palette entries as a PNG that holds nothing but the picture."""
    image = Image.frombytes("P", (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels).tobytes())
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _palette() -> list[int]:
    greys = [round(entry * 255 / (GREYS - 1)) for entry in range(GREYS) for _ in range(3)]
    return greys + [part for entry in sorted(_PALETTE) for part in _PALETTE[entry]]


@lru_cache(maxsize=8)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    # The font travels with matplotlib: every machine has this one, and draws the same. The plain layout
    # engine is always there; the other one depends on what the system has installed.
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
