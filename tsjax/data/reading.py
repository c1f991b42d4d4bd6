"""Reads one CSV file strictly: whatever is wrong raises an error that names the place.

Dimension legend: T rows, C channels.
"""

import csv
import dataclasses
import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from tsjax.wording import listing, near

_GOOD_DATE = "write dates as 2020-01-31 13:00:00"
_LONGEST_NAME = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The dates and channels of a CSV file.

    Attributes:
      dates: [T] in ascending order, without a time zone.
      values: [T, C] float64. They are NaN where the file has a blank or NaN, and infinite where it
        has an infinite number.
      channels: the C column names.
      notes: what was noticed while reading.
      sha256: the hash of the file.
    """

    dates: pd.DatetimeIndex
    values: np.ndarray
    channels: tuple[str, ...]
    notes: tuple[str, ...]
    sha256: str


def read_csv(
    path: Path,
    *,
    date_column: str = "date",
    channels: Sequence[str] | None = None,
    rows: int | None = None,
) -> Table:
    """Reads a CSV file with one date column and channels of numbers.

    Messages count rows from 1, without the header.

    Args:
      path: the file; UTF-8, with or without BOM, any line ends.
      date_column: the column with the time stamps. Those with a time zone are converted to UTC.
      channels: the columns to read, in this order; by default all but the date column.
      rows: read this many rows from the start; by default all.

    Raises:
      ValueError: if the file is not a clean series. The message is one line with the file, the
        place and the fix.
    """
    raw = path.read_bytes()
    _check_text(path, raw)
    header, header_notes = _read_header(path, raw)
    chosen = _choose_columns(path, header, date_column, channels)
    _check_fields(path, raw, len(header))
    try:
        frame = pd.read_csv(
            io.BytesIO(raw),
            header=0,
            names=header,
            usecols=[date_column, *chosen],
            dtype={date_column: str},
            nrows=rows,
            encoding="utf-8-sig",
            encoding_errors="replace",
            low_memory=False,
        )
    except pd.errors.ParserError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not well-formed CSV: {reason}; correct the file") from None
    if len(frame) < 2:
        raise ValueError(f"{path} has {len(frame)} rows: a series needs at least 2")
    dates, date_notes = _parse_dates(path, frame[date_column])
    values = _parse_numbers(path, frame, chosen, dates)
    notes = (*header_notes, *date_notes)
    return Table(dates, values, chosen, notes, hashlib.sha256(raw).hexdigest())


def _check_text(path: Path, raw: bytes) -> None:
    if not raw.strip(b"\xef\xbb\xbf \t\r\n"):
        raise ValueError(f"{path} is empty: expected a CSV file with a header and rows")
    if b"\0" in raw or any(byte < 9 for byte in raw[:1024]):
        raise ValueError(f"{path} is not a text file: expected CSV, encoded as UTF-8")


def _first_line(raw: bytes) -> str:
    line = raw.lstrip(b"\xef\xbb\xbf \t\r\n")[: 1 << 20]
    return re.split("[\r\n]", line.decode("utf-8", errors="replace"))[0]


def _read_header(path: Path, raw: bytes) -> tuple[list[str], list[str]]:
    """Returns the column names, stripped, and notes about them."""
    line = _first_line(raw)
    try:
        given = next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
    except csv.Error as error:
        raise _bad_quote(path, 0, error) from None
    header = [name.strip() for name in given]
    longest = max(header, key=len)
    if len(longest) > _LONGEST_NAME:
        raise ValueError(
            f"{path}: column {header.index(longest) + 1} has a name of {len(longest)} characters: "
            "expected a first line with the column names"
        )
    notes = []
    if header != given:
        notes.append("Blanks around column names were removed.")
    broken = [name for name in header if "\ufffd" in name]
    if broken:
        notes.append(
            f"{len(broken)} column names hold U+FFFD, a character lost before or in decoding as "
            f"UTF-8 ({listing(broken)}); they were kept."
        )
    twice = sorted({repr(name) for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has duplicate columns: {listing(twice)}; rename or remove them")
    if len(header) == 1 and any(mark in line for mark in ";\t|"):
        raise ValueError(f"{path} has one column, {line[:80]!r}: separate columns by commas")
    return header, notes


def _choose_columns(
    path: Path, header: list[str], date_column: str, channels: Sequence[str] | None
) -> tuple[str, ...]:
    """Returns the channels to read, after checking that all columns asked for exist."""
    if date_column not in header:
        raise ValueError(
            f"{path} has no date column {date_column!r}{near(date_column, header)}: "
            f"name it with --date_column (date_column=); its columns are {listing(header)}"
        )
    others = [name for name in header if name != date_column]
    if channels is None:
        chosen = others
        if "" in chosen:
            raise ValueError(
                f"{path}: column {header.index('') + 1} has no name: name it, or choose other "
                "columns with --channels (channels=)"
            )
    else:
        chosen = [channels] if isinstance(channels, str) else list(channels)
        check_channels(str(path), chosen, others)
    if not chosen:
        raise ValueError(f"{path}: no channel beside the date column {date_column!r}; need one")
    return tuple(chosen)


def check_channels(where: str, chosen: Sequence[str], options: Sequence[str]) -> None:
    """Raises ValueError if a chosen channel is not among the options, or is chosen twice."""
    unknown = [f"{name!r}{near(name, options)}" for name in chosen if name not in options]
    if unknown:
        raise ValueError(
            f"{where} has no channel {', '.join(unknown)}: its channels are {listing(options)}"
        )
    twice = sorted({name for name in chosen if list(chosen).count(name) > 1})
    if twice:
        raise ValueError(f"{where}: --channels (channels=) names {listing(twice)} more than once")


def _check_fields(path: Path, raw: bytes, expected: int) -> None:
    """Raises ValueError if a row has too many or too few fields.

    pandas fills a short row with NaN, which would then be reported as missing values.
    """
    if b'"' in raw:
        fields = _count_quoted_fields(path, raw)
    else:
        codes = np.frombuffer(raw, dtype=np.uint8)
        # Lines may end in \n, \r\n or \r; an empty "line" between \r and \n has no field.
        ends = np.flatnonzero((codes == 10) | (codes == 13))
        edges = np.unique(np.concatenate(([0], ends + 1, [len(codes)])))
        starts, lengths = edges[:-1], np.diff(edges)
        lengths = lengths - np.isin(starts + lengths - 1, ends, assume_unique=True)
        fields = np.add.reduceat(codes == 44, starts, dtype=np.int64)[lengths > 0] + 1
    wrong = np.flatnonzero(fields[1:] != expected)
    if len(wrong):
        row = wrong[0] + 1
        raise ValueError(
            f"{path}: row {row} has {fields[row]} fields where the header has {expected} "
            f"({len(wrong)} such rows): give every row one field for each column"
        )


def _count_quoted_fields(path: Path, raw: bytes) -> np.ndarray:
    """Returns the number of fields of every line that is not empty, the header's first."""
    text = raw.decode("utf-8-sig", errors="replace")
    counts = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            if row:
                counts.append(len(row))  # noqa: PERF401 - after an error they tell the place
    except csv.Error as error:
        raise _bad_quote(path, len(counts), error) from None
    return np.array(counts)


