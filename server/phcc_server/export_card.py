"""The model card of a package: what this one model is, before what the report says of the study."""

from __future__ import annotations

from phcc_model.config import StudyConfig
from phcc_model.outcome import outcome_of
from phcc_model.package_schema import Recalibration, Seen, Threshold
from phcc_server.seen import in_words

_CARD = """\
# Model package: {study}, arm {arm}

**Research use only.** Not a medical device; no decision about a patient may rest on it.
{synthetic}
- Gives: {purpose}.
- Phases: {phases}; whichever of them are there{required}.
- Weights: `{weights}`, round {round} of the fine-tuning; study `{digest}`.
- Images: crop of {size} voxels (D, H, W) of {spacing} mm about the lesion, normalisation {normalisation}. All
  settings are in `package.json` under `study.data`.
- The lesion as it is drawn: {lesion}.
- Threshold: {threshold:.3f} on the probability before recalibration, from which on a case is positive. {source}.
- Recalibration: {calibration}
- What the model saw in training: {seen}
{onnx}"""
_CHECKED = "- ONNX: logits within {:.1g} of torch's, over random cases with phases missing.\n"
_SYNTHETIC = """
**SYNTHETIC DATA.** Trained and tested on computed lesions; no figure is about patients.
"""
_SHORT = """
## Intended use

Research only. Not for diagnosis, treatment or screening; not for lesions or modalities other than the study's.

## Data and performance

Source: {source}. The run held no report when this package was made: no figure of this model is known here.

## Limits

Not validated prospectively; a score of a patient unlike those of the study may mean nothing.
"""


def purpose(study: StudyConfig) -> str:
    """What the model gives, in words."""
    outcome = outcome_of(study.data)
    return f"the probability that {outcome.event}, from {outcome.images}"


def _lesion(study: StudyConfig) -> str:
    pooling = study.model.classifier.pooling
    if study.maps_follow:
        return "places the crop; within it the network finds the lesion by itself, and is not told"
    if study.model.classifier.looks:
        return (
            "places the crop around it; within it the network looks by itself, and is not told. On synthetic "
            "patients the heat maps of such networks did not follow a lesion that was moved"
        )
    return "places the crop" if pooling == "gap" else "places the crop, and the network pools over it"


def _seen(seen: Seen | None) -> str:
    if seen is None:
        return (
            "no site announced it (spacing, field strength, enhancement,\n  times), so that a case outside of it "
            "cannot be told."
        )
    sites = f"{seen.sites or 1} site{'' if seen.sites == 1 else 's'}"
    lines = [f"{seen.patients} patients of {sites}; nine in ten of each site's lie within:", *in_words(seen)]
    return "\n  - ".join(lines)


def package_card(
    study: StudyConfig,
    arm: str,
    weights_digest: str,
    chosen_round: int,
    threshold: Threshold,
    calibration: Recalibration | None,
    note: str,
    onnx_difference: float | None,
    report_card: str | None,
    seen: Seen | None = None,
) -> str:
    """The card.

    Args:
        study: of the arm.
        arm: its name.
        weights_digest: of the weights.
        chosen_round: of the fine-tuning, from 0.
        threshold: frozen in the run.
        calibration: where there is one.
        note: why there is none.
        onnx_difference: the largest difference of a logit between torch and the ONNX file; None without one.
        report_card: the report's model card; None: a short one stands for it.
        seen: what the sites announced of their training images.
    """
    data = study.data
    recalibrated = (
        f"logit(p') = {calibration.intercept:.3f} + {calibration.slope:.3f} logit(p). {calibration.source}."
        if calibration
        else f"none: a score is not a probability of disease until it was compared with outcomes. {note}"
    )
    checked = "" if onnx_difference is None else _CHECKED.format(onnx_difference)
    head = _CARD.format(
        study=study.name,
        arm=arm,
        synthetic=_SYNTHETIC if data.source == "phantom" else "",
        purpose=purpose(study),
        phases=", ".join(data.phases),
        required=f" ({', '.join(data.required_phases)} must be)" if data.required_phases else "",
        weights=weights_digest,
        round=chosen_round + 1,
        digest=study.digest,
        size=" x ".join(map(str, data.crop.size)),
        spacing=" x ".join(f"{mm:g}" for mm in data.crop.spacing_mm),
        normalisation=data.normalisation,
        lesion=_lesion(study),
        threshold=threshold.value,
        source=threshold.source,
        calibration=recalibrated,
        seen=_seen(seen),
        onnx=checked,
    )
    if report_card is None:
        source = "synthetic phantom" if data.source == "phantom" else data.source
        return head + _SHORT.format(source=source)
    # The report's card follows one level down: a document has one title.
    lines = [f"#{line}" if line.startswith("#") else line for line in report_card.splitlines()]
    return head + "\n" + "\n".join(lines) + "\n"
