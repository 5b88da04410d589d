"""Series that are no phase: T2, diffusion, in and out of phase, localisers, subtractions, reformations, maps.

What the description says comes first, then what the scanner wrote of the image and the sequence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from phcc_client.ingest.examination import SeriesFacts
from phcc_client.ingest.phase_words import Component, Words, read_words
from phcc_client.ingest.record import Certainty

_MODALITIES = frozenset(
    (
        "CT",
        "PT",
        "NM",
        "US",
        "CR",
        "DX",
        "XA",
        "RF",
        "MG",
        "SEG",
        "SR",
        "PR",
        "KO",
        "OT",
        "SC",
        "RTSTRUCT",
        "DOC",
    )
)
_LONGEST_T1_ECHO_MS = {"SE": 40.0, "GR": 15.0}  # beyond, T2 (spin echo) or T2* (gradient echo) is weighted
_LONGEST_ECHO_MS = 25.0  # where the header does not say which of the two it is
_LONGEST_3D_REPETITION_MS = (
    60.0  # three-dimensional gradient echoes take 3-8 ms, two-dimensional ones 100 and more
)
_IMAGE_TYPES = {
    "a localiser or a calibration": r"LOCALI[ZS]ER",
    "a subtraction": r"SUB(TRACT\w*)?",
    "a reformation or projection": r"(CSA )?MPR|(CSA )?M(IN_?|AX_?)?IP|REFORMAT\w*|PROJECTION IMAGE|.*CURVED.*",
    "diffusion": r"ADC|E?ADC_MAP|TRACEW?|DIFFUSION|FA|CALC_BVALUE|ADC_UNSPECIFIED",
    "a map": r".*(T1|T2|STAR|B0|B1|PERFUSION)[ _]?MAP.*|R2_?STAR.*|T2_?STAR.*|.*FRACTION.*|FF|STIFFNESS",
    "a phase map or a complex part": r"(SW_)?[PRI](_(FFE|SE|IR|TFE|PCA))?|PHASE( MAP)?|REAL|IMAGINARY|VELOCITY",
    "a picture of the screen, or a report": r"SCREEN ?SAVE|SECONDARY CAPTURE",
}
_PARTS: dict[Component, frozenset[str]] = {
    "in or out of phase": frozenset(
        ("IN_PHASE", "IN", "IP", "OPP_PHASE", "OUT_PHASE", "OUT_OF_PHASE", "OPPOSED", "OPP", "OP", "OUT")
    ),
    "fat": frozenset(("FAT", "F")),
    "water": frozenset(("WATER", "W")),
}
_CORRECTED = frozenset(("DIS2D", "DIS3D", "DIS3DL", "NORM"))
_SEQUENCES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("diffusion", re.compile(r"^\*?(?:ep[_2]|epse|re_b|epi)")),
    ("a balanced sequence", re.compile(r"^\*?tfi|fiesta|bffe|btfe")),
    ("T2", re.compile(r"^\*?(?:h2d|h3d|tir|spc|ssfse|frfse|fse)")),
    ("a spin echo", re.compile(r"^\*?(?:tse|se\d|se$)")),
)  # Siemens', then GE's and Philips' own names


@dataclass(frozen=True)
class Aside:
    """Why a series is no phase.

    Attributes:
        why: what it is.
        rule: what says so.
        certainty: of that.
    """

    why: str
    rule: str
    certainty: Certainty = "sure"


def set_aside(facts: SeriesFacts, said: Words) -> Aside | None:
    """What a series is that cannot be a phase, or None.

    Args:
        facts: its header.
        said: what its description says.
    """
    part = component(facts, said)
    if facts.modality not in ("", "MR"):
        what = f"modality {facts.modality}" if facts.modality in _MODALITIES else "another modality than MR"
        return Aside(what, "the header's modality")
    if said.other:
        return Aside(said.other, f"description says '{said.other_word}'")
    by_type = _image_type(facts)
    if by_type is not None and not (
        by_type == "a reformation or projection" and said.phases and not worked_out(facts, said)
    ):
        return Aside(by_type, "the header's image type")
    if part in ("fat", "in or out of phase"):
        what = "the fat image of a Dixon acquisition" if part == "fat" else "in and out of phase"
        return Aside(what, "description or image type says so")
    return _by_physics(facts, said) or (None if said.phases else _by_silence(facts, said))


def component(facts: SeriesFacts, said: Words) -> Component:
    """The part of a Dixon acquisition that it is, where it is one."""
    values = {value.strip().upper() for value in facts.image_type}
    return next((part for part, names in _PARTS.items() if values & names), said.component)


def worked_out(facts: SeriesFacts, said: Words) -> bool:
    """Whether an image was worked out from others, and does not show what was measured.

    The water image of a Dixon acquisition is what was meant to be measured, and an image that the scanner only
    corrected for its gradients or its coils (Siemens' DIS2D, DIS3D, NORM) is still the measurement.
    """
    corrected = {value.strip().upper() for value in facts.image_type} & _CORRECTED
    return facts.derived and not corrected and component(facts, said) != "water"


def may_be_dynamic(facts: SeriesFacts, said: Words) -> bool:
    """Whether it may be a T1 gradient echo: it is named so, measured so, or nothing is known of its sequence."""
    if said.family or said.phases or read_words(facts.protocol).family or read_words(facts.sequence).family:
        return True
    return "GR" in facts.scanning_sequence or (
        not facts.scanning_sequence and not facts.sequence and facts.echo_time_ms is None
    )


def _image_type(facts: SeriesFacts) -> str | None:
    # The first two values are ORIGINAL or DERIVED and PRIMARY or SECONDARY; what is meant stands behind them.
    values = [value.strip().upper() for value in facts.image_type[2:]]
    return next(
        (why for why, kind in _IMAGE_TYPES.items() if any(re.fullmatch(kind, v) for v in values)), None
    )


def _by_physics(facts: SeriesFacts, said: Words) -> Aside | None:
    """What the scanner measured cannot be a T1 gradient echo, whatever its name."""
    if facts.b_value:
        return Aside("diffusion", f"b-value {facts.b_value:g}")
    if "EP" in facts.scanning_sequence:
        return Aside("diffusion", "an echo-planar sequence", "likely")
    echo = facts.echo_time_ms or 0.0
    for kind, longest in _LONGEST_T1_ECHO_MS.items():
        if kind in facts.scanning_sequence and echo > longest:
            return Aside("T2", f"echo time {echo:.0f} ms", "likely")
    if echo > _LONGEST_ECHO_MS and not said.phases:
        return Aside("T2", f"echo time {echo:.0f} ms", "likely")
    return None


def _by_silence(facts: SeriesFacts, said: Words) -> Aside | None:
    """What its protocol, its sequence or a word with several meanings says, where nothing names a phase."""
    protocol = read_words(facts.protocol)
    if protocol.other and not said.family:
        return Aside(protocol.other, f"protocol says '{protocol.other_word}'", "likely")
    sequence = facts.sequence.strip().lower()
    found = next((why for why, pattern in _SEQUENCES if pattern.search(sequence)), None)
    if found is not None:
        return Aside(found, "the name of its pulse sequence", "likely")
    if said.weak_other and (not said.family or said.weak_other == "a spin echo"):
        return Aside(said.weak_other, "a word of its description", "likely")
    if "SE" in facts.scanning_sequence and "GR" not in facts.scanning_sequence:
        return Aside("a spin echo", "the header's scanning sequence", "likely")
    repetition = facts.repetition_time_ms or 0.0
    slow = "GR" in facts.scanning_sequence and repetition > _LONGEST_3D_REPETITION_MS
    if slow and not (said.dynamic or said.after_contrast):
        rule = f"repetition time {repetition:.0f} ms: a two-dimensional gradient echo"
        return Aside("in and out of phase, or another two-dimensional T1 sequence", rule, "likely")
    return None
