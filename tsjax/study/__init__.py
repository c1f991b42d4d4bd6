"""What can be cut from a forecasting model, and what does it cost: questions and their records."""

from tsjax.study import records
from tsjax.study.costs_and_sizes import file_sizes, forward_costs
from tsjax.study.criteria import CRITERIA
from tsjax.study.folder import RunFolder, claim
from tsjax.study.forecasts import forecasts
from tsjax.study.masks import (
    Pruner,
    PruneSettings,
    Tuned,
    fine_tune,
    fine_tune_all,
    pruner,
    rungs,
)
from tsjax.study.questions import QUESTIONS, Question, StudySettings, answers
from tsjax.study.settings import PRESETS, SIZES, TrainSettings
from tsjax.study.sparse import SparselyTrained, SparseSettings, train_sparse
from tsjax.study.task import Task, describe, set_up
from tsjax.study.trained import Trained, restore, train

__all__ = [
    "CRITERIA",
    "PRESETS",
    "QUESTIONS",
    "SIZES",
    "PruneSettings",
    "Pruner",
    "Question",
    "RunFolder",
    "SparseSettings",
    "SparselyTrained",
    "StudySettings",
    "Task",
    "TrainSettings",
    "Trained",
    "Tuned",
    "answers",
    "claim",
    "describe",
    "file_sizes",
    "fine_tune",
    "fine_tune_all",
    "forecasts",
    "forward_costs",
    "pruner",
    "records",
    "restore",
    "rungs",
    "set_up",
    "train",
    "train_sparse",
]
