"""A whole run in real hospitals: every arm, its test at the sites, and the report."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from phcc_model.arms import ArmPlan, plan_arms
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.messages import SiteCard
from phcc_model.errors import ConfigError
from phcc_model.study_file import as_text, dump_study
from phcc_server.coordinator import ArmResult, Coordinator
from phcc_server.ledger import Ledger
from phcc_server.progress import planned, pretrained_file, tell_round
from phcc_server.report.page import write_report
from phcc_server.report.schema import SplitCount
from phcc_server.report.summary import build_summary
from phcc_server.run_folder import RunFolder
from phcc_server.site_tests import SiteTests, score_at_sites
from phcc_server.sites import Heard, Sites
from phcc_server.store import RunStore

AT_SITES = ("federated",)
"""Kinds of arms that need no patient to leave its hospital."""


class StudyRunner:
    """Runs what was asked for, from where it stands.

    Args:
        run: its folder.
        sites: how the hospitals are reached.
    """

    def __init__(self, run: RunFolder, sites: Sites) -> None:
        self._run = run
        self._sites = sites
        self._study = run.study
        self._asked = as_text(self._study)
        self._journal = run.journal
        self._names = run.request.sites

    def run(self) -> None:
        """Run every arm to its end, have it tested, and write the report.

        Raises:
            PhccError: what stopped the run; everything that was finished is kept.
        """
        begin = time.time()
        plans, left_out = arms_at_sites(self._study, self._names)
        self._journal.write("plan", arms=[planned(plan) for plan in plans])
        ledger = Ledger(self._run.ledger)
        for note in (*ledger.notes, *left_out):
            self._journal.write("note", text=note)
        done: dict[str, tuple[ArmResult, SiteTests]] = {}
        cards: Mapping[str, SiteCard] = {}
        for plan in plans:
            coordinator = self._coordinator(plan, ledger)
            result = coordinator.run(self._names)
            path = self._run.tests / f"{re.sub(r'[^a-z0-9-]+', '-', plan.name)}.json"
            tests = SiteTests.load(path)
            if tests is None or not cards:
                cards = coordinator.cards(self._names)
            if tests is None:
                tests = score_at_sites(result, plan.study, self._asked, cards, self._sites)
                tests.save(path)
            done[plan.name] = result, tests
        self._report(done, cards, ledger, left_out, time.time() - begin)
        self._journal.write("done")

    def _coordinator(self, plan: ArmPlan, ledger: Ledger) -> Coordinator:
        return Coordinator(
            plan.name,
            plan.study,
            self._sites,
            RunStore(self._run.checkpoints, plan.study.digest),
            ledger,
            pretrained_file(self._run.checkpoints, plan),
            lambda record: tell_round(self._journal, record),
            self._study,
        )

    def _report(
        self,
        done: Mapping[str, tuple[ArmResult, SiteTests]],
        cards: Mapping[str, SiteCard],
        ledger: Ledger,
        left_out: tuple[str, ...],
        seconds: float,
    ) -> None:
        study = self._study
        scored = [case for arm, (r, tests) in done.items() for case in tests.cases(arm, r.threshold)]
        missing = [
            f"{arm}: the test patients of {site} are missing ({reason})"
            for arm, (_, tests) in done.items()
            for site, reason in tests.left_out.items()
        ]
        rounds = {(r.arm, r.stage, r.round): r for r in ledger.read()}
        summary = build_summary(
            scored,
            study=study.name,
            data={
                "synthetic": study.data.source == "phantom",
                "source": study.data.source,
                "patients": sum(sum(card.patients.values()) for card in cards.values()),
                "phases": list(study.data.phases),
                "split": [count.model_dump() for count in _split_counts(cards)],
            },
            rounds=[record.model_dump(mode="json") for record in rounds.values()],
            timing={"last_attempt_s": round(seconds, 1)},
            digests={
                "study": study.digest,
                "ledger": ledger.head,
                **{f"weights.{arm}": result.digest for arm, (result, _) in done.items()},
            },
            confidence=study.evaluation.confidence,
            bootstrap=study.evaluation.bootstrap,
            seed=study.seed,
        )
        write_report(
            self._run.folder,
            summary,
            scored=scored,
            config_yaml=dump_study(study),
            notes=[*left_out, *missing, BINNED],
        )


BINNED = (
    "No patient's score left a hospital: figures are worked out from counts of scores in 200 bins, and paired "
    "comparisons between arms, which need scores patient by patient, are not."
)


def tell_heard(run: RunFolder, heard: Heard) -> None:
    """Write a sign of life into a run's journal.

    Raises:
        StorageError: it cannot be written.
    """
    run.journal.write(
        "site", site=heard.site, state=heard.state, step=heard.step, steps=heard.steps, reason=heard.reason
    )


def arms_at_sites(study: StudyConfig, sites: tuple[str, ...]) -> tuple[tuple[ArmPlan, ...], tuple[str, ...]]:
    """The arms of a study that real hospitals can run, and a note for each one that they cannot.

    Raises:
        ConfigError: none is left, or one is unknown, or the quorum cannot be met.
    """
    plans = plan_arms(study.evaluation.arms, study, sites)
    kept = tuple(plan for plan in plans if plan.kind in AT_SITES)
    notes = tuple(
        f"arm {plan.name} is left out: it would need patients of several hospitals in one place"
        if plan.kind == "pooled"
        else f"arm {plan.name} is left out: it runs in the simulation only"
        for plan in plans
        if plan not in kept
    )
    if not kept:
        raise ConfigError("no arm can run in real hospitals", where="evaluation.arms", remedy="Add full")
    return kept, notes


def _split_counts(cards: Mapping[str, SiteCard]) -> list[SplitCount]:
    counts = []
    for site, card in sorted(cards.items()):
        external = not card.patients.get(keys.TRAIN, 0)
        for split in keys.SPLITS:
            positives, negatives = card.positives.get(split, 0), card.negatives.get(split, 0)
            unknown = card.patients.get(split, 0) - positives - negatives
            if positives or negatives or unknown:
                counts.append(
                    SplitCount(
                        centre=site,
                        split="external" if external else split,
                        positives=positives,
                        negatives=negatives,
                        unknown=unknown,
                    )
                )
    return counts
