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

    params = trained.params
    functions: dict[str, tuple[Any, PyTree]] = {"dense": (dense, params)}
    functions |= {f"masked {d}": (masked, (params, mask)) for d, mask in masks.items()}
    kept_by = {"dense": (1.0, pruning.ones(params))}
    kept_by |= {f"masked {d}": (d, mask) for d, mask in masks.items()}
    found = []
    for batch in batches:
        starts = jnp.asarray(np.resize(task.starts("test"), batch))
        inputs = (trained.state, *task.windows.gather(starts).inputs)
        count = costs.count(dense, params, *inputs)
        for name, timing in costs.measure_in_turns(functions, *inputs).items():
            density, mask = kept_by[name]
            q1, q3 = timing.quartiles
            cost = records.Cost(
                variant=name.split()[0],
                density=density,
                params=trees.size(params),
                nonzero=sum(kept for kept, _ in pruning.summary(mask).values()),
                batch=batch,
                flops=count.flops,
                sparse_flops=count.sparse_flops(mask),
                median_ms=1e3 * timing.median,
                q1_ms=1e3 * q1,
                q3_ms=1e3 * q3,
            )
            found.append(cost)
    return tuple(found)
