from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pytest

from phcc_model.errors import DataError, SplitError
from phcc_model.seeds import generator
from phcc_model.statistics import auc_interval, exact_proportion, paired_delong
from phcc_server.ledger import RoundRecord, SiteRecord, ValidationRecord
from phcc_server.report.schema import RoundSummary, SplitCount
from phcc_server.report.summary import ScoredCase, Summary, build_summary
from phcc_server.rounds import RoundStatus

DATA = {"synthetic": False, "source": "nifti-csv", "patients": 8}


def case(arm: str = "full", name: str = "a", label: int = 1, score: float | None = 0.7, **more) -> ScoredCase:
    fields = {"patient": name, "centre": "A", "split": "internal", "threshold": 0.5} | more
    return ScoredCase(arm=arm, case=name, label=label, score=score, **fields)


def build(rows: list[ScoredCase], **more) -> Summary:
    return build_summary(rows, study="tiny", data=DATA, **({"bootstrap": 0} | more))


def test_the_file_has_the_keys_that_were_promised(summary: Summary) -> None:
    plain = json.loads(summary.model_dump_json())
    promised = {"data", "arms", "paired", "best_possible_auc", "rounds", "timing", "digests"}
    assert promised <= set(plain)
    assert plain["data"]["synthetic"] is True
    assert set(plain["arms"]) == {"full", "no-pretraining", "afp"}
    for results in plain["arms"].values():
        assert set(results) == {"train", "internal", "external", "Aarhus", "Bergen", "Cádiz", "Graz"}
        for result in results.values():
            low, high = result["ci"]
            assert low < result["auc"] < high
            assert 0 < result["n_pos"] < result["n"]
            assert {"sensitivity", "specificity", "threshold", "brier", "warnings"} <= set(result)
    for pair in plain["paired"]:
        assert {"a", "b", "split", "delta", "ci", "p"} <= set(pair)
        assert pair["a"] == "full"
    assert {(pair["b"], pair["split"]) for pair in plain["paired"]} >= {
        ("afp", "internal"),
        ("afp", "external"),
        ("no-pretraining", "Graz"),
    }


def test_figures_are_those_of_the_statistics(summary: Summary, scored: list[ScoredCase]) -> None:
    rows = {
        arm: sorted(
            (row for row in scored if row.arm == arm and row.split == "test"), key=lambda row: row.case
        )
        for arm in ("full", "afp")
    }
    label = [row.label for row in rows["full"]]
    full, afp = ([row.score for row in rows[arm]] for arm in ("full", "afp"))
    expected = auc_interval(label, full)
    result = summary.arms["full"]["internal"]
    assert result.auc == pytest.approx(expected.auc)
    assert result.ci == pytest.approx((expected.low, expected.high))
    assert (result.n, result.n_pos, result.patients) == (93, sum(label), 93)
    hits = sum(y == 1 and s >= 0.41 for y, s in zip(label, full, strict=True))
    share = exact_proportion(hits, sum(label))
    assert (result.sensitivity, *result.sensitivity_ci) == pytest.approx((share.value, share.low, share.high))
    assert result.brier == pytest.approx(np.mean((np.array(full) - label) ** 2))
    test = paired_delong(label, full, afp)
    (pair,) = (pair for pair in summary.paired if (pair.b, pair.split) == ("afp", "internal"))
    assert (pair.delta, pair.p) == pytest.approx((test.delta, test.p))
    assert pair.bootstrap_ci == pytest.approx(pair.ci, abs=0.05)


def test_centres_are_the_test_patients_of_each(summary: Summary) -> None:
    full = summary.arms["full"]
    assert full["Graz"].auc == full["external"].auc
    assert full["Aarhus"].n + full["Bergen"].n + full["Cádiz"].n == full["internal"].n
    assert full["Aarhus"].n == 24


