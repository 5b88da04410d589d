"""A whole run in real hospitals: every arm, its test at the sites, and the report."""

from __future__ import annotations

import time

from phcc_model.arms import ArmPlan
from phcc_model.study_file import as_text
from phcc_server.coordinator import Coordinator
from phcc_server.ledger import Ledger
from phcc_server.progress import planned, pretrained_file, tell_round
from phcc_server.real_arms import arms_at_sites
from phcc_server.run_folder import RunFolder
from phcc_server.run_report import write_run_report
from phcc_server.site_tests import SiteTests, score_at_sites
from phcc_server.sites import Heard, Sites
from phcc_server.store import RunStore


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
        self._journal.write("plan", arms=planned(plans))
        ledger = Ledger(self._run.ledger)
        for note in (*ledger.notes, *left_out):
            self._journal.write("note", text=note)
        for plan in plans:
            coordinator = self._coordinator(plan, ledger)
            result = coordinator.run(self._names)
            path = self._run.tests_of(plan.name)
            if SiteTests.load(path) is None:
                cards = coordinator.cards(self._names)
                score_at_sites(result, plan.study, self._asked, cards, self._sites).save(path)
        write_run_report(self._run, time.time() - begin)
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


def tell_heard(run: RunFolder, heard: Heard) -> None:
    """Write a sign of life into a run's journal.

    Raises:
        StorageError: it cannot be written.
    """
    run.journal.write(
        "site", site=heard.site, state=heard.state, step=heard.step, steps=heard.steps, reason=heard.reason
    )
