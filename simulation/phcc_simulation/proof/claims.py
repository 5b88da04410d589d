"""What is claimed of the method, and whether several seeds bear it out; what does not hold is said so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from phcc_model.arms import FINETUNED_AT, LOCAL
from phcc_server.report.schema import TRAIN
from phcc_simulation.proof.monitors import weighting_of
from phcc_simulation.proof.runs import SeedRun
from phcc_simulation.proof.schema import (
    HOLDS,
    NOT,
    NOT_DEFINED,
    NOT_RUN,
    ON_AVERAGE,
    Claim,
    Combined,
    Figure,
    Verdict,
)

FULL, BARE = "full", "no-pretraining"
CEILING = "three signs"
"""The best possible AUC of the images alone, as the phantom calls it: AFP and size are not in them."""
LEAST_SHARE, LEAST_EFFECTIVE = 0.95, 0.50


@dataclass(frozen=True)
class _Wanted:
    """How much better `full` should be than another arm.

    Attributes:
        other: an arm, or ``phase:`` or ``local:`` for the best of these.
        least: the mean difference that is wanted.
        floor: the interval should lie above; where it does not, the claim holds on average only.
        strict: or does not hold at all.
    """

    other: str
    least: float
    floor: float = 0.0
    strict: bool = False

    def __str__(self) -> str:
        text = "> 0" if self.least == 0.0 else f"at least {self.least:+.2f}"
        return f"{text}, interval above 0" if self.strict else text

    @property
    def title(self) -> str:
        named = {"phase:": "the best single phase", "local:": "the best centre alone"}
        return f"{FULL} − {named.get(self.other, self.other)}"


_DIFFERENCES = (
    _Wanted(BARE, 0.05, strict=True),
    _Wanted("phase:", 0.05),
    _Wanted("afp", 0.15),
    _Wanted("kinetics", 0.0),
    _Wanted("regions", 0.0),
    _Wanted("local:", 0.03),
    _Wanted("pooled", -0.01, floor=-0.01),
)


def claims_of(found: Combined, runs: Sequence[SeedRun]) -> tuple[Claim, ...]:
    """Every claim, judged on the split `found.split`; the claims that `found` has play no part."""
    differences = (_difference(found, wanted) for wanted in _DIFFERENCES)
    return (*differences, _share(found), _overfitting(found), *_weighting(runs))


def without_pretraining(arm: str) -> str:
    """The arm that differs from this one in this alone, as it would be called."""
    first, plus, rest = arm.partition("+")
    return BARE + plus + rest if first == FULL else f"{arm}+{BARE}"


def pretrained_alone(arm: str) -> str | None:
    """The arm that differs from this one in that its one centre pre-trained alone as well; None where it did."""
    what, colon, rest = arm.partition(":")
    return f"{LOCAL}{colon}{rest}" if what == FINETUNED_AT else None


def best_of(found: Combined, prefix: str) -> str | None:
    """The arm with the highest mean AUC among those whose name begins so, without what a ``+`` makes."""
    areas = {
        one.arm: one.auc.value
        for one in found.arms
        if one.split == found.split
        and one.arm.startswith(prefix)
        and "+" not in one.arm
        and one.auc.value is not None
    }
    return max(areas, key=lambda arm: areas[arm]) if areas else None


def _difference(found: Combined, wanted: _Wanted) -> Claim:
    best = wanted.other.endswith(":")
    other = best_of(found, wanted.other) if best else wanted.other
    figure = None if other is None else found.delta(FULL, other, found.split)
    notes = [f"the best is {other}"] if best and other is not None else []
    if figure is not None and len(figure.seeds) < len(found.seeds):
        notes.append(f"on {len(figure.seeds)} of {len(found.seeds)} seeds")
    empty = _empty(wanted.title, str(wanted), figure)
    if empty is not None or figure is None or figure.value is None or figure.ci is None:
        return empty or _not_run(wanted.title, str(wanted))
    reached = figure.value > 0.0 if wanted.least == 0.0 else figure.value >= wanted.least
    # An interval that must not fall below a negative floor may touch it; one that must exclude 0 may not.
    surely = figure.ci[0] > wanted.floor if wanted.floor == 0.0 else figure.ci[0] >= wanted.floor
    verdict: Verdict = NOT
    if reached:
        verdict = HOLDS if surely else (NOT if wanted.strict else ON_AVERAGE)
    return Claim(
        claim=wanted.title,
        wanted=str(wanted),
        verdict=verdict,
        found=figure.value,
        ci=figure.ci,
        each=figure.each,
        note=", ".join(notes),
    )


def _share(found: Combined) -> Claim:
    """How much of what the images hold is found."""
    title, wanted = f"{FULL} ÷ best possible AUC of the images", f"at least {100 * LEAST_SHARE:.0f} %"
    figure = found.auc(FULL, found.split)
    best = found.best_possible_auc.get(CEILING)
    empty = _empty(title, wanted, figure)
    if empty is not None or figure is None or figure.value is None or figure.ci is None:
        return empty or _not_run(title, wanted)
    if best is None:
        return Claim(claim=title, wanted=wanted, verdict=NOT_DEFINED, note="what is possible is not known")
    share, low, high = figure.value / best, figure.ci[0] / best, figure.ci[1] / best
    verdict: Verdict = NOT if share < LEAST_SHARE else (HOLDS if low >= LEAST_SHARE else ON_AVERAGE)
    return Claim(
        claim=title,
        wanted=wanted,
        verdict=verdict,
        found=share,
        ci=(low, high),
        each=tuple(one / best for one in figure.each),
        percent=True,
        note=f"{best:.3f} is possible ({CEILING})",
    )


def _overfitting(found: Combined) -> Claim:
    """Whether augmentation and dropout narrow the gap between training and test."""
    other = "unregularised"
    title, wanted = f"gap (training − test AUC) of {FULL} − of {other}", "< 0"
    gaps = [_gaps(found, arm) for arm in (FULL, other)]
    if gaps[0] is None or gaps[1] is None:
        return _not_run(title, wanted)
    seeds = [seed for seed in gaps[0] if seed in gaps[1]]
    if not seeds:
        return Claim(claim=title, wanted=wanted, verdict=NOT_DEFINED, note="no seed has both gaps")
    of_full, of_other = ([gap[seed] for seed in seeds] for gap in gaps if gap is not None)
    each = [a - b for a, b in zip(of_full, of_other, strict=True)]
    note = f"mean gap {_mean(of_full):+.3f} and {_mean(of_other):+.3f}"
    return _over_seeds(title, wanted, each, lambda value: value < 0.0, note=note)


def _gaps(found: Combined, arm: str) -> dict[int, float] | None:
    """An arm's gap in every seed; None where it was not run."""
    training, test = found.auc(arm, TRAIN), found.auc(arm, found.split)
    if training is None or test is None:
        return None
    of_test = dict(zip(test.seeds, test.each, strict=False))
    return {
        seed: area - of_test[seed]
        for seed, area in zip(training.seeds, training.each, strict=False)
        if seed in of_test
    }


