"""One round of training: orders out, each reply judged and folded in as it comes, one new model."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.codec import norm
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.contract.messages import SiteCard, TrainOrder, TrainReply
from phcc_model.errors import ReplyRefused
from phcc_model.study_file import StudyText
from phcc_server.aggregation import Aggregate, site_weight
from phcc_server.ledger import RoundRecord, SiteRecord, ValidationRecord
from phcc_server.reception import check_reply, too_long
from phcc_server.rounds import RoundStatus, Train, judge_round
from phcc_server.rules import FedAvg, RuleState, ServerRule
from phcc_server.sites import NoReply, Sites


@dataclass(frozen=True)
class RoundDone:
    """A round of training, folded.

    Attributes:
        step: which round.
        status: COMPLETE, PARTIAL or FAILED.
        flats: the new weights, one flat array per dtype; those before it where the round failed.
        sites: what each site gave.
        started: when the orders went out.
        held: what the rule of aggregation keeps for the next round; as before where the round failed.
    """

    step: Train
    status: RoundStatus
    flats: dict[str, Array]
    sites: dict[str, SiteRecord]
    started: datetime
    held: RuleState = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """Each site whose work is not in the round, with the reason."""
        return "; ".join(
            f"{site} {record.status}: {record.reason}"
            for site, record in self.sites.items()
            if record.status != "accepted"
        )

    @property
    def median_norm(self) -> float | None:
        """Median length of the changes that were folded in."""
        return median_change(self.sites)

    def record(
        self,
        arm: str,
        before: str,
        after: str,
        validation: ValidationRecord | None = None,
        *,
        best: bool = False,
    ) -> RoundRecord:
        """The round as the ledger keeps it."""
        finished = datetime.now(UTC)
        stage: keys.Stage = "pretrain" if self.step.stage == keys.PRETRAIN else "finetune"
        return RoundRecord(
            arm=arm,
            stage=stage,
            round=self.step.round,
            status=self.status,
            started=self.started,
            finished=finished,
            seconds=(finished - self.started).total_seconds(),
            sites=self.sites,
            digest_before=before,
            digest_after=after,
            validation=validation,
            best=best,
            versions={"package": keys.package_version(), "contract": str(keys.CONTRACT_VERSION)},
        )


def median_change(sites: Mapping[str, SiteRecord]) -> float | None:
    """Median length of the accepted changes of a round; None where there is none."""
    lengths = [r.delta_norm for r in sites.values() if r.status == "accepted" and r.delta_norm is not None]
    return statistics.median(lengths) if lengths else None


def train_round(
    step: Train,
    arm: str,
    study: StudyConfig,
    asked: StudyText,
    manifest: Manifest,
    flats: dict[str, Array],
    cards: Mapping[str, SiteCard],
    absent: Mapping[str, str],
    sites: Sites,
    previous_norm: float | None,
    notices: Mapping[str, str] | None = None,
    rule: ServerRule | None = None,
    held: RuleState | None = None,
) -> RoundDone:
    """Let the sites train and fold their changes, in the order of their names.

    A reply that is refused, missing or failed is named in the record and left out; the caller looks at the
    status before it uses the weights.

    Args:
        step: which round of which stage.
        arm: the arm's name.
        study: the arm's study.
        asked: the study as configured, as it travels: a site works out the arm from it.
        manifest: of the model's state.
        flats: the weights, one flat array per dtype.
        cards: the sites that take part.
        absent: expected sites that do not, with the reason.
        sites: how they are reached.
        previous_norm: median length of the round before; None in the first one, where the length of the
            weights themselves is the measure.
        notices: what a site is told along with its order: why its last reply was refused.
        rule: how the mean change becomes the next model; None: FedAvg.
        held: what the rule kept in the round before; None: nothing, in the first one.
    """
    started = datetime.now(UTC)
    told, rule = notices or {}, rule or FedAvg()
    held = rule.start(manifest.size) if held is None else held
    orders = [
        _order(
            step, arm, study, asked, manifest, _with(flats, rule.along(held, site)), site, told.get(site, "")
        )
        for site in sorted(cards)
    ]
    records = {site: SiteRecord(status="missing", reason=reason) for site, reason in absent.items()}
    measure = (
        _Measure(norm(flats[keys.FLOAT]), "the weights themselves")
        if previous_norm is None
        else _Measure(previous_norm, "the others' of the round before")
    )
    aggregate = Aggregate(manifest.size)
    controls = Aggregate(manifest.size) if study.federation.controlled else None
    for order, reply in sites.train(orders, study.federation.round_deadline_s):
        records[order.site] = _receive(
            order, reply, cards[order.site], manifest, study, aggregate, measure, controls
        )
    accepted = [site for site, record in records.items() if record.status == "accepted"]
    status = judge_round(sorted(records), accepted, (), study.federation)
    if status is not RoundStatus.FAILED:
        replaced = aggregate.replaced
        new, held = rule.apply(flats[keys.FLOAT], aggregate.mean(), held)
        if controls is not None:
            weights = {site: records[site].weight or 0.0 for site in accepted}
            held = rule.controlled(held, controls.mean(), weights, step.round)
        flats = {kind: replaced.get(kind, flat) for kind, flat in flats.items()} | {keys.FLOAT: new}
    return RoundDone(step, status, flats, dict(sorted(records.items())), started, held)


@dataclass(frozen=True)
class _Measure:
    """What a change is too long beside."""

    length: float
    of: str


def _with(flats: dict[str, Array], further: dict[str, Array]) -> dict[str, Array]:
    """The arrays of an order; where nothing comes along, the same ones for every site, and held once."""
    return flats | further if further else flats


def _order(
    step: Train,
    arm: str,
    study: StudyConfig,
    asked: StudyText,
    manifest: Manifest,
    flats: dict[str, Array],
    site: str,
    notice: str,
) -> TrainOrder:
    return TrainOrder(
        package=keys.package_version(),
        study_digest=asked.digest,
        study=asked.text,
        arm=arm,
        stage=step.stage,
        round=step.round,
        rounds=step.rounds,
        site=site,
        seed=study.seed,
        manifest_digest=manifest.digest,
        encoding=study.federation.encoding,
        notice=notice,
        arrays=flats,
    )


def _receive(
    order: TrainOrder,
    reply: TrainReply | NoReply,
    card: SiteCard,
    manifest: Manifest,
    study: StudyConfig,
    aggregate: Aggregate,
    measure: _Measure,
    controls: Aggregate | None = None,
) -> SiteRecord:
    """Judge one reply and fold it in, or say why not."""
    down = _bytes(order.arrays.values())
    if isinstance(reply, NoReply):
        return SiteRecord(status=reply.status, reason=reply.reason, bytes_down=down)
    up = _bytes(reply.arrays.values())
    try:
        change = check_reply(reply, order, card, manifest, study)
    except ReplyRefused as error:
        return SiteRecord(status="refused", reason=error.what, bytes_up=up, bytes_down=down)
    reply.arrays.clear()  # decoded: from here on one change and the sum are all that is held
    if too_long({order.site: change.norm}, study.federation.largest_change, measure.length):
        reason = f"its change is {change.norm / measure.length:.0f} times as long as {measure.of}"
        return SiteRecord(status="refused", reason=reason, bytes_up=up, bytes_down=down)
    weight = site_weight(study.federation, reply.patients)
    aggregate.fold(change.delta, weight, change.replaced)
    if controls is not None and change.control is not None:
        controls.fold(change.control, weight)
    return SiteRecord(
        status="accepted",
        patients=reply.patients,
        cases=reply.cases,
        steps=reply.steps,
        seconds=reply.seconds,
        bytes_up=up,
        bytes_down=down,
        metrics=reply.metrics,
        delta_norm=change.norm,
        weight=weight,
    )


def _bytes(arrays: Iterable[Array]) -> int:
    return sum(array.nbytes for array in arrays)
