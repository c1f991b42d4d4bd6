"""The questions of the study as plain functions, and the records they return."""

from tsjax.study.examples import Variant, forecasts
from tsjax.study.expense import forward_costs
from tsjax.study.records import write_json
from tsjax.study.runs import Trained, restore, train
from tsjax.study.settings import (
    PRESETS,
    SIZES,
    PruneSettings,
    StudySettings,
    TrainSettings,
    as_dict,
)
from tsjax.study.task import Task, claim, describe, set_up
from tsjax.study.unstructured import Tuned, fine_tune, fine_tune_all, ladder, magnitude_mask
from tsjax.study.versions import versions

__all__ = [
    "PRESETS",
    "SIZES",
    "PruneSettings",
    "StudySettings",
    "Task",
    "TrainSettings",
    "Trained",
    "Tuned",
    "Variant",
    "as_dict",
    "claim",
    "describe",
    "fine_tune",
    "fine_tune_all",
    "forecasts",
    "forward_costs",
    "ladder",
    "magnitude_mask",
    "restore",
    "set_up",
    "train",
    "versions",
    "write_json",
]
