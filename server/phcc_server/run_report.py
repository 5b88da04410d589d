"""The report of a real run, worked out from what stands on the disk: when it ends, and as often as wanted after.

Rounds, validation counts and the sites' cards come from the ledger, whose chain must hold; the tests from what
the sites answered. Nothing is asked of a site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phcc_model.arms import ArmPlan
from phcc_model.chain import last_seal
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.errors import StorageError
from phcc_model.outcome import outcome_of
from phcc_model.study_file import dump_study
from phcc_server.ledger import CardRecord, RoundRecord, cards_of, read_rounds, verify
from phcc_server.real_arms import arms_at_sites
from phcc_server.report.evaluation import ScoredCase
from phcc_server.report.page import SUMMARY_FILE, write_report
from phcc_server.report.schema import VALIDATION, Funnel, SplitCount, Summary
from phcc_server.report.summary import build_summary
from phcc_server.report.wording import ASIDE
from phcc_server.run_folder import RunFolder
from phcc_server.seen import seen_of
from phcc_server.site_tests import SiteTests, counted_cases
from phcc_server.store import RunStore
from phcc_server.validation_round import NO_THRESHOLD

BINNED = (
    "No patient's score left a hospital: figures are worked out from counts of scores in 200 bins, and paired "
    "comparisons between arms, which need scores patient by patient, are not."
)


@dataclass(frozen=True)
class TestedArm:
    """A finished arm as the ledger and its test have it.

    Attributes:
        name: of the study.
        chosen: the record of the chosen round of the fine-tuning.
        tests: what the sites said of it.
    """

    name: str
    chosen: RoundRecord
    tests: SiteTests

    @property
    def threshold(self) -> float:
        """Frozen on validation patients before the test."""
        found = self.chosen.validation.threshold if self.chosen.validation else None
        return NO_THRESHOLD if found is None else found

    def cases(self) -> Iterator[ScoredCase]:
        """As many cases as were counted, of the tests and of the validation."""
        yield from self.tests.cases(self.name, self.threshold)
        counts = self.chosen.validation.counts if self.chosen.validation else {}
        for site, one in sorted(counts.items()):
            yield from counted_cases(self.name, site, VALIDATION, one, self.threshold)


def write_run_report(run: RunFolder, seconds: float | None = None) -> Path:
    """Work out every figure of a run whose arms are finished and tested, and write its report.

    Args:
        run: its folder.
        seconds: that the last attempt took; None: what the report that is there says of it.

    Returns:
        The path of the page.

    Raises:
        StorageError: the record does not hold, a test is missing, or the disk is full or not writable.
        ConfigError: the study cannot be read.
    """
    study = run.study
    if faults := verify(run.ledger):
        raise StorageError(faults[0], where=str(run.ledger), remedy="Restore the run from a backup")
    records = read_rounds(run.ledger)
    plans, left_out = arms_at_sites(study, run.request.sites)
    arms = [_arm(run, plan, records) for plan in plans]
    before = _before(run.folder / SUMMARY_FILE)
    scored = [case for arm in arms for case in arm.cases()]
    timing: Mapping[str, Any] = before.timing if before and seconds is None else {}
    summary = build_summary(
        scored,
        study=study.name,
        data=_data(study, arms, records, before),
        rounds=[record.told() for record in _last(records).values()],
        timing=timing if seconds is None else {"last_attempt_s": round(seconds, 1)},
        digests={
            "study": study.digest,
            "ledger": last_seal(run.ledger),
            **{f"weights.{arm.name}": arm.chosen.digest_after for arm in arms},
        },
        confidence=study.evaluation.confidence,
        bootstrap=study.evaluation.bootstrap,
        seed=study.seed,
    )
    notes = [*left_out, *_missing(arms), BINNED]
    return write_report(run.folder, summary, scored=scored, config_yaml=dump_study(study), notes=notes)


def _last(records: Sequence[RoundRecord]) -> dict[tuple[str, str, int], RoundRecord]:
    """Of a round that was done twice, the last record counts."""
    return {(r.arm, r.stage, r.round): r for r in records}


def _arm(run: RunFolder, plan: ArmPlan, records: Sequence[RoundRecord]) -> TestedArm:
    final = RunStore(run.checkpoints, plan.study.digest).final(plan.name)
    chosen = _last(records).get((plan.name, keys.FINETUNE, final.info.round_index))
    if chosen is None:
        raise StorageError(
            f"holds no round {final.info.round_index + 1} of arm {plan.name}",
            where=str(run.ledger),
            remedy="Restore the run from a backup",
        )
    path = run.tests_of(plan.name)
    tests = SiteTests.load(path)
    if tests is None:
        raise StorageError(
            "is missing: the arm has not been tested",
            where=str(path),
            remedy=f"Let the run go on: phcc-server resume {run.name}",
        )
    return TestedArm(plan.name, chosen, tests)


def _before(path: Path) -> Summary | None:
    """The report that is there, where this version can read it: it is written anew in any case."""
    try:
        return Summary.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _missing(arms: Sequence[TestedArm]) -> list[str]:
    return [
        f"{arm.name}: the test patients of {site} are missing ({reason})"
        for arm in arms
        for site, reason in arm.tests.left_out.items()
    ]


def _data(
    study: StudyConfig, arms: Sequence[TestedArm], records: Sequence[RoundRecord], before: Summary | None
) -> Mapping[str, Any]:
    outcome = outcome_of(study.data).model_dump()
    # Arms that see other phases may have other patients: the first one stands for the study.
    cards = next((c for arm in arms if (c := cards_of(records, arm.name) | dict(arm.tests.cards))), {})
    if not cards and before is not None:  # a run of an earlier version, which kept no cards
        return {**before.data.model_dump(), "outcome": outcome}
    return {
        "synthetic": study.data.source == "phantom",
        "source": study.data.source,
        "outcome": outcome,
        "patients": sum(sum(card.patients.values()) for card in cards.values()),
        "phases": list(study.data.phases),
        "split": [count.model_dump() for count in _split_counts(cards)],
        "funnel": {site: _funnel(card).model_dump() for site, card in sorted(cards.items())},
        "seen": seen_of(cards),
    }


def _funnel(card: CardRecord) -> Funnel:
    """What became of a site's patients, as far as it announced them: too few for a count are in no count."""
    used, aside = sum(card.patients.values()), sum(card.aside.values())
    said = {ASIDE[reason]: count for reason, count in sorted(card.aside.items()) if count}
    return Funnel(found=used + aside, used=used, set_aside=said)


def _split_counts(cards: Mapping[str, CardRecord]) -> Iterator[SplitCount]:
    for site, card in sorted(cards.items()):
        external = not card.patients.get(keys.TRAIN, 0)
        for split in keys.SPLITS:
            positives, negatives = card.positives.get(split, 0), card.negatives.get(split, 0)
            unknown = card.patients.get(split, 0) - positives - negatives
            if positives or negatives or unknown:
                yield SplitCount(
                    centre=site,
                    split="external" if external else split,
                    positives=positives,
                    negatives=negatives,
                    unknown=unknown,
                )
