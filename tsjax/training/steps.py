"""The train and eval steps: pure, jitted, with the mask inside.

``forward(params, state, *inputs, key=None)`` is any pure function that returns ``(forecast, new
state)``; with a key it runs in train mode. The mask is applied here, once, in front of it: pruned
weights get a gradient of exactly zero, and new mask values never compile again.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tsjax import pruning
from tsjax.training.windows import Windows

PyTree = Any
Forward = Callable[..., tuple[Array, PyTree]]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "mask", "state", "opt_state", "key"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a train step reads and writes.

    Attributes:
      step: steps done, int32 [].
      params: the weights. Pruned ones never change; `init_state` has set them to zero.
      mask: which weights are kept, a tree like ``params``.
      state: the model's other variables (buffers, statistics).
      opt_state: the optimiser's moments.
      key: random key of the run; each step folds its number into it.
    """

    step: Array
    params: PyTree
    mask: PyTree
    state: PyTree
    opt_state: optax.OptState
    key: Array


def init_state(
    params: PyTree, state: PyTree, mask: PyTree, tx: optax.GradientTransformation, key: Array
) -> TrainState:
    """The state before the first step; weights that ``mask`` prunes are set to zero."""
    params = pruning.apply(params, mask)
    return TrainState(jnp.zeros((), jnp.int32), params, mask, state, tx.init(params), key)


@functools.partial(jax.jit, static_argnames=("forward", "tx"))
def train_step(
    train: TrainState,
    windows: Windows,
    starts: Array,
    *,
    forward: Forward,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Array]:
    """One optimiser step on the mean squared error of a batch.

    Args:
      train: the state before the step.
      windows: the series.
      starts: first rows of the batch's windows, int32 [B].
      forward: the model.
      tx: the optimiser.

    Returns:
      The state after the step, and the loss before it.
    """
    batch = windows.gather(starts)
    key = jax.random.fold_in(train.key, train.step)

    def loss_fn(params: PyTree) -> tuple[Array, PyTree]:
        masked = pruning.apply(params, train.mask)
        forecast, state = forward(masked, train.state, *batch.inputs, key=key)
        return jnp.mean(jnp.square(forecast - batch.target)), state

    (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(train.params)
    updates, opt_state = tx.update(grads, train.opt_state, train.params)
    # Gradients are zero where the mask is; updates need not be (momentum from before a new mask).
    params = optax.apply_updates(train.params, pruning.apply(updates, train.mask))
    new = dataclasses.replace(
        train, step=train.step + 1, params=params, state=state, opt_state=opt_state
    )
    return new, loss


@functools.partial(jax.jit, static_argnames=("forward",))
def predict_step(
    params: PyTree,
    mask: PyTree,
    state: PyTree,
    windows: Windows,
    starts: Array,
    *,
    forward: Forward,
) -> Array:
    """Forecasts of the windows that begin at ``starts`` [B]: [B, pred_len, C], evaluation mode."""
    forecast, _ = forward(pruning.apply(params, mask), state, *windows.gather(starts).inputs)
    return forecast


@functools.partial(jax.jit, static_argnames=("forward",))
def eval_step(
    params: PyTree,
    mask: PyTree,
    state: PyTree,
    windows: Windows,
    starts: Array,
    weights: Array,
    *,
    forward: Forward,
) -> Array:
    """Sums of squared and of absolute errors over a batch.

    Args:
      params: the weights.
      mask: which of them are kept.
      state: the model's other variables.
      windows: the series.
      starts: first rows of the batch's windows, int32 [B].
      weights: 1 for windows that count and 0 for padding, [B].
      forward: the model.

    Returns:
      ``[2]``: each a sum over windows of the mean over steps and channels.
    """
    forecast = predict_step(params, mask, state, windows, starts, forward=forward)
    error = forecast - windows.gather(starts).target
    squared = jnp.mean(jnp.square(error), axis=(1, 2))
    absolute = jnp.mean(jnp.abs(error), axis=(1, 2))
    return jnp.stack([jnp.sum(weights * squared), jnp.sum(weights * absolute)])
