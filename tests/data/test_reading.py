"""Reading a CSV file: what must be read, and every way in which it can be wrong."""

import numpy as np
import pandas as pd
import pytest

from tsjax import data


@pytest.fixture
def load(tmp_path):
    """Writes text or bytes to x.csv and loads it."""

    def write_and_load(content, **options):
        path = tmp_path / "x.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return data.load(str(path), **options)

    return write_and_load


GOOD = "date,a,b\n2020-01-01 00:00:00,1,2.5\n2020-01-01 01:00:00,3,-4e-1\n"


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        "\ufeff" + GOOD,
        GOOD.rstrip(),
        GOOD + "\n\n",
        GOOD.replace("2020-01-01 0", "2020/1/1 "),
        GOOD.replace("2020-01-01 0", "1/1/2020 "),
        GOOD.replace(":00:00,", ":00Z,"),
        GOOD.replace("date,a,b", '"date","a","b"'),
        "a,date,b\n1,2020-01-01,2.5\n3,2020-01-01 01:00,-0.4\n",
    ],
    ids=[
        "plain",
        "crlf",
        "cr",
        "bom",
        "no_last_newline",
        "blank_lines",
        "slashes",
        "us",
        "zoned",
        "quoted",
        "mixed_iso",
    ],
)
def test_every_common_form_reads_the_same(load, content):
    series = load(content, channels=["a", "b"])
    assert list(series.dates) == list(pd.date_range("2020-01-01", periods=2, freq="h"))
    assert series.dates.tz is None
    np.testing.assert_array_equal(series.values, [[1, 2.5], [3, -0.4]])
    assert (series.values.dtype, series.channels, series.name) == (np.float64, ("a", "b"), "x")


def test_day_first_dates_are_read_where_only_that_order_fits(load):
    days = pd.date_range("2020-01-12", periods=4)
    text = "date,a\n" + "".join(f"{day:%d/%m/%Y},{i}\n" for i, day in enumerate(days))
    assert list(load(text).dates) == list(days)


def test_daylight_saving_offsets_become_one_hour_steps_in_utc(load):
    series = load(
        "date,a\n2020-03-29T01:00:00+0100,1\n2020-03-29T03:00:00+0200,2\n"
        "2020-03-29T04:00:00+0200,3\n"
    )
    assert list(series.dates) == list(pd.date_range("2020-03-29 00:00", periods=3, freq="h"))
    assert "Time stamps with a time zone were converted to UTC." in series.notes


def test_channels_are_chosen_in_order_and_others_are_not_even_parsed(load):
    text = "date,a,t,b\n2020-01-01,1,x,2\n2020-01-02,3,y,4\n"
    np.testing.assert_array_equal(load(text, channels=["b", "a"]).values, [[2, 1], [4, 3]])
    assert load(text, channels="b").channels == ("b",)


def test_rows_limits_what_is_read(load):
    assert len(load(GOOD + "2020-01-01 02:00:00,,\n", rows=2).values) == 2


def test_undecodable_headers_are_kept_and_noted(load):
    series = load("date,W/m²\n2020-01-01,1\n2020-01-02,2\n".encode("latin-1"))
    assert series.channels == ("W/m\ufffd",)
    assert any("U+FFFD" in note for note in series.notes)


def test_blanks_around_names_are_removed_and_noted(load):
    series = load("date, a ,b\n2020-01-01,1,2\n2020-01-02,3,4\n")
    assert series.channels == ("a", "b")
    assert "Blanks around column names were removed." in series.notes


