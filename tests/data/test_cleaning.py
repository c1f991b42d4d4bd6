"""Missing values and the notes about what is odd."""

import warnings

import numpy as np
import pandas as pd
import pytest

from tsjax import data

NAN = float("nan")


def load(tmp_path, columns, dates=None, name="x.csv", **options):
    rows = len(next(iter(columns.values())))
    if dates is None:
        dates = pd.date_range("2020-01-01", periods=rows, freq="h")
    frame = pd.DataFrame(columns, index=pd.DatetimeIndex(dates, name="date"))
    frame.to_csv(tmp_path / name)
    return data.load(str(tmp_path / name), **options)


HOLES = {"a": [NAN, 1.0, NAN, NAN, 4.0, NAN], "b": [1.0, 2, 3, 4, 5, np.inf], "c": range(6)}


def test_missing_values_are_an_error_with_counts_and_first_dates(tmp_path):
    with pytest.raises(ValueError, match="missing values") as error:
        load(tmp_path, HOLES)
    assert str(error.value) == (
        f"{tmp_path / 'x.csv'}: missing values (blank, NaN or infinite): a 4 (first 2020-01-01 "
        "00:00:00), b 1 (first 2020-01-01 05:00:00); fill them with --missing (missing=): previous "
        "or linear"
    )


def test_previous_repeats_the_value_before(tmp_path):
    series = load(tmp_path, HOLES, missing="previous")
    np.testing.assert_array_equal(series.values[:, 0], [1, 1, 1, 1, 4, 4])
    np.testing.assert_array_equal(series.values[:, 1], [1, 2, 3, 4, 5, 5])
    assert any("filled (missing=previous): a 4" in note for note in series.notes)


def test_linear_interpolates_in_time_and_leaves_known_values_alone(tmp_path):
    dates = pd.DatetimeIndex([f"2020-01-01 {h:02}:00" for h in (0, 1, 2, 5, 5, 6)])
    columns = {"a": [NAN, 1.0, NAN, 5.0, 7.0, NAN]}
    series = load(tmp_path, columns, dates, missing="linear")
    np.testing.assert_array_equal(series.values[:, 0], [1, 1, 2, 5, 7, 7])


def test_previous_never_looks_ahead(tmp_path):
    changed = {**HOLES, "a": [NAN, 1.0, NAN, NAN, 40.0, NAN]}
    before = load(tmp_path, HOLES, missing="previous").values
    after = load(tmp_path, changed, missing="previous").values
    np.testing.assert_array_equal(before[:4], after[:4])
    assert before[4, 0] != after[4, 0]


def test_an_empty_channel_cannot_be_filled(tmp_path):
    with pytest.raises(ValueError, match="no value at all in a; choose other columns with"):
        load(tmp_path, {"a": [NAN] * 4, "b": range(4)}, missing="previous")


WEATHER = {"T": [1.0, 2, -9999, 4, 5], "OT": [-9999.0, 7, 8, 9, -9999]}


def test_weathers_sentinel_is_missing_under_corrected_only(tmp_path):
    series = load(tmp_path, WEATHER, name="weather.csv")
    np.testing.assert_array_equal(series.values, [[1, 7], [2, 7], [2, 8], [4, 9], [5, 9]])
    notes = [note for note in series.notes if "-9999" in note]
    assert notes[0] == "The sentinel -9999 was taken as a missing value: T 1, OT 2."
    assert notes[1:] == [
        (
            "Published results keep -9999 as a number, which widens the scale of these channels: "
            "they are not comparable with errors on this series (presets paper and tslib keep it, "
            "too)."
        )
    ]
    for preset in ("paper", "tslib"):
        series = load(tmp_path, WEATHER, name="weather.csv", preset=preset)
        np.testing.assert_array_equal(series.values, np.array(list(WEATHER.values())).T)
        (note,) = (note for note in series.notes if "-9999" in note)
        assert note.startswith("The sentinel -9999 was kept as a number, as in published results")
    with pytest.raises(ValueError, match=r"T 1 .first 2020-01-01 02:00:00., OT 2"):
        load(tmp_path, WEATHER, name="weather.csv", missing="error")


def test_elsewhere_a_sentinel_is_kept_and_pointed_out(tmp_path):
    series = load(tmp_path, WEATHER)
    assert (series.values == -9999).sum() == 3
    assert any(note.startswith("-9999 often stands for a missing") for note in series.notes)


def test_a_known_file_that_differs_from_the_published_one_is_noted(tmp_path):
    notes = load(tmp_path, {"a": range(5)}, name="ETTh1.csv").notes
    assert notes == ("The file differs from the published ETTh1.csv (by its sha256).",)


def test_repeats_gaps_and_irregular_steps_are_noted_not_changed(tmp_path):
    minutes = [0, 10, 20, 20, 30, 40, 80, 90, 95, 105, 115]
    dates = pd.Timestamp("2020-01-01") + pd.to_timedelta(minutes, unit="min")
    series = load(tmp_path, {"a": range(11)}, dates)
    assert list(series.dates) == list(dates)
    assert series.notes == (
        "Repeated time stamps, kept: 1 (first 2020-01-01 00:20:00).",
        (
            "Gaps, not filled: 1 (first 2020-01-01 00:40:00 to 2020-01-01 01:20:00; "
            "widest 0 days 00:40:00; the usual step is 0 days 00:10:00)."
        ),
        (
            "Irregular steps, kept: 1 (first 2020-01-01 01:30:00 to 2020-01-01 01:35:00; "
            "the usual step is 0 days 00:10:00)."
        ),
    )


@pytest.mark.parametrize("step", ["h", "D", "B", "7D", "MS", "YS"])
def test_a_regular_calendar_brings_no_note(tmp_path, step):
    dates = pd.date_range("2015-01-01", periods=60, freq=step)
    assert load(tmp_path, {"a": range(60)}, dates).notes == ()


def test_zeros_and_jumps_that_do_not_fit_are_noted(tmp_path):
    wave = 50 + 10 * np.sin(np.arange(3000) / 4)
    zeros, spike = wave.copy(), wave.copy()
    zeros[[100, 101]] = 0
    spike[200] = 150
    series = load(tmp_path, {"zeros": zeros, "spike": spike, "fine": wave, "low": wave - 50})
    assert [note.split(": ", 1) for note in series.notes] == [
        [
            "Zeros in channels that otherwise stay far above zero, kept",
            "zeros 2 (first 2020-01-05 04:00:00).",
        ],
        [
            "Single rows that jump by more than the usual range, kept",
            "spike 1 (first 2020-01-09 08:00:00).",
        ],
    ]


def test_numbers_at_the_end_of_float64_bring_no_warning(tmp_path):
    huge = [1e308, -1e308, 1e308, 1.0, -1e308]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        series = load(tmp_path, {"a": huge, "b": range(5)}, missing="linear")
    np.testing.assert_array_equal(series.values[:, 0], huge)


def test_filled_values_are_not_pointed_out(tmp_path):
    wave = 50 + 10 * np.sin(np.arange(3000) / 4)
    wave[100], wave[101] = 0, NAN
    notes = load(tmp_path, {"a": wave}, missing="previous").notes
    assert any("far above zero, kept: a 1 " in note for note in notes)
