"""A series as it was read: dates, values and notes on what is odd about them.

Dimension legend: T rows, C channels.
"""

import dataclasses

import numpy as np
import pandas as pd

from tsjax.data.splits import SPLITS
from tsjax.data.timemarks import infer_freq, season, typical_step
from tsjax.wording import one_of


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """A series in its own units, checked and without missing values.

    Attributes:
      name: the catalogue's name, the file's stem, or 'synthetic'.
      dates: [T] time stamps in ascending order, without a time zone (repeats are allowed).
      values: [T, C] float64, finite.
      channels: the C channel names.
      notes: one sentence for each oddity: what was found, and what was done about it.
      split: one of `tsjax.data.SPLITS`.
      step: the median distance between two rows; derived from `dates`.
      freq: one of s t h d b w m a; derived from `dates`.

    Raises:
      ValueError: if the shapes disagree, a value is not finite, the dates do not ascend, channel
        names repeat or the split is unknown; all mismatches are reported at once.
    """

    name: str
    dates: pd.DatetimeIndex
    values: np.ndarray
    channels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    split: str = "ratio"
    step: pd.Timedelta = dataclasses.field(init=False)
    freq: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        one_of("split", self.split, SPLITS)
        expected = (len(self.dates), len(self.channels))
        wrong = []
        if self.values.shape != expected:
            wrong.append(f"values {self.values.shape} for {expected} dates and channels")
        if not np.isfinite(self.values).all():
            wrong.append("values that are not finite")
        if not self.dates.is_monotonic_increasing:
            wrong.append("dates that do not ascend")
        if len(set(self.channels)) < len(self.channels):
            wrong.append("repeated channel names")
        if not self.channels:
            wrong.append("no channel")
        if len(self.dates.unique()) < 2:
            wrong.append(f"{len(self.dates)} rows without two different dates")
        if wrong:
            raise ValueError(f"series {self.name!r} has {'; '.join(wrong)}")
        object.__setattr__(self, "step", typical_step(self.dates))
        object.__setattr__(self, "freq", infer_freq(self.dates))

    @property
    def period(self) -> int:
        """Steps in the dominant season: 24 for hourly rows, 96 for 15 minutes, 7 for days."""
        return season(self.step, self.freq)
