"""Fills the missing values of a series, and notes whatever else is odd about it.

Dimension legend: T rows, C channels.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tsjax.data.timemarks import infer_freq, typical_step
from tsjax.wording import listing, one_of

MISSING = ("error", "previous", "linear")
"""What to do about a missing value: raise, repeat the value before it, or interpolate in time."""

# Numbers that are commonly written for "no value".
_SENTINELS = (-9999.0, -99999.0, -999.0, -999.9, -9999.9)


def mark_sentinel(
    values: np.ndarray, channels: Sequence[str], sentinel: float, missing: bool
) -> tuple[np.ndarray, list[str]]:
    """Turns a known sentinel into NaN, or leaves it as a number. A note says which.

    Args:
      values: [T, C].
      channels: the C names.
      sentinel: the number that stands for a missing value.
      missing: whether it becomes NaN.

    Returns:
      The values [T, C] and the notes.
    """
    hits = values == sentinel
    if not hits.any():
        return values, []
    counts = _counts(hits, channels)
    if missing:
        note = f"The sentinel {sentinel:g} was taken as a missing value: {counts}."
        published = (
            f"Published results keep {sentinel:g} as a number, which widens the scale of these "
            "channels: they are not comparable with errors on this series (presets paper and tslib "
            "keep it, too)."
        )
        return np.where(hits, np.nan, values), [note, published]
    note = f"The sentinel {sentinel:g} was kept as a number, as in published results: {counts}."
    return values, [note]


def fill_missing(
    values: np.ndarray,
    dates: pd.DatetimeIndex,
    channels: Sequence[str],
    missing: str,
    where: str = "series",
) -> tuple[np.ndarray, list[str]]:
    """Fills the values that are NaN or infinite.

    "previous" repeats the last value before the hole, and so never looks ahead. There is one
    exception: a channel that begins with a hole takes its first value there. "linear" interpolates
    in time between both ends of the hole, which looks ahead. At the ends of the series it repeats
    the nearest value.

    Args:
      values: [T, C].
      dates: [T] in ascending order.
      channels: the C names.
      missing: 'error', 'previous' or 'linear'.
      where: what to call the series in an error.

    Returns:
      The values [T, C], finite, and the notes.

    Raises:
      ValueError: if anything is missing under 'error', or a channel has no value at all.
    """
    one_of("missing", missing, MISSING)
    holes = ~np.isfinite(values)
    if not holes.any():
        return values, []
    counts = _counts(holes, channels, dates)
    void = [channels[int(c)] for c in np.flatnonzero(holes.all(axis=0))]
    if void:
        raise ValueError(
            f"{where}: no value at all in {listing(void)}; choose other columns with --channels "
            "(channels=)"
        )
    if missing == "error":
        raise ValueError(
            f"{where}: missing values (blank, NaN or infinite): {counts}; fill them with "
            "--missing (missing=): previous or linear"
        )
    values = values.copy()
    time = np.asarray((dates - dates[0]).total_seconds())
    for c in np.flatnonzero(holes.any(axis=0)):
        hole, known = np.flatnonzero(holes[:, c]), np.flatnonzero(~holes[:, c])
        if missing == "previous":
            last = np.maximum(np.searchsorted(known, hole) - 1, 0)
            values[hole, c] = values[known[last], c]
        else:
            values[hole, c] = np.interp(time[hole], time[known], values[known, c])
    return values, [f"Missing values were filled (missing={missing}): {counts}."]


def describe_dates(dates: pd.DatetimeIndex) -> list[str]:
    """Returns notes on repeated time stamps, gaps and irregular steps; nothing is changed.

    Args:
      dates: [T] in ascending order.
    """
    step, freq = typical_step(dates), infer_freq(dates)
    if freq == "b":
        days = np.asarray(dates.values).astype("datetime64[D]")
        ratio = np.busday_count(days[:-1], days[1:]).astype(np.float64)
    else:
        ratio = np.diff(np.asarray(dates.values)) / step.to_timedelta64()
    # Months have 28 to 31 days and years 365 or 366: none of these is irregular.
    slack = 0.15 if freq in "ma" else 1e-6
    notes = []
    repeats = np.flatnonzero(ratio == 0) + 1
    if len(repeats):
        notes.append(f"Repeated time stamps, kept: {len(repeats)} (first {dates[repeats[0]]}).")
    gaps = np.flatnonzero(ratio >= 1.5) + 1
    if len(gaps):
        widest = gaps[np.argmax(ratio[gaps - 1])]
        notes.append(
            f"Gaps, not filled: {len(gaps)} (first {dates[gaps[0] - 1]} to {dates[gaps[0]]}; "
            f"widest {dates[widest] - dates[widest - 1]}; the usual step is {step})."
        )
    uneven = np.flatnonzero((ratio > 0) & (ratio < 1.5) & (abs(ratio - 1) > slack)) + 1
    if len(uneven):
        notes.append(
            f"Irregular steps, kept: {len(uneven)} (first {dates[uneven[0] - 1]} to "
            f"{dates[uneven[0]]}; the usual step is {step})."
        )
    return notes


# Near the largest float64 a difference overflows, and nothing is then said about it.
@np.errstate(over="ignore", invalid="ignore")
def describe_values(
    values: np.ndarray,
    channels: Sequence[str],
    dates: pd.DatetimeIndex,
    *,
    filled: np.ndarray,
    known: float | None,
) -> list[str]:
    """Returns notes on values that look wrong; nothing is changed.

    Three things are looked for: numbers that often stand for a missing value; exact zeros in a
    channel that otherwise stays far above zero; and single rows that jump away from both
    neighbours by more than the range from the 0.1 to the 99.9 percentile.

    Args:
      values: [T, C], finite.
      channels: the C names.
      dates: [T].
      filled: [T, C] bool: which values were filled in. No note mentions these.
      known: a sentinel that has its note already, if any.
    """
    if len(values) < 3:
        return []
    notes = []
    silent = filled | (values == known)
    for sentinel in _SENTINELS:
        hits = (values == sentinel) & ~silent
        if hits.any():
            counts = _counts(hits, channels, dates)
            notes.append(f"{sentinel:g} often stands for a missing value; kept as read: {counts}.")
    low, rare, middle, high = np.percentile(values, [0.1, 1, 50, 99.9], axis=0)
    zeros = (values == 0) & ~silent & (values.min(axis=0) == 0) & (rare > 0.1 * middle)
    if zeros.any():
        counts = _counts(zeros, channels, dates)
        notes.append(f"Zeros in channels that otherwise stay far above zero, kept: {counts}.")
    rise, fall = values[1:-1] - values[:-2], values[1:-1] - values[2:]
    jump = np.minimum(abs(rise), abs(fall)) > high - low
    spikes = np.zeros(values.shape, dtype=bool)
    spikes[1:-1] = jump & (np.sign(rise) == np.sign(fall)) & (high > low)
    spikes &= ~silent
    if spikes.any():
        counts = _counts(spikes, channels, dates)
        notes.append(f"Single rows that jump by more than the usual range, kept: {counts}.")
    return notes


def _counts(
    hits: np.ndarray, channels: Sequence[str], dates: pd.DatetimeIndex | None = None
) -> str:
    """Returns 'a 3 (first 2020-01-01 00:00:00), b 1' for hits [T, C], and so on."""
    parts = []
    for c in np.flatnonzero(hits.any(axis=0)):
        first = "" if dates is None else f" (first {dates[int(np.argmax(hits[:, c]))]})"
        parts.append(f"{channels[int(c)]} {int(hits[:, c].sum())}{first}")
    return listing(parts)
