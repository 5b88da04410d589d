"""A finished arm of a run as a model package: for the simulation and for real hospitals alike.

Only what the run's record vouches for leaves: the ledger's chain must hold, and the weights must be those that
the ledger names as the outcome of the chosen round.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from phcc_model.arms import BASELINES, COMBINED, arm_study
from phcc_model.build import build_classifier, load_state
from phcc_model.checkpoint import state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Array
from phcc_model.errors import ConfigError, StorageError
from phcc_model.package import ModelPackage, write_package
from phcc_model.package_schema import Recalibration, Seen, Threshold
from phcc_model.storage import storage_error, write_atomically
from phcc_model.study_file import load_study
from phcc_server.export_card import package_card
from phcc_server.export_monai import write_bundle
from phcc_server.export_onnx import require_libraries, to_onnx
from phcc_server.ledger import RoundRecord, cards_of, read_rounds, verify
from phcc_server.recalibration import fit_counts, fit_recalibration
from phcc_server.report.again import read_summary
from phcc_server.report.card import model_card
from phcc_server.report.page import SUMMARY_FILE
from phcc_server.report.scores import SCORES_FILE, read_scores
from phcc_server.run_folder import RunFolder
from phcc_server.seen import seen_of
from phcc_server.store import RunStore
from phcc_server.validation_round import NO_THRESHOLD

ONNX = "onnx/model.onnx"
MONAI = "monai"


@dataclass(frozen=True)
class FinishedArm:
    """One arm of a run, as its record vouches for it.

    Attributes:
        study: of the arm.
        name: of the arm.
        arrays: the weights.
        round: the chosen one of the fine-tuning, from 0.
        threshold: frozen on validation patients.
        calibration: None where there is nothing to fit it on.
        note: why there is none.
        seen: what the sites announced of their training images; None where they announced nothing.
        card: of the report; None where the run holds no report.
    """

    study: StudyConfig
    name: str
    arrays: dict[str, Array]
    round: int
    threshold: Threshold
    calibration: Recalibration | None
    note: str
    seen: Seen | None
    card: str | None


def export_run(run: Path, arm: str, to: Path, *, plain: bool = False) -> ModelPackage:
    """Write an arm of a run as a model package; the folder is whole or not there.

    Args:
        run: its folder.
        arm: finished in it.
        to: the package's folder; new, or empty.
        plain: without ONNX and MONAI.

    Raises:
        ConfigError: there is no such run or arm, the arm has no network, or the folder is not empty.
        StorageError: the arm has not finished, the record does not hold, or the disk is full or not writable.
    """
    if to.is_symlink() or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
        raise ConfigError("is there already", where=str(to), remedy="Give a new folder with --to")
    if not plain:
        require_libraries()
    finished = read_arm(run, arm)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}."))
    except OSError as error:
        raise storage_error(to.parent, error) from error
    try:
        _write(finished, made, plain=plain)
        ModelPackage.open(made).model()
        _open_to_all(made)
        made.replace(to)
    except OSError as error:
        raise storage_error(to, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return ModelPackage.open(to)


def _open_to_all(folder: Path) -> None:
    """A package holds nothing secret: whoever may read its folder may read it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def read_arm(run: Path, arm: str) -> FinishedArm:
    """Read a finished arm of a run, and hold it against the run's record.

    Raises:
        ConfigError: there is no such run or arm, or the arm has no network.
        StorageError: the arm has not finished, or the record does not hold.
    """
    study = arm_study(_study(run), arm)
    if arm in BASELINES or arm.endswith(COMBINED):
        raise ConfigError(
            "this arm is no network of its own", where=f"--arm {arm}", remedy="Choose another arm"
        )
    final = RunStore(run / "checkpoints", study.digest).final(arm)
    record = _record(run, arm, final.info.round_index)
    if record.digest_after != state_digest(final.arrays):
        raise StorageError(
            "does not hold the weights that the ledger names",
            where=str(final.path),
            remedy="Look at phcc-server verify, and restore the run from a backup",
        )
    calibration, note = _recalibration(run, arm, record)
    report = run / SUMMARY_FILE
    return FinishedArm(
        study,
        arm,
        final.arrays,
        final.info.round_index,
        _threshold(record),
        calibration,
        note,
        seen_of(cards_of(read_rounds(run / "ledger.jsonl"), arm)),
        model_card(read_summary(run)) if report.exists() else None,
    )


def _study(run: Path) -> StudyConfig:
    if not (run / "study.yaml").is_file():
        raise ConfigError(
            "this folder holds no run", where=str(run), remedy="Give the folder or the name of a run"
        )
    return RunFolder(run).study if (run / "request.json").exists() else load_study(run / "study.yaml")


def _record(run: Path, arm: str, chosen: int) -> RoundRecord:
    ledger = run / "ledger.jsonl"
    faults = verify(ledger)
    if faults:
        raise StorageError(faults[0], where=str(ledger), remedy="Restore the run from a backup")
    own = [r for r in read_rounds(ledger) if (r.arm, r.stage, r.round) == (arm, keys.FINETUNE, chosen)]
    if not own:
        raise StorageError(
            f"holds no round {chosen + 1} of arm {arm}", where=str(ledger), remedy="Restore the run"
        )
    return own[-1]


def _threshold(record: RoundRecord) -> Threshold:
    found = record.validation
    if found is None or found.threshold is None:
        return Threshold(
            value=NO_THRESHOLD, source="Not fixed on patients: no validation patients of both classes"
        )
    missing = f"; without those of {', '.join(sorted(found.left_out))}" if found.left_out else ""
    return Threshold(
        value=found.threshold,
        source=f"Youden on {found.cases} validation cases of all sites, in round {record.round + 1}, before any "
        f"test patient was scored{missing}",
    )


def _recalibration(run: Path, arm: str, record: RoundRecord) -> tuple[Recalibration | None, str]:
    """From a simulation's scores; of real sites from what they counted in the chosen round's validation."""
    if (run / SCORES_FILE).exists():
        rows = [row for row in read_scores(run / SCORES_FILE) if row.arm == arm and row.split == "validation"]
        scored = [(row.label, row.score) for row in rows if row.scored and row.score is not None]
        return fit_recalibration([label for label, _ in scored], [score for _, score in scored])
    found = record.validation
    if found is None or (found.cases and not found.counts):
        return None, "The record of the run keeps no counts of validation patients' scores."
    if not found.counts:
        return (
            None,
            "No site counted its validation patients' scores: none are labelled, or too few of a class.",
        )
    return fit_counts(found.histogram)


def _write(finished: FinishedArm, folder: Path, *, plain: bool) -> None:
    study = finished.study
    content, difference = b"", None
    if not plain:
        model = build_classifier(study)
        load_state(model, finished.arrays)
        content, difference = to_onnx(study, model.eval())
    card = package_card(
        study,
        finished.name,
        state_digest(finished.arrays),
        finished.round,
        finished.threshold,
        finished.calibration,
        finished.note,
        difference,
        finished.card,
        finished.seen,
    )
    others: tuple[str, ...] = ()
    if not plain:
        write_atomically(folder / ONNX, content)
        bundle = write_bundle(folder / MONAI, study, content, card, finished.threshold, finished.calibration)
        others = (ONNX, *(f"{MONAI}/{name}" for name in bundle))
    write_package(
        folder,
        study,
        finished.name,
        finished.arrays,
        stage_round=finished.round,
        threshold=finished.threshold,
        calibration=finished.calibration,
        calibration_note=finished.note or None,
        seen=finished.seen,
        card=card,
        others=others,
    )
