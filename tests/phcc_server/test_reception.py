from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.config import FinetuneSettings, StudyConfig
from phcc_model.contract import codec, control, keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    SiteCard,
    TrainOrder,
    TrainReply,
)
from phcc_model.errors import ReplyRefused
from phcc_model.threshold import BINS
from phcc_server.aggregation import Aggregate
from phcc_server.reception import (
    LARGEST_COUNT,
    check_card,
    check_evaluation,
    check_reply,
    median_norm,
    too_long,
)

SETTINGS = settings(max_examples=80, deadline=None)
STUDY = StudyConfig()
STATE = {"w": np.zeros((3, 100), np.float32), "seen": np.array(2), "b": np.zeros(5, np.float32)}
MANIFEST = Manifest.of(STATE)
COMMON = {
    "package": "0.1.0",
    "study_digest": STUDY.digest,
    "arm": "full",
    "stage": "finetune",
    "round": 1,
    "site": "H1",
    "manifest_digest": MANIFEST.digest,
}
CARD = SiteCard(
    package="0.1.0",
    site="H1",
    study_digest=STUDY.digest,
    patients={"train": 40, "validation": 8},
    cases={"train": 44, "validation": 9},
    positives={"train": 15, "validation": 3},
    negatives={"train": 20, "validation": 5},
)
ORDER = TrainOrder(**COMMON, study="{}", rounds=3, seed=1, encoding="fp16", arrays=MANIFEST.pack(STATE))
DELTA = np.random.default_rng(0).standard_normal(MANIFEST.size).astype(np.float32)


def bins(*counts: int) -> list[int]:
    return [*counts, *[0] * (BINS - len(counts))]


def arrays_of(delta: np.ndarray = DELTA, encoding: str = "fp16") -> dict[str, np.ndarray]:
    return codec.encode_change(codec.Change(delta, {"int64": np.array([3])}), encoding)


REPLY = TrainReply(
    **COMMON,
    encoding="fp16",
    patients=35,
    cases=38,
    steps=3,
    seconds=1.5,
    metrics={"loss": 0.6, "auc_training": 0.7},
    arrays=arrays_of(),
)
EVALUATE = EvaluateOrder(**COMMON, study="{}", seed=1, split="validation", arrays=MANIFEST.pack(STATE))
EVALUATION = EvaluateReply(
    **COMMON,
    split="validation",
    patients=8,
    cases=9,
    loss=0.5,
    positives=bins(0, 1, 3),
    negatives=bins(4, 1, 0),
    seconds=0.1,
)


def check(reply: TrainReply, order: TrainOrder = ORDER, study: StudyConfig = STUDY) -> codec.Change:
    return check_reply(reply, order, CARD, MANIFEST, study)


@pytest.mark.parametrize("encoding", keys.ENCODINGS)
def test_an_honest_reply_gives_its_change(encoding) -> None:
    order = dataclasses.replace(ORDER, encoding=encoding)
    change = check(dataclasses.replace(REPLY, encoding=encoding, arrays=arrays_of(encoding=encoding)), order)
    assert np.linalg.norm(change.delta - DELTA) < 0.01 * np.linalg.norm(DELTA)
    np.testing.assert_array_equal(change.replaced["int64"], [3])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("contract", keys.CONTRACT_VERSION + 1),
        ("package", "0.0.9"),
        ("study_digest", "0" * 64),
        ("arm", "no-pretraining"),
        ("stage", "pretrain"),
        ("round", 0),
        ("round", True),
        ("site", "H2"),
        ("manifest_digest", "0" * 64),
        ("encoding", "fp32"),
    ],
)
def test_an_answer_to_another_order_is_refused(field, value) -> None:
    with pytest.raises(ReplyRefused, match=rf"H1: {field} is .*{value}"):
        check(dataclasses.replace(REPLY, **{field: value}))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("patients", [36, 34, 0, -1, 10**9, True, 35.0, float("nan")]),  # 35 labelled patients were announced
        ("cases", [34, 45, -3, 10**12, False]),
        ("steps", [0, -1, 10**9]),
        ("seconds", [-1.0, float("nan"), float("inf"), 3]),
        ("metrics", [{"loss": float("nan")}, {"loss": float("inf")}, {"loss": "low"}, {"age": 3.0}]),
    ],
)
def test_counts_and_measures_that_cannot_be_are_refused(field, values) -> None:
    for value in values:
        with pytest.raises(ReplyRefused, match=f"H1: (metric.*|{field}.*) (is|in) .*"):
            check(dataclasses.replace(REPLY, **{field: value}))


