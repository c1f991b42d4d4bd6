"""The train and eval steps: pure, jitted, with the mask inside.

``forward`` is any function as :data:`tsjax.forecaster.Forward` describes it. The mask is applied
here, once, in front of it, and an algorithm of :mod:`tsjax.pruning` says what becomes of it after
each step; :class:`tsjax.pruning.Hold` leaves it as it is. Held weights and their moments stay
exactly zero, and new mask values never compile again.

Each step raises ValueError when it is traced with a function whose forecast has another shape than
the target. The starts of its windows are traced too, so that it cannot check them: that is what
:meth:`tsjax.training.Windows.check` is for.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tsjax import pruning
from tsjax.forecaster import Forecaster, Forward
from tsjax.training.windows import Batch, Windows
from tsjax.trees import PyTree

_HOLD = pruning.Hold()


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "mask", "state", "opt_state", "key", "memory"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a train step reads and writes.

    Attributes:
      step: steps done, int32 [].
      params: the weights. Pruned ones are zero, unless an algorithm lets them go on learning.
      mask: which weights are kept, a tree like ``params``.
      state: the model's other variables (buffers, statistics).
      opt_state: the optimiser's moments.
      key: random key of the run; each step folds its number into it.
      memory: what the algorithm that changes the mask remembers.
    """

    step: Array
    params: PyTree
    mask: PyTree
    state: PyTree
    opt_state: optax.OptState
    key: Array
    memory: PyTree = ()


def init_state(
    params: PyTree,
    state: PyTree,
    mask: PyTree,
    tx: optax.GradientTransformation,
    key: Array,
    memory: PyTree = (),
) -> TrainState:
    """The state before the first step; weights that ``mask`` prunes are set to zero.

    Args:
      params: the weights.
      state: the model's other variables.
      mask: which weights are kept, as the algorithm's first state says.
      tx: the optimiser.
      key: random key.
      memory: of the algorithm's first state.
    """
    params = pruning.apply(params, mask)
    opt_state = pruning.keep_pruned(tx).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, mask, state, opt_state, key, memory)


def algorithm_key(key: Array) -> Array:
    """The random key of a run's algorithm, apart from those of its steps."""
    return jax.random.split(key)[1]


def with_mask(forecaster: Forecaster) -> Forecaster:
    """The forecaster with a mask in any case: all programs take one, so that another is no other.

    Where it has none, the mask keeps all weights.
    """
    if forecaster.mask is not None:
        return forecaster
    return dataclasses.replace(forecaster, mask=pruning.ones(forecaster.params))


@functools.partial(jax.jit, static_argnames=("forward", "tx"))
def train_step(
    train: TrainState,
    windows: Windows,
    starts: Array,
    algorithm: pruning.Algorithm = _HOLD,
    val_mse: Array | None = None,
    *,
    forward: Forward,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Array]:
    """One optimiser step on the mean squared error of a batch.

    Args:
      train: the state before the step.
      windows: the series.
      starts: first rows of the batch's windows, int32 [B].
      algorithm: says what becomes of the mask after the step; by default it stays.
      val_mse: validation error, for an algorithm that needs it.
      forward: the model.
      tx: the optimiser.

    Returns:
      The state after the step, and the loss before it.
    """
    batch = windows.gather(starts)
    key = jax.random.fold_in(train.key, train.step)

    def loss_fn(masked: PyTree) -> tuple[Array, PyTree]:
        forecast, state = _forecast(forward, masked, train.state, batch, key)
        return jnp.mean(jnp.square(forecast - batch.target)), state

    # Gradients at the masked weights, also of pruned ones: algorithms grow by them.
    masked = pruning.apply(train.params, train.mask)
    (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(masked)
    updates, opt_state = pruning.keep_pruned(tx).update(
        grads, train.opt_state, train.params, mask=algorithm.held(train.mask)
    )
    params = optax.apply_updates(train.params, updates)
    sparse = pruning.SparseState(train.mask, train.step, algorithm_key(train.key), train.memory)
    params, sparse = algorithm.update(params, sparse, grads, val_mse, before=train.params)
    return dataclasses.replace(
        train, step=sparse.step, params=params, mask=sparse.mask, state=state,
        opt_state=opt_state, memory=sparse.memory,
    ), loss  # fmt: skip


@functools.partial(jax.jit, static_argnames=("forward", "tx"))
def train_steps(
    train: TrainState,
    windows: Windows,
    starts: Array,
    algorithm: pruning.Algorithm = _HOLD,
    *,
    forward: Forward,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Array]:
    """`train_step` of several lanes at once, none of which knows of the others.

    Args:
      train: the lanes' states, see :func:`tsjax.pruning.stack`: leaves ``[R, ...]``.
      windows: the series, the same for all.
      starts: first rows of each lane's batch, int32 [R, B].
      algorithm: the lanes' algorithms, stacked as the states are.
      forward: the model.
      tx: the optimiser.

    Returns:
      The states after the step, and the losses before it, [R].
    """
    step = functools.partial(train_step, forward=forward, tx=tx)
    return jax.vmap(step, in_axes=(0, None, 0, 0))(train, windows, starts, algorithm)


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
    batch = windows.gather(starts)
    return _forecast(forward, pruning.apply(params, mask), state, batch)[0]


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
    masked = pruning.apply(params, mask)
    return error_sums(masked, state, windows, starts, weights, forward=forward)


def error_sums(
    params: PyTree,
    state: PyTree,
    windows: Windows,
    starts: Array,
    weights: Array,
    *,
    forward: Forward,
) -> Array:
    """`eval_step` of weights that are masked already, for use inside a jitted function."""
    batch = windows.gather(starts)
    forecast, _ = _forecast(forward, params, state, batch)
    error = forecast - batch.target
    squared = jnp.mean(jnp.square(error), axis=(1, 2))
    absolute = jnp.mean(jnp.abs(error), axis=(1, 2))
    return jnp.stack([jnp.sum(weights * squared), jnp.sum(weights * absolute)])


def _forecast(
    forward: Forward, params: PyTree, state: PyTree, batch: Batch, key: Array | None = None
) -> tuple[Array, PyTree]:
    """What ``forward`` returns for a batch, once its forecast is known to be like the target."""
    forecast, state = forward(params, state, *batch.inputs, key=key)
    if jnp.shape(forecast) != batch.target.shape:
        raise ValueError(
            f"the forecast has shape {jnp.shape(forecast)}, and the target "
            f"{batch.target.shape}: forward must return [B, pred_len, C], a value for each "
            "window, step and channel"
        )
    return forecast, state
