"""The compiled functions that run the models: this library's engine, and what an engine is."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from tsjax import costs, models
from tsjax.benchmark.contenders import Contender
from tsjax.trees import PyTree


class Runner(NamedTuple):
    """A call that is ready to be timed.

    Attributes:
      call: takes nothing.
      compile_s: seconds that compiling took, None where nothing is compiled.
      program: what XLA compiled, None for other engines.
      peak_mb: reads the memory that the calls have needed, None where that is not known.
    """

    call: Callable[[], Any]
    compile_s: float | None = None
    program: costs.Program | None = None
    peak_mb: Callable[[], float | None] = lambda: None


Batches = Sequence[tuple[np.ndarray, ...]]
"""Batches that take turns, each of the four inputs and the target [B, L, C]."""

Engine = Callable[[Contender, str, Batches], Runner]
"""``engine(contender, task, batches)`` readies a contender; ``task`` is inference or training."""


def random_batch(config: models.ForecastConfig, batch: int, seed: int) -> tuple[np.ndarray, ...]:
    """Four inputs and the target, small random numbers: times don't depend on them."""
    shapes = [*models.input_shapes(config, batch)]
    shapes.append(jax.ShapeDtypeStruct((batch, config.pred_len, config.c_out), jnp.float32))
    rng = np.random.default_rng(seed)
    return tuple(rng.uniform(-0.5, 0.5, shape.shape).astype(np.float32) for shape in shapes)


def xla(
    contender: Contender,
    task: str,
    batches: Batches,
    precision: str = "float32",
) -> Runner:
    """The engine of this library: the compiled forward pass, or a compiled training step."""
    turns = [_cast(batch, precision) for batch in batches]
    forecaster = _cast(contender.forecaster, precision)
    with jax.default_matmul_precision(costs.PRECISIONS[precision][1]):
        if task == "inference":
            carried: Any = forecaster
            program = costs.compile_ahead(models.forecast, carried, *turns[0][:4])
        else:
            # The step takes over the memory of what it is given.
            carried = _first(jax.tree.map(jnp.copy, forecaster))
            program = costs.compile_ahead(_step, carried, *turns[0], donate_argnums=(0,))
    index = 0

    def call() -> Any:
        nonlocal index, carried
        index += 1
        batch = turns[index % len(turns)]
        if task == "inference":
            return program.call(carried, *batch[:4])
        carried, loss = program.call(carried, *batch)
        return carried, loss

    peak = program.peak_bytes
    return Runner(
        call, program.compile_seconds, program, lambda: None if peak is None else peak / 1e6
    )


class _Training(NamedTuple):
    """What a training step takes and gives back."""

    forecaster: models.Forecaster
    moments: PyTree
    key: Array


_ADAM = optax.adam(1e-4)


def _first(forecaster: models.Forecaster) -> _Training:
    return _Training(forecaster, _ADAM.init(forecaster.params), jax.random.key(0))


def _step(training: _Training, *batch: Array) -> tuple[_Training, Array]:
    """Forward pass, gradient of the mean squared error, and Adam's update."""
    forecaster, moments, key = training
    *inputs, target = batch
    key, now = jax.random.split(key)

    def loss_fn(params: PyTree) -> tuple[Array, PyTree]:
        y, new_state = forecaster.forward(params, forecaster.state, *inputs, key=now)
        return jnp.mean(jnp.square(y - target)), new_state

    (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(forecaster.params)
    updates, moments = _ADAM.update(grads, moments, forecaster.params)
    params = optax.apply_updates(forecaster.params, updates)
    trained = dataclasses.replace(forecaster, params=params, state=state)
    return _Training(trained, moments, key), loss


def count(
    contender: Contender, task: str, batch: Sequence[np.ndarray], precision: str = "float32"
) -> costs.Count:
    """Counts the work of a call of :func:`xla`'s runner."""
    forecaster, batch = _cast((contender.forecaster, batch), precision)
    if task == "inference":
        return costs.count(models.forecast, forecaster, *batch[:4])
    return costs.count(_step, jax.eval_shape(_first, forecaster), *batch)


def _cast(tree: PyTree, precision: str) -> PyTree:
    """Arrays on the device, those of numbers with a fraction in the precision's dtype."""
    dtype = costs.PRECISIONS[precision][0]

    def cast(x: Any) -> Array:
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
