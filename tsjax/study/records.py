"""What a study finds, as plain records: numbers, strings and lists, ready for JSON and tables.

Errors (MSE, MAE) are means over all windows, steps and channels of the scaled test series, the
convention of the field's tables.
"""

import dataclasses
from typing import Any

from tsjax.results import Result
from tsjax.training import Epoch


@dataclasses.dataclass(frozen=True)
class Error:
    """Test error of one forecaster, e.g. ``"repeat last"`` or ``"dense"``."""

    name: str
    mse: float
    mae: float


@dataclasses.dataclass(frozen=True)
class Training:
    """A training run: its epochs, the best of them, and why it ended."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    ended: str

    @property
    def seconds(self) -> float:
        """Wall time of all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)


@dataclasses.dataclass(frozen=True)
class Rung:
    """Test error at one density, without fine-tuning.

    Attributes:
      asked: density asked for.
      kept: prunable weights kept.
      prunable: weights that pruning may choose from.
      nonzero: kept weights and all that is never pruned (biases, norms, output projection, ...).
      params: all parameters.
      mse: test error.
      mae: test error.
    """

    asked: float
    kept: int
    prunable: int
    nonzero: int
    params: int
    mse: float
    mae: float

    @property
    def density(self) -> float:
        """Density obtained, over the prunable weights."""
        return self.kept / self.prunable

    @property
    def density_all(self) -> float:
        """Density obtained, over all parameters."""
        return self.nonzero / self.params


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A rung trained on with its mask held; ``revived`` counts pruned weights that are not zero."""

    rung: Rung
    mse: float
    mae: float
    revived: int
    training: Training


@dataclasses.dataclass(frozen=True)
class SparseTraining:
    """A model whose mask was found while it trained, and its test error.

    Attributes:
      method: how the mask was found.
      kept: prunable weights kept.
      prunable: weights that pruning may choose from.
      nonzero: kept weights and all that is never pruned.
      params: all parameters.
      flops: of one window's forecast.
      sparse_flops: of these, what a machine that skips zeros would do.
      mse: test error.
      mae: test error.
      training: the run.
    """

    method: str
    kept: int
    prunable: int
    nonzero: int
    params: int
    flops: int
    sparse_flops: int
    mse: float
    mae: float
    training: Training


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one forward pass.

    Attributes:
      variant: ``"dense"``, or ``"masked"``: the same program on weights whose pruned ones are zero.
      density: density over the prunable weights.
      params: parameters stored.
      nonzero: parameters that are not masked.
      batch: windows in one call.
      flops: floating-point operations that the compiled program is asked for.
      sparse_flops: operations that an ideal sparse machine would do.
      uncounted: primitives without a counting rule, by how often they occur: unknown is said.
      dispatch_ms: median time of a call that does nothing: the part of ``median_ms`` that no
        pruning can save, milliseconds.
      median_ms: median time of one call, milliseconds.
      q1_ms: first quartile.
      q3_ms: third quartile.
    """

    variant: str
    density: float
    params: int
    nonzero: int
    batch: int
    flops: int
    sparse_flops: int
    uncounted: dict[str, int]
    dispatch_ms: float
    median_ms: float
    q1_ms: float
    q3_ms: float


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of a model's file in bytes, without and with gzip.

    Attributes:
      density: density over the prunable weights.
      dense: all weights as trained.
      masked: the same file, pruned weights written as zeros.
      sparse: kept weights, and the mask in one bit a weight.
      dense_gzip: compressed.
      masked_gzip: compressed.
      sparse_gzip: compressed.
    """

    density: float
    dense: int
    masked: int
    sparse: int
    dense_gzip: int
    masked_gzip: int
    sparse_gzip: int


@dataclasses.dataclass(frozen=True)
class Forecast:
    """One channel of one test window, in the data's own units.

    Attributes:
      channel: its name.
      dates: ISO dates of ``history`` followed by those of ``truth``.
      history: the look-back window, [seq_len].
      truth: what came next, [pred_len].
      forecasts: ``{"dense": [pred_len], "density 0.33, fine-tuned": [pred_len], ...}``.
    """

    channel: str
    dates: tuple[str, ...]
    history: tuple[float, ...]
    truth: tuple[float, ...]
    forecasts: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Data:
    """The series: its size, its split, and notes.

    ``step_seconds`` is the usual time between rows. The notes say what is odd about the series, and
    what keeps errors on it from being compared with published ones.
    """

    name: str
    channels: tuple[str, ...]
    rows: int
    first_date: str
    last_date: str
    freq: str
    step_seconds: float
    windows: dict[str, int]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TrainResult(Result):
    """What ``train`` found.

    Attributes:
      dense: the trained model.
      baselines: repeat-last and seasonal-naive.
      notes: what is odd about the series, and what keeps the errors from being compared.
    """

    dense: Error
    baselines: tuple[Error, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PruneResult(Result):
    """What ``prune`` found.

    Attributes:
      dense: the trained model.
      baselines: repeat-last and seasonal-naive.
      notes: what is odd about the series, and what keeps the errors from being compared.
      ladder: errors by density.
      finetuned: errors after fine-tuning.
      warnings: what went wrong without stopping the run, one sentence each.
    """

    dense: Error
    baselines: tuple[Error, ...]
    notes: tuple[str, ...]
    ladder: tuple[Rung, ...]
    finetuned: tuple[FineTuning, ...]
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SparseResult(Result):
    """What ``sparse`` found.

    Attributes:
      dense: the model trained dense.
      baselines: repeat-last and seasonal-naive.
      notes: what is odd about the series, and what keeps the errors from being compared.
      sparse: the model trained sparse.
    """

    dense: Error
    baselines: tuple[Error, ...]
    notes: tuple[str, ...]
    sparse: SparseTraining


@dataclasses.dataclass(frozen=True)
class Study(Result):
    """What ``study`` found; the report is made from this alone.

    Attributes:
      data: the series.
      baselines: repeat-last and seasonal-naive.
      dense: the trained model.
      training: how it was trained.
      ladder: errors by density.
      finetuned: errors after fine-tuning, empty if none was asked.
      costs: cost of the forward pass, by variant and batch.
      sizes: of the pruned models' files.
      forecasts: a few test windows.
      warnings: what went wrong without stopping the study, one sentence each.
      seconds: wall time of the whole.
      answers: records of the further questions that were asked, by the question's name.
    """

    data: Data
    baselines: tuple[Error, ...]
    dense: Error
    training: Training
    ladder: tuple[Rung, ...]
    finetuned: tuple[FineTuning, ...]
    costs: tuple[Cost, ...]
    sizes: tuple[Size, ...]
    forecasts: tuple[Forecast, ...]
    warnings: tuple[str, ...]
    seconds: float
    answers: dict[str, Any] = dataclasses.field(default_factory=dict)