def _bad_quote(path: Path, row: int, error: csv.Error) -> ValueError:
    """Returns the error for a quote that opens and does not close, or closes too early."""
    place = f"near row {row}" if row else "in the header"
    return ValueError(f"{path}: unbalanced quote {place} ({error}); correct the file")


def _parse_dates(path: Path, text: pd.Series) -> tuple[pd.DatetimeIndex, list[str]]:
    """Returns the dates, and a note if they carried a time zone.

    Only one written format, or a mixture of ISO 8601 forms, is accepted: parsing each stamp on its
    own would read 01/02/2020 and 13/02/2020 under different rules.
    """
    first = text.iloc[0]
    formats = _date_formats(first) if isinstance(first, str) else ["ISO8601"]
    attempts = [pd.to_datetime(text, format=f, utc=True, errors="coerce") for f in formats]
    attempts.sort(key=lambda dates: (int(dates.isna().sum()), not dates.is_monotonic_increasing))
    parsed = attempts[0]
    bad = np.flatnonzero(parsed.isna())
    if len(bad):
        value = text.iloc[bad[0]]
        shown = repr(value[:40]) if isinstance(value, str) else "blank"
        raise ValueError(
            f"{path}: column {text.name!r}, row {bad[0] + 1} is not a date: {shown} "
            f"({len(bad)} such rows); {_GOOD_DATE}"
        )
    rivals = [dates for dates in attempts[1:] if dates.is_monotonic_increasing]
    if any(not dates.isna().any() and not dates.equals(parsed) for dates in rivals):
        raise ValueError(
            f"{path}: column {text.name!r} holds dates like {first[:40]!r}, where day and month "
            f"cannot be told apart; {_GOOD_DATE}"
        )
    dates = pd.DatetimeIndex(parsed.dt.tz_localize(None), name=None)
    _check_ascending(path, dates)
    zoned = re.search(r":\d\d(\.\d+)? ?(Z|UTC|[+-]\d\d:?\d\d)$", str(first)) is not None
    return dates, ["Time stamps with a time zone were converted to UTC."] if zoned else []