def test_pretraining_counts_all_patients_and_finetuning_the_labelled_ones() -> None:
    order, reply = (dataclasses.replace(m, stage="pretrain") for m in (ORDER, REPLY))
    check(dataclasses.replace(reply, patients=40, cases=44), order)
    with pytest.raises(ReplyRefused, match="patients is 35, must be 40"):
        check(reply, order)
    with pytest.raises(ReplyRefused, match="patients is 40, must be 35"):
        check(dataclasses.replace(REPLY, patients=40, cases=44))


def test_fewer_patients_only_where_the_study_leaves_some_out() -> None:
    fewer = dataclasses.replace(REPLY, patients=10, cases=10)
    with pytest.raises(ReplyRefused, match="must be 35"):
        check(fewer)
    check(fewer, study=StudyConfig(finetune=FinetuneSettings(label_fraction=0.3)))
    arm = "phase:arterial"
    check(dataclasses.replace(fewer, arm=arm), dataclasses.replace(ORDER, arm=arm))
    with pytest.raises(ReplyRefused, match="1 to 35"):
        check(dataclasses.replace(REPLY, arm=arm, patients=36), dataclasses.replace(ORDER, arm=arm))


def test_a_site_without_patients_cannot_have_trained() -> None:
    empty = dataclasses.replace(CARD, patients={}, cases={}, positives={}, negatives={})
    with pytest.raises(ReplyRefused, match="patients is 0"):
        check_reply(dataclasses.replace(REPLY, patients=0, cases=0), ORDER, empty, MANIFEST, STUDY)


def spoiled(name: str, array: np.ndarray | None) -> dict[str, np.ndarray]:
    arrays = arrays_of() | ({} if array is None else {name: array})
    return arrays if array is not None else {n: a for n, a in arrays.items() if n != name}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "change: array is missing"),
        (spoiled("change", None), "change: array is missing"),
        (spoiled("change.scales", None), "scales: array is missing"),
        (spoiled("replace.int64", None), "int64: array is missing"),
        (spoiled("more", np.zeros(3)), "more: array not expected"),
        (spoiled("change", np.zeros(1, np.float16)), r"change: shape is \(1,\), must be \(305,\)"),
        (spoiled("change", np.zeros((), np.float16)), "change: shape"),
        (spoiled("change", np.zeros((5, 61), np.float16)), "change: shape"),
        (spoiled("change", np.zeros(306, np.float16)), "change: shape"),
        (spoiled("change", np.zeros(305)), "change: dtype is float64, must be float16"),
        (spoiled("change", np.zeros(305, np.float32)), "change: dtype is float32"),
        (spoiled("change", np.zeros(305, ">f2")), "change: dtype"),
        (spoiled("change", np.full(305, np.nan, np.float16)), "change: .*not finite"),
        (spoiled("change", np.full(305, np.inf, np.float16)), "change: .*not finite"),
        (spoiled("change.scales", np.array([np.nan], np.float32)), "scales: a scale"),
        (spoiled("change.scales", np.array([-1.0], np.float32)), "scales: a scale"),
        (spoiled("change.scales", np.ones(2, np.float32)), "scales: shape"),
        (spoiled("replace.int64", np.array([3.5])), "int64: dtype is float64"),
        (arrays_of(encoding="int8"), "change: dtype is int8"),
    ],
)
def test_arrays_that_are_not_the_manifests_are_refused(arrays, reason) -> None:
    with pytest.raises(ReplyRefused, match=f"H1: .*{reason}"):
        check(dataclasses.replace(REPLY, arrays=arrays))


def test_one_nan_among_many_values_is_found() -> None:
    delta = DELTA.copy()
    delta[222] = np.nan
    order = dataclasses.replace(ORDER, encoding="fp32")
    arrays = arrays_of(encoding="fp32") | {keys.CHANGE: delta}
    with pytest.raises(ReplyRefused, match="not finite"):
        check(dataclasses.replace(REPLY, encoding="fp32", arrays=arrays), order)


