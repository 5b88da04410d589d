"""The schema of a study: one YAML file, one frozen model, every unknown key refused by name.

`load_study` reads a file, applies ``key.path=value`` overrides and validates. `StudyConfig.digest` names what
was configured; it covers everything except where the data lie on this machine.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, model_validator

from phcc_model.data_settings import PHASES as PHASES
from phcc_model.data_settings import CentreSettings as CentreSettings
from phcc_model.data_settings import CropSettings as CropSettings
from phcc_model.data_settings import DataSettings as DataSettings
from phcc_model.data_settings import PhantomSettings as PhantomSettings
from phcc_model.data_settings import Phase as Phase
from phcc_model.data_settings import SplitSettings as SplitSettings
from phcc_model.federation import FederationSettings as FederationSettings
from phcc_model.model_settings import SIZES as SIZES
from phcc_model.model_settings import ClassifierSettings as ClassifierSettings
from phcc_model.model_settings import ModelSettings as ModelSettings
from phcc_model.section import Fraction as Fraction
from phcc_model.section import Positive as Positive
from phcc_model.section import Section as Section
from phcc_model.section import Triple as Triple


class WeightingSettings(Section):
    """Sample weights that decorrelate the features (METHOD 3 [R], after StableNet)."""

    mode: Literal["uniform", "decorrelate"] = "decorrelate"
    penalty: Positive = Field(0.5, description="lambda: the larger, the nearer to uniform")
    fourier_features: int = Field(5, ge=1, description="k random Fourier channels per feature")
    feature_dims: int = Field(32, ge=2, description="features kept for the covariance, drawn by seed")
    steps: int = Field(20, ge=1)
    learning_rate: Positive = Field(0.3, description="in units of the uniform weight")
    maximum: float = Field(3.0, ge=1.0, description="no sample weighs more than this many times uniform")
    memory: Fraction = Field(
        0.9, description="share of the running mean kept by the memory of earlier batches"
    )
    uniform_fraction: Fraction = Field(
        0.1, description="first share of the pre-training with uniform weights"
    )


class PretrainSettings(Section):
    """Stage 1, SW-FCMAE."""

    rounds: int = Field(10, ge=0)
    local_epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1)
    mask_ratio: float = Field(0.6, gt=0.0, lt=1.0)
    mask_block: Triple = Field((1, 1, 1), description="cells along D, H, W that are masked together")
    mask_phases: Literal["same", "independent"] = Field(
        "same", description="one mask for all phases of a case?"
    )
    target: Literal["norm-pix", "raw", "norm-across-phases", "norm-volume", "enhancement"] = "norm-pix"
    learning_rate: Positive = Field(1.5e-3, description="peak; AdamW (0.9, 0.95)")
    weight_decay: float = Field(0.05, ge=0.0)
    warmup: Fraction = 0.1
    round_warmup: Fraction = Field(
        0.0, description="share of each round's steps in which a site's rate climbs from zero"
    )
    bf16: bool = False
    flips: bool = True
    weighting: WeightingSettings = WeightingSettings()


class AugmentationSettings(Section):
    """What is done to a training case of stage 2, by seed."""

    flip: bool = True
    rotation_degrees: float = Field(10.0, ge=0.0)
    scale: float = Field(0.08, ge=0.0, lt=1.0)
    shift_voxels: float = Field(2.0, ge=0.0)
    intensity: float = Field(0.08, ge=0.0, description="sd of a gain and an offset per phase")
    noise: float = Field(0.03, ge=0.0)
    phase_dropout: Fraction = Field(
        0.05, description="probability that a phase is hidden, never the last one"
    )


class FinetuneSettings(Section):
    """Stage 2, the classifier."""

    rounds: int = Field(12, ge=1)
    local_epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: Positive = 1e-3
    layer_decay: float = Field(0.8, gt=0.0, le=1.0)
    weight_decay: float = Field(0.05, ge=0.0)
    warmup: Fraction = 0.1
    freeze_encoder_rounds: int = Field(0, ge=0)
    positive_weight: Literal["balanced", "none"] = "balanced"
    label_fraction: float = Field(1.0, gt=0.0, le=1.0)
    find_weight: float = Field(
        1.0, ge=0.0, description="of the error of looking beside the lesion, for pooling found"
    )
    find_moved: Fraction = Field(
        0.0,
        description="share of a batch that is seen once more with all in its crop moved, to be found there, not "
        "scored: lesions lie in the middle of their crops, and what should know a lesion may learn the place",
    )
    patience: int = Field(0, ge=0, description="rounds without better validation before stopping; 0 = never")
    bf16: bool = False
    augmentation: AugmentationSettings = AugmentationSettings()


class EvaluationSettings(Section):
    """What is compared, and how sure one wants to be."""

    arms: tuple[str, ...] = ("full", "no-pretraining", "afp")
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    bootstrap: int = Field(1000, ge=0)


_ADDED_LATER = (
    ("data", "outcome", ""),
    ("model", "encoder", "convnext"),
    ("model.classifier", "projection", "common"),
    ("model.classifier", "look", "own"),
    ("pretrain", "mask_block", [1, 1, 1]),
    ("pretrain", "round_warmup", 0.0),
    ("finetune", "find_weight", 1.0),
    ("finetune", "find_moved", 0.0),
    ("federation", "server_learning_rate", 0.01),
    ("federation", "server_betas", [0.9, 0.99]),
    ("federation", "server_tau", 1e-3),
    ("federation", "ema_tau", 0.7),
)
"""Section, key and usual value of what a study could not say at first: unsaid, it changes no study's name."""


