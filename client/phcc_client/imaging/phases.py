"""From the names that scanners, people and LLD-MMRI give a phase to the study's own.

LLD-MMRI's eight names are exact [F]: ``T2WI, DWI, In Phase, Out Phase, C-pre, C+A, C+V, C+Delay``; the first
four are known sequences that this method does not use. The other aliases are common usage in liver MRI.
"""

from __future__ import annotations

import re
from typing import Literal

from phcc_model.config import Phase

_ALIASES: dict[Phase, tuple[str, ...]] = {
    "pre-contrast": (
        *(
            "C-pre",
            "pre",
            "pre-contrast",
            "C-",
            "native",
            "plain",
            "non-contrast",
            "non-enhanced",
            "unenhanced",
        ),
        *("T1 pre", "T1 native", "precontrast T1"),
    ),
    "arterial": (
        *("C+A", "art", "arterial", "A", "AP", "HAP", "early arterial", "late arterial", "hepatic arterial"),
        "T1 art",
    ),
    "portal-venous": (
        *("C+V", "V", "PV", "PVP", "portal", "venous", "ven", "portal-venous", "portovenous", "portal vein"),
        "T1 ven",
    ),
    "delayed": ("C+Delay", "C+D", "D", "DP", "del", "delay", "delayed", "equilibrium", "EP", "T1 del"),
    "hepatobiliary": ("C+HBP", "HB", "HBP", "hepatobiliary", "hepatocyte", "hepatocyte-specific"),
    "image": ("image",),
}

_OTHER_SEQUENCES = (
    *("T2WI", "T2", "T2W", "T2 FS", "HASTE", "DWI", "ADC", "In Phase", "Out Phase", "in", "out", "IP", "OP"),
    *("opposed", "in-phase", "out-of-phase", "opposed phase", "fat", "water", "MRCP"),
)


def _key(name: str) -> str:
    letters = re.sub(r"[\s_.]+|-(?=.)", "", name.strip().lower())
    return letters.removesuffix("phase") or letters


_PHASE_OF: dict[str, Phase] = {_key(alias): phase for phase, aliases in _ALIASES.items() for alias in aliases}
_OTHER = frozenset(map(_key, _OTHER_SEQUENCES))


def recognise(name: str) -> Phase | Literal["other"] | None:
    """The phase that a name means, whatever its case, spaces, hyphens and a final "phase".

    Args:
        name: as it stands in an annotation, a file name or a column.

    Returns:
        The study's name of the phase; ``"other"`` for a sequence that is known and not used (T2, diffusion,
        in and out of phase); None for a name that means nothing here.
    """
    key = _key(name)
    if key in _OTHER:
        return "other"
    return _PHASE_OF.get(key)
