"""The report of a run's folder once more, from what it keeps: simulated and real runs alike.

A simulation keeps every score in ``scores.csv``; a real run keeps what the sites counted in ``tests/``. Either
gives the cases from which every figure is worked out again, by this version of the software.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from phcc_model.errors import StorageError
from phcc_model.study_file import dump_study, load_study
from phcc_server.report.evaluation import ScoredCase
from phcc_server.report.page import SUMMARY_FILE, write_report
from phcc_server.report.schema import TEST_SPLITS, Summary
from phcc_server.report.summary import build_summary
from phcc_server.site_tests import SiteTests

SCORES_FILE = "scores.csv"
TESTS = "tests"


def report_again(folder: Path) -> Path:
    """Work out every figure of a finished run again and write its report anew.

    Args:
        folder: of the run: ``study.yaml``, ``summary.json``, and ``scores.csv`` or ``tests/``.

    Returns:
        The path of the page.

    Raises:
        StorageError: the folder holds no finished run, or a file in it is damaged.
        ConfigError: the study cannot be read.
    """
    old = read_summary(folder)
    study = load_study(folder / "study.yaml")
    real = (folder / TESTS).is_dir()
    scored = list(_counted(folder / TESTS, old)) if real else read_scores(folder / SCORES_FILE)
    summary = build_summary(
        scored,
        study=old.study,
        data=old.data,
        rounds=old.rounds,
        best_possible_auc=old.best_possible_auc,
        timing=old.timing,
        digests=old.digests,
        confidence=study.evaluation.confidence,
        bootstrap=study.evaluation.bootstrap,
        seed=study.seed,
    )
    return write_report(folder, summary, scored=scored, config_yaml=dump_study(study), notes=old.notes)


def _counted(folder: Path, old: Summary) -> Iterator[ScoredCase]:
    for arm, results in old.arms.items():
        path = folder / f"{re.sub(r'[^a-z0-9-]+', '-', arm)}.json"
        tests = SiteTests.load(path)
        if tests is None:
            raise StorageError("is missing", where=str(path), remedy="The sites have to be asked again")
        for case in tests.cases(arm, 0.0):
            cuts = (results[split].threshold for split in TEST_SPLITS)
            yield replace(case, threshold=next((cut for cut in cuts if cut is not None), None))


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


def read_scores(path: Path) -> list[ScoredCase]:
    """The cases of a simulation's ``scores.csv``.

    Raises:
        StorageError: it is not there, or a line of it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
            if any(None in row for row in lines):
                raise ValueError("more cells than columns")
            return [
                ScoredCase(
                    row["arm"],
                    row["case"],
                    row["patient"],
                    row["centre"],
                    row["split"],
                    int(row["label"]),
                    _number(row["score"]),
                    _number(row["threshold"]),
                    traits={k: v for k, v in row.items() if k not in _COLUMNS and v},
                )
                for row in lines
            ]
    except FileNotFoundError:
        raise StorageError(
            "the scores are not there", where=str(path), remedy="Run the study again in the same folder"
        ) from None
    except (OSError, csv.Error, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise StorageError(
            "a line of the scores cannot be read", where=str(path), remedy="Run the study again"
        ) from error


_COLUMNS = ("arm", "centre", "split", "patient", "case", "label", "score", "threshold")


def _number(text: str) -> float | None:
    return None if text in ("", "None") else float(text)
