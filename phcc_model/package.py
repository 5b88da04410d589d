"""A model that left its study: one folder, checked to the last byte before anything of it is used.

::

    PACKAGE/package.json          study, threshold, calibration, digests: see `phcc_model.package_schema`
    PACKAGE/weights.safetensors   the classifier's arrays
    PACKAGE/model-card.md         for whom, on whom tried, what it does there, its limits
    PACKAGE/onnx/, monai/         the same model for other software, where it was exported

What is not named in ``package.json`` is never read. A digest proves that a package is whole, not who made it:
compare it with the one that its makers published.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.special import expit, logit

from phcc_model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint, state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.errors import ConfigError, ContractError, StorageError
from phcc_model.package_schema import (
    FORMAT,
    ArrayNote,
    PackageFile,
    Recalibration,
    Seen,
    Threshold,
    content_digest,
)
from phcc_model.statistics.calibration import CLIP
from phcc_model.storage import storage_error, write_atomically

if TYPE_CHECKING:
    from phcc_model.classifier import Classifier

DESCRIPTION, WEIGHTS, CARD = "package.json", "weights.safetensors", "model-card.md"
LARGEST_TEXT = 8 << 20
"""Bytes of a description or a card; more than any honest one has."""
AGAIN = "Fetch the package again from whoever made it"

State = Mapping[str, NDArray[Any]]


class ModelPackage:
    """A package that was found whole.

    Attributes:
        folder: of the package.
        description: all that ``package.json`` says.
        card: the model card, Markdown.
    """

    def __init__(self, folder: Path, description: PackageFile, card: str, state: State) -> None:
        self.folder = folder
        self.description = description
        self.card = card
        self._state = state

    @classmethod
    def open(cls, folder: Path, *, digest: str | None = None) -> ModelPackage:
        """Read a package and check every file that it names.

        Args:
            folder: of the package.
            digest: the one that its makers published; None: the package is only held against itself.

        Raises:
            StorageError: a file is missing, is no plain file, or does not match its digest.
            ConfigError: the folder holds no package, one of a later version, or one that contradicts itself.
        """
        description = _read_description(folder)
        if digest is not None and digest.strip().lower() != description.digest:
            raise StorageError(
                f"is not the package that was asked for: its digest is {description.digest}",
                where=str(folder),
                remedy=AGAIN,
            )
        for name, expected in sorted(description.files.items()):
            path = _plain_file(folder, name)
            if _file_digest(path) != expected:
                raise StorageError("does not match its digest", where=str(path), remedy=AGAIN)
        state, info = load_checkpoint(folder / WEIGHTS)
        _check_weights(folder, description, state, info)
        return cls(folder, description, _text(folder / CARD), state)

    @property
    def digest(self) -> str:
        """The package's name: SHA-256 over its description, which holds the digest of every file."""
        return self.description.digest

    @property
    def study(self) -> StudyConfig:
        """The arm's study: how images are prepared, and the model."""
        return self.description.study

    @property
    def arm(self) -> str:
        """Of the study."""
        return self.description.arm

    @property
    def threshold(self) -> float:
        """On the probability before recalibration; ``>=`` is positive."""
        return self.description.threshold.value

    @property
    def calibration(self) -> tuple[float, float] | None:
        """Intercept and slope on the logit; None where the run had nothing to fit them on."""
        found = self.description.calibration
        return None if found is None else (found.intercept, found.slope)

    @property
    def seen(self) -> Seen | None:
        """What the model saw in training."""
        return self.description.seen

    def model(self) -> Classifier:
        """A classifier of its own for every call, in evaluation mode.

        Raises:
            ConfigError: the weights are not those of the package's study.
        """
        from phcc_model.build import build_classifier, load_state

        model = build_classifier(self.study)
        try:
            load_state(model, self._state)
        except ContractError as error:
            raise ConfigError(error.what, where=str(self.folder / WEIGHTS), remedy=AGAIN) from error
        return model.eval()

    def calibrated(self, probability: float) -> float:
        """The probability after recalibration; the same one where there is none.

        Raises:
            ValueError: it is no probability.
        """
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"{probability} is no probability")
        if self.calibration is None:
            return probability
        intercept, slope = self.calibration
        return float(expit(intercept + slope * logit(min(max(probability, CLIP), 1.0 - CLIP))))


