"""What the dates say about a series: its frequency and season, and the time marks of each row.

A frequency is one letter, as in the models' `freq`: s (second), t (minute), h (hour), d (day),
b (business day), w (week), m (month), a (year).

Dimension legend: T rows, F time features.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from tsjax.wording import one_of

_DAY = pd.Timedelta(days=1)

# Each feature is value / largest value - 0.5, so that it lies in [-0.5, 0.5].
_FEATURES: dict[str, Callable[[pd.DatetimeIndex], np.ndarray]] = {
    "second": lambda dates: np.asarray(dates.second) / 59.0 - 0.5,
    "minute": lambda dates: np.asarray(dates.minute) / 59.0 - 0.5,
    "hour": lambda dates: np.asarray(dates.hour) / 23.0 - 0.5,
    "weekday": lambda dates: np.asarray(dates.day_of_week) / 6.0 - 0.5,
    "day": lambda dates: (np.asarray(dates.day) - 1) / 30.0 - 0.5,
    "dayofyear": lambda dates: (np.asarray(dates.day_of_year) - 1) / 365.0 - 0.5,
    "week": lambda dates: (np.asarray(dates.isocalendar().week, dtype=np.float64) - 1) / 52.0 - 0.5,
    "month": lambda dates: (np.asarray(dates.month) - 1) / 11.0 - 0.5,
}

_DAILY = ("weekday", "day", "dayofyear")
_HOURLY = ("hour", *_DAILY)

FREQUENCIES: dict[str, tuple[str, ...]] = {
    "s": ("second", "minute", *_HOURLY),
    "t": ("minute", *_HOURLY),
    "h": _HOURLY,
    "d": _DAILY,
    "b": _DAILY,
    "w": ("day", "week"),
    "m": ("month",),
    "a": ("month",),
}
"""The names of the time features of each frequency, in their order."""


def time_features(dates: pd.DatetimeIndex, freq: str) -> np.ndarray:
    """Returns the time features that the Informer family uses ('timeF').

    Each is its value divided by the largest one, less 0.5.

    The largest values: second 59, minute 59, hour 23, weekday 6 (Monday 0), day of month - 1: 30,
    day of year - 1: 365, ISO week - 1: 52, month - 1: 11. `FREQUENCIES` gives the columns.

    For 'a', Time-Series-Library makes no column, although its embedding expects one. Here the
    column is the month, as for 'm'.

    Args:
      dates: [T] time stamps.
      freq: one of s t h d b w m a.

    Returns:
      [T, F] float64 in [-0.5, 0.5].

    Raises:
      ValueError: if `freq` is not one of these.
    """
    one_of("freq", freq, FREQUENCIES)
    return np.stack([_FEATURES[name](dates) for name in FREQUENCIES[freq]], axis=1)


def time_fields(dates: pd.DatetimeIndex, freq: str) -> np.ndarray:
    """Returns the integers that the models' 'fixed' and 'learned' time embeddings look up.

    The columns are month (1-12), day of month (1-31), weekday (0-6, Monday 0), hour (0-23) and,
    for freq 't' only, minute // 15 (0-3).

    Args:
      dates: [T] time stamps.
      freq: one of s t h d b w m a.

    Returns:
      [T, 4] int32, or [T, 5] for freq 't'.

    Raises:
      ValueError: if `freq` is not one of these.
    """
    one_of("freq", freq, FREQUENCIES)
    columns = [dates.month, dates.day, dates.day_of_week, dates.hour]
    if freq == "t":
        columns.append(dates.minute // 15)
    return np.stack([np.asarray(column, dtype=np.int32) for column in columns], axis=1)


def typical_step(dates: pd.DatetimeIndex) -> pd.Timedelta:
    """Returns the median step between dates. Steps from a date to its own repeat do not count.

    Args:
      dates: [T] time stamps in ascending order.

    Raises:
      ValueError: if no two dates differ.
    """
    steps = np.diff(np.asarray(dates.values))
    steps = np.sort(steps[steps > np.timedelta64(0)])
    if not len(steps):
        raise ValueError(f"{len(dates)} time stamps that do not advance: at least two must differ")
    return pd.Timedelta(steps[(len(steps) - 1) // 2])


def infer_freq(dates: pd.DatetimeIndex) -> str:
    """Returns the frequency letter that fits the median step: a 15-minute series gives 't'.

    A daily series without any Saturday and Sunday over at least ten rows gives 'b'.

    Args:
      dates: [T] time stamps in ascending order.

    Raises:
      ValueError: if no two dates differ.
    """
    step = typical_step(dates)
    if step == _DAY and len(dates) >= 10 and bool((dates.day_of_week < 5).all()):
        return "b"
    # The limits leave room for months of 28 to 31 days and for years of 365 and 366 days.
    limits = {"s": "1min", "t": "1h", "h": "1D", "d": "7D", "w": "28D", "m": "360D"}
    return next((freq for freq, limit in limits.items() if step < pd.Timedelta(limit)), "a")


def season(step: pd.Timedelta, freq: str) -> int:
    """Returns the number of steps in the dominant season, for a seasonal-naive forecast.

    The season is a day for steps shorter than a day (24 steps of 1 h, 96 of 15 min, 144 of 10 min),
    a week for days (7, or 5 for business days), and a year for weeks (52), months (12) and years
    (1).

    Args:
      step: the typical distance between two rows.
      freq: one of s t h d b w m a, as inferred from the dates.

    Raises:
      ValueError: if `freq` is not one of these.
    """
    one_of("freq", freq, FREQUENCIES)
    if freq == "b":
        return 5
    whole = {"d": 7 * _DAY, "w": 364 * _DAY, "m": 365 * _DAY, "a": step}.get(freq, _DAY)
    return max(1, round(whole / step))
