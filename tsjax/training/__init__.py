"""Training and evaluation of any forecaster that is a pure function of its params."""

from tsjax.training.checkpoints import restore, save
from tsjax.training.evaluation import Metrics, evaluate, predict, repeat_last, seasonal_naive
from tsjax.training.loop import Epoch, FitConfig, Fitted, fit
from tsjax.training.steps import TrainState, eval_step, init_state, predict_step, train_step
from tsjax.training.windows import Batch, Windows

__all__ = [
    "Batch",
    "Epoch",
    "FitConfig",
    "Fitted",
    "Metrics",
    "TrainState",
    "Windows",
    "eval_step",
    "evaluate",
    "fit",
    "init_state",
    "predict",
    "predict_step",
    "repeat_last",
    "restore",
    "save",
    "seasonal_naive",
    "train_step",
]