def _weighting(runs: Sequence[SeedRun]) -> Iterator[Claim]:
    """Whether the sample weights of the pre-training do what they are for, and at what cost."""
    title, wanted = "redundancy under the sample weights ÷ under uniform ones", "< 100 %"
    second, least = "share of the batch that the weights leave in effect", f"> {100 * LEAST_EFFECTIVE:.0f} %"
    found = [weights for run in runs if (weights := weighting_of(run, FULL)) is not None]
    if not found:
        yield _not_run(title, wanted)
        yield _not_run(second, least)
        return
    ratios = [weighted / uniform for weighted, uniform, _ in found if uniform > 0.0]
    note = "pre-training of full, rounds with weights"
    if ratios:
        yield _over_seeds(title, wanted, ratios, lambda value: value < 1.0, percent=True, note=note)
    else:
        yield Claim(claim=title, wanted=wanted, verdict=NOT_DEFINED, note="the features have no redundancy")
    effective = [effective for _, _, effective in found]
    yield _over_seeds(
        second, least, effective, lambda value: value > LEAST_EFFECTIVE, percent=True, note=note
    )


def _over_seeds(
    claim: str,
    wanted: str,
    each: Sequence[float],
    reached: Callable[[float], bool],
    *,
    percent: bool = False,
    note: str = "",
) -> Claim:
    """A claim about what is one number a seed: it holds if every seed says so."""
    mean = _mean(each)
    verdict: Verdict = NOT
    if reached(mean):
        verdict = HOLDS if all(map(reached, each)) else ON_AVERAGE
    return Claim(
        claim=claim,
        wanted=wanted,
        verdict=verdict,
        found=mean,
        spread=(min(each), max(each)),
        each=tuple(each),
        percent=percent,
        note=note,
    )


def _empty(claim: str, wanted: str, figure: Figure | None) -> Claim | None:
    """What is said where there is no figure; None where there is one."""
    if figure is None:
        return _not_run(claim, wanted)
    if figure.value is None:
        return Claim(claim=claim, wanted=wanted, verdict=NOT_DEFINED, note=figure.reason or "")
    return None


def _not_run(claim: str, wanted: str) -> Claim:
    return Claim(claim=claim, wanted=wanted, verdict=NOT_RUN)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
