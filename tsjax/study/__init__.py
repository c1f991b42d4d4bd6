"""The questions of the study as plain functions, and the records they return."""

from tsjax.study.criteria import Pruner, pruner
from tsjax.study.engines import Contender, Engine, Runner, make_contender, xla
from tsjax.study.examples import Variant, forecasts
from tsjax.study.expense import file_sizes, forward_costs
from tsjax.study.records import write_json
from tsjax.study.runs import Trained, restore, train
from tsjax.study.settings import (
    PRESETS,
    SIZES,
    PruneSettings,
    SparseSettings,
    StudySettings,
    TrainSettings,
    as_dict,
)
from tsjax.study.sparse import SparselyTrained, train_sparse
from tsjax.study.speed import (
    ENGINES,
    Benchmark,
    BenchmarkSettings,
    Row,
    Timed,
    benchmark,
    placed,
    random_batch,
    summary,
)
from tsjax.study.task import Task, claim, describe, set_up
from tsjax.study.unstructured import Tuned, fine_tune, fine_tune_all, ladder
from tsjax.study.versions import versions

__all__ = [
    "ENGINES",
    "PRESETS",
    "SIZES",
    "Benchmark",
    "BenchmarkSettings",
    "Contender",
    "Engine",
    "PruneSettings",
    "Pruner",
    "Row",
    "Runner",
    "SparseSettings",
    "SparselyTrained",
    "StudySettings",
    "Task",
    "Timed",
    "TrainSettings",
    "Trained",
    "Tuned",
    "Variant",
    "as_dict",
    "benchmark",
    "claim",
    "describe",
    "file_sizes",
    "fine_tune",
    "fine_tune_all",
    "forecasts",
    "forward_costs",
    "ladder",
    "make_contender",
    "placed",
    "pruner",
    "random_batch",
    "restore",
    "set_up",
    "summary",
    "train",
    "train_sparse",
    "versions",
    "write_json",
    "xla",
]
