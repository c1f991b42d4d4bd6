"""Training and evaluation of any forecaster that is a pure function of its params."""

from tsjax.forecaster import Forecaster
from tsjax.training.checkpoints import restore, restore_sparse, save, save_sparse
from tsjax.training.evaluation import (
    Metrics,
    evaluate,
    evaluate_many,
    predict,
    repeat_last,
    seasonal_naive,
)
from tsjax.training.lanes import Lane, fit_many
from tsjax.training.loop import Epoch, Fitted, fit
from tsjax.training.schedule import FitConfig, steps_per_epoch
from tsjax.training.steps import TrainState, eval_step, init_state, predict_step, train_step
from tsjax.training.windows import Batch, Windows

__all__ = [
    "Batch",
    "Epoch",
    "FitConfig",
    "Fitted",
    "Forecaster",
    "Lane",
    "Metrics",
    "TrainState",
    "Windows",
    "eval_step",
    "evaluate",
    "evaluate_many",
    "fit",
    "fit_many",
    "init_state",
    "predict",
    "predict_step",
    "repeat_last",
    "restore",
    "restore_sparse",
    "save",
    "save_sparse",
    "seasonal_naive",
    "steps_per_epoch",
    "train_step",
]