def leave_unsaid(plain: dict[str, dict[str, Any]]) -> None:
    """Take what was added later out of a study's plain form, wherever it has its usual value.

    Args:
        plain: sections of a study by name, as JSON has them; changed in place.
    """
    for path, key, usual in _ADDED_LATER:
        section: dict[str, Any] = plain
        for name in path.split("."):
            section = section.get(name, {})
        if section.get(key) == usual:
            section.pop(key)


class StudyConfig(Section):
    """One study, whole."""

    name: str = Field("study", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    seed: int = Field(0, ge=0)
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    pretrain: PretrainSettings = PretrainSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    federation: FederationSettings = FederationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _crop_fits_the_patch(self) -> StudyConfig:
        for axis, size, unit in zip("DHW", self.data.crop.size, self.model.patch, strict=True):
            if size % unit:
                raise ValueError(
                    f"data.crop.size along {axis} is {size}, not a multiple of the model's patch {unit}"
                )
        return self

    @model_validator(mode="after")
    def _plain_is_not_pretrained(self) -> StudyConfig:
        if self.model.encoder == "plain" and self.pretrain.rounds:
            raise ValueError("model.encoder plain cannot be pre-trained: set pretrain.rounds to 0")
        return self

    def moved_of(self, cases: int) -> int:
        """How many of a batch of so many cases are seen once more, moved (`finetune.find_moved`)."""
        return round(self.finetune.find_moved * cases) if self.model.classifier.looks else 0

    @property
    def maps_follow(self) -> bool:
        """Whether such networks' heat maps followed a lesion that was moved (synthetic; DECISIONS 48, 53, 54)."""
        if not self.model.classifier.looks:
            return False
        together = self.model.classifier.look == "common" and self.finetune.find_moved > 0
        return self.model.phases == "joint" or together

    @property
    def grid(self) -> tuple[int, int, int]:
        """Cells of the encoder's last map (D, H, W)."""
        d, h, w = (size // unit for size, unit in zip(self.data.crop.size, self.model.patch, strict=True))
        return d, h, w

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, without the path of the data on this machine."""
        plain = self.model_dump(mode="json")
        plain["data"].pop("path")
        leave_unsaid(plain)
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
