"""What a prediction says, in sentences: the page, the PDF and the picture for the PACS say the same."""

from __future__ import annotations

from phcc_client.prediction.result import LesionNote, PhaseNote, Prediction

PHASE_HEADER = (
    "phase",
    "image",
    "which rule decided",
    "voxel (mm)",
    "after first",
    "moved / left",
    "attention",
)
_BASIS = {"model": "Unlike its training", "plausible": "Unusual", "images": "Note"}


def verdict_words(prediction: Prediction) -> str:
    """The threshold's verdict, as a sentence about the score and not about the patient."""
    side = "at or above" if prediction.verdict == "positive" else "below"
    said = "yes" if prediction.verdict == "positive" else "no"
    return f"{prediction.verdict.upper()}: score {side} the threshold (model says: {said})"


def title(prediction: Prediction) -> str:
    """The heading: what was asked of the model."""
    return f"Whether {prediction.package.event}: a model's score"


def figures(prediction: Prediction) -> list[tuple[str, str]]:
    """The figures, each with its name."""
    calibrated = (
        f"{prediction.probability:.3f}" if prediction.recalibrated else "not available (no recalibration)"
    )
    return [
        ("Calibrated probability", calibrated),
        ("Score of the model", f"{prediction.score:.3f}"),
        ("Threshold, frozen", f"{prediction.threshold:.3f}"),
    ]


def phase_rows(prediction: Prediction) -> list[tuple[str, ...]]:
    """One row a phase, under `PHASE_HEADER`."""
    return [_row(note) for note in prediction.phases]


def _row(note: PhaseNote) -> tuple[str, ...]:
    if not note.used:
        return (note.phase, "missing", "", "", "", "", "")
    rule = f"{note.rule} ({note.certainty})" if note.certainty else note.rule
    spacing = "" if note.spacing_mm_dhw is None else " x ".join(f"{s:.3g}" for s in note.spacing_mm_dhw)
    seconds = "" if note.seconds is None else f"{note.seconds:.0f} s"
    if note.aligned == "reference":
        moved = "reference"
    elif note.shift_mm is None:
        moved = ""
    else:
        left = "?" if note.residual_mm is None else f"{note.residual_mm:.1f}"
        moved = f"{note.shift_mm:.1f} / {left} mm"
    return (
        note.phase,
        "there" if note.series_number is None else f"series {note.series_number}",
        rule,
        spacing,
        seconds,
        moved,
        "" if note.attention is None else f"{note.attention:.0%}",
    )


def warning_lines(prediction: Prediction) -> list[str]:
    """Each warning with its remedy; a sentence where there is none."""
    if not prediction.warnings:
        return ["None of what could be checked was unusual."]
    lines = []
    for one in prediction.warnings:
        remedy = f" {_sentence(one.remedy)}" if one.remedy else ""
        lines.append(f"{_BASIS[one.basis]}: {_sentence(one.text)}{remedy}")
    return lines


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else f"{text}."


def unchecked_line(prediction: Prediction) -> str:
    """What could not be checked; empty where all could."""
    return f"Not checked: {'; '.join(prediction.not_checked)}." if prediction.not_checked else ""


def lesion_line(lesion: LesionNote) -> str:
    """The lesion in words."""
    if lesion.drawn_on is None:
        return f"Lesion {lesion.number}: as the crop holds it, {lesion.volume_ml:.1f} ml"
    size = " x ".join(f"{mm:.0f}" for mm in lesion.extent_mm_dhw)
    return (
        f"Lesion {lesion.number}: {lesion.volume_ml:.1f} ml, {size} mm, drawn on {lesion.drawn_on}; "
        f"the crop holds {lesion.inside_crop:.0%} of it"
    )


def origin_lines(prediction: Prediction) -> list[str]:
    """Model and input by their digests."""
    package, source = prediction.package, prediction.input
    return [
        f"Model: study {package.study}, arm {package.arm}; package {package.digest}",
        f"Input: {source.kind}, {source.files} files, registration {source.registration}; {source.digest}",
        f"Software: phcc-client {prediction.software}",
    ]


LIMITS = (
    "The model was trained for research on patients who had a lesion that was drawn by a person; it cannot say "
    "whether there is one and knows no other disease. Heat maps show what raised the score, not what a lesion "
    "is; a model that reads the drawn lesion apart from the rest has them there whatever it has learnt."
)
