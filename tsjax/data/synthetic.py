"""The embedded data set: an hourly series with known structure, made from a seed.

Dimension legend: T rows, C channels.
"""

import numpy as np
import pandas as pd

from tsjax.data.series import Series

_START = "2018-01-01"  # a Monday, so that row 0 begins a week
_LAG = 6
_BURN_IN = 500
MAX_CHANNELS = 27


def synthetic(seed: int = 0, rows: int = 8760, channels: int = 7) -> Series:
    """Makes the embedded hourly series; the same seed gives the same numbers, bit for bit.

    Channel c = 0 is the `driver`, the others are `load_a`, `load_b`, ... At hour t::

      x[t, c] = level[c] + spread[c] * y[t, c]
      y[t, c] = (1 + 0.3 r[t]) (1 - fall[c] weekend[t]) amplitude[c] day[t, c]
                + week[t, c] + trend[t, c]
                + coupling[c] z[t - 6 c]
                + sigma[c] (1 + 1.5 r[t]) e[t, c]

      day[t, c]   = cos(w t - p1[c]) + 0.4 cos(2 w t - p2[c]) + 0.2 cos(3 w t - p3[c])
      week[t, c]  = 0.3 cos(v t - q1[c]) + 0.15 cos(2 v t - q2[c])
      trend[t, c] = slope[c] t / 8760 + 0.2 sin(2 pi t / 2190 - q3[c])
      z[t]        = 0.97 z[t - 1] + sqrt(1 - 0.97^2) n[t]
      e[t, c]     = 0.5 e[t - 1, c] + sqrt(1 - 0.5^2) m[t, c]

    w = 2 pi / 24 and v = 2 pi / 168; weekend[t] is 1 on Saturdays and Sundays; r[t] is a Markov
    chain on {0, 1} that starts in 0, turns noisy (0 to 1) with probability 1/120 an hour and calm
    again with 1/48; n and m are standard normal. The constants of a channel are drawn once,
    uniformly: phases in [0, 2 pi), fall in [0.3, 0.8), amplitude in [0.6, 1.2), slope in
    [-0.2, 0.2), sigma in [0.2, 0.3), level in [50, 150), spread in [5, 20), |coupling| in
    [0.48, 0.72) with a minus sign for 3 channels in 10 on average (the driver's is 0.8).

    So a model has something to learn beyond repeating a day: channel c shows 6 c hours later what
    the driver shows at once, and weekends break the pattern of the day before. The noise sets a
    floor to the error.

    Args:
      seed: the seed of `numpy.random.SeedSequence`.
      rows: T, hours from 2018-01-01 00:00; a shorter series is the start of a longer one.
      channels: C, from 1 to 27.

    Returns:
      The series: split 'ratio', no notes.

    Raises:
      ValueError: if rows is below 2 or channels is outside 1 to 27.
    """
    if rows < 2 or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(
            f"rows is {rows} and channels is {channels}: use rows >= 2 and 1 to {MAX_CHANNELS} "
            "channels"
        )
    # One stream for each kind of draw: the first rows stay the same when there are more of them.
    shape, regime, hidden, noise = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(4))
    constants = shape.uniform(size=(channels, 14))
    restless = _regime(regime.uniform(size=rows))
    latent = _autoregression(hidden.standard_normal((_BURN_IN + rows, 1)), 0.97)[:, 0]
    wobble = _autoregression(noise.standard_normal((rows, channels)), 0.5)
    values = _combine(constants, restless, latent, wobble)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return Series(
        name="synthetic",
        dates=pd.date_range(_START, periods=rows, freq="h"),
        values=values,
        channels=("driver", *(f"load_{letter}" for letter in letters[: channels - 1])),
    )


def _combine(
    constants: np.ndarray, restless: np.ndarray, latent: np.ndarray, wobble: np.ndarray
) -> np.ndarray:
    """Returns x [T, C] of the formula from the constants [C, 14], r [T], z and e [T, C]."""
    rows, channels = wobble.shape
    t = np.arange(rows)[:, None]
    r = restless[:, None]
    phase = 2 * np.pi * constants[:, :6]
    fall, amplitude, slope, strength, sign, sigma, level, spread = constants[:, 6:14].T

    w, v = 2 * np.pi / 24, 2 * np.pi / 168
    day = (
        np.cos(w * t - phase[:, 0])
        + 0.4 * np.cos(2 * w * t - phase[:, 1])
        + 0.2 * np.cos(3 * w * t - phase[:, 2])
    )
    week = 0.3 * np.cos(v * t - phase[:, 3]) + 0.15 * np.cos(2 * v * t - phase[:, 4])
    trend = 0.4 * (slope - 0.5) * t / 8760 + 0.2 * np.sin(2 * np.pi * t / 2190 - phase[:, 5])
    weekend = (t // 24) % 7 >= 5
    coupling = 0.8 * (0.6 + 0.3 * strength) * np.where(sign < 0.3, -1.0, 1.0)
    coupling[0] = 0.8
    lagged = np.stack([latent[_BURN_IN - _LAG * c :][:rows] for c in range(channels)], axis=1)

    y = (
        (1 + 0.3 * r) * (1 - (0.3 + 0.5 * fall) * weekend) * (0.6 + 0.6 * amplitude) * day
        + week
        + trend
        + coupling * lagged
        + (0.2 + 0.1 * sigma) * (1 + 1.5 * r) * wobble
    )
    return (50 + 100 * level) + (5 + 15 * spread) * y


def _regime(draws: np.ndarray) -> np.ndarray:
    """Returns the two-state Markov chain [T] as 0.0 (calm) and 1.0 (noisy)."""
    states = np.zeros(len(draws))
    state = 0
    for t, draw in enumerate(draws):
        if draw < (1 / 48 if state else 1 / 120):
            state = 1 - state
        states[t] = state
    return states


def _autoregression(draws: np.ndarray, memory: float) -> np.ndarray:
    """Returns the first-order autoregression [T, C] of unit variance driven by normal draws."""
    out = np.empty_like(draws)
    out[0] = draws[0]
    for t in range(1, len(draws)):
        out[t] = memory * out[t - 1] + np.sqrt(1 - memory**2) * draws[t]
    return out
