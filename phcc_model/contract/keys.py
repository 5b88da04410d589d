"""Every string that stands on the wire between coordinator and hospital, once.

Whoever changes a name, a type or a meaning in `phcc_model.contract` raises `CONTRACT_VERSION`: both sides
compare it before they read anything else.
"""

from __future__ import annotations

import importlib.metadata
from typing import Final, Literal

CONTRACT_VERSION: Final = 3
DISTRIBUTION: Final = "phcc-ssl-federated"

Stage = Literal["pretrain", "finetune"]
PRETRAIN: Final = "pretrain"
FINETUNE: Final = "finetune"
STAGES: Final = (PRETRAIN, FINETUNE)
"""In the order in which a study runs them."""

TRAIN: Final = "train"
VALIDATION: Final = "validation"
TEST: Final = "test"
SPLITS: Final = (TRAIN, VALIDATION, TEST)

Encoding = Literal["fp32", "fp16", "int8"]
FP32: Final = "fp32"
FP16: Final = "fp16"
INT8: Final = "int8"
ENCODINGS: Final = (FP32, FP16, INT8)

CHANGE: Final = "change"
"""Array of a reply: the coded change of all shared float32 weights."""
SCALES: Final = "change.scales"
"""Array of a reply: what the codes of fp16 and int8 are multiplied by."""
REPLACE: Final = "replace."
"""Prefix of a reply's arrays of other dtypes, e.g. ``replace.int64``: these travel whole, not as a change."""

CONTROL: Final = "control"
"""Array of an order under SCAFFOLD: the mean control variate, see `phcc_model.contract.control`."""
CONTROL_ROUND: Final = "control.round"
"""Array of an order under SCAFFOLD: the last round whose reply of this site is in that mean."""
OF_CONTROL: Final = "control."
"""Prefix of a reply's arrays under SCAFFOLD: ``control.change``, ``control.change.scales``."""

FLOAT: Final = "float32"
"""Array of an order: the shared weights; arrays of an order are named by their dtype."""

METRICS: Final = frozenset(
    {
        "loss",
        "weighted_loss",
        "effective_sample_size",
        "decorrelation_weighted",
        "decorrelation_uniform",
        "effective_rank",
        "auc_training",
        "change_norm",
    }
)
"""The only measures of training that may leave a hospital; one that is not defined is left out, never NaN."""

ASIDE: Final = (
    "unreadable",
    "not-mr-liver",
    "phases-incomplete",
    "no-lesion",
    "unusable",
    "not-prepared",
)
"""Why patients of a hospital are not in a study: a patient counts once, by the first reason on the way in."""

WAITING: Final = "waiting"
TRAINING: Final = "training"
UNKNOWN: Final = "unknown"
WORK_STATES: Final = (WAITING, TRAINING, UNKNOWN)
"""How far a site has come with an order: not begun, at it, or (after a loss of its disk) never heard of it."""

REMARKS: Final = frozenset({"notice"})
"""Fields of an order that are said along with it and change nothing in what it asks for."""

FAILURE_CODES: Final = frozenset(
    {"config", "data", "contract", "version", "training", "storage", "policy", "internal"}
)
"""Why a site did not do what it was asked, in one word."""


def package_version() -> str:
    """The version of this project as it is installed here."""
    return importlib.metadata.version(DISTRIBUTION)