def _date_formats(first: str) -> list[str]:
    """Returns the formats to try, given the first time stamp of a file."""
    formats = [_guess_format(first, day_first=False)]
    if not re.match(r"\d{4}", first):
        formats.append(_guess_format(first, day_first=True))
    return list(dict.fromkeys([*filter(None, formats), "ISO8601"]))


def _guess_format(text: str, day_first: bool) -> str | None:
    with warnings.catch_warnings():
        # pandas warns where the text itself settles the order: 31/01/2020.
        warnings.simplefilter("ignore", UserWarning)
        return guess_datetime_format(text, dayfirst=day_first)


def _check_ascending(path: Path, dates: pd.DatetimeIndex) -> None:
    back = np.flatnonzero(np.diff(np.asarray(dates.values)) < np.timedelta64(0))
    if len(back):
        row = back[0] + 1
        raise ValueError(
            f"{path}: dates do not ascend: row {row + 1} ({dates[row]}) comes after row {row} "
            f"({dates[row - 1]}), {len(back)} such places; sort the file by date, and {_GOOD_DATE}"
        )
    if dates[0] == dates[-1]:
        raise ValueError(f"{path}: all {len(dates)} rows have the date {dates[0]}; dates advance")


def _parse_numbers(
    path: Path, frame: pd.DataFrame, channels: tuple[str, ...], dates: pd.DatetimeIndex
) -> np.ndarray:
    """Returns the channels as [T, C] float64; raises ValueError where one holds text."""
    wrong = []
    values = np.empty((len(frame), len(channels)))
    for index, name in enumerate(channels):
        column = frame[name]
        if column.dtype.kind in "iuf":
            values[:, index] = column
            continue
        if column.dtype.kind in "bO":
            # As text, True is no number, and integers beyond float64 are infinite.
            column = column.astype(str).where(column.notna())
        numbers = pd.to_numeric(column, errors="coerce")
        text = np.flatnonzero(numbers.isna() & column.notna())
        if len(text):
            row, value = text[0], str(column.iloc[text[0]])
            is_date = " (a date)" if _looks_like_date(value) else ""
            wrong.append(f"{name!r} has {value[:40]!r}{is_date} in row {row + 1} ({dates[row]})")
        values[:, index] = numbers
    if wrong:
        raise ValueError(
            f"{path}: text where numbers are expected: {'; '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more columns' if len(wrong) > 5 else ''}; "
            "correct it, or choose other columns with --channels (channels=)"
        )
    return values


def _looks_like_date(value: str) -> bool:
    return _guess_format(value, day_first=False) is not None
