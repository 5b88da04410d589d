"""All arms of a study on one machine, on the same patients, and the figures that come of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from phcc_client.session import Runtime, Session
from phcc_model.arms import ArmPlan, plan_arm, plan_arms
from phcc_model.config import StudyConfig
from phcc_server.coordinator import Coordinator
from phcc_server.journal import Journal
from phcc_server.ledger import Ledger, RoundRecord
from phcc_server.progress import planned, pretrained_file, tell_round
from phcc_server.report.summary import ScoredCase
from phcc_server.sites import Sites
from phcc_server.standing import ArmResult
from phcc_server.store import RunStore
from phcc_simulation.album import Album
from phcc_simulation.federation import MemorySites
from phcc_simulation.results import write_results
from phcc_simulation.scoring import score_arm, score_baseline, score_combined
from phcc_simulation.workspace import POOLED, Preparer, Workspace

LEDGER = "ledger.jsonl"
CHECKPOINTS = "checkpoints"

Federated = Callable[[Workspace], Sites]


@dataclass(frozen=True)
class StudyRun:
    """One study in one folder.

    Args:
        study: as configured.
        out: the run's folder.
        runtime: device and threads of whatever is trained in this process.
        jobs: files worked on at a time.
        journal: where it tells what happens.
    """

    study: StudyConfig
    out: Path
    runtime: Runtime
    jobs: int
    journal: Journal

    def run(self, federated: Federated) -> None:
        """Run every arm to its end and write the results; arms that are finished already are only scored.

        Args:
            federated: reaches the virtual centres, for the arms that are federated.

        Raises:
            PhccError: what stopped the run; everything that was finished is kept.
        """
        begin = time.time()
        preparer = Preparer(self.out, self.jobs, _silent)
        workspace = preparer.prepare(self.study)
        plans = plan_arms(self.study.evaluation.arms, self.study, workspace.centres)
        self.journal.write("plan", arms=planned(plans))
        ledger = Ledger(self.out / LEDGER)
        for note in (*ledger.notes, *workspace.splits.warnings):
            self.journal.write("note", text=note)
        scored: list[ScoredCase] = []
        finished: dict[str, ArmResult] = {}
        for plan in plans:
            if plan.kind == "baseline":
                scored += score_baseline(plan.name, workspace, self.study)
                continue
            base = plan_arm(plan.base, self.study, workspace.centres)
            if base.study.data != self.study.data:
                preparer.variant(workspace, base.study)
            result = finished.get(base.name) or self._train(base, workspace, ledger, federated)
            finished[base.name] = result
            if plan.kind == "combined":
                scored += score_combined(plan.name, result, base, workspace, self.runtime)
            else:
                scored += score_arm(result, plan, workspace, self.runtime)
        self.journal.write("note", text="writing summary.json and report.html")
        write_results(self.study, workspace, scored, list(finished.values()), ledger, time.time() - begin)
        self.journal.write("done")

    def _train(self, plan: ArmPlan, workspace: Workspace, ledger: Ledger, federated: Federated) -> ArmResult:
        first = plan.stage_one
        if first is not None and not pretrained_file(self.out / CHECKPOINTS, first).exists():
            coordinator, album = self._coordinator(first, workspace, ledger, federated)
            coordinator.pretrain(first.sites)
            album.finish([record for record in ledger.read() if record.arm == first.name])
        coordinator, album = self._coordinator(plan, workspace, ledger, federated)
        result = coordinator.run((POOLED,) if plan.kind == "pooled" else plan.sites)
        album.finish(result.rounds)
        return result

    def _coordinator(
        self, plan: ArmPlan, workspace: Workspace, ledger: Ledger, federated: Federated
    ) -> tuple[Coordinator, Album]:
        """An arm's, and the pictures that are kept of its rounds."""
        if plan.kind == "federated":
            sites = federated(workspace)
        else:
            names = (POOLED,) if plan.kind == "pooled" else plan.sites
            sites = MemorySites({name: Session(workspace.site(name), name, self.runtime) for name in names})
        album = Album(self.out / CHECKPOINTS, plan, workspace, self.runtime)

        def listen(record: RoundRecord) -> None:
            tell_round(self.journal, record)
            album.listen(record)

        coordinator = Coordinator(
            plan.name,
            plan.study,
            sites,
            RunStore(self.out / CHECKPOINTS, plan.study.digest),
            ledger,
            pretrained_file(self.out / CHECKPOINTS, plan),
            listen,
            self.study,
        )
        return coordinator, album


def _silent(_what: str, _done: int, _total: int) -> None:
    """The files were prepared before, with progress: this time they are only found."""
