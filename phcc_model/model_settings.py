"""The network of a study: encoder, decoder and classifier; part of a study's schema."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from phcc_model.section import Fraction, Section, Triple

FOUND = "found"
"""The part of a pooling that is over what the network finds by itself."""

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "demo": ((1, 1, 2), (24, 48, 96)),
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
}
"""Depths and widths of the encoder's stages: ConvNeXt V2's published sizes, and ours for two cores."""


class ClassifierSettings(Section):
    """From one map per phase to one score (METHOD: stage 2 [R])."""

    pooling: Literal[
        "gap",
        "lesion",
        "gap+lesion",
        "gap+lesion+spread",
        "gap+lesion+rim+core",
        "gap+lesion+rim+core+spread",
        "found",
        "found+spread",
        "gap+found+spread",
    ] = Field(
        "gap",
        description="means over the crop, the lesion, its rim and its core, and the spread within the lesion; "
        "found: over what the network finds by itself",
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
    projection: Literal["common", "per-phase"] = Field(
        "common",
        description="before attention or mean: all phases through one linear layer, METHOD's plain form, or each "
        "through its own; through one, what tells phases apart is an embedding that is small at first",
    )
    look: Literal["own", "common"] = Field(
        "own",
        description="where phases are encoded one by one and the lesion is found: own, each by what it shows; "
        "common, all of a case by what they show together, since a lesion that one hides another shows",
    )
    width: int = Field(64, ge=4)
    layers: int = Field(1, ge=1, le=4)
    heads: int = Field(4, ge=1)
    dropout: Fraction = 0.2

    @property
    def looks(self) -> bool:
        """Whether the network looks for the lesion by itself."""
        return FOUND in self.pooling.split("+")


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