def test_the_order_of_the_cases_plays_no_part(fabricate, scored: list[ScoredCase], summary: Summary) -> None:
    # Within an arm: the arms themselves stand in the order in which they first come.
    first = [next(row for row in scored if row.arm == arm) for arm in summary.arms]
    rest = [row for row in scored if row not in first]
    generator(0, "shuffle").shuffle(rest)
    assert fabricate([*first, *rest]) == summary


def test_it_survives_the_file_and_holds_no_nan(summary: Summary) -> None:
    text = summary.model_dump_json()
    assert Summary.model_validate_json(text) == summary

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)


def test_one_class_only_is_null_with_the_reason() -> None:
    rows = [case(name=name, label=0) for name in "abcd"]
    rows += [case("afp", name=name, label=0, score=0.2) for name in "abcd"]
    summary = build(rows)
    result = summary.arms["full"]["internal"]
    assert (result.auc, result.ci, result.n, result.n_pos) == (None, None, 4, 0)
    assert result.reason == "one class only: all 4 cases are negative"
    assert result.specificity == 0.0
    assert result.sensitivity is None
    assert result.reasons["sensitivity"] == "no positive cases"
    assert result.reasons["calibration_slope"] == result.reason
    external = summary.arms["full"]["external"]
    assert (external.auc, external.n, external.reason) == (None, 0, "no cases")
    assert external.reasons["threshold"] == "no cases"
    assert {(pair.delta, pair.p) for pair in summary.paired} == {(None, None)}
    assert all(pair.reason for pair in summary.paired)


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_cases_without_a_score_are_left_out_and_counted(score: float | None) -> None:
    rows = [case(name=f"{n}", label=n % 2, score=n / 10) for n in range(8)]
    rows += [case("afp", name=f"{n}", label=n % 2, score=score if n == 3 else n / 10) for n in range(8)]
    summary = build(rows)
    assert summary.arms["afp"]["internal"].n == 7
    assert (
        "1 of 8 cases have no score from this arm and are left out"
        in summary.arms["afp"]["internal"].warnings
    )
    (pair,) = (pair for pair in summary.paired if pair.split == "internal")
    assert pair.n == 7
    assert pair.warnings[0] == "on the 7 cases that both arms scored (8 and 7)"


def test_cases_without_a_label_are_left_out_and_counted() -> None:
    rows = [case(name=f"{n}", label=n % 2) for n in range(4)] + [case(name="x", label=-1)]
    result = build(rows).arms["full"]["internal"]
    assert result.n == 4
    assert "1 of 5 cases have no label and are left out" in result.warnings


def test_thresholds_may_be_missing_or_differ() -> None:
    rows = [case(name=f"{n}", label=n % 2, score=n / 10, threshold=None) for n in range(4)]
    result = build(rows).arms["full"]["internal"]
    assert result.sensitivity is None
    assert result.reasons["sensitivity"] == "no threshold was frozen"
    rows = [case(name=f"{n}", label=n % 2, score=n / 10, threshold=0.1 + 0.1 * (n > 1)) for n in range(4)]
    result = build(rows).arms["full"]["internal"]
    assert result.threshold is None
    assert result.reasons["threshold"].startswith("2 thresholds")
    assert (result.sensitivity, result.specificity) == (1.0, 0.5)


def test_scores_that_are_no_probabilities_have_an_auc_and_no_brier() -> None:
    result = build([case(name=f"{n}", label=n % 2, score=10.0 * n) for n in range(6)]).arms["full"][
        "internal"
    ]
    assert result.auc is not None
    assert result.brier is None
    assert "probabilities" in result.reasons["brier"]


def test_several_cases_of_a_patient_are_told() -> None:
    rows = [case(name=f"{n}", label=n % 2, score=n / 30, patient=f"p{n // 4}") for n in range(24)]
    result = build(rows, bootstrap=50).arms["full"]["internal"]
    assert (result.n, result.patients) == (24, 6)
    assert any("several cases of one patient" in text for text in result.warnings)
    assert any("only 6 positive patients" in text for text in result.warnings)


