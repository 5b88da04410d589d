"""What the coordinator learns of the validation patients: what it would know if all of them were in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import EvaluateOrder, EvaluateReply, SiteCard
from phcc_model.study_file import as_text
from phcc_model.threshold import ScoreHistogram
from phcc_server.ledger import ValidationRecord
from phcc_server.rounds import Evaluate
from phcc_server.sites import NoReply
from phcc_server.validation_round import validate_round

STUDY = StudyConfig()
STATE = {"w": np.arange(5, dtype=np.float32)}
MANIFEST = Manifest.of(STATE)
Reply = EvaluateReply | NoReply
Scored = Sequence[tuple[float, int]]
"""Score and label of each patient of a site."""


def card(site: str, scored: Scored, unlabelled: int = 0) -> SiteCard:
    positives = sum(label for _, label in scored)
    patients = {"validation": len(scored) + unlabelled}
    return SiteCard(
        package=keys.package_version(),
        site=site,
        study_digest=STUDY.digest,
        patients=patients,
        cases=patients,
        positives={"validation": positives},
        negatives={"validation": len(scored) - positives},
    )


def reply_to(order: EvaluateOrder, scored: Scored) -> EvaluateReply:
    shared = {field.name for field in dataclasses.fields(EvaluateReply)} & set(vars(order)) - {"arrays"}
    histogram = ScoreHistogram.from_scores([s for s, _ in scored], [label for _, label in scored])
    finetuning = order.stage == keys.FINETUNE
    return EvaluateReply(
        **{name: getattr(order, name) for name in shared},
        patients=len(scored),
        cases=len(scored),
        loss=float(np.mean([(s - label) ** 2 for s, label in scored])),
        positives=histogram.positive_k.tolist() if finetuning else [],
        negatives=histogram.negative_k.tolist() if finetuning else [],
        seconds=0.1,
    )


class Scripted:
    """Sites that score as they are told; ``change`` is done to a site's reply on its way."""

    def __init__(
        self,
        scores: Mapping[str, Scored],
        change: Mapping[str, Callable[[EvaluateReply], Reply]] | None = None,
    ) -> None:
        self.scores = scores
        self.change = change or {}
        self.asked: list[EvaluateOrder] = []

    def evaluate(
        self, orders: Sequence[EvaluateOrder], deadline_s: float
    ) -> Iterator[tuple[EvaluateOrder, Reply]]:
        assert deadline_s == STUDY.federation.round_deadline_s
        for order in orders:
            self.asked.append(order)
            reply = reply_to(order, self.scores[order.site])
            yield order, self.change[order.site](reply) if order.site in self.change else reply

    def cards(self, *args: Any) -> Any:
        raise AssertionError("no card is asked for in a round")

    train = cards


def validate(
    sites: Scripted, cards: Mapping[str, SiteCard] | None = None, stage: str = keys.FINETUNE
) -> ValidationRecord:
    cards = cards or {site: card(site, scored) for site, scored in sites.scores.items()}
    flats = MANIFEST.pack(STATE)
    return validate_round(Evaluate(stage, 1), "full", STUDY, as_text(STUDY), MANIFEST, flats, cards, sites)


scores = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("ABCD"), scores, min_size=1))
def test_pooled_figures_are_those_of_all_patients_in_one_place(by_site: dict[str, Scored]) -> None:
    record = validate(Scripted(by_site))
    everyone = [pair for scored in by_site.values() for pair in scored]
    score, label = np.array([s for s, _ in everyone]), np.array([y for _, y in everyone])
    assert record.cases == len(everyone)
    for site, scored in by_site.items():
        own = ScoreHistogram.from_scores([s for s, _ in scored], [y for _, y in scored])
        assert record.counts[site].histogram == own
    assert ValidationRecord.model_validate_json(record.model_dump_json()) == record
    assert record.loss == pytest.approx(np.mean((score - label) ** 2))
    pooled = ScoreHistogram.from_scores(score, label)
    if 0 < label.sum() < len(label):
        assert record.auc == pooled.auc
        assert record.auc is not None
        assert abs(record.auc - roc_auc_score(label, score)) <= pooled.auc_error + 1e-12
        assert record.threshold == pooled.youden()
        assert record.histogram == pooled
    else:
        assert (record.auc, record.threshold) == (None, None)


SCORES: dict[str, Scored] = {
    "A": [(0.9, 1), (0.2, 0)],
    "B": [(0.4, 1), (0.6, 0), (0.1, 0)],
    "C": [(0.7, 1)],
}


def test_a_masked_autoencoder_has_a_loss_only() -> None:
    record = validate(Scripted(SCORES), stage=keys.PRETRAIN)
    assert (record.auc, record.threshold, record.cases) == (None, None, 6)
    assert record.counts == {}
    assert record.loss == validate(Scripted(SCORES)).loss


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: NoReply("missing", "no reply within 9 s"),
        lambda reply: dataclasses.replace(reply, loss=float("nan")),
        lambda reply: dataclasses.replace(reply, cases=9, patients=9),
        lambda reply: dataclasses.replace(reply, positives=reply.positives[:-1]),
        lambda reply: dataclasses.replace(reply, positives=[5, *reply.positives[1:]]),
        lambda reply: dataclasses.replace(reply, round=0),
        lambda reply: dataclasses.replace(reply, split="test"),
        lambda reply: dataclasses.replace(reply, site="A"),
    ],
)
def test_a_site_whose_evaluation_does_not_hold_is_left_out(change: Callable[[EvaluateReply], Reply]) -> None:
    others = {site: scored for site, scored in SCORES.items() if site != "B"}
    record = validate(Scripted(SCORES, {"B": change}))
    assert set(record.left_out) == {"B"}
    assert record.model_copy(update={"left_out": {}}) == validate(Scripted(others))


def test_only_sites_with_validation_patients_are_asked() -> None:
    cards = {
        "A": card("A", SCORES["A"]),
        "B": card("B", []),
        "C": card("C", [], unlabelled=3),  # can be reconstructed, cannot be scored
    }
    sites = Scripted(SCORES)
    validate(sites, cards)
    assert [order.site for order in sites.asked] == ["A"]
    sites = Scripted(SCORES)
    validate(sites, cards, keys.PRETRAIN)
    assert [order.site for order in sites.asked] == ["A", "C"]


def test_nobody_to_validate_on_is_no_loss() -> None:
    record = validate(Scripted({}), {"A": card("A", [])})
    assert record == ValidationRecord(loss=None, auc=None, threshold=None, cases=0)


def test_an_order_asks_for_validation_patients_and_never_for_the_tests() -> None:
    sites = Scripted(SCORES)
    validate(sites)
    assert {order.split for order in sites.asked} == {"validation"}
    order = sites.asked[0]
    assert (order.arm, order.stage, order.round) == ("full", keys.FINETUNE, 1)
    assert EvaluateOrder.from_fields(order.to_fields(), order.arrays) == order
