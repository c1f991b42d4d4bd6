"""A linear forecaster and a small series: the smallest thing that trains.

B batch, L look-back, P horizon, C channels, T rows of the series.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.training import Forecaster, Windows

L, P, C, T = 6, 3, 2, 60


def make_windows(label_len=2, seed=0):
    """A sine and a noisy sine, with two marks that are unlike the values."""
    steps = np.arange(T)
    noise = np.random.default_rng(seed).normal(size=T)
    values = np.stack([np.sin(steps / 3), np.cos(steps / 4) + 0.1 * noise], axis=1)
    marks = np.stack([100 + steps, 1000 - steps], axis=1)
    return Windows(jnp.float32(values), jnp.float32(marks), L, label_len, P)


STARTS = np.arange(T - L - P + 1)


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.float32(0.3 * rng.normal(size=(L, P))),
        "bias": jnp.float32(0.1 * rng.normal(size=P)),
    }


def make_mask():
    """Prunes every other weight of the kernel, and one bias."""
    return {
        "kernel": jnp.asarray((np.arange(L * P) % 2 == 0).reshape(L, P)),
        "bias": jnp.asarray([True, False, True]),
    }


def linear(params, state, x_enc, x_mark_enc, x_dec, x_mark_dec, *, key=None):
    """[B, L, C] to [B, P, C], the same for each channel."""
    forecast = jnp.einsum("blc,lp->bpc", x_enc, params["kernel"])
    return forecast + params["bias"][None, :, None], state


def make_forecaster(mask=None, seed=0, forward=linear):
    return Forecaster(forward, make_params(seed), (), mask)


def numpy_linear(params, windows, starts):
    """The linear forecaster on plain numpy slices: forecasts and targets."""
    values = np.asarray(windows.values, np.float64)
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    forecasts = [(values[s : s + L].T @ kernel + bias).T for s in starts]
    targets = [values[s + L : s + L + P] for s in starts]
    return np.stack(forecasts), np.stack(targets)


def noisy(params, state, *inputs, key=None):
    """The linear forecaster with dropout on the forecast in train mode."""
    forecast, _ = linear(params, state, *inputs)
    if key is not None:
        forecast = forecast * jax.random.bernoulli(key, 0.8, forecast.shape)
    return forecast, state


def counting(forward=linear):
    """The same forecaster, and the list to which each of its traces adds whether it trains."""
    traces = []

    def counted(*args, key=None):
        traces.append(key is not None)
        return forward(*args, key=key)

    return counted, traces
