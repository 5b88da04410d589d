"""One site's work in one round, and scores: model, cases and settings in, a result out."""

from phcc_model.training.finetuning import FinetuneRoundResult, finetune_round
from phcc_model.training.labels import label_subset, positive_weight
from phcc_model.training.predict import predict
from phcc_model.training.pretraining import (
    PretrainRoundResult,
    effective_rank,
    pretrain_loss,
    pretrain_round,
)
from phcc_model.training.progress import Progress, ProgressListener

__all__ = [
    "FinetuneRoundResult",
    "PretrainRoundResult",
    "Progress",
    "ProgressListener",
    "effective_rank",
    "finetune_round",
    "label_subset",
    "positive_weight",
    "predict",
    "pretrain_loss",
    "pretrain_round",
]
