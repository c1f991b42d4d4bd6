"""Errors and forecasts over many windows, and the two forecasters that need no training."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import pruning
from tsjax.training.steps import Forward, eval_step, predict_step
from tsjax.training.windows import Windows

PyTree = Any


class Metrics(NamedTuple):
    """Means over windows, steps and channels of the scaled series."""

    mse: float
    mae: float
    windows: int


def evaluate(
    forward: Forward,
    params: PyTree,
    state: PyTree,
    windows: Windows,
    starts: np.ndarray,
    *,
    mask: PyTree | None = None,
    batch_size: int = 32,
    drop_last: bool = False,
) -> Metrics:
    """Mean squared and absolute error over the windows that begin at ``starts`` [N].

    Every window counts once: the last batch is padded, and its padding weighs nothing.

    Args:
      forward: the model, see :mod:`tsjax.training.steps`.
      params: its weights.
      state: its other variables.
      windows: the series.
      starts: first rows of the windows.
      mask: which weights are kept; all by default.
      batch_size: windows per call.
      drop_last: leave out the last incomplete batch, as several published studies did.

    Raises:
      ValueError: if no window is left to evaluate.
    """
    if drop_last:
        starts = starts[: len(starts) // batch_size * batch_size]
    if not len(starts):
        raise ValueError("there is no window to evaluate")
    mask = pruning.ones(params) if mask is None else mask
    sums = [
        eval_step(params, mask, state, windows, batch, weights, forward=forward)
        for batch, weights in _padded_batches(starts, batch_size)
    ]
    # Summed in float64: thousands of batches would lose digits in float32.
    total = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0) / len(starts)
    return Metrics(float(total[0]), float(total[1]), len(starts))


def predict(
    forward: Forward,
    params: PyTree,
    state: PyTree,
    windows: Windows,
    starts: np.ndarray,
    *,
    mask: PyTree | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Forecasts [N, pred_len, C] of the windows that begin at ``starts`` [N]; see `evaluate`."""
    if not len(starts):
        raise ValueError("there is no window to forecast")
    mask = pruning.ones(params) if mask is None else mask
    batches = [
        predict_step(params, mask, state, windows, batch, forward=forward)
        for batch, _ in _padded_batches(starts, batch_size)
    ]
    return np.concatenate(batches)[: len(starts)]


def _padded_batches(starts: np.ndarray, batch_size: int) -> Iterator[tuple[Array, Array]]:
    size = min(batch_size, len(starts))
    for first in range(0, len(starts), size):
        batch = starts[first : first + size]
        weights = (np.arange(size) < len(batch)).astype(np.float32)
        yield jnp.asarray(np.resize(batch, size)), jnp.asarray(weights)


def repeat_last(pred_len: int) -> Forward:
    """A forecaster without weights: the last observed value, for every step of the horizon."""
    return _repeat(pred_len, 1)


def seasonal_naive(pred_len: int, period: int) -> Forward:
    """A forecaster without weights: the last ``period`` observed steps, over and over."""
    return _repeat(pred_len, period)


@functools.lru_cache
def _repeat(pred_len: int, period: int) -> Forward:
    def forward(
        params: PyTree, state: PyTree, x_enc: Array, *others: Array, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        del params, others, key
        if x_enc.shape[1] < period:
            raise ValueError(f"period is {period}, but the look-back has {x_enc.shape[1]} steps")
        steps = np.arange(pred_len) % period
        return x_enc[:, x_enc.shape[1] - period + steps], state

    return forward