def test_the_same_name_at_two_centres_is_two_patients() -> None:
    rows = [case(name=f"{n}", label=n % 2, score=n / 30, centre=c) for n in range(6) for c in ("A", "B")]
    assert build(rows).arms["full"]["internal"].patients == 12


@pytest.mark.parametrize(
    ("rows", "error", "word"),
    [
        ([case(), case()], DataError, "twice"),
        ([case(split="holdout")], DataError, "holdout"),
        ([case(name="x", patient="p"), case(name="y", patient="p", split="train")], SplitError, "two sides"),
        ([case(name="x", label=1), case("afp", name="x", label=0)], DataError, "another label"),
    ],
)
def test_scores_that_contradict_each_other_are_refused(rows: list, error: type, word: str) -> None:
    with pytest.raises(error, match=word):
        build(rows)


def test_the_reference_arm() -> None:
    rows = [case(arm, name=f"{n}", label=n % 2, score=n / 9) for arm in ("afp", "full") for n in range(6)]
    assert {(pair.a, pair.b) for pair in build(rows).paired} == {("full", "afp")}
    assert {(pair.a, pair.b) for pair in build(rows, reference="afp").paired} == {("afp", "full")}
    without = [dataclasses.replace(row, arm={"full": "pooled"}.get(row.arm, row.arm)) for row in rows]
    assert {(pair.a, pair.b) for pair in build(without).paired} == {("afp", "pooled")}
    with pytest.raises(DataError, match="nobody"):
        build(rows, reference="nobody")


def test_a_centre_may_be_called_like_a_split() -> None:
    rows = [case(name=f"{n}", label=n % 2, centre="external") for n in range(4)]
    summary = build(rows)
    assert summary.arms["full"]["external"].n == 0
    assert summary.arms["full"]["centre external"].n == 4


def test_no_cases_at_all_make_an_empty_summary() -> None:
    summary = build([])
    assert (summary.arms, summary.paired, summary.splits) == ({}, (), ())


def test_the_ledgers_record_is_taken_as_it_is() -> None:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    record = RoundRecord(
        arm="full",
        stage="pretrain",
        round=0,
        status=RoundStatus.PARTIAL,
        started=at,
        finished=at,
        seconds=3.0,
        sites={
            "A": SiteRecord(status="accepted", cases=12, seconds=2.0, bytes_up=5, metrics={"loss": 0.4}),
            "B": SiteRecord(status="missing", reason="no reply in time"),
        },
        digest_before="0" * 64,
        digest_after="1" * 64,
        validation=ValidationRecord(loss=0.5, auc=None, cases=3),
        best=True,
        versions={"torch": "2.13"},
    )
    summary = build([], rounds=[record.model_dump(mode="json")])
    (found,) = summary.rounds
    assert (found.status, found.sites["B"].reason, found.sites["A"].metrics) == (
        "PARTIAL",
        "no reply in time",
        {"loss": 0.4},
    )
    assert summary.incomplete == (found,)
    kept = json.loads(summary.model_dump_json())["rounds"][0]
    assert kept["digest_after"] == "1" * 64
    assert kept["versions"] == {"torch": "2.13"}


def test_a_record_may_say_little_and_may_say_nan() -> None:
    record = RoundSummary.model_validate(
        {
            "arm": "full",
            "stage": "finetune",
            "round": 2,
            "status": "FAILED",
            "sites": {"A": {"status": "failed", "metrics": {"loss": math.nan}}},
            "validation": {"loss": math.inf},
        }
    )
    assert record.sites["A"].metrics == {"loss": None}
    assert (record.validation.loss, record.validation.auc) == (None, None)


def test_split_counts_come_as_named_tuples_too() -> None:
    class Row(NamedTuple):
        centre: str
        split: str
        positives: int
        negatives: int
        unknown: int

    summary = build_summary(
        [], study="tiny", data=DATA | {"split": [Row("A", "train", 3, 4, 1)._asdict()], "grid": [6, 6, 6]}
    )
    assert summary.data.split == (SplitCount(centre="A", split="train", positives=3, negatives=4, unknown=1),)
    assert summary.data.split[0].patients == 8
    assert json.loads(summary.model_dump_json())["data"]["grid"] == [6, 6, 6]


