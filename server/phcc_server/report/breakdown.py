"""The same figures looked at from other sides: centre by centre, by parts of the patients, mistake by mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from phcc_model.statistics import Gap, assess_subgroups, auc_gap, pool_aucs
from phcc_server.report.evaluation import Columns, ScoredCase, area_of, limits_of
from phcc_server.report.schema import (
    EXTERNAL,
    INTERNAL,
    TEST_SPLITS,
    TRAIN,
    Failure,
    GapResult,
    GroupResult,
    PooledResult,
    RoundSummary,
)

CENTRES = "centres"
"""All test centres, internal and external."""

CENTRE = "centre"
"""The trait that every case has."""

MOST_FAILURES = 6
"""Mistakes shown of each kind: false alarms, and positives that were missed."""

Groups = Mapping[tuple[str, str], Sequence[ScoredCase]]


def pooled_results(arm: str, groups: Groups, confidence: float) -> list[PooledResult]:
    """Mean AUC of an arm over its centres, each with its own figure; where there is one centre only, nothing."""
    found = []
    for split, parts in ((INTERNAL, (INTERNAL,)), (EXTERNAL, (EXTERNAL,)), (CENTRES, TEST_SPLITS)):
        rows = [row for part in parts for row in groups.get((arm, part), [])]
        centres = sorted({row.centre for row in rows})
        if len(centres) < 2:
            continue
        areas = {c: area_of([row for row in rows if row.centre == c], confidence) for c in centres}
        pooled = pool_aucs(areas, confidence=confidence)
        found.append(
            PooledResult(
                arm=arm,
                split=split,
                auc=pooled.value,
                ci=limits_of(pooled.low, pooled.high),
                prediction=limits_of(pooled.predicted_low, pooled.predicted_high),
                i2=pooled.i2,
                tau2=pooled.tau2,
                q_p=pooled.q_p,
                centres=pooled.centres,
                left_out=dict(pooled.left_out),
                reason=pooled.reason,
                warnings=pooled.warnings,
            )
        )
    # Without external centres "all" would say the same again.
    same = len({row.centre for part in TEST_SPLITS for row in groups.get((arm, part), [])}) == len(
        {row.centre for row in groups.get((arm, INTERNAL), [])}
    )
    return [one for one in found if not (same and one.split == CENTRES)]


def group_results(arm: str, groups: Groups, confidence: float) -> list[GroupResult]:
    """The test patients of an arm by each trait that is known of them, the centre first."""
    rows = [row for split in TEST_SPLITS for row in groups.get((arm, split), []) if row.scored]
    if not rows:
        return []
    columns = Columns.of(rows)
    results = []
    named = dict.fromkeys((CENTRE, *(name for row in rows for name in row.traits)))
    for trait in named:
        names = [row.centre if trait == CENTRE else row.traits.get(trait, "") for row in rows]
        found = assess_subgroups(columns.label, columns.score, names, columns.patient, confidence=confidence)
        for one in found.groups:
            area = one.estimate
            results.append(
                GroupResult(
                    arm=arm,
                    trait=trait,
                    group=one.name,
                    auc=area.auc,
                    ci=limits_of(area.low, area.high),
                    n=area.n,
                    n_pos=area.n_pos,
                    patients=area.patients,
                    too_small=one.too_small,
                    p=found.p,
                )
            )
    return results


def gap_results(
    arms: Sequence[str], groups: Groups, rounds: Sequence[RoundSummary], confidence: float
) -> list[GapResult]:
    """Training beside the tests, for each arm whose training patients were scored, or told of by their sites."""
    results = []
    for arm in arms:
        training = area_of(groups.get((arm, TRAIN), []), confidence)
        told = _told_by_sites(arm, rounds) if training.n == 0 else None
        if training.n == 0 and told is None:
            continue
        for split in TEST_SPLITS:
            test = area_of(groups.get((arm, split), []), confidence)
            if told is None:
                gap = auc_gap(training, test)
            elif test.auc is None:
                gap = Gap(None, None, None, f"test: {test.reason}")
            else:
                gap = Gap(told - test.auc, None, None)
            results.append(
                GapResult(
                    arm=arm,
                    split=split,
                    training=training.auc if told is None else told,
                    gap=gap.value,
                    ci=limits_of(gap.low, gap.high),
                    source="scores" if told is None else "reported",
                    reason=gap.reason,
                )
            )
    return results


def _told_by_sites(arm: str, rounds: Sequence[RoundSummary]) -> float | None:
    """Mean over the sites' patients of the AUC in training, in the round that was chosen."""
    told = [
        (value, site.patients or 0)
        for record in rounds
        if record.arm == arm and record.best
        for site in record.sites.values()
        if (value := site.metrics.get("auc_training")) is not None
    ]
    patients = sum(count for _, count in told)
    return sum(value * count for value, count in told) / patients if patients else None


def failures_of(arm: str, groups: Groups) -> list[Failure]:
    """The surest mistakes on test patients: those farthest beyond the threshold, missed positives first.

    How sure a mistake is, is how far the score lies beyond the threshold, as a share of the way to 0 or 1. Of
    counts there is none: nobody knows whose they are.
    """
    wrong = []
    for split in TEST_SPLITS:
        for row in groups.get((arm, split), []):
            if row.binned or not row.scored or row.score is None or row.threshold is None:
                continue
            called = row.score >= row.threshold
            if called != (row.label == 1):
                way = 1.0 - row.threshold if called else row.threshold
                sure = abs(row.score - row.threshold) / way if way > 0.0 else 0.0
                wrong.append(
                    Failure(
                        arm=arm,
                        split=split,
                        centre=row.centre,
                        patient=row.patient,
                        case=row.case,
                        label=row.label,
                        score=row.score,
                        threshold=row.threshold,
                        sureness=sure,
                    )
                )
    wrong.sort(key=lambda one: (-one.label, -one.sureness, one.centre, one.case))
    missed = [one for one in wrong if one.label == 1]
    return [*missed[:MOST_FAILURES], *[one for one in wrong if one.label == 0][:MOST_FAILURES]]
