"""Scores of a trained model's weights, and masks from them, as the settings ask."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tsjax import interop, models, pruning
from tsjax.study.runs import Trained
from tsjax.study.settings import PruneSettings, SparseSettings
from tsjax.study.task import Task

PyTree = Any
Predicate = Callable[[str, Any], bool]


@dataclasses.dataclass(frozen=True)
class Pruner:
    """Makes masks of a model whose weights have been scored once.

    Attributes:
      scores: of its weights.
      params: its weights.
      settings: what is ranked together, and in which blocks.
      where: the prunable leaves.
    """

    scores: PyTree
    params: PyTree
    settings: PruneSettings
    where: pruning.Where

    def mask(self, density: float) -> PyTree:
        """The mask at a density."""
        s = self.settings
        pattern = pruning.Blocks(s.block) if s.block else None
        if s.scope in pruning.SCOPES:
            return pruning.select(self.scores, density, s.scope, self.where, pattern=pattern)
        shares = pruning.erk(self.params, density, self.where)
        return pruning.select(self.scores, shares, where=self.where, pattern=pattern)


def pruner(task: Task, trained: Trained, settings: PruneSettings) -> Pruner:
    """Scores a trained model's weights by the criterion that the settings name."""
    scores = CRITERIA[settings.criterion](task, trained, settings)
    return Pruner(scores, trained.params, settings, prunable(task, settings))


def prunable(task: Task, settings: PruneSettings | SparseSettings) -> pruning.Where:
    """The prunable leaves: kernels but the exempt ones, and Fourier weights if asked."""
    where = EXEMPT[settings.exempt](task)
    return (where, pruning.complex_pairs) if settings.prune_complex else where


def _but_the_output_projection(task: Task) -> Predicate:
    del task
    return pruning.kernels


def _but_seven_outputs(task: Task) -> Predicate:
    return _kernels_but_of(task.settings.model, task.config, 7)


@functools.cache
def _kernels_but_of(name: str, config: models.ForecastConfig, outputs: int) -> Predicate:
    """The kernels whose layers have another number of outputs in PyTorch.

    There, as in the published study, the heads of an attention block are one axis of outputs.
    """
    shapes = interop.torch_shapes(name, config)

    def where(path: str, leaf: Any) -> bool:
        return pruning.all_kernels(path, leaf) and shapes[path][0] != outputs

    return where


def _magnitude(task: Task, trained: Trained, settings: PruneSettings) -> PyTree:
    del task, settings
    return pruning.magnitude(trained.params)


def _random(task: Task, trained: Trained, settings: PruneSettings) -> PyTree:
    del settings
    # Not the key that drew the initial weights.
    key = jax.random.fold_in(jax.random.key(task.settings.seed), 2)
    return pruning.random(trained.params, key)


def _saliency(task: Task, trained: Trained, settings: PruneSettings) -> PyTree:
    moments = _moments(task, trained, settings)
    return pruning.saliency(trained.params, moments.absolute)


def _fisher(task: Task, trained: Trained, settings: PruneSettings) -> PyTree:
    return pruning.fisher(trained.params, _moments(task, trained, settings).square)


def _wanda(task: Task, trained: Trained, settings: PruneSettings) -> PyTree:
    where = prunable(task, settings)

    @jax.jit
    def squares(params: PyTree, state: PyTree, starts: Array) -> PyTree:
        inputs = task.windows.gather(starts).inputs
        return pruning.input_squares(task.forward, params, state, *inputs, where=where)

    each = [
        squares(trained.params, trained.state, starts) for starts in _calibration(task, settings)
    ]
    total = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), each)
    return pruning.wanda(trained.params, total)


def _moments(task: Task, trained: Trained, settings: PruneSettings) -> pruning.GradientMoments:
    def loss(params: PyTree, starts: Array) -> Array:
        batch = task.windows.gather(starts)
        forecast, _ = task.forward(params, trained.state, *batch.inputs)
        return jnp.mean(jnp.square(forecast - batch.target))

    return pruning.gradient_moments(loss, trained.params, _calibration(task, settings))


def _calibration(task: Task, settings: PruneSettings) -> Iterator[Array]:
    """Batches of training windows, spread evenly over the training part."""
    starts = task.starts("train")
    size = min(task.settings.batch_size, len(starts))
    wanted = min(settings.calibration_batches, len(starts) // size)
    step = len(starts) // (wanted * size)
    for i in range(wanted):
        yield jnp.asarray(starts[i * step :: wanted * step][:size])


CRITERIA = {
    "magnitude": _magnitude,
    "random": _random,
    "saliency": _saliency,
    "fisher": _fisher,
    "wanda": _wanda,
}
"""Scores of a trained model's weights, by name."""

EXEMPT = {
    "output_projection": _but_the_output_projection,
    "seven_outputs": _but_seven_outputs,
}
"""The kernels that are pruned, by what is exempt from it."""
