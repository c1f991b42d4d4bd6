"""Splits a series into its training, validation and test parts.

Dimension legend: T rows.
"""

import dataclasses

from tsjax.wording import one_of

_MONTH_HOURS = 30 * 24

# Training, validation and test months of 30 days, and the rows of an hour; "ratio" depends on the
# series.
_MONTHS = {
    "ett_hour": ((12, 4, 4), 1),
    "ett_minute": ((12, 4, 4), 4),
    "months_15_3_4": ((15, 3, 4), 1),
}

SPLITS = (*_MONTHS, "ratio")
"""The split rules. The first two are ETT's 12, 4 and 4 months of 30 days, for hourly rows and
for rows of 15 minutes. "months_15_3_4" is 15, 3 and 4 such months of hourly rows, which
Crossformer's authors take of ECL. "ratio" is 70, 10 and 20 per cent."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a data set: the range of rows that its windows may touch.

    The validation and test parts begin `seq_len` rows before their border. Those rows are the input
    of their first windows, and never a target.

    Attributes:
      name: 'train', 'val' or 'test'.
      start: the first row.
      stop: the row after the last one.
    """

    name: str
    start: int
    stop: int

    def windows(self, seq_len: int, pred_len: int) -> int:
        """Returns how many windows of `seq_len` input and `pred_len` target rows fit."""
        return max(0, self.stop - self.start - seq_len - pred_len + 1)


def part_rows(split: str, rows: int, name: str = "series") -> tuple[int, int, int]:
    """Returns the number of training, validation and test rows under a split rule.

    "ratio" is n_train = int(0.7 T), n_test = int(0.2 T), n_val = T - n_train - n_test.

    Args:
      split: one of SPLITS.
      rows: T, the rows at hand.
      name: what to call the series in an error.

    Raises:
      ValueError: if the rule is unknown, or needs more rows than there are.
    """
    one_of("split", split, SPLITS)
    if split not in _MONTHS:
        train, test = int(rows * 0.7), int(rows * 0.2)
        return train, rows - train - test, test
    months, per_hour = _MONTHS[split]
    train, val, test = (n * _MONTH_HOURS * per_hour for n in months)
    if rows < train + val + test:
        listed = "/".join(map(str, months))
        raise ValueError(
            f"{name} has {rows} rows, but split {split!r} ({listed} months of 30 days) needs "
            f"{train + val + test}: load the whole file, or choose ratio with --split (split=)"
        )
    return train, val, test


def make_parts(counts: tuple[int, int, int], seq_len: int, pred_len: int) -> dict[str, Part]:
    """Returns the parts 'train', 'val' and 'test' for the given numbers of rows.

    Args:
      counts: training, validation and test rows.
      seq_len: input rows of a window.
      pred_len: target rows of a window.

    Raises:
      ValueError: naming every part that is too short for a single window.
    """
    train, val, test = counts
    parts = (
        Part("train", 0, train),
        Part("val", train - seq_len, train + val),
        Part("test", train + val - seq_len, train + val + test),
    )
    short = [part for part in parts if not part.windows(seq_len, pred_len)]
    if short:
        # With too few training rows, a later part would begin before row 0: count real rows.
        rows = ", ".join(f"{part.name} ({part.stop - max(0, part.start)} rows)" for part in short)
        raise ValueError(
            f"too short for one window of seq_len + pred_len = {seq_len} + {pred_len} = "
            f"{seq_len + pred_len} rows: {rows}; use a longer series, or smaller lengths"
        )
    return {part.name: part for part in parts}
