"""What does a forward pass cost, dense and masked?"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import costs, pruning, trees
from tsjax.study import records
from tsjax.study.runs import Trained
from tsjax.study.task import Task

PyTree = Any


def forward_costs(
    task: Task, trained: Trained, masks: Mapping[float, PyTree], batches: Iterable[int]
) -> tuple[records.Cost, ...]:
    """Counts and times the dense forward pass, and the same behind each mask.

    Args:
      task: the task.
      trained: the dense model.
      masks: masks by density.
      batches: windows per call.
    """

    def dense(params: PyTree, state: PyTree, *inputs: Array) -> Array:
        return task.forward(params, state, *inputs)[0]

    def masked(both: tuple[PyTree, PyTree], state: PyTree, *inputs: Array) -> Array:
        return dense(pruning.apply(*both), state, *inputs)

    found = []
    params, size = trained.params, trees.size(trained.params)
    for batch in batches:
        starts = jnp.asarray(np.resize(task.starts("test"), batch))
        inputs = (trained.state, *task.windows.gather(starts).inputs)
        count = costs.count(dense, params, *inputs)
        timing = costs.measure(dense, params, *inputs)
        found.append(_cost("dense", 1.0, size, size, batch, count.flops, count.flops, timing))
        for density, mask in masks.items():
            nonzero = sum(kept for kept, _ in pruning.summary(mask).values())
            sparse = count.sparse_flops(mask)
            timing = costs.measure(masked, (params, mask), *inputs)
            found.append(
                _cost("masked", density, size, nonzero, batch, count.flops, sparse, timing)
            )
    return tuple(found)


def _cost(
    variant: str,
    density: float,
    params: int,
    nonzero: int,
    batch: int,
    flops: int,
    sparse_flops: int,
    timing: costs.Timing,
) -> records.Cost:
    q1, q3 = timing.quartiles
    times = (1e3 * timing.median, 1e3 * q1, 1e3 * q3)
    return records.Cost(variant, density, params, nonzero, batch, flops, sparse_flops, *times)
