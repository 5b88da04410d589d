"""From scored cases and the record of rounds to the `Summary` of a study: a pure function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import JsonValue

from phcc_model.errors import DataError, SplitError
from phcc_model.seeds import generator
from phcc_model.statistics import auc_gap, bootstrap_difference, paired_delong
from phcc_server.report.breakdown import failures_of, gap_results, group_results, pooled_results
from phcc_server.report.evaluation import Columns, ScoredCase, Settings, area_of, evaluate, limits_of
from phcc_server.report.schema import (
    EXTERNAL,
    INTERNAL,
    TEST_SPLITS,
    TRAIN,
    VALIDATION,
    DataSummary,
    PairedResult,
    RoundSummary,
    Summary,
)

__all__ = ["RoundSummary", "ScoredCase", "Summary", "build_summary", "centre_split"]

_SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "test": INTERNAL,
    "internal": INTERNAL,
    "external": EXTERNAL,
}


def centre_split(centre: str) -> str:
    """The key under which a centre's test patients stand among the splits."""
    return f"centre {centre}" if centre in _SPLITS else centre


def build_summary(
    scored: Iterable[ScoredCase],
    *,
    study: str,
    data: DataSummary | Mapping[str, Any],
    rounds: Sequence[RoundSummary | Mapping[str, Any]] = (),
    best_possible_auc: Mapping[str, float | None] | None = None,
    timing: Mapping[str, JsonValue] | None = None,
    digests: Mapping[str, str] | None = None,
    reference: str | None = None,
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Summary:
    """Work out every figure of a study.

    Args:
        scored: every case of every arm, in any order.
        study: its name.
        data: what the data are.
        rounds: records of rounds, e.g. a ledger's, dumped.
        best_possible_auc: by what a score may see; synthetic data only.
        timing: seconds.
        digests: by what they name.
        reference: the arm that every other one is tested against; without it ``full``, or the first one.
        confidence: coverage of every interval.
        bootstrap: replicates; 0 leaves it out.
        seed: of the bootstrap.

    Raises:
        DataError: a case stands twice in an arm, or a split or the reference arm is not known.
        SplitError: a patient stands on two sides.
    """
    rows = _checked(scored)
    settings = Settings(confidence, bootstrap, seed)
    arms = tuple(dict.fromkeys(row.arm for row in rows))
    # From here on the order in which the cases came plays no part.
    groups = _by_arm_and_split(sorted(rows, key=lambda row: (row.centre, row.patient, row.case)))
    splits = _split_order(rows)
    if reference is None and arms:
        reference = "full" if "full" in arms else arms[0]
    if reference is not None and reference not in arms:
        raise DataError(f"no case is scored by the arm {reference!r}", where="reference arm")
    records = tuple(RoundSummary.model_validate(record) for record in rounds)
    return Summary(
        study=study,
        confidence=confidence,
        data=DataSummary.model_validate(data),
        arms={
            arm: {split: evaluate(groups.get((arm, split), []), settings, split) for split in splits}
            for arm in arms
        },
        paired=tuple(
            _paired(reference, arm, split, groups, settings)
            for split in splits
            for arm in arms
            if reference is not None and arm != reference and split not in (TRAIN, VALIDATION)
        ),
        pooled=tuple(one for arm in arms for one in pooled_results(arm, groups, confidence)),
        subgroups=() if reference is None else tuple(group_results(reference, groups, confidence)),
        gaps=tuple(gap_results(arms, groups, records, confidence)),
        failures=() if reference is None else tuple(failures_of(reference, groups)),
        binned=any(row.binned for row in rows),
        best_possible_auc=dict(best_possible_auc or {}),
        rounds=records,
        timing=dict(timing or {}),
        digests=dict(digests or {}),
    )


def _checked(scored: Iterable[ScoredCase]) -> tuple[ScoredCase, ...]:
    rows = []
    sides: dict[tuple[str, str, str], str] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in scored:
        if row.split not in _SPLITS:
            raise DataError(
                f"the split {row.split!r} is not known",
                where=f"case {row.case}",
                remedy=f"Name one of {', '.join(_SPLITS)}",
            )
        plain = replace(row, split=_SPLITS[row.split])
        seen[row.arm, row.centre, row.case] += 1
        if seen[row.arm, row.centre, row.case] > 1:
            raise DataError(f"stands twice in the scores of arm {row.arm!r}", where=f"case {row.case}")
        side = sides.setdefault((row.arm, row.centre, row.patient), plain.split)
        if side != plain.split:
            raise SplitError(
                f"stands on two sides, {side} and {plain.split}",
                where=f"patient {row.patient} of {row.centre}",
                remedy="Split by patient, each in one place",
            )
        rows.append(plain)
    return tuple(rows)


def _split_order(rows: Sequence[ScoredCase]) -> tuple[str, ...]:
    """Train and validation where there are any, internal and external always, then the centres by name."""
    named = {row.split for row in rows}
    centres = {centre_split(row.centre) for row in rows if row.split in TEST_SPLITS}
    return (*(split for split in (TRAIN, VALIDATION) if split in named), *TEST_SPLITS, *sorted(centres))


def _by_arm_and_split(rows: Sequence[ScoredCase]) -> dict[tuple[str, str], list[ScoredCase]]:
    groups: dict[tuple[str, str], list[ScoredCase]] = {}
    for row in rows:
        groups.setdefault((row.arm, row.split), []).append(row)
        if row.split in TEST_SPLITS:
            groups.setdefault((row.arm, centre_split(row.centre)), []).append(row)
    return groups


def _paired(
    a: str,
    b: str,
    split: str,
    groups: Mapping[tuple[str, str], Sequence[ScoredCase]],
    settings: Settings,
) -> PairedResult:
    if any(row.binned for arm in (a, b) for row in groups.get((arm, split), [])):
        return _unpaired(a, b, split, groups, settings)
    of_a = {(row.centre, row.case): row for row in groups.get((a, split), []) if row.scored}
    of_b = {(row.centre, row.case): row for row in groups.get((b, split), []) if row.scored}
    both = [key for key in of_a if key in of_b]
    if differing := [key for key in both if of_a[key].label != of_b[key].label]:
        raise DataError(f"has another label in arm {b!r} than in {a!r}", where=f"case {differing[0][1]}")
    first, second = Columns.of([of_a[key] for key in both]), Columns.of([of_b[key] for key in both])
    columns = first.label, first.score, second.score, first.patient
    test = paired_delong(*columns, confidence=settings.confidence)
    drawn = bootstrap_difference(
        *columns,
        generator=generator(settings.seed, "bootstrap", split),
        replicates=settings.bootstrap,
        confidence=settings.confidence,
    )
    warnings = list(test.warnings)
    if not len(both) == len(of_a) == len(of_b):
        warnings.insert(0, f"on the {len(both)} cases that both arms scored ({len(of_a)} and {len(of_b)})")
    return PairedResult(
        a=a,
        b=b,
        split=split,
        delta=test.delta,
        ci=limits_of(test.low, test.high),
        p=test.p,
        n=test.n,
        n_pos=test.n_pos,
        bootstrap_ci=limits_of(drawn.low, drawn.high),
        reason=test.reason,
        warnings=tuple(warnings),
    )


UNPAIRED = "no test: scores stay at the sites, so that nobody can hold one arm's beside the other's"


def _unpaired(
    a: str, b: str, split: str, groups: Mapping[tuple[str, str], Sequence[ScoredCase]], settings: Settings
) -> PairedResult:
    """Two arms of which only counts are known: an interval as if other patients had been scored, and no test."""
    area_a, area_b = (area_of(groups.get((arm, split), []), settings.confidence) for arm in (a, b))
    found = auc_gap(area_a, area_b)
    return PairedResult(
        a=a,
        b=b,
        split=split,
        delta=found.value,
        ci=limits_of(found.low, found.high),
        p=None,
        n=min(area_a.n, area_b.n),
        n_pos=min(area_a.n_pos, area_b.n_pos),
        reason=UNPAIRED if found.reason is None else (area_a.reason or area_b.reason),
        warnings=("the interval takes the arms as scored on other patients: it is too wide",),
    )
