"""Which leaves of a model may be pruned, and which kernels are exempt from it."""

import functools
from collections.abc import Callable
from typing import Any

from tsjax import interop, models, pruning
from tsjax.study.task import Task

Predicate = Callable[[str, Any], bool]
"""``predicate(path, leaf)`` says whether a leaf is one of those that are pruned."""


def prunable(task: Task, exempt: str, *, prune_complex: bool) -> pruning.Where:
    """The prunable leaves: kernels but the exempt ones, and Fourier weights if asked."""
    where = EXEMPT[exempt](task)
    return (where, pruning.complex_pairs) if prune_complex else where


def _but_the_output_projection(task: Task) -> Predicate:
    del task
    return pruning.kernels


def _but_seven_outputs(task: Task) -> Predicate:
    return _kernels_but_of(task.forecaster.config, 7)


@functools.cache
def _kernels_but_of(config: models.ForecastConfig, outputs: int) -> Predicate:
    """The kernels whose layers have another number of outputs in PyTorch.

    There, as in the published study, the heads of an attention block are one axis of outputs.
    """
    shapes = interop.torch_shapes(config)

    def where(path: str, leaf: Any) -> bool:
        return pruning.all_kernels(path, leaf) and shapes[path][0] != outputs

    return where


EXEMPT: dict[str, Callable[[Task], Predicate]] = {
    "output_projection": _but_the_output_projection,
    "seven_outputs": _but_seven_outputs,
}
"""The kernels that are pruned, by what is exempt from it."""

EXEMPT_MEANS = (
    "kernels that are never pruned: output_projection (what forecasts), or seven_outputs (every "
    "layer with 7 outputs, the published study's rule)"
)
"""What the setting ``exempt`` means."""
