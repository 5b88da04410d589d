from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from builders import card_order, evaluate_order, tiny_study, train_order
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.guard import failure_of, may_leave, must_be_announced, must_have_enough, suppressed
from phcc_model import errors
from phcc_model.contract import codec, control, keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import EvaluateReply, Failure, SiteCard, TrainReply
from phcc_model.contract.wire import Message
from phcc_model.errors import ContractError, PhccError

SETTINGS = settings(max_examples=60, deadline=None)
STUDY = tiny_study()
MANIFEST = Manifest.of({"w": np.zeros((3, 100), np.float32), "seen": np.array(2)})
DELTA = np.random.default_rng(0).standard_normal(MANIFEST.size).astype(np.float32)
SENT: dict[str, Any] = {
    "package": "0.1.0",
    "study_digest": STUDY.digest,
    "arm": "full",
    "stage": "finetune",
    "round": 1,
    "site": "H1",
    "manifest_digest": MANIFEST.digest,
}


def arrays_of(encoding: str = "fp32") -> dict[str, np.ndarray]:
    return codec.encode_change(codec.Change(DELTA, {"int64": np.array([3])}), encoding)


TRAINED = TrainReply(
    **SENT,
    encoding="fp32",
    patients=4,
    cases=5,
    steps=2,
    seconds=0.1,
    metrics={"loss": 0.5},
    arrays=arrays_of(),
)
EVALUATED = EvaluateReply(
    **SENT, split="validation", patients=2, cases=2, loss=0.7, positives=[1], negatives=[1], seconds=0.1
)
CARD = SiteCard(
    package="0.1.0",
    site="H1",
    study_digest=STUDY.digest,
    patients={"train": 4},
    cases={"train": 5},
    positives={"train": 2},
    negatives={"train": 2},
)
TOLD = dataclasses.replace(
    CARD,
    patients={"train": 40, "test": 3},
    aside={"no-lesion": 4, "phases-incomplete": 12, "unreadable": 0},
    seen={"field.low": 1.5, "field.high": 3.0},
)
FAILED = Failure(package="0.1.0", site="H1", code="data", line="one line")


@pytest.mark.parametrize("message", [EVALUATED, CARD, FAILED], ids=lambda m: type(m).__name__)
def test_what_was_agreed_leaves_as_it_is(message: Message) -> None:
    assert may_leave(message) is message


@pytest.mark.parametrize("encoding", keys.ENCODINGS)
def test_an_honest_change_leaves_in_every_encoding(encoding: str) -> None:
    reply = dataclasses.replace(TRAINED, encoding=encoding, arrays=arrays_of(encoding))
    assert may_leave(reply, MANIFEST) is reply


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplyWithMore(TrainReply):
    patient_names: str = "Meier"


