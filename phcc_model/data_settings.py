"""Which data a study uses, how patients are dealt and how a case is prepared: part of a study's schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from phcc_model.section import Fraction, Positive, Section, Triple

PHASES = ("pre-contrast", "arterial", "portal-venous", "delayed", "hepatobiliary", "image")
"""The phases a study may name, in the order of acquisition; ``image`` stands for data with a single image."""

Phase = Literal["pre-contrast", "arterial", "portal-venous", "delayed", "hepatobiliary", "image"]


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
