"""How figures are put into words: one place for formats, the verdict, and the limits that belong to it."""

from __future__ import annotations

from collections.abc import Iterable

from phcc_model.statistics.subgroups import UNKNOWN
from phcc_server.report.schema import (
    EXTERNAL,
    INTERNAL,
    TEST_SPLITS,
    TRAIN,
    VALIDATION,
    Failure,
    Limits,
    PairedResult,
    Summary,
)

DASH = "–"
UNDEFINED = "not defined"

ASIDE = {
    "unreadable": "images cannot be read",
    "not-mr-liver": "no MRI of the liver",
    "phases-incomplete": "a phase is missing",
    "no-lesion": "no lesion located",
    "unusable": "images cannot be used",
    "not-prepared": "cannot be prepared for this study",
}
"""The contract's reasons for which a hospital sets patients aside (`keys.ASIDE`), in words."""

_SMALLEST_P = 0.001
_MOST_LINES = 4


def split_title(split: str) -> str:
    """A split as a heading."""
    names = {
        TRAIN: "training patients",
        VALIDATION: "validation patients",
        INTERNAL: "internal test",
        EXTERNAL: "external test",
    }
    return names.get(split, split)


def figure(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference, always with its sign."""
    # Adding zero turns a rounded -0.0 into 0.0.
    return DASH if value is None else f"{round(value, digits) + 0.0:+.{digits}f}"


def limits(interval: Limits, digits: int = 2) -> str:
    """An interval in words, which no minus sign can garble."""
    if interval is None:
        return DASH
    # Adding zero turns a rounded -0.0 into 0.0.
    low, high = (round(limit, digits) + 0.0 for limit in interval)
    return f"{low:.{digits}f} to {high:.{digits}f}"


def estimate(value: float | None, interval: Limits, digits: int = 2) -> str:
    """A figure with its interval."""
    if value is None:
        return UNDEFINED
    return figure(value, digits) + (f" ({limits(interval, digits)})" if interval else "")


def p_value(p: float | None) -> str:
    """A p-value, never as zero."""
    if p is None:
        return DASH
    if p < _SMALLEST_P:
        return f"< {_SMALLEST_P}"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def group(name: str) -> str:
    """A part of the patients as a reader is told of it."""
    return "not recorded" if name == UNKNOWN else name


def mistake_in_words(failure: Failure) -> str:
    """What was called wrongly, and how surely."""
    kind = "Missed: positive" if failure.label == 1 else "False alarm: negative"
    return (
        f"{kind}, scored {failure.score:.3f} by {failure.arm} (threshold {failure.threshold:.3f}); "
        f"{split_title(failure.split)}."
    )


def duration(seconds: float | None) -> str:
    """A time span for people."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def verdict(summary: Summary) -> list[str]:
    """What came out, arm by arm, and whether arms differ: sentences that claim no more than the intervals."""
    lines = []
    for arm, results in list(summary.arms.items())[:_MOST_LINES]:
        parts = [
            f"{estimate(results[split].auc, results[split].ci)} on {results[split].n} {split} test cases"
            if results[split].auc is not None
            else f"{UNDEFINED} on the {split} test ({results[split].reason})"
            for split in TEST_SPLITS
        ]
        lines.append(f"{arm}: AUC {'; '.join(parts)}.")
    others = list(dict.fromkeys((pair.a, pair.b) for pair in summary.paired))
    for a, b in others[:_MOST_LINES]:
        pairs = [pair for pair in summary.paired if (pair.a, pair.b) == (a, b) and pair.split in TEST_SPLITS]
        lines.append(f"{a} against {b}: {'; '.join(_compared(pair, alpha(summary)) for pair in pairs)}.")
    if max(len(summary.arms), len(others)) > _MOST_LINES:
        lines.append("The other arms stand in the tables below.")
    return lines


def alpha(summary: Summary) -> float:
    """Below which p a difference is claimed: where the interval, too, leaves out 0."""
    return round(1.0 - summary.confidence, 6)


def _compared(pair: PairedResult, claimed_below: float) -> str:
    if pair.delta is None or pair.ci is None:
        return f"{pair.split} {UNDEFINED} ({pair.reason})"
    detail = f"{signed(pair.delta)}, {limits(pair.ci)}"
    if pair.p is None:
        return f"{pair.split} {detail}, {pair.reason}"
    detail += f", p {p_value(pair.p)}" if pair.p < _SMALLEST_P else f", p = {p_value(pair.p)}"
    if pair.p >= claimed_below:
        return f"no difference can be claimed on the {pair.split} test ({detail})"
    word = "higher" if pair.delta > 0 else "lower"
    return f"{word} on the {pair.split} test ({detail})"


def warnings(summary: Summary) -> list[str]:
    """Every warning once, with the arms and splits that it is about."""
    found: dict[str, dict[str, list[str]]] = {}
    for arm, results in summary.arms.items():
        for split, result in results.items():
            for text in result.warnings:
                found.setdefault(text, {}).setdefault(split_title(split), []).append(arm)
            if result.auc is None and result.reason is not None:
                text = f"AUC not defined: {result.reason}"
                found.setdefault(text, {}).setdefault(split_title(split), []).append(arm)
    everyone = list(summary.arms)
    return [f"{_places(places, everyone)}: {text}" for text, places in found.items()]


def _fewer(arms: list[str], everyone: list[str]) -> str:
    """Some arms by name, or all but some: whichever is shorter."""
    others = [arm for arm in everyone if arm not in arms]
    return ", ".join(arms) if len(arms) <= len(others) else f"all but {', '.join(others)}"


def _places(places: dict[str, list[str]], everyone: list[str]) -> str:
    return "; ".join(
        split if len(arms) == len(everyone) else f"{split} ({_fewer(arms, everyone)})"
        for split, arms in places.items()
    )


def limitations(summary: Summary) -> Iterable[str]:
    """The limits, in words."""
    yield (
        "Research use only. Nothing here is a medical device, and no decision about a patient may rest on it."
    )
    yield (
        "The method is a re-implementation from the abstract of Qu et al., Insights into Imaging 2025 "
        "(doi 10.1186/s13244-025-01968-w), whose full text and code were not at hand. It is not a "
        "reproduction, and the figures here must not be set beside the paper's."
    )
    if summary.data.synthetic:
        yield (
            "The data are synthetic: lesions, signs, labels and images were computed from a model of "
            "contrast enhancement, with signs that were planted by design. The figures say whether the "
            "software finds what was planted. They say nothing about patients, and nothing about how well "
            "the method works in a hospital."
        )
        yield (
            "A short run of this kind shows that the machinery works, from files to a verdict. What "
            "pre-training or federation gains is for a study of sufficient size, with several data and "
            "training seeds, to say."
        )
    if summary.ceiling is not None:
        what, best = summary.ceiling
        yield (
            f"The best possible AUC, {best:.2f} ({what}), follows from how the data were made. "
            "No arm can do better except by chance; a nominal ceiling is not always one that can be reached."
        )
    yield (
        "Intervals and p-values speak about these patients and these trained models. They leave out how much "
        "a result would change with another seed, and p-values are not corrected for the number of "
        "comparisons."
    )
    yield (
        "Rounds are chosen on validation patients and thresholds are frozen before the test patients are "
        "scored. Predictive values hold at the share of positives in these data only."
    )