@pytest.mark.parametrize("value", [1e9, 1e30, float(np.finfo(np.float32).max)])
def test_a_change_that_could_make_the_sum_overflow_is_refused_whatever_the_others_sent(value) -> None:
    order = dataclasses.replace(ORDER, encoding="fp32")
    delta = np.full(MANIFEST.size, value, np.float32)
    with pytest.raises(ReplyRefused, match=r"H1: the change is .* long, which no training gives"):
        check(dataclasses.replace(REPLY, encoding="fp32", arrays=arrays_of(delta, "fp32")), order)


def test_the_longest_changes_that_pass_still_have_a_finite_mean() -> None:
    order = dataclasses.replace(ORDER, encoding="fp32")
    delta = np.zeros(MANIFEST.size, np.float32)
    delta[7] = 1e9
    change = check(dataclasses.replace(REPLY, encoding="fp32", arrays=arrays_of(delta, "fp32")), order)
    aggregate = Aggregate(MANIFEST.size)
    for _ in range(100):
        aggregate.fold(change.delta, 1e7)
    assert aggregate.mean()[7] == pytest.approx(1e9, rel=1e-5)


def test_an_honest_evaluation_passes_with_and_without_histograms() -> None:
    assert check_evaluation(EVALUATION, EVALUATE, CARD) is EVALUATION
    check_evaluation(dataclasses.replace(EVALUATION, positives=[], negatives=[]), EVALUATE, CARD)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"split": "test"}, "split"),
        ({"round": 2}, "round"),
        ({"patients": 0}, "patients"),
        ({"patients": 9}, "patients is 9, must be 1 to 8"),
        ({"cases": 10}, "cases"),
        ({"cases": 7}, "cases"),
        ({"loss": float("nan")}, "loss"),
        ({"loss": -0.1}, "loss"),
        ({"seconds": float("inf")}, "seconds"),
        ({"positives": [0, 1]}, f"histograms have 2 and {BINS} bins"),
        ({"positives": [0, 4], "negatives": [5, 0]}, "histograms have 2 and 2 bins"),
        ({"positives": [*bins(4), 0], "negatives": [*bins(5), 0]}, "bins"),
        ({"positives": bins(0, 1, 4)}, "do not hold the 9 cases"),
        ({"positives": bins(0, 5, -1)}, "histogram's count is -1"),
        ({"positives": [], "negatives": [9]}, "bins"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(changed, reason) -> None:
    with pytest.raises(ReplyRefused, match=f"H1: .*{reason}"):
        check_evaluation(dataclasses.replace(EVALUATION, **changed), EVALUATE, CARD)


CARD_ORDER = CardOrder(package="0.1.0", study_digest=STUDY.digest, study="{}", arm="full")


def test_an_honest_card_passes() -> None:
    assert check_card(CARD, CARD_ORDER, {"H2"}) is CARD
    check_card(dataclasses.replace(CARD, patients={}, cases={}, positives={}, negatives={}), CARD_ORDER)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"package": "0.2.0"}, "package"),
        ({"study_digest": "0" * 64}, "study_digest"),
        ({"patients": {"train": -1}}, r"patients\.train is -1"),
        ({"patients": {"train": 10**8}}, r"patients\.train"),
        ({"cases": {"train": 39, "validation": 9}}, r"cases\.train is 39"),
        ({"patients": {"train": 40}}, r"cases\.validation is 9, must be 0"),
        ({"positives": {"train": 41}}, r"positives\.train is 41"),
        ({"negatives": {"train": 26, "validation": 5}}, r"negatives\.train is 26, must be 0 to 25"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changed, reason) -> None:
    with pytest.raises(ReplyRefused, match=f"H1: {reason}"):
        check_card(dataclasses.replace(CARD, **changed), CARD_ORDER)


def test_two_sites_cannot_have_one_name() -> None:
    with pytest.raises(ReplyRefused, match="another site has this name"):
        check_card(CARD, CARD_ORDER, {"H1"})


def test_a_change_much_longer_than_the_others_is_set_aside() -> None:
    norms = {"A": 1.0, "B": 1.2, "C": 0.9, "D": 30.0}
    assert too_long(norms, 20.0) == ("D",)
    assert too_long(norms, 40.0) == ()
    assert median_norm(norms) == pytest.approx(1.1)


