"""The study that an order asks for, read without torch: the desk needs it as well as the worker."""

from __future__ import annotations

import functools

from phcc_model.arms import arm_study
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.messages import CardOrder, EvaluateOrder, TrainOrder
from phcc_model.contract.wire import check_package
from phcc_model.errors import VersionMismatch
from phcc_model.study_file import parse_study


def study_of(order: CardOrder | TrainOrder | EvaluateOrder) -> StudyConfig:
    """What an order's arm runs, if the study that it carries is the one that it names.

    Raises:
        VersionMismatch: it is not, or the other side runs another version.
        ConfigError: the study is not valid, or has no such arm.
    """
    check_package(order.package, keys.package_version(), where=type(order).__name__)
    return arm_study(asked_of(order), order.arm)


def asked_of(order: CardOrder | TrainOrder | EvaluateOrder) -> StudyConfig:
    """The study that an order carries, with all of its arms.

    Raises:
        VersionMismatch: it is not the one that the order names.
        ConfigError: it is not valid.
    """
    study = _parsed(order.study)
    if study.digest != order.study_digest:
        raise VersionMismatch(
            "the study is not the one that the order names", where="study", remedy="Ask the coordinator"
        )
    return study


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> StudyConfig:
    """The text comes with every order of a study, and reading YAML takes longer than a small model's step."""
    return parse_study(text, where="the order's study")
