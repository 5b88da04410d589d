"""The schema of a study: one YAML file, one frozen model, every unknown key refused by name.

`load_study` reads a file, applies ``key.path=value`` overrides and validates. `StudyConfig.digest` names what
was configured; it covers everything except where the data lie on this machine.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from phcc_model.federation import FederationSettings as FederationSettings
from phcc_model.section import Fraction as Fraction
from phcc_model.section import Positive as Positive
from phcc_model.section import Section as Section
from phcc_model.section import Triple as Triple

PHASES = ("pre-contrast", "arterial", "portal-venous", "delayed", "hepatobiliary", "image")
"""The phases a study may name, in the order of acquisition; ``image`` stands for data with a single image."""

Phase = Literal["pre-contrast", "arterial", "portal-venous", "delayed", "hepatobiliary", "image"]

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "demo": ((1, 1, 2), (24, 48, 96)),
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
}
"""Depths and widths of the encoder's stages: ConvNeXt V2's published sizes, and ours for two cores."""


class PhantomSettings(Section):
    """How many synthetic patients, and how hard they are (METHOD: phantom; [R] our construction).

    Everything physical (kinetics, scanners, anatomy) lives with the phantom; only what a study varies is here.
    """

    patients: int = Field(400, ge=4, description="patients of the training centres together")
    external_patients: int = Field(200, ge=0, description="patients of the external centre")
    training_centres: int = Field(3, ge=1, le=6)
    seed: int = 0
    prevalence: Fraction = 0.42
    sign_given_negative: Fraction = 0.23
    sign_given_positive: Fraction = 0.67
    afp_effect: float = 0.54
    size_effect: float = 0.30
    mimic_probability: Fraction = 0.25
    noise_scale: Positive = 1.0
    scanners: Literal["first", "second"] = Field(
        "first", description="second: the scanners of the phantom that judges; at most four training centres"
    )

    @model_validator(mode="after")
    def _second_has_four(self) -> PhantomSettings:
        if self.scanners == "second" and self.training_centres > 4:
            raise ValueError("scanners second has 4 training centres, set training_centres to 4 or fewer")
        return self

    @model_serializer(mode="wrap")
    def _first_is_unsaid(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The key was added later: unsaid, it changes neither a study's name nor a phantom's files."""
        values: dict[str, Any] = plain(self)
        if values.get("scanners") == "first":
            values.pop("scanners")
        return values


class CropSettings(Section):
    """The region of interest that is cut around a lesion, on a grid of its own (D, H, W)."""

    size: Triple = (12, 48, 48)
    spacing_mm: tuple[Positive, Positive, Positive] = (3.0, 1.6, 1.6)


class CentreSettings(Section):
    """How patients are dealt to virtual centres (simulation only)."""

    mode: Literal["by-centre", "iid", "dirichlet", "quantity", "scanner"] = "by-centre"
    count: int = Field(3, ge=1, description="virtual centres, for every mode that makes them")
    alpha: Positive = 0.5
    external: tuple[str, ...] = Field((), description="centres of the data kept out of training altogether")
    leave_out: str | None = Field(None, description="leave-one-centre-out: this one becomes external")


class SplitSettings(Section):
    """Shares of each training centre's patients; always by patient, stratified by label."""

    test: Fraction = 0.25
    validation: Fraction = 0.15

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitSettings:
        if self.test + self.validation >= 1.0:
            raise ValueError("test + validation must leave patients to train on (sum below 1)")
        return self


class DataSettings(Section):
    """Where the data come from and how a case is prepared."""

    source: Literal["phantom", "lld-raw", "lld-crops", "nifti-csv", "medmnist"] = "phantom"
    path: str | None = Field(None, description="folder or file; not part of the study's digest")
    phases: tuple[Phase, ...] = ("pre-contrast", "arterial", "portal-venous", "delayed")
    required_phases: tuple[Phase, ...] = Field((), description="a case without one of these is set aside")
    label: str = Field("proliferative", description="column or attribute that holds the label")
    outcome: str = Field(
        "",
        max_length=200,
        pattern=r"^[^\n\r]*$",
        description="what the score is the probability of, as a clause; empty: known from label and source",
    )
    crop: CropSettings = CropSettings()
    normalisation: Literal["log-ratio", "own-liver", "z-score", "signed-distance", "none"] = "log-ratio"
    smoothing_voxels: float = Field(
        0.6, ge=0.0, description="in-plane Gaussian before a logarithm, in voxels"
    )
    clip: Positive = 2.5
    centres: CentreSettings = CentreSettings()
    split: SplitSettings = SplitSettings()
    phantom: PhantomSettings = PhantomSettings()

    @model_validator(mode="after")
    def _phases_are_a_set(self) -> DataSettings:
        if len(set(self.phases)) != len(self.phases) or not self.phases:
            raise ValueError("phases must be named once each, and at least one")
        if list(self.phases) != sorted(self.phases, key=PHASES.index):
            raise ValueError(f"phases must stand in the order of acquisition: {', '.join(PHASES)}")
        if not set(self.required_phases) <= set(self.phases):
            raise ValueError("required_phases must be among phases")
        return self