def write_package(
    folder: Path,
    study: StudyConfig,
    arm: str,
    state: State,
    *,
    stage_round: int,
    threshold: Threshold,
    calibration: Recalibration | None = None,
    calibration_note: str | None = None,
    seen: Seen | None = None,
    card: str,
    others: tuple[str, ...] = (),
) -> PackageFile:
    """Write a package; its description comes last, so that a folder without one is none.

    Args:
        folder: made if need be; files of a package that stand there are replaced.
        study: of the arm; the path of its data is left out.
        arm: its name.
        state: the classifier's arrays by name.
        stage_round: the chosen round, from 0.
        threshold: frozen in the run.
        calibration: where there is one.
        calibration_note: why there is none; with a calibration its source stands for it.
        seen: what the model saw in training.
        card: the model card, Markdown.
        others: files that stand in the folder already and belong to the package, relative to it.

    Returns:
        What ``package.json`` says.

    Raises:
        StorageError: the disk is full or not writable; there is no package then.
        ConfigError: the weights are not finite.
    """
    bad = sorted(name for name, array in state.items() if not np.isfinite(array).all())
    if bad:
        raise ConfigError(f"the array {bad[0]} is not finite", where=f"arm {arm}", remedy="Train it again")
    try:
        (folder / DESCRIPTION).unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder / DESCRIPTION, error) from error
    study = study.model_copy(update={"data": study.data.model_copy(update={"path": None})})
    weights = save_checkpoint(
        folder / WEIGHTS, state, CheckpointInfo(keys.FINETUNE, stage_round, study.digest)
    )
    write_atomically(folder / CARD, card)
    note = calibration_note or "The run holds no scores of validation patients to fit a recalibration on."
    description = PackageFile(
        software=keys.package_version(),
        arm=arm,
        study=study,
        study_digest=study.digest,
        weights_digest=weights,
        stage_round=stage_round,
        arrays=_notes(state),
        threshold=threshold,
        calibration=calibration,
        calibration_note=note if calibration is None else calibration.source,
        seen=seen,
        files={name: _file_digest(_plain_file(folder, name)) for name in sorted({WEIGHTS, CARD, *others})},
    ).sealed()
    write_atomically(folder / DESCRIPTION, description.model_dump_json(indent=1) + "\n")
    return description


def _read_description(folder: Path) -> PackageFile:
    path = folder / DESCRIPTION
    if not folder.is_dir() or not path.exists():
        raise ConfigError(
            "is no model package", where=str(folder), remedy="Give a folder that phcc-server export made"
        )
    try:
        plain = json.loads(_text(_plain_file(folder, DESCRIPTION)))
    except (ValueError, RecursionError) as error:
        raise StorageError("is damaged", where=str(path), remedy=AGAIN) from error
    found = plain.get("format") if isinstance(plain, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise ConfigError(
            f"this package has format {found}, this software reads format {FORMAT}",
            where=str(path),
            remedy=f"Install version {plain.get('software')} of this software or a later one"[:120],
        )
    if not isinstance(plain, dict) or plain.get("digest") != content_digest(plain):
        raise StorageError("does not match its digest", where=str(path), remedy=AGAIN)
    try:
        description = PackageFile.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])[:120]
        raise ConfigError(f"{key}: {first['msg']}", where=str(path), remedy=AGAIN) from error
    _check_description(path, description)
    return description


def _check_description(path: Path, description: PackageFile) -> None:
    lacking = [name for name in (WEIGHTS, CARD) if name not in description.files]
    if lacking:
        raise ConfigError(f"names no {lacking[0]}", where=str(path), remedy=AGAIN)
    if description.study.digest != description.study_digest:
        raise ConfigError("its study does not match its digest", where=str(path), remedy=AGAIN)


def _check_weights(folder: Path, said: PackageFile, state: State, info: CheckpointInfo) -> None:
    where = str(folder / WEIGHTS)
    if state_digest(state) != said.weights_digest or _notes(state) != said.arrays:
        raise ConfigError("holds other arrays than package.json names", where=where, remedy=AGAIN)
    if info.study_digest != said.study_digest:
        raise ConfigError("belongs to another study", where=where, remedy=AGAIN)
    if not all(np.isfinite(array).all() for array in state.values()):
        raise ConfigError("holds numbers that are not finite", where=where, remedy=AGAIN)


def _notes(state: State) -> tuple[ArrayNote, ...]:
    return tuple(ArrayNote(name=n, dtype=state[n].dtype.name, shape=state[n].shape) for n in sorted(state))


def _plain_file(folder: Path, name: str) -> Path:
    """The path of a file within the folder, reached without a link and open to reading without waiting."""
    path = folder
    try:
        for part in name.split("/"):
            path = path / part
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) if path == folder / name else stat.S_ISDIR(mode)):
                raise StorageError("is no plain file of the package", where=str(path), remedy=AGAIN)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError("is missing", where=str(folder / name), remedy=AGAIN) from error
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise storage_error(path, error) from error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise StorageError(f"is larger than {LARGEST_TEXT >> 20} MiB", where=str(path), remedy=AGAIN)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise storage_error(path, error) from error
    except UnicodeDecodeError as error:
        raise StorageError("is damaged", where=str(path), remedy=AGAIN) from error