@pytest.mark.parametrize(
    ("content", "options", "match"),
    [
        ("", {}, r"x.csv is empty: expected a CSV file with a header and rows"),
        ("\ufeff\r\n\n", {}, "is empty"),
        (b"PK\x03\x04\0\0", {}, r"is not a text file: expected CSV, encoded as UTF-8"),
        (GOOD.encode("utf-16"), {}, "is not a text file"),
        ("date,a\n", {}, "has 0 rows: a series needs at least 2"),
        ("date,a\n2020-01-01,1\n", {}, "has 1 rows"),
        ("date;a\n2020-01-01;1\n", {}, "has one column, 'date;a': separate columns by commas"),
        (
            GOOD,
            {"date_column": "Date"},
            r"no date column 'Date' \(did you mean 'date'\?\): name it",
        ),
        (
            "time,a\n1,2\n3,4\n",
            {},
            "name it with --date_column .date_column=.; its columns are time, a",
        ),
        ("date,a,b,a\n", {}, "has duplicate columns: 'a'; rename or remove"),
        (
            "date,,a\n",
            {},
            r"column 2 has no name: name it, or choose other columns with --ch",
        ),
        ("date\n2020-01-01\n2020-01-02\n", {}, "no channel beside the date column 'date'"),
        (GOOD, {"channels": []}, "no channel beside the date column"),
        (GOOD, {"channels": ["aa", "date"]}, r"no channel 'aa'.*'a'.*, 'date'.*channels are a, b$"),
        (GOOD, {"channels": ["a", "a"]}, r"--channels \(channels=\) names a more than once"),
        (GOOD + "2020-01-01 02:00:00,1\n", {}, "row 3 has 2 fields where the header has 3 .1 such"),
        (GOOD + "2020-01-01 02:00:00,1,2,3\n", {}, "row 3 has 4 fields where the header has 3"),
        (GOOD + '"2020-01-01 02:00:00",1\n', {}, "row 3 has 2 fields"),
        ("date,a\nsoon,1\nlater,2\n", {}, "'date', row 1 is not a date: 'soon' .2 such rows"),
        ("date,a\n1467331200,1\n1467334800,2\n", {}, "row 1 is not a date: '1467331200'"),
        ("date,a\n2020-01-01,1\n,2\n", {}, "row 2 is not a date: blank .1 such rows.; write dates"),
        ("date,a\n,1\n2020-01-01,2\n", {}, "row 1 is not a date: blank"),
        ("date,a\n2020-01-01,1\n2020-02-30,2\n", {}, "row 2 is not a date: '2020-02-30'"),
        (
            "date,a\n2020-01-02,1\n2020-01-01,2\n2020-01-03,3\n",
            {},
            r"do not ascend: row 2 \(2020-01-01 00:00:00\) comes after row 1 \(2020-01-02 00:00:00",
        ),
        ("date,a\n2020-01-01,1\n2020-01-01,2\n", {}, "all 2 rows have the date 2020-01-01"),
        ("date,a\n01/02/2020,1\n02/03/2020,2\n", {}, "'01/02/2020', where day and month cannot"),
        (
            "date,a,b,c\n2020-01-01,1,2020-01-01,1\n2020-01-02,?,2020-01-02,1\n",
            {},
            (
                r"text where numbers are expected: 'a' has '\?' in row 2 \(2020-01-02 00:00:00\); "
                r"'b' has '2020-01-01' \(a date\) in row 1 .*; correct it, or choose"
            ),
        ),
        ("date,a\n2020-01-01,True\n2020-01-02,False\n", {}, "'a' has 'True' in row 1"),
        ("date,a\n2020-01-01,True\n2020-01-02,\n", {}, "'a' has 'True' in row 1"),
        (f"date,a\n2020-01-01,{'9' * 400}\n2020-01-02,1\n", {}, "missing values .*: a 1 .first"),
        (f"date,a\n2020-01-01,{'9' * 5000}\n2020-01-02,1\n", {}, "'a' has '9{40}' in row 1"),
        (GOOD, {"rows": 1}, "rows is 1: a series needs at least 2"),
        (GOOD, {"preset": "papr"}, r"preset is 'papr' \(did you mean 'paper'\?\): use one of"),
        (GOOD, {"missing": "drop"}, "missing is 'drop': use one of error, previous, linear"),
        (GOOD, {"split": "rato"}, "split is 'rato' .did you mean 'ratio'"),
    ],
)
def test_bad_input_is_one_clear_line(load, content, options, match):
    with pytest.raises(ValueError, match=match) as error:
        load(content, **options)
    assert "\n" not in str(error.value)
    if content != GOOD:
        assert "x.csv" in str(error.value)


def test_a_quote_that_never_ends_is_reported_with_the_file(load):
    with pytest.raises(ValueError, match=r"x.csv: unbalanced quote near row 3 .*; correct the"):
        load(GOOD + '2020-01-01 02:00:00,1,"2\n')


HOURS = "".join(f"{hour},1,2\n" for hour in pd.date_range("2020-01-01", periods=6000, freq="h"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('date,a,b\n2020-01-01,1,"2\n' + HOURS, "unbalanced quote near row 1 .field larger than"),
        ('date,"a,b\n' + HOURS, "unbalanced quote in the header .unexpected end of data"),
        ('date,a,b\n2020-01-01,1,"2"3\n' + HOURS, "unbalanced quote near row 1 .',' expected"),
        (f"date,{'a' * 140_000},b\n" + HOURS, "column 2 has a name of 140000 characters: expected"),
        (f"date,a,b\n{'9' * 140_000},1,2\n" + HOURS, "row 1 is not a date: '9{40}' "),
        (f"date,a,b\n2020-01-01,{'x' * 140_000},2\n" + HOURS, "'a' has 'x{40}' in row 1"),
    ],
    ids=["quote", "header_quote", "early_quote", "header", "date", "number"],
)
def test_what_is_very_long_is_one_short_line(load, content, match):
    with pytest.raises(ValueError, match=match) as error:
        load(content)
    assert "x.csv" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
