"""What a run leaves for people: scores.csv, summary.json, report.html and the slices that it shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from phcc_client.splits import split_table
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.outcome import outcome_of
from phcc_model.package_schema import Seen
from phcc_model.storage import write_atomically
from phcc_model.study_file import dump_study
from phcc_server.ledger import Ledger, RoundRecord, cards_of
from phcc_server.report.kept import kept_photographs
from phcc_server.report.page import write_report
from phcc_server.report.schema import Summary
from phcc_server.report.scores import SCORES_FILE, scores_csv
from phcc_server.report.summary import ScoredCase, build_summary
from phcc_server.seen import seen_of
from phcc_server.standing import ArmResult
from phcc_simulation.album import keep_mistakes
from phcc_simulation.traits import with_traits
from phcc_simulation.workspace import Workspace


def write_results(
    study: StudyConfig,
    workspace: Workspace,
    scored: Sequence[ScoredCase],
    finished: Sequence[ArmResult],
    ledger: Ledger,
    seconds: float,
) -> Summary:
    """Work out every figure and write the files.

    Raises:
        StorageError: the disk is full or not writable.
    """
    scored = with_traits(scored, workspace)
    phantom = _phantom(workspace.data) if study.data.source == "phantom" else {}
    rounds = {(r.arm, r.stage, r.round): r for r in ledger.read()}
    summary = build_summary(
        scored,
        study=study.name,
        data={**_data(study, workspace, phantom), "seen": _seen(finished, rounds.values())},
        rounds=[record.told() for record in rounds.values()],
        best_possible_auc=phantom.get("best_possible_auc", {}),
        timing=_timing(list(rounds.values()), seconds),
        digests={
            "study": study.digest,
            "splits": workspace.splits.digest,
            **({"phantom": str(phantom["digest"])} if "digest" in phantom else {}),
            **{f"weights.{result.arm}": result.digest for result in finished},
            "ledger": ledger.head,
        },
        confidence=study.evaluation.confidence,
        bootstrap=study.evaluation.bootstrap,
        seed=study.seed,
    )
    write_atomically(workspace.out / SCORES_FILE, scores_csv(scored))
    keep_mistakes(summary.failures, workspace)
    write_report(
        workspace.out,
        summary,
        scored=scored,
        config_yaml=dump_study(study),
        notes=workspace.splits.warnings,
        photographs=kept_photographs(workspace.out, summary),
    )
    return summary


def _phantom(data: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((data / "phantom.json").read_text(encoding="utf-8"))
    return described


def _data(study: StudyConfig, workspace: Workspace, phantom: dict[str, Any]) -> dict[str, Any]:
    used = Counter(place.centre for place in workspace.splits.places)
    aside = Counter(rejection.reason for rejection in workspace.set_aside)
    return {
        "synthetic": bool(phantom),
        "source": study.data.source,
        "outcome": outcome_of(study.data).model_dump(),
        "patients": len(workspace.splits.places),
        "phases": list(study.data.phases),
        "split": [count._asdict() for count in split_table(workspace.splits, workspace.labels)],
        "funnel": {
            "all centres": {
                "found": used.total() + aside.total(),
                "used": used.total(),
                "set_aside": dict(aside),
            }
        },
    }


def _seen(finished: Sequence[ArmResult], rounds: Iterable[RoundRecord]) -> Seen | None:
    """What the training images look like, as the centres announced it to the first arm."""
    return seen_of(cards_of(rounds, finished[0].arm)) if finished else None


def _timing(rounds: Sequence[Any], seconds: float) -> dict[str, Any]:
    by_stage: dict[str, float] = dict.fromkeys(keys.STAGES, 0.0)
    for record in rounds:
        by_stage[record.stage] += record.seconds
    return {"total_s": round(seconds, 1), **{f"{stage}_s": round(s, 1) for stage, s in by_stage.items()}}
