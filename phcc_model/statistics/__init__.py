"""How good, and how sure: discrimination, calibration and operating points of scored cases.

Plain functions of arrays. Whatever is not defined (one class only, no cases) comes back as None with the
reason in words, never as 0.5, NaN or a crash; input that cannot be used raises `phcc_model.errors.DataError`.
"""

from __future__ import annotations

from phcc_model.statistics.bootstrap import BootstrapInterval, bootstrap_auc, bootstrap_difference
from phcc_model.statistics.calibration import Calibration, CalibrationBin, Coefficient, assess_calibration
from phcc_model.statistics.delong import AucEstimate, PairedDifference, auc_interval, paired_delong
from phcc_model.statistics.intervals import Proportion, exact_proportion, newcombe_auc_interval
from phcc_model.statistics.operating import OperatingPoint, operating_point
from phcc_model.statistics.roc import RocCurve, auc, roc_curve, youden_threshold
from phcc_model.statistics.samples import FEW_PATIENTS, TOO_FEW_PATIENTS, Sample, sample

__all__ = [
    "FEW_PATIENTS",
    "TOO_FEW_PATIENTS",
    "AucEstimate",
    "BootstrapInterval",
    "Calibration",
    "CalibrationBin",
    "Coefficient",
    "OperatingPoint",
    "PairedDifference",
    "Proportion",
    "RocCurve",
    "Sample",
    "assess_calibration",
    "auc",
    "auc_interval",
    "bootstrap_auc",
    "bootstrap_difference",
    "exact_proportion",
    "newcombe_auc_interval",
    "operating_point",
    "paired_delong",
    "roc_curve",
    "sample",
    "youden_threshold",
]