def test_the_ceiling_is_the_best_of_what_a_score_may_see() -> None:
    assert build([], best_possible_auc={"AFP": 0.65, "all": 0.89, "none": None}).ceiling == ("all", 0.89)
    assert build([]).ceiling is None


def test_counts_of_two_arms_are_never_paired() -> None:
    """A bin's cases have made-up names: those of two arms would pair by chance and give a p-value of nothing."""
    rows = [
        case(arm, name=f"A-{n}", label=n % 2, score=((n * step) % 20 + 0.5) / 20, binned=True)
        for arm, step in (("full", 1), ("uniform", 7))
        for n in range(20)
    ]
    summary = build(rows)
    (pair,) = (pair for pair in summary.paired if pair.split == "internal")
    full, uniform = (summary.arms[arm]["internal"].auc for arm in ("full", "uniform"))
    assert pair.p is None
    assert "scores stay at the sites" in pair.reason
    assert pair.delta == pytest.approx(full - uniform)
    assert pair.ci[0] < pair.delta < pair.ci[1]
    assert summary.binned
    assert summary.failures == ()


def test_centres_are_pooled_and_the_wider_set_is_told(summary: Summary) -> None:
    pooled = {(one.arm, one.split): one for one in summary.pooled}
    assert pooled["full", "internal"].centres == 3
    assert pooled["full", "centres"].centres == 4
    assert ("full", "external") not in pooled
    low, high = pooled["full", "centres"].ci
    assert low < summary.arms["full"]["external"].auc < high


def test_the_gap_finds_what_was_learned_by_heart(summary: Summary) -> None:
    """The made-up training scores of every arm but afp are 1.7 times as good."""
    gaps = {(one.arm, one.split): one for one in summary.gaps}
    assert gaps["full", "external"].ci[0] > 0.0
    assert gaps["full", "internal"].gap == pytest.approx(
        summary.arms["full"]["train"].auc - summary.arms["full"]["internal"].auc
    )
    assert gaps["afp", "external"].ci[0] < 0.0 < gaps["afp", "external"].ci[1]


def test_without_training_scores_the_gap_is_what_the_sites_said(fabricate, scored) -> None:
    told = fabricate([row for row in scored if row.split != "train"], bootstrap=0)
    gaps = {(one.arm, one.split): one for one in told.gaps}
    assert gaps["full", "internal"].source == "reported"
    assert gaps["full", "internal"].training == pytest.approx(0.6 + 0.035 * 9)
    assert gaps["full", "internal"].ci is None
    assert ("afp", "internal") not in gaps


def test_the_surest_mistakes_come_first() -> None:
    rows = [
        case(name="right", label=1, score=0.9),
        case(name="sure", label=1, score=0.1),
        case(name="near", label=1, score=0.4),
        case(name="alarm", label=0, score=0.75),
        case(name="unknown", label=-1, score=0.1),
        case(name="trained", label=1, score=0.0, split="train"),
    ]
    found = build(rows).failures
    assert [(one.case, one.label) for one in found] == [("sure", 1), ("near", 1), ("alarm", 0)]
    assert [one.sureness for one in found] == pytest.approx([0.8, 0.2, 0.5])


def test_subgroups_by_what_is_known() -> None:
    rows = [
        case(name=f"{n}", label=n % 2, score=(n * 7 % 40) / 40, traits={"size": "small"} if n < 6 else {})
        for n in range(40)
    ]
    found = {(one.trait, one.group): one for one in build(rows).subgroups}
    assert set(found) == {("centre", "A"), ("size", "small"), ("size", "unknown")}
    assert found["size", "small"].too_small == "too small to say anything: only 3 positive patients"
    assert found["centre", "A"].too_small is None
