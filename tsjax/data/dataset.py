"""A series made ready for training: split, scaled, and with the time marks of its rows.

Dimension legend: T rows, C channels, F time features, N windows.
"""

import dataclasses

import numpy as np
import pandas as pd

from tsjax.data.series import Series
from tsjax.data.splits import Part, make_parts, part_rows
from tsjax.data.timemarks import FREQUENCIES, time_features, time_fields
from tsjax.wording import listing, one_of

# Squares of scaled values are summed in float32 (losses, gradient norms): a million times below
# the root of its largest number, a sum of 1e12 of them is still finite.
_LARGEST_SCALED = float(np.sqrt(np.finfo(np.float32).max)) / 1e6

EMBEDS = ("timeF", "fixed", "learned")
"""The models' time embeddings. 'timeF' takes time features. 'fixed' and 'learned' look up
integers, in a sinusoidal or a learned table."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The arrays for training and evaluation. A window is a slice of them.

    A window that starts at row s has the input rows [s, s + seq_len), the target rows
    [s + seq_len, s + seq_len + pred_len), and gives the decoder the marks of the rows
    [s + seq_len - label_len, s + seq_len + pred_len).

    Attributes:
      name: the series' name.
      channels: the C channel names.
      freq: the frequency of the marks; one of s t h d b w m a.
      embed: 'timeF', 'fixed' or 'learned'; it says what the marks hold.
      notes: what was noticed about the series.
      dates: [T] time stamps.
      values: [T, C] float32, (raw - mean) / scale.
      marks: [T, F] float32: time features, or the integers of `time_fields`.
      mean: [C] float64, the mean of the training rows, in the series' units.
      scale: [C] float64, the population standard deviation (ddof 0) of the training rows.
      seq_len: input rows of a window.
      label_len: known rows at the start of the decoder's input.
      pred_len: target rows of a window.
      period: steps in the dominant season. It follows from the series' step, not from `freq`.
      parts: the parts 'train', 'val' and 'test', by name.
    """

    name: str
    channels: tuple[str, ...]
    freq: str
    embed: str
    notes: tuple[str, ...]
    dates: pd.DatetimeIndex
    values: np.ndarray
    marks: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    seq_len: int
    label_len: int
    pred_len: int
    period: int
    parts: dict[str, Part]

    def starts(self, part: str) -> np.ndarray:
        """Returns the first input row of every window of a part, [N] int32.

        Args:
          part: 'train', 'val' or 'test'.

        Raises:
          ValueError: if there is no such part.
        """
        one_of("part", part, self.parts)
        found = self.parts[part]
        count = found.windows(self.seq_len, self.pred_len)
        return np.arange(found.start, found.start + count, dtype=np.int32)

    def unscale(self, values: np.ndarray) -> np.ndarray:
        """Returns scaled values in the series' own units: values * scale + mean.

        Args:
          values: [..., C] scaled values, such as a forecast.

        Returns:
          [..., C] float64.

        Raises:
          ValueError: if the last axis is not C.
        """
        values = np.asarray(values)
        if values.shape[-1:] != self.mean.shape:
            raise ValueError(
                f"values have shape {values.shape}, but {self.name} has {len(self.channels)} "
                "channels: the last axis must be the channels, in the order of `channels`"
            )
        return values * self.scale + self.mean


def prepare(
    series: Series,
    *,
    seq_len: int,
    label_len: int,
    pred_len: int,
    freq: str | None = None,
    embed: str = "timeF",
) -> Dataset:
    """Splits a series, scales it, and makes the time marks of its rows.

    The scaler reads the training rows only: values = (raw - mean) / scale, with mean and standard
    deviation (ddof 0) over the training rows. It works in float64, and casts the result to float32.

    Args:
      series: as `load` or `synthetic` gives it.
      seq_len: input rows of a window, at least 1.
      label_len: known rows at the start of the decoder's input, 0 to `seq_len`.
      pred_len: target rows of a window, at least 1.
      freq: the frequency of the marks; by default the series' own. Published results often use
        'h' whatever the step.
      embed: 'timeF' marks with `time_features`; 'fixed' and 'learned' with `time_fields`.

    Raises:
      ValueError: if a length is out of range (all are reported at once), `freq` or `embed` is
        unknown, the series is too short for its split rule or for one window in each part, or a
        channel cannot be scaled.
    """
    _check_lengths(seq_len, label_len, pred_len)
    one_of("embed", embed, EMBEDS)
    freq = series.freq if freq is None else freq
    one_of("freq", freq, FREQUENCIES)
    counts = part_rows(series.split, len(series.values), series.name)
    try:
        parts = make_parts(counts, seq_len, pred_len)
    except ValueError as error:
        raise ValueError(f"{series.name} ({len(series.values)} rows): {error}") from None
    mean, scale = _fit_scaler(series, counts[0])
    make_marks = time_features if embed == "timeF" else time_fields
    return Dataset(
        name=series.name,
        channels=series.channels,
        freq=freq,
        embed=embed,
        notes=series.notes,
        dates=series.dates,
        values=((series.values - mean) / scale).astype(np.float32),
        marks=make_marks(series.dates, freq).astype(np.float32),
        mean=mean,
        scale=scale,
        seq_len=seq_len,
        label_len=label_len,
        pred_len=pred_len,
        period=series.period,
        parts=parts,
    )


def _check_lengths(seq_len: int, label_len: int, pred_len: int) -> None:
    given = {"seq_len": seq_len, "label_len": label_len, "pred_len": pred_len}
    wrong = [
        f"{name} is {value!r}, not an integer"
        for name, value in given.items()
        if isinstance(value, bool) or not isinstance(value, int | np.integer)
    ]
    if not wrong:
        wrong += [
            f"{name} is {given[name]}, below 1"
            for name in ("seq_len", "pred_len")
            if given[name] < 1
        ]
        if not 0 <= label_len <= seq_len:
            wrong.append(f"label_len is {label_len}, outside 0 to seq_len ({seq_len})")
    if wrong:
        raise ValueError(
            f"{'; '.join(wrong)}: use seq_len >= 1, 0 <= label_len <= seq_len and pred_len >= 1"
        )


def _fit_scaler(series: Series, train_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation [C] of the training rows."""
    train = series.values[:train_rows]
    # The range, since rounding can leave a constant channel a tiny standard deviation.
    still = np.flatnonzero(train.max(axis=0) == train.min(axis=0))
    if len(still):
        shown = listing([f"{series.channels[c]} (always {train[0, c]:g})" for c in still])
        raise ValueError(
            f"{series.name}: constant over the {train_rows} training rows, so there is nothing to "
            f"scale by: {shown}; choose other channels with --channels (channels=)"
        )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean, scale = train.mean(axis=0), train.std(axis=0)
        largest = np.abs((series.values - mean) / scale).max(axis=0)
    wild = np.flatnonzero(~(np.isfinite(scale) & (largest < _LARGEST_SCALED)))
    if len(wild):
        shown = listing([series.channels[c] for c in wild])
        raise ValueError(
            f"{series.name}: numbers too large or too small to scale in float32: {shown}; correct "
            "them, or choose other channels with --channels (channels=)"
        )
    return mean, scale
