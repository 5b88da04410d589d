"""Every test case's score, kept on this hospital's own disk: it is in no reply and never leaves.

::

    SCORES/<digest[:16]>/<arm>.csv      one line a case; the same order writes the same bytes

An arm is tested once, at its end. Where the coordinator has another model of it tested, that one takes its place.
Only its owner can read a file.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phcc_model.cases import CaseSet
from phcc_model.config import Fraction
from phcc_model.contract.messages import EvaluateOrder
from phcc_model.errors import DatasetError, StorageError
from phcc_model.storage import storage_error, write_atomically

FORMAT = 1
"""Raised when a column changes its name or meaning; a file of a later format is refused."""
_DIGITS = 16

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Named = Annotated[str, Field(min_length=1)]


class KeptScore(BaseModel):
    """One line of the file.

    Attributes:
        format: of the file.
        study: digest of the study.
        arm: of the study.
        split: what was scored.
        round: of the fine-tuning whose weights these are, from 0.
        weights: `phcc_model.checkpoint.state_digest` of the weights, as the coordinator's record names them.
        case, patient: as the site names them.
        label: 1 positive, 0 negative.
        score: the model's probability, not recalibrated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    study: Digest
    arm: Named
    split: Named
    round: Annotated[int, Field(ge=0)]
    weights: Digest
    case: Named
    patient: Named
    label: Annotated[int, Field(ge=0, le=1)]
    score: Fraction


class KeptScores:
    """The scores of one hospital.

    Args:
        folder: made with the first file; where there is none, nothing was kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, order: EvaluateOrder, weights: str, cases: CaseSet, score_n: NDArray[np.float64]) -> None:
        """Write down what an order's model says of each case.

        Args:
            order: that was carried out.
            weights: digest of its weights.
            cases: with known labels.
            score_n: a probability for each of them.

        Raises:
            StorageError: the disk is full or not writable.
        """
        about = {
            "format": FORMAT,
            "study": order.study_digest,
            "arm": order.arm,
            "split": order.split,
            "round": order.round,
            "weights": weights,
        }
        text = io.StringIO()
        writer = csv.DictWriter(text, list(KeptScore.model_fields), lineterminator="\n")
        writer.writeheader()
        for case, patient, label, score in sorted(
            zip(cases.case, cases.patient, cases.label_n.tolist(), score_n.tolist(), strict=True)
        ):
            writer.writerow(about | {"case": case, "patient": patient, "label": label, "score": repr(score)})
        write_atomically(self._file(order.study_digest, order.arm), text.getvalue())

    def arms(self, study_digest: str) -> tuple[str, ...]:
        """The arms of a study that were tested here."""
        return tuple(sorted(unquote(file.stem) for file in self._folder(study_digest).glob("*.csv")))

    def read(self, study_digest: str, arm: str) -> tuple[KeptScore, ...]:
        """What was kept of an arm.

        Raises:
            DatasetError: nothing was: the arm has not been tested here.
            StorageError: the file is damaged, or of another study, arm or version.
        """
        file = self._file(study_digest, arm)
        try:
            kept = tuple(map(KeptScore.model_validate, csv.DictReader(io.StringIO(_text(file)))))
        except FileNotFoundError:
            raise self._untested(study_digest, arm) from None
        except OSError as error:
            raise storage_error(file, error) from error
        except (ValidationError, UnicodeDecodeError, csv.Error) as error:
            raise _damaged(file) from error
        if not kept or {(one.study, one.arm) for one in kept} != {(study_digest, arm)}:
            raise _damaged(file)
        return kept

    def _untested(self, study_digest: str, arm: str) -> DatasetError:
        tested = ", ".join(self.arms(study_digest))
        return DatasetError(
            "has not been tested at this hospital yet, or by a version that kept no scores",
            where=f"arm {' '.join(arm.split())[:80]}",
            remedy=f"Tested here: {tested}; name one with --arm"
            if tested
            else "An arm is tested when the coordinator has finished it; phcc-client outbox shows the test",
        )

    def _folder(self, study_digest: str) -> Path:
        return self.folder / study_digest[:_DIGITS]

    def _file(self, study_digest: str, arm: str) -> Path:
        # An arm's name comes from outside: no part of it becomes a folder.
        return self._folder(study_digest) / f"{quote(arm, safe=':+')}.csv"


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8")


def _damaged(file: Path) -> StorageError:
    return StorageError(
        "is damaged, or not what this version wrote for this arm",
        where=str(file),
        remedy="Restore it from a copy; the test is not made a second time",
    )
