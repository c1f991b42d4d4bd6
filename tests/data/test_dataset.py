"""Splits, scaler, marks and windows."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tsjax import data


def make_series(rows=400, split="ratio", freq="h", channels=2):
    values = np.random.default_rng(0).normal(5, 3, size=(rows, channels))
    dates = pd.date_range("2020-01-01", periods=rows, freq=freq)
    names = tuple("abcdefgh"[:channels])
    return data.Series("x", dates, values, names, split=split)


LENGTHS = {"seq_len": 20, "label_len": 10, "pred_len": 5}


@given(
    rows=st.integers(10, 400),
    seq_len=st.integers(1, 60),
    pred_len=st.integers(1, 60),
)
def test_windows_stay_in_range_and_targets_never_meet(rows, seq_len, pred_len):
    try:
        dataset = data.prepare(
            make_series(rows, channels=1), seq_len=seq_len, label_len=0, pred_len=pred_len
        )
    except ValueError:
        assume(False)
    train, test = int(rows * 0.7), int(rows * 0.2)
    borders = {"train": (0, train), "val": (train, rows - test), "test": (rows - test, rows)}
    for part, (first, last) in borders.items():
        starts = dataset.starts(part)
        bounds = dataset.parts[part]
        assert starts.dtype == np.int32
        assert len(starts) == bounds.stop - bounds.start - seq_len - pred_len + 1 >= 1
        np.testing.assert_array_equal(np.diff(starts), 1)
        # Targets fill the part, from its first possible row to its last, and nothing beyond.
        assert starts[0] >= 0
        assert starts[0] + seq_len == (seq_len if part == "train" else first)
        assert starts[-1] + seq_len + pred_len == last


@given(rows=st.integers(30, 300), seq_len=st.integers(1, 40), pred_len=st.integers(1, 40))
def test_what_is_too_short_is_exactly_what_is_refused(rows, seq_len, pred_len):
    train, test = int(rows * 0.7), int(rows * 0.2)
    room = {"train": train - seq_len, "val": rows - train - test, "test": test}
    short = [part for part, targets in room.items() if targets < pred_len]
    lengths = {"seq_len": seq_len, "label_len": 0, "pred_len": pred_len}
    if not short:
        data.prepare(make_series(rows), **lengths)
        return
    with pytest.raises(ValueError, match="too short for one window") as error:
        data.prepare(make_series(rows), **lengths)
    named = str(error.value).split(f"= {seq_len + pred_len} rows: ")[1]
    assert [part for part in room if f"{part} (" in named] == short


def test_a_short_part_is_named_with_its_rows():
    with pytest.raises(ValueError, match="too short") as error:
        data.prepare(make_series(100), seq_len=8, label_len=0, pred_len=15)
    assert str(error.value) == (
        "x (100 rows): too short for one window of seq_len + pred_len = 8 + 15 = 23 rows: "
        "val (18 rows); use a longer series, or smaller lengths"
    )


@pytest.mark.parametrize(
    ("split", "ends"),
    [
        ("ett_hour", (8640, 11520, 14400)),
        ("ett_minute", (34560, 46080, 57600)),
        ("months_15_3_4", (10800, 12960, 15840)),
    ],
)
def test_splits_count_months_of_thirty_days(split, ends):
    series = make_series(ends[-1] + 3020, split)
    dataset = data.prepare(series, seq_len=96, label_len=48, pred_len=96)
    train, val, test = (dataset.parts[part] for part in ("train", "val", "test"))
    assert (train.start, train.stop) == (0, ends[0])
    assert (val.start, val.stop) == (ends[0] - 96, ends[1])
    assert (test.start, test.stop) == (ends[1] - 96, ends[2])


def test_a_series_too_short_for_its_split_rule():
    match = "x has 900 rows, but split 'ett_hour' .* needs 14400: .* choose ratio with --split"
    with pytest.raises(ValueError, match=match):
        data.prepare(make_series(900, "ett_hour"), **LENGTHS)
    with pytest.raises(ValueError, match=r"15/3/4 months of 30 days\) needs 15840"):
        data.prepare(make_series(900, "months_15_3_4"), **LENGTHS)


def test_the_scaler_knows_the_training_rows_only():
    series = make_series()
    dataset = data.prepare(series, **LENGTHS)
    train = series.values[:280]
    np.testing.assert_allclose(dataset.mean, train.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(dataset.scale, np.sqrt(((train - train.mean(0)) ** 2).mean(0)))
    np.testing.assert_allclose(dataset.values[:280].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(dataset.values[:280].std(axis=0), 1, atol=1e-6)
    assert (dataset.values.dtype, dataset.marks.dtype) == (np.float32, np.float32)
    assert (dataset.mean.dtype, dataset.scale.dtype) == (np.float64, np.float64)


@pytest.mark.parametrize("first_changed", [280, 320])
def test_the_future_does_not_leak(first_changed):
    series = make_series()
    values = series.values.copy()
    values[first_changed:] = values[first_changed:] * 7 + 100
    before = data.prepare(series, **LENGTHS)
    after = data.prepare(dataclasses.replace(series, values=values), **LENGTHS)
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.scale, after.scale)
    np.testing.assert_array_equal(before.values[:first_changed], after.values[:first_changed])
    assert (before.values[first_changed:] != after.values[first_changed:]).all()


def test_unscale_undoes_the_scaling():
    series = make_series()
    dataset = data.prepare(series, **LENGTHS)
    np.testing.assert_allclose(dataset.unscale(dataset.values), series.values, rtol=1e-5, atol=1e-5)
    assert dataset.unscale(np.zeros((3, 5, 2), np.float32)).shape == (3, 5, 2)
    with pytest.raises(ValueError, match=r"shape \(3, 1\), but x has 2 channels: the last axis"):
        dataset.unscale(np.zeros((3, 1)))


@pytest.mark.parametrize(("embed", "columns"), [("timeF", 5), ("fixed", 5), ("learned", 5)])
def test_marks_are_those_of_the_embedding(embed, columns):
    series = make_series(freq="15min")
    dataset = data.prepare(series, **LENGTHS, embed=embed)
    make = data.time_features if embed == "timeF" else data.time_fields
    assert dataset.marks.shape == (400, columns)
    np.testing.assert_array_equal(dataset.marks, make(series.dates, "t").astype(np.float32))


def test_the_marks_frequency_can_be_chosen_and_leaves_the_period_alone():
    dataset = data.prepare(make_series(freq="15min"), **LENGTHS, freq="h")
    assert (dataset.freq, dataset.marks.shape, dataset.period) == ("h", (400, 4), 96)


def test_all_wrong_lengths_are_reported_at_once():
    with pytest.raises(ValueError, match="seq_len is 0") as error:
        data.prepare(make_series(), seq_len=0, label_len=-1, pred_len=0)
    assert str(error.value) == (
        "seq_len is 0, below 1; pred_len is 0, below 1; label_len is -1, outside 0 to seq_len (0): "
        "use seq_len >= 1, 0 <= label_len <= seq_len and pred_len >= 1"
    )
    with pytest.raises(ValueError, match=r"label_len is 21, outside 0 to seq_len .20.: use"):
        data.prepare(make_series(), seq_len=20, label_len=21, pred_len=1)
    with pytest.raises(ValueError, match=r"seq_len is 9.5, not an integer; pred_len is True, not"):
        data.prepare(make_series(), seq_len=9.5, label_len=1, pred_len=True)


def test_unknown_options_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"embed is 'timef' .did you mean 'timeF'"):
        data.prepare(make_series(), **LENGTHS, embed="timef")
    with pytest.raises(ValueError, match="freq is 'x': use one of s, t, h, d, b, w, m, a"):
        data.prepare(make_series(), **LENGTHS, freq="x")
    with pytest.raises(ValueError, match=r"part is 'vali' .did you mean 'val'.*train, val, test"):
        data.prepare(make_series(), **LENGTHS).starts("vali")


def test_every_channel_that_is_constant_in_training_is_named():
    series = make_series(channels=4)
    # 0.1 leaves a standard deviation of 1e-17 rather than 0, and the last rows do vary.
    series.values[:300, 1], series.values[:, 3] = 0.1, 7
    with pytest.raises(ValueError, match=r"280 training rows.*b \(always 0.1\), d \(always 7\); "):
        data.prepare(series, **LENGTHS)


def test_numbers_that_do_not_fit_are_refused():
    series = make_series()
    series.values[3, 1] = 1e308
    series.values[4, 1] = -1e308
    with pytest.raises(ValueError, match="too large or too small to scale in float32: b; correct"):
        data.prepare(series, **LENGTHS)


@pytest.mark.parametrize(("jump", "fits"), [(1e-20, True), (1e-14, False), (1.0, False)])
def test_a_channel_nearly_constant_in_training_is_refused_where_squares_would_overflow(jump, fits):
    series = make_series()
    series.values[:280, 1] = np.arange(280) % 2 * 1e-30
    series.values[280:, 1] = jump
    if not fits:
        with pytest.raises(ValueError, match="too small to scale in float32: b; correct") as error:
            data.prepare(series, **LENGTHS)
        assert "\n" not in str(error.value)
        return
    largest = np.abs(data.prepare(series, **LENGTHS).values).max()
    assert np.isfinite(largest**2 * np.float32(1e12))


def test_a_spread_that_underflows_is_refused_without_a_warning():
    series = make_series()
    series.values[:, 1] = np.arange(400) % 2 * 5e-324
    with pytest.raises(ValueError, match="too small to scale in float32: b; correct"):
        data.prepare(series, **LENGTHS)


def test_a_series_reports_all_that_does_not_fit():
    dates = pd.DatetimeIndex(["2020-01-02", "2020-01-01"])
    with pytest.raises(ValueError, match="series 'x' has") as error:
        data.Series("x", dates, np.full((3, 2), np.nan), ("a", "a"))
    assert str(error.value) == (
        "series 'x' has values (3, 2) for (2, 2) dates and channels; values that are not finite; "
        "dates that do not ascend; repeated channel names"
    )
    with pytest.raises(ValueError, match="no channel; 1 rows without two different dates"):
        data.Series("x", dates[:1], np.zeros((1, 0)), ())
