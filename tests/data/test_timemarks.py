"""Time features against the reference numbers, and what is inferred from the step."""

import numpy as np
import pandas as pd
import pytest
from conftest import golden_dir
from hypothesis import given
from hypothesis import strategies as st

from tsjax import data


@pytest.fixture(scope="module")
def golden():
    path = golden_dir() / "layers.npz"
    if not path.is_file():
        pytest.skip(f"no {path}: set TSJAX_GOLDEN_DIR to run this test")
    with np.load(path) as arrays:
        return {key: arrays[key] for key in arrays if key.startswith("time_features/")}


@pytest.mark.parametrize("freq", ["s", "t", "h", "d", "b", "w", "m"])
def test_time_features_are_the_references(golden, freq):
    dates = pd.DatetimeIndex(golden["time_features/timestamps"])
    got = data.time_features(dates, freq)
    np.testing.assert_allclose(got, golden[f"time_features/{freq}"], rtol=0, atol=1e-12)
    assert got.dtype == np.float64


def test_time_fields_are_the_references(golden):
    dates = pd.DatetimeIndex(golden["time_features/timestamps"])
    expected = golden["time_features/calendar_month_day_weekday_hour_minute15"]
    np.testing.assert_array_equal(data.time_fields(dates, "t"), expected)
    np.testing.assert_array_equal(data.time_fields(dates, "h"), expected[:, :4])
    assert data.time_fields(dates, "t").dtype == np.int32


# Tuesday, the last day of a leap year, in the first ISO week of the next; and a Thursday.
STAMPS = pd.DatetimeIndex(["2024-12-31 23:44:59", "2021-03-04 05:14:07"])
BY_HAND = {
    "second": [59 / 59, 7 / 59],
    "minute": [44 / 59, 14 / 59],
    "hour": [23 / 23, 5 / 23],
    "weekday": [1 / 6, 3 / 6],
    "day": [30 / 30, 3 / 30],
    "dayofyear": [365 / 365, 62 / 365],
    "week": [0 / 52, 8 / 52],
    "month": [11 / 11, 2 / 11],
}


@pytest.mark.parametrize("freq", data.FREQUENCIES)
def test_time_features_by_hand(freq):
    expected = np.transpose([BY_HAND[name] for name in data.FREQUENCIES[freq]]) - 0.5
    got = data.time_features(STAMPS, freq)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_time_fields_by_hand():
    expected = [[12, 31, 1, 23, 2], [3, 4, 3, 5, 0]]
    np.testing.assert_array_equal(data.time_fields(STAMPS, "t"), expected)
    np.testing.assert_array_equal(data.time_fields(STAMPS, "h"), np.array(expected)[:, :4])
    quarters = pd.date_range("2020-01-01", periods=5, freq="15min")
    assert data.time_fields(quarters, "t")[:, 4].tolist() == [0, 1, 2, 3, 0]


@given(
    st.datetimes(pd.Timestamp("1900-01-01").to_pydatetime(), pd.Timestamp("2200").to_pydatetime()),
    st.sampled_from(sorted(data.FREQUENCIES)),
)
def test_time_features_stay_within_half(date, freq):
    features = data.time_features(pd.DatetimeIndex([date]), freq)
    assert features.shape == (1, len(data.FREQUENCIES[freq]))
    assert (np.abs(features) <= 0.5).all()


@pytest.mark.parametrize(
    ("step", "freq", "season"),
    [
        ("1s", "s", 86400),
        ("10min", "t", 144),
        ("15min", "t", 96),
        ("h", "h", 24),
        ("3h", "h", 8),
        ("D", "d", 7),
        ("B", "b", 5),
        ("7D", "w", 52),
        ("MS", "m", 12),
        ("QS", "m", 4),
        ("YS", "a", 1),
    ],
)
def test_frequency_and_season_follow_from_the_step(step, freq, season):
    dates = pd.date_range("2016-01-01", periods=60, freq=step)
    series = data.Series("x", dates, np.zeros((60, 1)), ("a",))
    assert (series.freq, series.period) == (freq, season)


def test_a_repeated_stamp_or_a_gap_does_not_change_the_frequency():
    dates = pd.date_range("2020-01-01", periods=9, freq="15min")
    dates = dates[:4].append(dates[3:5]).append(dates[7:])
    assert data.infer_freq(dates) == "t"


def test_an_unknown_frequency_lists_the_letters():
    with pytest.raises(ValueError, match=r"^freq is '15min': use one of s, t, h, d, b, w, m, a$"):
        data.time_features(pd.DatetimeIndex(["2020-01-01"]), "15min")
    with pytest.raises(ValueError, match=r"freq is 'H' .did you mean 'h'"):
        data.time_fields(pd.DatetimeIndex(["2020-01-01"]), "H")


def test_dates_that_never_advance_have_no_frequency():
    with pytest.raises(ValueError, match="3 time stamps that do not advance"):
        data.infer_freq(pd.DatetimeIndex(["2020-01-01"] * 3))