def test_fewer_than_three_are_measured_against_the_round_before() -> None:
    assert too_long({"A": 1.0, "B": 500.0}, 20.0) == ()
    assert too_long({"A": 1.0, "B": 500.0}, 20.0, previous=1.0) == ("B",)
    assert too_long({"B": 500.0}, 20.0, previous=1.0) == ("B",)
    assert too_long({"A": 1.0, "B": 1.0, "C": 500.0}, 20.0, previous=100.0) == ("C",)
    assert median_norm({}) is None


def test_where_most_changes_are_nothing_nobody_is_too_long() -> None:
    assert too_long({"A": 0.0, "B": 0.0, "C": 1.0}, 20.0) == ()


def test_a_length_beyond_all_numbers_is_too_long() -> None:
    assert too_long({"A": 1.0, "B": 1.0, "C": float("inf")}, 20.0) == ("C",)
    assert too_long({"A": 1.0, "B": 1.0, "C": 1.0, "D": float("nan")}, 20.0) == ("D",)


@SETTINGS
@given(
    norms=st.dictionaries(st.sampled_from("ABCDEFG"), st.floats(0.0, 1e6), min_size=1),
    previous=st.none() | st.floats(0.0, 1e6),
    limit=st.floats(1.0, 50.0),
    data=st.data(),
)
def test_the_verdict_depends_on_no_order_and_at_least_half_always_stay(norms, previous, limit, data) -> None:
    order = data.draw(st.permutations(sorted(norms)))
    aside = too_long(norms, limit, previous)
    assert too_long({site: norms[site] for site in order}, limit, previous) == aside
    if len(norms) >= 3:
        assert len(aside) <= len(norms) / 2


@pytest.mark.parametrize(
    "changes",
    [
        {"seen": {"field.low": 1.5}},
        {"seen": {"field.low": 1.5, "field.high": float("nan")}},
        {"seen": {"field.low": 3.0, "field.high": 1.5}},
        {"seen": {"field.low": 1.5, "field.high": 99.0}},
        {"seen": {"field.low": 1.51234, "field.high": 3.0}},
        {"seen": {"field.low": 1.5, "field.high": 3.0}}
        | {key: {} for key in ("patients", "cases", "positives", "negatives")},
        {"aside": {"no-lesion": -1}},
        {"aside": {"no-lesion": LARGEST_COUNT + 1}},
    ],
)
def test_a_card_whose_ranges_or_reasons_make_no_sense_is_refused(changes) -> None:
    order = CardOrder(package="0.1.0", study_digest=STUDY.digest, study="{}", arm="full")
    with pytest.raises(ReplyRefused):
        check_card(dataclasses.replace(CARD, **changes), order)
    told = dataclasses.replace(CARD, aside={"no-lesion": 7}, seen={"field.low": 1.5, "field.high": 3.0})
    assert check_card(told, order) is told


# ---- SCAFFOLD's control variate


SCAFFOLD = StudyConfig.model_validate({"federation": {"algorithm": "scaffold"}})


def controlled(delta: np.ndarray) -> TrainReply:
    return dataclasses.replace(REPLY, arrays=arrays_of() | control.encode(delta, "fp16"))


def test_a_control_variate_is_decoded_beside_the_weights() -> None:
    change = check(controlled(DELTA[::-1].copy()), study=SCAFFOLD)
    assert change.control is not None
    np.testing.assert_allclose(change.control, DELTA[::-1], atol=2e-3)
    np.testing.assert_allclose(change.delta, DELTA, atol=2e-3)
    assert check(REPLY).control is None


@pytest.mark.parametrize(
    ("reply", "study", "message"),
    [
        (REPLY, SCAFFOLD, r"control\.change: array is missing"),
        (controlled(DELTA), STUDY, r"control\.change.*not expected"),
        (controlled(DELTA[:4]), SCAFFOLD, r"control\.change: shape is"),
        (controlled(DELTA * np.float32(1e9)), SCAFFOLD, "the control's change is .* long"),
    ],
)
def test_a_control_variate_that_does_not_hold_is_refused(
    reply: TrainReply, study: StudyConfig, message: str
) -> None:
    with pytest.raises(ReplyRefused, match=message):
        check(reply, study=study)