@pytest.mark.parametrize(
    "message",
    [
        card_order(STUDY),
        train_order(STUDY, keys.FINETUNE, "H1"),
        evaluate_order(STUDY, keys.FINETUNE, "H1"),
        Message(package="0.1.0"),
        ReplyWithMore(**vars(TRAINED)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_message_that_no_site_sends_does_not_leave(message: Message) -> None:
    with pytest.raises(ContractError, match=f"a {type(message).__name__} must not leave this site"):
        may_leave(message, MANIFEST)


@pytest.mark.parametrize("name", ["worst_patient", "loss.Meier", "", "LOSS"])
def test_a_measure_that_the_contract_does_not_name_does_not_leave(name: str) -> None:
    with pytest.raises(ContractError, match="this name is not in the contract"):
        may_leave(dataclasses.replace(TRAINED, metrics={"loss": 0.5, name: 0.1}), MANIFEST)


@SETTINGS
@given(st.dictionaries(st.sampled_from(sorted(keys.METRICS)), st.floats(), min_size=1))
def test_only_finite_measures_leave(metrics: dict[str, float]) -> None:
    reply = dataclasses.replace(TRAINED, metrics=metrics)
    if np.isfinite(list(metrics.values())).all():
        assert may_leave(reply, MANIFEST) is reply
    else:
        with pytest.raises(ContractError, match=r"metrics\.\w+: the measure is not finite"):
            may_leave(reply, MANIFEST)


@pytest.mark.parametrize("field", ["loss", "seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_evaluation_that_is_not_finite_does_not_leave(field: str, value: float) -> None:
    changed: dict[str, Any] = {field: value}
    with pytest.raises(ContractError, match=f"{field}: the measure is not finite"):
        may_leave(dataclasses.replace(EVALUATED, **changed))


def spoilt(name: str, value: Any) -> dict[str, np.ndarray]:
    array = arrays_of()[name].copy()
    array[-1] = value
    return {**arrays_of(), name: array}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "change: array is missing"),
        ({**arrays_of(), "image": np.zeros(3)}, "image: array not expected"),
        ({**arrays_of(), "change": DELTA[:-1]}, r"change: shape is \(299,\)"),
        ({**arrays_of(), "change": DELTA.astype(np.float64)}, "change: dtype is float64"),
        ({**arrays_of(), "change": DELTA.reshape(3, 100)}, r"change: shape is \(3, 100\)"),
        ({**arrays_of(), "replace.int64": np.array([1, 2])}, r"replace.int64: shape is \(2,\)"),
        (spoilt("change", np.nan), "change: the change holds values that are not finite"),
        (spoilt("change", np.inf), "change: the change holds values that are not finite"),
        (arrays_of("fp16"), "not expected|dtype is float16"),
    ],
)
def test_a_change_that_is_not_the_manifests_does_not_leave(arrays: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        may_leave(dataclasses.replace(TRAINED, arrays=arrays), MANIFEST)


def test_a_change_does_not_leave_unchecked() -> None:
    with pytest.raises(ContractError, match="cannot be checked without a manifest"):
        may_leave(TRAINED)


@pytest.mark.parametrize("message", [EVALUATED, CARD, FAILED], ids=lambda m: type(m).__name__)
def test_arrays_leave_with_a_training_reply_only(message: Message) -> None:
    with pytest.raises(ContractError, match="must not carry arrays"):
        may_leave(dataclasses.replace(message, arrays={"change": DELTA}), MANIFEST)


@pytest.mark.parametrize(
    "changed",
    [{"patients": True}, {"patients": 4.0}, {"site": "a\nb"}, {"arm": ""}, {"stage": "test"}, {"seconds": 1}],
)
def test_a_value_of_a_wrong_type_or_vocabulary_does_not_leave(changed: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=next(iter(changed))):
        may_leave(dataclasses.replace(TRAINED, **changed), MANIFEST)


OURS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PhccError)]
FOREIGN = [ValueError, RuntimeError, OSError, KeyError, MemoryError, AssertionError, ZeroDivisionError]


@SETTINGS
@given(kind=st.sampled_from(OURS + FOREIGN), text=st.text(), where=st.text(), remedy=st.text())
def test_an_errors_text_never_leaves(kind: type[Exception], text: str, where: str, remedy: str) -> None:
    """What leaves is a function of the error's class alone, so no text of any error can be in it."""

    def raised(text: str, where: str, remedy: str) -> Exception:
        if issubclass(kind, PhccError):
            return kind(text, where=where, remedy=remedy)
        error = kind(2, text, where) if kind is OSError else kind(text)
        error.__cause__ = FileNotFoundError(2, remedy, where)
        error.add_note(text)
        return error

    said = failure_of(raised(text, where, remedy), "H1")
    assert said == failure_of(raised("", "", ""), "H1")
    assert may_leave(said) is said
    assert Failure.from_fields(said.to_fields()) == said


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.VersionMismatch, "version"),
        (errors.ContractError, "contract"),
        (errors.ReplyRefused, "contract"),
        (errors.ConfigError, "config"),
        (errors.CaseError, "data"),
        (errors.SplitError, "data"),
        (errors.StorageError, "storage"),
        (errors.TrainingError, "training"),
        (errors.PolicyError, "policy"),
        (errors.RoundError, "internal"),
        (RuntimeError, "internal"),
        (KeyboardInterrupt, "internal"),
    ],
)
def test_an_error_leaves_as_one_word(kind: type[BaseException], code: str) -> None:
    assert failure_of(kind("/srv/patients/Meier_Anna.nii.gz"), "H1").code == code


def test_a_class_of_an_unexpected_error_is_named_only_where_it_looks_like_one() -> None:
    assert "(ZeroDivisionError)" in failure_of(ZeroDivisionError(), "H1").line
    for name in ("Patient_17", "Meier 1950", "a" * 41):
        line = failure_of(type(name, (Exception,), {})(), "H1").line
        assert line == failure_of(type("Other_1", (Exception,), {})(), "H1").line


COUNT = st.integers(0, 12)


@st.composite
def cards(draw: st.DrawFn) -> SiteCard:
    counts: dict[str, dict[str, int]] = {"patients": {}, "cases": {}, "positives": {}, "negatives": {}}
    for split in keys.SPLITS:
        positives, negatives, unlabelled, more = draw(st.tuples(COUNT, COUNT, COUNT, COUNT))
        counts["positives"][split], counts["negatives"][split] = positives, negatives
        counts["patients"][split] = patients = positives + negatives + unlabelled
        counts["cases"][split] = patients + more if patients else 0
    return dataclasses.replace(CARD, **counts)


