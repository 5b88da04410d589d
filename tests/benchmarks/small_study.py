"""A few synthetic patients of the demo's study, prepared as a simulation prepares them: two training centres."""

from __future__ import annotations

from pathlib import Path

from bench import ROOT

from phcc_model.config import StudyConfig
from phcc_model.study_file import load_study
from phcc_simulation.workspace import Preparer, Workspace

FEW = (
    "data.phantom.training_centres=2",
    "data.phantom.external_patients=0",
    "data.centres.external=[]",
    "pretrain.batch_size=4",
    "federation.minimum_sites=1",
    "evaluation.arms=[full]",
)
TINY = (
    "data.phantom.patients=12",
    "data.crop.size=[6, 16, 16]",
    "data.crop.spacing_mm=[6.0, 4.8, 4.8]",
    "model.size=custom",
    "model.depths=[1, 1]",
    "model.dims=[8, 16]",
    "model.stem=[1, 2, 2]",
    "model.downsample=[[2, 2, 2]]",
    "model.decoder_width=16",
)


def small_study(tiny: bool, *changes: str) -> StudyConfig:
    """The demo's study with 24 patients, or with a network and crops that train in milliseconds."""
    sizes = TINY if tiny else ("data.phantom.patients=24",)
    return load_study(ROOT / "configs" / "demo.yaml", [*FEW, *sizes, *changes])


def prepared(study: StudyConfig, out: Path) -> Workspace:
    """The run's folder, ready."""
    out.mkdir(parents=True, exist_ok=True)
    return Preparer(out, 1, lambda _what, _done, _total: None).prepare(study)
