"""Loads a series by its name or path. Every data set is read by `load`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tsjax.data.catalogue import SYNTHETIC, Entry, find_file
from tsjax.data.cleaning import (
    MISSING,
    describe_dates,
    describe_values,
    fill_missing,
    mark_sentinel,
)
from tsjax.data.reading import Table, check_channels, read_csv
from tsjax.data.series import Series
from tsjax.data.splits import SPLITS
from tsjax.data.synthetic import synthetic
from tsjax.wording import one_of

PRESETS = ("corrected", "paper", "tslib")
"""'corrected' takes sentinels as missing values. The other two keep them as numbers, as published
results did."""


def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    preset: str = "corrected",
    missing: str | None = None,
    date_column: str = "date",
    channels: Sequence[str] | None = None,
    rows: int | None = None,
    split: str | None = None,
) -> Series:
    """Reads a series by name or path. What is odd about it stands in the series' `notes`.

    Args:
      name: 'synthetic' (embedded, needs no file); a name of the catalogue in any case, such as
        'ETTh1'; the stem or name of a CSV file in `data_dir` or one of its subfolders; or a path.
      data_dir: the folder with the CSV files; by default the one TSJAX_DATA_DIR names.
      preset: 'corrected' takes Weather's sentinel -9999 as a missing value; 'paper' and 'tslib'
        keep it as a number, as published results did.
      missing: what to do about blank, NaN and infinite values: 'error' raises, 'previous' repeats
        the value before and never looks ahead, and 'linear' interpolates in time. The default is
        'previous' for a set with a sentinel under 'corrected', and 'error' otherwise.
      date_column: the column with the time stamps. Those with a time zone are converted to UTC.
      channels: the columns to take, in this order; by default all but the date column.
      rows: take only this many rows from the start; by default all.
      split: one of `SPLITS`; by default the catalogue's, else 'ratio'.

    Returns:
      The series; its values are in the file's units.

    Raises:
      FileNotFoundError: if the data folder, the file of a known set, or the path is missing.
      ValueError: if an option or the name is unknown, or the file is not a clean series; one line
        with the file, the place in it and the fix.
    """
    one_of("preset", preset, PRESETS)
    if missing is not None:
        one_of("missing", missing, MISSING)
    if split is not None:
        one_of("split", split, SPLITS)
    if rows is not None and rows < 2:
        raise ValueError(f"rows is {rows}: a series needs at least 2")
    if name.lower() == SYNTHETIC:
        return _load_synthetic(channels, rows, split)
    path, entry = find_file(name, data_dir)
    table = read_csv(path, date_column=date_column, channels=channels, rows=rows)
    return _clean(path, entry, table, preset, missing, split)


def _load_synthetic(channels: Sequence[str] | None, rows: int | None, split: str | None) -> Series:
    series = synthetic() if rows is None else synthetic(rows=rows)
    chosen = list(series.channels)
    if channels is not None:
        chosen = [channels] if isinstance(channels, str) else list(channels)
        check_channels(SYNTHETIC, chosen, series.channels)
    columns = [series.channels.index(channel) for channel in chosen]
    return Series(
        name=series.name,
        dates=series.dates,
        values=series.values[:, columns],
        channels=tuple(chosen),
        notes=series.notes,
        split=split or series.split,
    )


def _clean(
    path: Path,
    entry: Entry | None,
    table: Table,
    preset: str,
    missing: str | None,
    split: str | None,
) -> Series:
    """Applies the policies to a table as read, and collects the notes."""
    notes = list(table.notes)
    values = table.values
    sentinel = entry.sentinel if entry else None
    if entry and entry.remark:
        notes.append(entry.remark)
    if entry and entry.sha256 and entry.sha256 != table.sha256:
        notes.append(f"The file differs from the published {entry.file} (by its sha256).")
    notes += describe_dates(table.dates)
    corrects = sentinel is not None and preset == "corrected"
    if sentinel is not None:
        values, found = mark_sentinel(values, table.channels, sentinel, missing=corrects)
        notes += found
    policy = missing or ("previous" if corrects else "error")
    filled = ~np.isfinite(values)
    values, found = fill_missing(values, table.dates, table.channels, policy, str(path))
    notes += found
    notes += describe_values(values, table.channels, table.dates, filled=filled, known=sentinel)
    return Series(
        name=entry.name if entry else path.stem,
        dates=table.dates,
        values=values,
        channels=table.channels,
        notes=tuple(notes),
        split=split or (entry.split if entry else "ratio"),
    )
