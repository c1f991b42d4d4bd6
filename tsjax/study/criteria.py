"""Criteria: how the single weights of a trained model are scored, before a mask keeps the best.

Whole units, such as heads or the widths of layers, are scored by the importances of
:mod:`tsjax.structure`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import Array

from tsjax import pruning
from tsjax.forecaster import Forecaster, forecast
from tsjax.study.task import Task
from tsjax.study.trained import Trained
from tsjax.trees import PyTree

Criterion = Callable[[Task, Trained, Iterator[Array], pruning.Where], PyTree]
"""``criterion(task, trained, calibration, where)`` scores the weights. ``calibration`` gives the
first rows of the windows of a few training batches, and ``where`` says which leaves are pruned."""


def calibration(task: Task, batches: int) -> Iterator[Array]:
    """First rows of so many batches of training windows, spread evenly over the training part."""
    starts = task.starts("train")
    size = min(task.settings.batch_size, len(starts))
    wanted = min(batches, len(starts) // size)
    step = len(starts) // (wanted * size)
    for i in range(wanted):
        yield jnp.asarray(starts[i * step :: wanted * step][:size])


def _magnitude(
    task: Task, trained: Trained, batches: Iterator[Array], where: pruning.Where
) -> PyTree:
    del task, batches, where
    return pruning.magnitude(trained.forecaster.params)


def _random(task: Task, trained: Trained, batches: Iterator[Array], where: pruning.Where) -> PyTree:
    del batches, where
    # Not the key that drew the initial weights.
    key = jax.random.fold_in(jax.random.key(task.settings.seed), 2)
    return pruning.random(trained.forecaster.params, key)


def _saliency(
    task: Task, trained: Trained, batches: Iterator[Array], where: pruning.Where
) -> PyTree:
    del where
    return pruning.saliency(trained.forecaster.params, _moments(task, trained, batches).absolute)


def _fisher(task: Task, trained: Trained, batches: Iterator[Array], where: pruning.Where) -> PyTree:
    del where
    return pruning.fisher(trained.forecaster.params, _moments(task, trained, batches).square)


def _wanda(task: Task, trained: Trained, batches: Iterator[Array], where: pruning.Where) -> PyTree:
    @jax.jit
    def squares(forecaster: Forecaster, starts: Array) -> PyTree:
        inputs = task.windows.gather(starts).inputs
        params, state = forecaster.params, forecaster.state
        return pruning.input_squares(forecaster.forward, params, state, *inputs, where=where)

    each = [squares(trained.forecaster, starts) for starts in batches]
    total = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), each)
    return pruning.wanda(trained.forecaster.params, total)


def _moments(task: Task, trained: Trained, batches: Iterator[Array]) -> pruning.GradientMoments:
    def loss(params: PyTree, starts: Array) -> Array:
        batch = task.windows.gather(starts)
        y = forecast(dataclasses.replace(trained.forecaster, params=params), *batch.inputs)
        return jnp.mean(jnp.square(y - batch.target))

    return pruning.gradient_moments(loss, trained.forecaster.params, batches)


CRITERIA: dict[str, Criterion] = {
    "magnitude": _magnitude,
    "random": _random,
    "saliency": _saliency,
    "fisher": _fisher,
    "wanda": _wanda,
}
"""Criteria by name. Another one is a function in :mod:`tsjax.pruning`, and a row here."""