@SETTINGS
@given(card=cards(), minimum=st.integers(0, 8))
def test_a_suppressed_card_holds_no_small_count_and_no_other_change(card: SiteCard, minimum: int) -> None:
    told = suppressed(card, minimum)
    assert must_have_enough(told, minimum) is told
    assert may_leave(told) is told
    assert suppressed(told, minimum) == told
    for split in keys.SPLITS:
        classes = (card.positives[split], card.negatives[split])
        assert told.patients[split] in (0, card.patients[split])
        assert told.cases[split] == (card.cases[split] if told.patients[split] else 0)
        assert (told.positives[split], told.negatives[split]) in ((0, 0), classes)
        if all(count == 0 or count >= minimum for count in (card.patients[split], *classes)):
            assert (told.patients[split], told.positives[split]) == (card.patients[split], classes[0])


@SETTINGS
@given(card=cards(), minimum=st.integers(2, 8), split=st.sampled_from(keys.SPLITS))
def test_what_a_card_keeps_back_is_not_worked_on(card: SiteCard, minimum: int, split: str) -> None:
    told = suppressed(card, minimum)
    for stage, offered in (
        (keys.PRETRAIN, told.patients[split]),
        (keys.FINETUNE, told.positives[split] + told.negatives[split]),
    ):
        if offered:
            must_be_announced(told, split, stage)
        else:
            with pytest.raises(errors.PolicyError, match="too few patients to be counted"):
                must_be_announced(told, split, stage)


@pytest.mark.parametrize(
    ("reply", "leaves"),
    [
        (dataclasses.replace(TRAINED, patients=5), True),
        (dataclasses.replace(TRAINED, patients=4), False),
        (dataclasses.replace(EVALUATED, patients=10, positives=[2, 3], negatives=[5, 0]), True),
        (dataclasses.replace(EVALUATED, patients=10, positives=[0, 0], negatives=[5, 5]), True),
        (dataclasses.replace(EVALUATED, patients=10, positives=[], negatives=[]), True),
        (dataclasses.replace(EVALUATED, patients=10, positives=[2, 2], negatives=[5, 1]), False),
        (dataclasses.replace(EVALUATED, patients=10, positives=[4, 2], negatives=[1, 0]), False),
        (dataclasses.replace(EVALUATED, patients=3, positives=[], negatives=[]), False),
        (dataclasses.replace(CARD, patients={"train": 4}), False),
        (FAILED, True),
    ],
)
def test_a_small_count_does_not_leave(reply: Message, leaves: bool) -> None:
    if leaves:
        assert must_have_enough(reply, 5) is reply
    else:
        with pytest.raises(errors.PolicyError, match="too few patients to be counted"):
            must_have_enough(reply, 5)
        assert must_have_enough(reply, 1) is reply


def test_a_reason_for_too_few_patients_is_not_named_and_no_total_gives_it_away() -> None:
    announced = suppressed(TOLD, 5)
    assert announced.aside == {"phases-incomplete": 12}
    assert announced.seen == TOLD.seen
    assert set(announced.to_fields()) - {"contract", "package", "site", "study_digest"} == {
        *(f"{name}.{split}" for name in ("patients",) for split in ("train", "test")),
        "cases.train",
        "positives.train",
        "negatives.train",
        "positives.test",
        "negatives.test",
        "cases.test",
        "aside.phases-incomplete",
        "seen.field.low",
        "seen.field.high",
    }
    assert must_have_enough(announced, 5) is announced
    with pytest.raises(errors.PolicyError, match="too few patients"):
        must_have_enough(dataclasses.replace(announced, aside={"no-lesion": 4}), 5)


def test_images_of_patients_who_are_not_announced_are_not_told_of() -> None:
    few = dataclasses.replace(TOLD, patients={"train": 4})
    assert suppressed(few, 5).seen == {}


@pytest.mark.parametrize(
    "seen",
    [
        {"field.low": 1.5},
        {"field.low": 1.5, "field.high": float("nan")},
        {"field.low": 1.4937, "field.high": 1.5},
        {"field.low": 3.0, "field.high": 1.5},
    ],
)
def test_a_range_that_is_none_or_finer_than_agreed_does_not_leave(seen: dict[str, float]) -> None:
    with pytest.raises(ContractError):
        may_leave(dataclasses.replace(TOLD, seen=seen))
    assert may_leave(TOLD) is TOLD


CONTROLLED = dataclasses.replace(TRAINED, arrays=arrays_of() | control.encode(DELTA, "fp32"))


def test_a_control_variate_leaves_only_where_the_study_says_so_and_then_always() -> None:
    assert may_leave(CONTROLLED, MANIFEST, controlled=True) is CONTROLLED
    with pytest.raises(ContractError, match="not expected"):
        may_leave(CONTROLLED, MANIFEST)
    with pytest.raises(ContractError, match=r"control\.change"):
        may_leave(TRAINED, MANIFEST, controlled=True)
    more = dataclasses.replace(CONTROLLED, arrays=CONTROLLED.arrays | {"control.gradient": DELTA})
    with pytest.raises(ContractError, match=r"control\.gradient"):
        may_leave(more, MANIFEST, controlled=True)
