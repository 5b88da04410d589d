"""Studies and messages in words for people who did not write them: what is asked for, what leaves, what left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from phcc_client.home import ClientSettings
from phcc_client.outbox import Sent
from phcc_model.config import StudyConfig
from phcc_model.contract import keys, ranges
from phcc_model.contract.control import is_control
from phcc_model.threshold import BINS

MEASURES = {
    "loss": "how well the training cases are fitted, on average",
    "weighted_loss": "the same under the sample weights",
    "effective_sample_size": "how evenly the cases are weighted, as a fraction",
    "decorrelation_weighted": "how much the learned features depend on each other, weighted",
    "decorrelation_uniform": "the same without weights",
    "effective_rank": "how many independent features the model uses",
    "auc_training": "the area under the ROC curve on the training cases",
    "change_norm": "how long the change of the weights is",
}
"""What each of the contract's measures (`keys.METRICS`) says; one number each, over all cases of the split."""

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


def asked_for(study: StudyConfig) -> Iterator[tuple[str, str]]:
    """What a study needs of a hospital, as pairs of a subject and a line."""
    data = study.data
    required = ", ".join(data.required_phases) or "any one of them"
    yield "images", f"{', '.join(data.phases)}; needed: {required}"
    crop = " x ".join(f"{n * mm:.0f}" for n, mm in zip(data.crop.size, data.crop.spacing_mm, strict=True))
    yield (
        "of each lesion",
        f"its place (a box or a mask); {crop} mm around it are used (depth, height, width)",
    )
    yield "label", f"{data.label}, per lesion; 1, 0 or unknown"
    yield "besides", "patient and case names, AFP where known: all of it stays here"
    split = study.data.split
    yield (
        "split",
        f"by patient: {split.test:.0%} for the test, {split.validation:.0%} to choose the round, "
        "the rest to train on",
    )
    yield "work", f"{study.pretrain.rounds} rounds of pre-training, {study.finetune.rounds} of fine-tuning"


def compared(study: StudyConfig, arms: Mapping[str, StudyConfig]) -> Iterator[tuple[str, str]]:
    """What each arm of a study changes; an approval covers all of them.

    Args:
        study: the study.
        arms: what is run in each, by name.
    """
    plainly = study.model_copy(update={"evaluation": next(iter(arms.values()), study).evaluation})
    for name, arm in arms.items():
        if name == "afp":
            yield name, "alpha-fetoprotein alone: no image, no training"
        else:
            yield name, "; ".join(differences(arm, plainly)) or "the study as it is"


def leaves(
    study: StudyConfig, weights: Mapping[str, int], arms: Iterable[StudyConfig] = ()
) -> Iterator[tuple[str, str]]:
    """What a study takes out of a hospital, by the contract; all else is refused by the guard.

    Args:
        study: the study.
        weights: number of the model's shared weights by stage, in the largest arm.
        arms: what else is run: control variates leave where any of them says SCAFFOLD.
    """
    controlled = any(one.federation.controlled for one in (study, *arms))
    size = _BYTES[study.federation.encoding]
    for stage, number in weights.items():
        yield (
            f"{stage}: weights",
            f"after each round, how each of at most {number:,} weights of the model changed "
            f"({study.federation.encoding}, {megabytes(number * size)})",
        )
        if controlled:
            yield (
                f"{stage}: control",
                "under SCAFFOLD, after each round: how the mean of this hospital's gradients changed, "
                f"{number:,} more numbers ({megabytes(number * size)}). A gradient tells of the training images "
                "more directly than a change of weights does",
            )
    yield "counts", "patients and cases per split; positive and negative patients per split; training steps"
    yield "set aside", f"how many patients are not used, by the reason: {', '.join(keys.ASIDE)}"
    yield (
        "images",
        "of the training patients' images, between what values nine in ten lie (5th to 95th percentile, rounded "
        "outwards): mm between slices and pixels, tesla, brightness against before contrast, seconds between "
        "phases; so that a prediction can say what the model never saw",
    )
    for name in sorted(keys.METRICS):
        yield f"measure {name}", MEASURES[name]
    yield (
        "histograms",
        f"validation and test: how many positive and negative cases score in each of {BINS} bins of 0..1; the "
        "coordinator keeps them in its record, for threshold, recalibration, curves",
    )
    yield "besides", "this hospital's name, the package's version, seconds of work, steps done so far"
    yield "errors", "one word of " + ", ".join(sorted(keys.FAILURE_CODES)) + ", and a fixed line"
    yield (
        "never",
        "images, crops, masks, names, dates, AFP, a single patient's score, a path, an error's text",
    )


