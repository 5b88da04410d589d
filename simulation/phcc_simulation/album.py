"""The slices that a simulated run keeps for its report: what autoencoders filled in, and the surest mistakes.

The cases of an autoencoder are the same for every arm and round, one of each centre's validation patients, with
the same patches hidden. The weights of the first round exist only until the second is kept: hence `Album.listen`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phcc_client.overlay import lesion_slices
from phcc_client.preparations import open_prepared
from phcc_client.session import Runtime
from phcc_model.arms import ArmPlan
from phcc_model.build import build_autoencoder, load_state
from phcc_model.cases import CaseSet
from phcc_model.checkpoint import load_checkpoint
from phcc_model.config import DataSettings
from phcc_model.contract import keys
from phcc_model.masking import patchify
from phcc_model.pretrain import SWFCMAE, Chance, Pictures
from phcc_model.seeds import derive_seed
from phcc_model.targets import patch_targets
from phcc_model.training.batches import Batch
from phcc_model.training.steps import evaluation_mode
from phcc_server.ledger import RoundRecord
from phcc_server.progress import pretrained_file
from phcc_server.report.kept import mistakes_file, reconstruction_file
from phcc_server.report.photographs import fidelity
from phcc_server.report.schema import Failure
from phcc_server.report.slices import Slices, save_slices
from phcc_server.store import RunStore
from phcc_simulation.workspace import Workspace

MOST_CASES = 3


@dataclass(frozen=True)
class Album:
    """Keeps what an arm's autoencoder fills in after its first and its last round.

    Args:
        checkpoints: of the run.
        plan: the arm.
        workspace: the run's folder, prepared for the arm.
        runtime: device.
    """

    checkpoints: Path
    plan: ArmPlan
    workspace: Workspace
    runtime: Runtime

    def listen(self, record: RoundRecord) -> None:
        """Take the pictures of the first round, as soon as it is kept.

        Raises:
            DataError: a case or the checkpoint cannot be read.
            StorageError: the disk is full or not writable.
        """
        if (record.stage, record.round) != (keys.PRETRAIN, 0) or record.status.value == "FAILED":
            return
        latest = RunStore(self.checkpoints, self.plan.study.digest).latest(self.plan.name)
        if latest is not None and (latest.info.stage, latest.info.round_index) == (keys.PRETRAIN, 0):
            self._take(0, latest.arrays)

    def finish(self, rounds: Sequence[RoundRecord]) -> None:
        """Take the pictures of the last round, where the arm had a pre-training of its own.

        Args:
            rounds: the arm's.

        Raises:
            DataError: a case or the checkpoint cannot be read.
            StorageError: the disk is full or not writable.
        """
        last = self.plan.study.pretrain.rounds - 1
        own = any(record.stage == keys.PRETRAIN for record in rounds)
        path = pretrained_file(self.checkpoints, self.plan)
        if own and path.exists() and not self._file(last).exists():
            self._take(last, load_checkpoint(path)[0])

    def _file(self, round_index: int) -> Path:
        return reconstruction_file(self.workspace.out, self.plan.name, round_index)

    def _take(self, round_index: int, weights: Mapping[str, NDArray[Any]]) -> None:
        named = fixed_cases(self.plan, self.workspace)
        if not named:
            return
        study = self.plan.study
        model = build_autoencoder(study)
        load_state(model, weights)
        kept = reconstruct(
            model, CaseSet.join([cases for _, cases in named]), study.seed, self.runtime.device
        )
        about = _about(study.data) | {
            "arm": self.plan.name,
            "round": round_index,
            "objective": study.pretrain.target,
        }
        save_slices(
            self._file(round_index),
            [
                Slices({**about, **one.said, "centre": centre}, one.arrays)
                for (centre, _), one in zip(named, kept, strict=True)
            ],
        )


def fixed_cases(plan: ArmPlan, workspace: Workspace) -> list[tuple[str, CaseSet]]:
    """One case of each centre, of the first centres by name: a validation patient's, or else a test patient's."""
    found = []
    for centre in sorted(workspace.splits.centres):
        site = open_prepared(workspace.site(centre), plan.study, centre, workspace.study)
        cases = next((cases for split in ("validation", "test") if len(cases := site.load(split))), None)
        if cases is not None:
            found.append((centre, cases.take([min(range(len(cases)), key=lambda at: cases.case[at])])))
    return found[:MOST_CASES]


def reconstruct(model: SWFCMAE, cases: CaseSet, seed: int, device: str) -> list[Slices]:
    """Cases with patches hidden, filled in: the crop's middle slice, and how well the whole of it was done.

    Agreement and spread are taken in the units that the network is trained to predict, over hidden patches that
    count in its loss: in units of the image, patch means taken from the target would look like skill.

    Args:
        model: a masked autoencoder.
        cases: what to fill in.
        seed: of the study; the masks follow from it.
        device: where to compute.
    """
    at = torch.device(device)
    batch = Batch.of(cases, np.arange(len(cases)), at)
    d, h, w = batch.volumes_bpdhw.shape[2:]
    masks = torch.Generator().manual_seed(derive_seed(seed, keys.PRETRAIN, "pictures"))
    visible = model.draw_mask(len(cases), (d, h, w), masks)
    with evaluation_mode(model, at):
        result = model(batch.volumes_bpdhw, batch.present_bp, Chance(visible), pictures=True)
        assert result.pictures is not None
        told = _fidelities(model, batch, visible, result.pictures)
    predicted = result.pictures.prediction_bpdhw.cpu().numpy()
    seen = result.pictures.visible_bpdhw.cpu().numpy()
    return [
        Slices(
            {
                "case": cases.case[i],
                "present": cases.present_np[i].tolist(),
                "agreement": agreement,
                "spread": spread,
            },
            {
                "target": cases.volumes_npdhw[i, :, d // 2],
                "visible": np.asarray(seen[i, :, d // 2], dtype=np.uint8),
                "prediction": predicted[i, :, d // 2].astype(np.float32),
            },
        )
        for i, (agreement, spread) in enumerate(told)
    ]


def _fidelities(
    model: SWFCMAE, batch: Batch, visible_bpdhw: torch.Tensor, pictures: Pictures
) -> list[tuple[float | None, float]]:
    targets = patch_targets(
        batch.volumes_bpdhw, batch.present_bp, model.encoder.patch, model.objective.target
    )
    b, p = batch.present_bp.shape
    cut = patchify(pictures.prediction_bpdhw.flatten(0, 1)[:, None], model.encoder.patch)
    predicted = (cut.view(b, p, *cut.shape[1:]) - targets.mean_bpk1) / targets.std_bpk1
    hidden = ~visible_bpdhw.flatten(2).to(targets.useful_bpk.device) & targets.useful_bpk
    aside = (~hidden)[..., None].expand_as(predicted).cpu().numpy()
    x, y = targets.values_bpkv.cpu().numpy(), predicted.cpu().numpy()
    return [fidelity(x[i], aside[i], y[i]) for i in range(b)]


def keep_mistakes(failures: Sequence[Failure], workspace: Workspace) -> None:
    """Keep the middle slice of the lesion of each of the surest mistakes, all phases of the study.

    Raises:
        DataError: a case cannot be read.
        StorageError: the disk is full or not writable.
    """
    study = workspace.study
    kept = []
    for failure in failures:
        site = open_prepared(workspace.site(failure.centre), study, failure.centre, study)
        cases = site.load("test")
        at = cases.case.index(failure.case)
        middle = lesion_slices(cases.lesion_ndhw[at], 1)[0]
        kept.append(
            Slices(
                _about(study.data)
                | {
                    "case": failure.case,
                    "centre": failure.centre,
                    "present": cases.present_np[at].tolist(),
                },
                {
                    "slice": cases.volumes_npdhw[at, :, middle],
                    "lesion": cases.lesion_ndhw[at, middle],
                },
            )
        )
    save_slices(mistakes_file(workspace.out), kept)


def _about(data: DataSettings) -> dict[str, Any]:
    _, down, across = data.crop.spacing_mm
    return {"phases": list(data.phases), "aspect": down / across}
