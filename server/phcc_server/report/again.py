"""The report of a run's folder once more, from what it keeps: simulated and real runs alike.

A simulation keeps every score in ``scores.csv``, and slices of a few cases; a real run keeps what the sites
counted (see `phcc_server.run_report`). Either gives the cases from which every figure is worked out again, by
this version of the software.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from phcc_model.errors import StorageError
from phcc_model.outcome import outcome_of
from phcc_model.study_file import dump_study, load_study
from phcc_server.report.kept import kept_photographs
from phcc_server.report.page import SUMMARY_FILE, write_report
from phcc_server.report.schema import Summary
from phcc_server.report.scores import SCORES_FILE, read_scores
from phcc_server.report.summary import build_summary
from phcc_server.run_folder import RunFolder
from phcc_server.run_report import write_run_report

REQUEST = "request.json"
"""What only a real run's folder has."""


def report_again(folder: Path) -> Path:
    """Work out every figure of a finished run again and write its report anew.

    Args:
        folder: of the run: a real run's, or ``study.yaml``, ``summary.json`` and ``scores.csv``.

    Returns:
        The path of the page.

    Raises:
        StorageError: the folder holds no finished run, or a file in it is damaged.
        ConfigError: the study cannot be read.
    """
    if (folder / REQUEST).is_file():
        return write_run_report(RunFolder(folder))
    old = read_summary(folder)
    study = load_study(folder / "study.yaml")
    scored = read_scores(folder / SCORES_FILE)
    summary = build_summary(
        scored,
        study=old.study,
        data=old.data.model_copy(update={"outcome": outcome_of(study.data)}),
        rounds=old.rounds,
        best_possible_auc=old.best_possible_auc,
        timing=old.timing,
        digests=old.digests,
        confidence=study.evaluation.confidence,
        bootstrap=study.evaluation.bootstrap,
        seed=study.seed,
    )
    return write_report(
        folder,
        summary,
        scored=scored,
        config_yaml=dump_study(study),
        notes=old.notes,
        photographs=kept_photographs(folder, summary),
    )


def read_summary(folder: Path) -> Summary:
    """The figures of a finished run.

    Raises:
        StorageError: there are none, or the file is damaged or of another version.
    """
    path = folder / SUMMARY_FILE
    try:
        return Summary.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(
            "this folder holds no finished run", where=str(folder), remedy="Give the folder of a run"
        ) from None
    except (OSError, ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(
            "is no summary that this version can read", where=str(path), remedy="Run the study again"
        ) from error