class ClassifierSettings(Section):
    """From one map per phase to one score (METHOD: stage 2 [R])."""

    pooling: Literal[
        "gap",
        "lesion",
        "gap+lesion",
        "gap+lesion+spread",
        "gap+lesion+rim+core",
        "gap+lesion+rim+core+spread",
    ] = Field(
        "gap",
        description="means over the crop, the lesion, its rim and its core, and the spread within the lesion",
    )
    feature_norm: Literal["batch", "layer"] = Field(
        "batch",
        description="batch: what all cases share is taken off a pooled feature; layer: METHOD's plain form",
    )
    features: tuple[Literal["absolute", "difference", "relative"], ...] = (
        "absolute",
        "difference",
        "relative",
    )
    fusion: Literal["attention", "concat", "mean"] = "attention"
    width: int = Field(64, ge=4)
    layers: int = Field(1, ge=1, le=4)
    heads: int = Field(4, ge=1)
    dropout: Fraction = 0.2


class ModelSettings(Section):
    """The encoder, shared by both stages, and the decoder of the first."""

    encoder: Literal["convnext", "plain"] = Field(
        "convnext", description="plain: a small network of convolutions, a baseline; stage 2 only"
    )
    size: Literal["demo", "atto", "femto", "pico", "nano", "tiny", "custom"] = "demo"
    depths: tuple[int, ...] | None = Field(None, description="custom size only")
    dims: tuple[int, ...] | None = Field(None, description="custom size only")
    stem: Triple = (1, 2, 2)
    downsample: tuple[Triple, ...] = ((1, 2, 2), (2, 2, 2))
    kernel: Triple = (3, 5, 5)
    drop_path: Fraction = 0.0
    phases: Literal["shared", "joint"] = Field(
        "shared", description="one encoder per phase, or phases as channels"
    )
    decoder_width: int = Field(64, ge=4)
    decoder_depth: int = Field(1, ge=1)
    masking: Literal["auto", "packed", "dense"] = "auto"
    classifier: ClassifierSettings = ClassifierSettings()

    @property
    def stages(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Depths and widths of the encoder's stages."""
        if self.size != "custom":
            return SIZES[self.size]
        assert self.depths is not None
        assert self.dims is not None
        return self.depths, self.dims

    @property
    def patch(self) -> tuple[int, int, int]:
        """Voxels of one cell of the last map (D, H, W): the total stride, and the unit of masking."""
        d, h, w = self.stem
        for step in self.downsample:
            d, h, w = d * step[0], h * step[1], w * step[2]
        return d, h, w

    @model_validator(mode="after")
    def _stages_fit(self) -> ModelSettings:
        if self.size == "custom":
            if not self.depths or not self.dims or len(self.depths) != len(self.dims):
                raise ValueError("size custom needs depths and dims, one number per stage each")
        elif self.depths is not None or self.dims is not None:
            raise ValueError("depths and dims are for size custom")
        stages = len(self.stages[0])
        if len(self.downsample) != stages - 1:
            raise ValueError(
                f"{stages} stages need {stages - 1} downsample steps, not {len(self.downsample)}"
            )
        if any(k % 2 == 0 for k in self.kernel):
            raise ValueError("kernel must be odd along every axis")
        if self.classifier.width % self.classifier.heads:
            raise ValueError("classifier.width must be a multiple of classifier.heads")
        return self


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
    target: Literal["norm-pix", "raw", "norm-across-phases"] = "norm-pix"
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
    ("pretrain", "mask_block", [1, 1, 1]),
    ("pretrain", "round_warmup", 0.0),
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
    for section, key, usual in _ADDED_LATER:
        if section in plain and plain[section][key] == usual:
            plain[section].pop(key)


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
