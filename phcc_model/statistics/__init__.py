"""How good, and how sure: discrimination, calibration, use and operating points of scored cases.

Plain functions of arrays. Whatever is not defined (one class only, no cases) comes back as None with the
reason in words, never as 0.5, NaN or a crash; input that cannot be used raises `phcc_model.errors.DataError`.
"""

from __future__ import annotations

from phcc_model.statistics.bootstrap import BootstrapInterval, bootstrap_auc, bootstrap_difference
from phcc_model.statistics.calibration import Calibration, CalibrationBin, Coefficient, assess_calibration
from phcc_model.statistics.decision import DecisionCurve, decision_curve
from phcc_model.statistics.delong import AucEstimate, PairedDifference, auc_interval, paired_delong
from phcc_model.statistics.gap import Gap, auc_gap
from phcc_model.statistics.hierarchical import OverRuns, RunScores, over_runs
from phcc_model.statistics.intervals import Proportion, exact_proportion, newcombe_auc_interval
from phcc_model.statistics.meta import Pooled, pool, pool_aucs
from phcc_model.statistics.operating import OperatingPoint, f1_score, operating_point
from phcc_model.statistics.precision_recall import PrecisionRecall, precision_recall
from phcc_model.statistics.predictive import PredictiveValues, predictive_values
from phcc_model.statistics.roc import RocCurve, auc, roc_curve, youden_threshold
from phcc_model.statistics.samples import FEW_PATIENTS, TOO_FEW_PATIENTS, Sample, sample
from phcc_model.statistics.subgroups import Subgroup, Subgroups, assess_subgroups

__all__ = [
    "FEW_PATIENTS",
    "TOO_FEW_PATIENTS",
    "AucEstimate",
    "BootstrapInterval",
    "Calibration",
    "CalibrationBin",
    "Coefficient",
    "DecisionCurve",
    "Gap",
    "OperatingPoint",
    "OverRuns",
    "PairedDifference",
    "Pooled",
    "PrecisionRecall",
    "PredictiveValues",
    "Proportion",
    "RocCurve",
    "RunScores",
    "Sample",
    "Subgroup",
    "Subgroups",
    "assess_calibration",
    "assess_subgroups",
    "auc",
    "auc_gap",
    "auc_interval",
    "bootstrap_auc",
    "bootstrap_difference",
    "decision_curve",
    "exact_proportion",
    "f1_score",
    "newcombe_auc_interval",
    "operating_point",
    "over_runs",
    "paired_delong",
    "pool",
    "pool_aucs",
    "precision_recall",
    "predictive_values",
    "roc_curve",
    "sample",
    "youden_threshold",
]
