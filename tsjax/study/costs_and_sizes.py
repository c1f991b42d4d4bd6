"""What does a forward pass cost, and how large is the model's file, dense and pruned?"""

import dataclasses
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from tsjax import costs, interop, pruning, trees
from tsjax.forecaster import Forecaster, forecast
from tsjax.study import records
from tsjax.study.task import Task
from tsjax.study.trained import Trained
from tsjax.trees import PyTree


def forward_costs(
    task: Task, trained: Trained, masks: Mapping[float, PyTree], batches: Iterable[int]
) -> tuple[records.Cost, ...]:
    """Counts and times the forward pass, with dense weights and with pruned ones set to zero.

    Args:
      task: the task.
      trained: the dense model.
      masks: masks by density.
      batches: windows per call.
    """
    dense = trained.forecaster
    everything = pruning.ones(dense.params)
    variants = [("dense", 1.0, everything), *(("masked", d, m) for d, m in masks.items())]
    # Zeros are written into the weights once, as one would deploy them: what is timed is the same
    # program, without the price of masking in each call.
    functions = {
        str(i): (forecast, dataclasses.replace(dense, params=pruning.apply(dense.params, mask)))
        for i, (_, _, mask) in enumerate(variants)
    }
    found = []
    for batch in batches:
        starts = jnp.asarray(np.resize(task.starts("test"), batch))
        inputs = task.windows.gather(starts).inputs
        count = costs.count(forecast, dense, *inputs)
        timings = costs.measure_in_turns(functions, *inputs).values()
        for (variant, density, mask), timing in zip(variants, timings, strict=True):
            q1, q3 = timing.quartiles
            cost = records.Cost(
                variant=variant,
                density=density,
                params=trees.size(dense.params),
                nonzero=sum(kept for kept, _ in pruning.summary(mask).values()),
                batch=batch,
                flops=count.flops,
                sparse_flops=count.sparse_flops(dataclasses.replace(dense.kept(), params=mask)),
                uncounted=count.uncounted,
                dispatch_ms=1e3 * timing.dispatch,
                median_ms=1e3 * timing.median,
                q1_ms=1e3 * q1,
                q3_ms=1e3 * q3,
            )
            found.append(cost)
    return tuple(found)


def file_sizes(trained: Trained, pruned: Mapping[float, Forecaster]) -> tuple[records.Size, ...]:
    """Sizes of the files of pruned models, and of the dense one.

    Args:
      trained: the dense model.
      pruned: models with their masks, by density.
    """
    dense = trained.forecaster.params
    sizes = {d: interop.file_sizes(p.params, p.mask, dense) for d, p in pruned.items()}
    return tuple(records.Size(d, **dataclasses.asdict(size)) for d, size in sizes.items())
