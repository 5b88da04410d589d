"""One round on a state of a few numbers: what is folded, what is left out, and what is written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.contract.messages import SiteCard, TrainOrder, TrainReply
from phcc_model.study_file import as_text
from phcc_server.rounds import RoundStatus, Train
from phcc_server.sites import NoReply
from phcc_server.training_round import RoundDone, median_change, train_round

STUDY = StudyConfig(federation={"encoding": "fp32"})
STATE: dict[str, Array] = {
    "w": np.arange(300, dtype=np.float32),
    "seen": np.array(7),
    "b": np.ones(3, np.float32),
}
MANIFEST = Manifest.of(STATE)
STEP = Train(keys.FINETUNE, 2, 9)
Reply = TrainReply | NoReply


def card(site: str, patients: int) -> SiteCard:
    counts = {"train": patients}
    return SiteCard(
        package=keys.package_version(),
        site=site,
        study_digest=STUDY.digest,
        patients=counts,
        cases=counts,
        positives=counts,
        negatives={},
    )


def reply_to(order: TrainOrder, delta: Array, patients: int, seen: int = 8) -> TrainReply:
    shared = {field.name for field in dataclasses.fields(TrainReply)} & set(vars(order)) - {"arrays"}
    return TrainReply(
        **{name: getattr(order, name) for name in shared},
        patients=patients,
        cases=patients,
        steps=4,
        seconds=0.5,
        metrics={"loss": 0.25},
        arrays={keys.CHANGE: delta.astype(np.float32), f"{keys.REPLACE}int64": np.array([seen])},
    )


class Scripted:
    """Sites whose changes, or whose silence, a test decides."""

    def __init__(self, script: Mapping[str, Array | NoReply], patients: Mapping[str, int]) -> None:
        self.script = script
        self.patients = patients
        self.orders: list[TrainOrder] = []
        self.replies: list[TrainReply] = []
        self.deadline = 0.0

    def train(self, orders: Sequence[TrainOrder], deadline_s: float) -> Iterator[tuple[TrainOrder, Reply]]:
        self.orders, self.deadline = list(orders), deadline_s
        for order in orders:
            act = self.script[order.site]
            if isinstance(act, NoReply):
                yield order, act
            else:
                self.replies.append(reply_to(order, act, self.patients[order.site]))
                yield order, self.replies[-1]

    def cards(self, *args: Any) -> Any:
        raise AssertionError("no card is asked for in a round")

    evaluate = cards


def run(
    script: Mapping[str, Array | NoReply],
    patients: Mapping[str, int] | None = None,
    *,
    absent: Mapping[str, str] | None = None,
    previous: float | None = None,
    study: StudyConfig = STUDY,
) -> tuple[RoundDone, Scripted]:
    patients = patients or dict.fromkeys(script, 10)
    sites = Scripted(script, patients)
    cards = {site: card(site, patients[site]) for site in script}
    flats = MANIFEST.pack(STATE)
    done = train_round(
        STEP, "full", study, as_text(study), MANIFEST, flats, cards, absent or {}, sites, previous
    )
    np.testing.assert_array_equal(flats[keys.FLOAT], MANIFEST.pack(STATE)[keys.FLOAT])  # left as it was
    return done, sites


def constant(value: float) -> Array:
    return np.full(MANIFEST.size, value, np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("ABCDEF", min_size=1, max_size=3),
        st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 500)),
        min_size=1,
        max_size=5,
    )
)
def test_the_new_weights_are_the_old_ones_and_the_mean_change_by_patients(
    drawn: dict[str, tuple[int, int]],
) -> None:
    deltas = {
        site: np.random.default_rng(seed).normal(size=MANIFEST.size) for site, (seed, _) in drawn.items()
    }
    patients = {site: n for site, (_, n) in drawn.items()}
    done, _ = run(deltas, patients)
    mean = np.average([deltas[site] for site in deltas], axis=0, weights=[patients[site] for site in deltas])
    np.testing.assert_allclose(done.flats[keys.FLOAT], MANIFEST.pack(STATE)[keys.FLOAT] + mean, atol=1e-4)
    assert done.status is RoundStatus.COMPLETE


def test_an_order_says_all_that_a_site_must_know() -> None:
    done, sites = run({"B": constant(1), "A": constant(1)})
    assert [order.site for order in sites.orders] == ["A", "B"]
    order = sites.orders[0]
    assert (order.arm, order.stage, order.round, order.rounds) == ("full", keys.FINETUNE, 2, 9)
    assert (order.study_digest, order.seed, order.encoding) == (STUDY.digest, STUDY.seed, "fp32")
    assert order.manifest_digest == MANIFEST.digest
    assert sites.deadline == STUDY.federation.round_deadline_s
    assert list(done.sites) == ["A", "B"]
    assert TrainOrder.from_fields(order.to_fields(), order.arrays) == order


def test_counters_are_taken_whole_and_the_largest_is_kept() -> None:
    class Counting(Scripted):
        def train(
            self, orders: Sequence[TrainOrder], deadline_s: float
        ) -> Iterator[tuple[TrainOrder, Reply]]:
            for order, seen in zip(orders, (9, 30, 12), strict=True):
                yield order, reply_to(order, constant(1), 10, seen)

    sites = Counting(dict.fromkeys("ABC", constant(1)), dict.fromkeys("ABC", 10))
    cards = {site: card(site, 10) for site in "ABC"}
    done = train_round(
        STEP, "full", STUDY, as_text(STUDY), MANIFEST, MANIFEST.pack(STATE), cards, {}, sites, None
    )
    assert MANIFEST.unpack(done.flats)["seen"] == 30


def test_a_reply_is_let_go_as_soon_as_it_is_folded() -> None:
    _, sites = run({"A": constant(1), "B": constant(2), "C": constant(3)})
    assert [reply.arrays for reply in sites.replies] == [{}, {}, {}]  # memory does not grow with the sites


def test_who_is_missing_refused_or_absent_is_named() -> None:
    done, _ = run(
        {
            "A": constant(1),
            "B": NoReply("missing", "no reply within 9 s"),
            "C": constant(np.nan),
            "D": constant(2),
            "E": NoReply("failed", "training failed at this site"),
        },
        absent={"F": "there is no such site"},
    )
    assert done.status is RoundStatus.PARTIAL
    assert done.in_words == (
        "B missing: no reply within 9 s; C refused: change: the change holds values that are not finite; "
        "E failed: training failed at this site; F missing: there is no such site"
    )
    np.testing.assert_allclose(done.flats[keys.FLOAT], MANIFEST.pack(STATE)[keys.FLOAT] + 1.5)
    up = {site: record.bytes_up for site, record in done.sites.items()}
    size = 4 * MANIFEST.size + 8
    assert up == {"A": size, "B": 0, "C": size, "D": size, "E": 0, "F": 0}
    down = {site: record.bytes_down for site, record in done.sites.items()}
    assert down == {**dict.fromkeys("ABCDE", size), "F": 0}
    assert done.sites["A"].metrics == {"loss": 0.25}
    assert (done.sites["A"].seconds, done.sites["A"].steps) == (0.5, 4)


@pytest.mark.parametrize(
    ("federation", "status"),
    [
        ({"minimum_sites": 2}, RoundStatus.FAILED),
        ({"minimum_sites": 1}, RoundStatus.PARTIAL),
        ({"minimum_sites": 1, "required_sites": ["B"]}, RoundStatus.FAILED),
        ({"minimum_sites": 1, "required_sites": ["A"]}, RoundStatus.PARTIAL),
    ],
)
def test_a_round_below_its_quorum_leaves_the_weights(federation: dict[str, Any], status: RoundStatus) -> None:
    study = StudyConfig(federation={"encoding": "fp32", **federation})
    sites = Scripted({"A": constant(1), "B": NoReply("failed", "no")}, {"A": 10, "B": 10})
    cards = {site: dataclasses.replace(card(site, 10), study_digest=study.digest) for site in ("A", "B")}
    flats = MANIFEST.pack(STATE)
    done = train_round(STEP, "full", study, as_text(study), MANIFEST, flats, cards, {}, sites, None)
    assert done.status is status
    moved = done.flats[keys.FLOAT] - flats[keys.FLOAT]
    np.testing.assert_allclose(moved, 0.0 if status is RoundStatus.FAILED else 1.0)


def test_a_change_far_longer_than_those_of_the_round_before_is_set_aside() -> None:
    limit = STUDY.federation.largest_change
    length = np.sqrt(MANIFEST.size)  # of constant(1)
    kept, _ = run({"A": constant(1), "B": constant(1)}, previous=1.01 * length / limit)
    assert kept.status is RoundStatus.COMPLETE
    done, _ = run({"A": constant(0.5), "B": constant(1)}, previous=0.99 * length / limit)
    assert (done.sites["A"].status, done.sites["B"].status) == ("accepted", "refused")
    assert done.sites["B"].reason == ("its change is 20 times as long as the others' of the round before")


def test_in_the_first_round_the_weights_themselves_are_the_measure() -> None:
    length = np.linalg.norm(MANIFEST.pack(STATE)[keys.FLOAT])
    enough = STUDY.federation.largest_change * length / np.sqrt(MANIFEST.size)
    done, _ = run({"A": constant(0.99 * enough), "B": constant(1.01 * enough), "C": constant(1)})
    assert [record.status for record in done.sites.values()] == ["accepted", "refused", "accepted"]
    assert done.sites["B"].reason == "its change is 20 times as long as the weights themselves"


def test_the_measure_of_the_next_round_is_the_median_of_what_was_folded() -> None:
    done, _ = run({"A": constant(1), "B": constant(3), "C": constant(2), "D": constant(np.inf)})
    assert done.median_norm == pytest.approx(2 * np.sqrt(MANIFEST.size))
    assert median_change({}) is None


def test_a_record_says_which_round_and_from_what_to_what() -> None:
    done, _ = run({"A": constant(1), "B": constant(1)})
    record = done.record("full", "before", "after", best=True)
    assert (record.arm, record.stage, record.round, record.best) == ("full", keys.FINETUNE, 2, True)
    assert (record.digest_before, record.digest_after) == ("before", "after")
    assert record.versions == {"package": keys.package_version(), "contract": str(keys.CONTRACT_VERSION)}
    assert record.seconds == (record.finished - record.started).total_seconds() >= 0
    assert record.sites == done.sites