def privacy(study: StudyConfig, settings: ClientSettings) -> Iterator[tuple[str, str]]:
    """What protects patients in this study at this hospital."""
    least = settings.minimum_count
    yield (
        "small counts",
        f"a count of fewer than {least} patients does not leave, and such a split is not used"
        if least > 1
        else "every count leaves, however small (minimum_count is 1)",
    )
    yield (
        "ranges",
        f"leave only where {max(least, ranges.FEWEST)} patients or more stand behind them; with few, an end lies "
        "near one patient's value, rounded",
    )
    yield (
        "scores",
        "of single test cases are written into this hospital's folder, for phcc-client mistakes; none leaves",
    )
    yield "noise", "none is added: the changes of weights leave as training gave them"
    yield (
        "transport",
        "TLS to the coordinator's certificate only; the coordinator reads each hospital's change",
    )
    yield "quorum", f"a round is averaged over at least {study.federation.minimum_sites} sites"


def differences(study: StudyConfig, other: StudyConfig) -> tuple[str, ...]:
    """The keys in which a study differs from another one, with the values of both."""
    own, others = (dict(_flat(one.model_dump(mode="json"))) for one in (study, other))
    both = sorted(own.keys() | others.keys())
    return tuple(
        f"{key}: {own.get(key)} in place of {others.get(key)}"
        for key in both
        if own.get(key) != others.get(key) and key != "data.path"
    )


def told(sent: Sent) -> str:
    """One message that left, in a line."""
    counts, measures = sent.counts, sent.statistics
    match sent.kind:
        case "SiteCard":
            splits = [_split_told(counts, split) for split in keys.SPLITS]
            return "counts: " + "; ".join([*splits, *_aside_told(counts), *_ranges_told(measures)])
        case "TrainReply":
            control = sum(array.elements for array in sent.arrays if is_control(array.name))
            elements = sum(array.elements for array in sent.arrays) - control
            besides = f" and of {control:,} numbers of its control variate" if control else ""
            named = [f"{n.removeprefix('metrics.')} {v:.4g}" for n, v in measures.items() if "." in n]
            return (
                f"change of {elements:,} weights{besides} ({megabytes(sent.bytes)}) from "
                f"{counts.get('patients', 0)} patients, {counts.get('cases', 0)} cases; "
                f"{', '.join(named) or 'no measure'}"
            )
        case "EvaluateReply":
            classes = [f"{sum(bins.values())} {name}" for name, bins in sent.histograms.items() if bins]
            scores = f"; histograms of {' and '.join(classes)}" if classes else ""
            split = sent.words.get("split", "")
            scores += "; single scores stayed here" if split == keys.TEST else ""
            return f"{split}: loss {measures.get('loss', 0.0):.4g} of {counts.get('cases', 0)} cases{scores}"
        case "Working":
            return (
                f"still {sent.words.get('state')}: step {counts.get('step', 0)} of {counts.get('steps', 0)}"
            )
        case "Failure":
            return f"could not do it: {sent.words.get('code')} ({sent.words.get('line')})"
    return f"{sent.kind}: {len(counts)} counts, {len(measures)} measures, {megabytes(sent.bytes)}"


def _split_told(counts: Mapping[str, int], split: str) -> str:
    patients, positive, negative = (
        counts.get(f"{what}.{split}", 0) for what in ("patients", "positives", "negatives")
    )
    return f"{split} {patients} patients ({positive} positive, {negative} negative)"


def _aside_told(counts: Mapping[str, int]) -> Iterator[str]:
    aside = {reason: counts[f"aside.{reason}"] for reason in keys.ASIDE if f"aside.{reason}" in counts}
    if aside:
        yield "set aside " + ", ".join(f"{count} {reason}" for reason, count in aside.items())


def _ranges_told(measures: Mapping[str, float]) -> Iterator[str]:
    ends = {
        name: (measures[f"seen.{name}.low"], measures[f"seen.{name}.high"])
        for name in ranges.QUANTITIES
        if f"seen.{name}.low" in measures
    }
    told = [
        f"{name} {low:g}" + ("" if low == high else f" to {high:g}") for name, (low, high) in ends.items()
    ]
    if told:
        yield "training images: " + ", ".join(told)


def megabytes(number: int) -> str:
    """Bytes for people."""
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


def _flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
