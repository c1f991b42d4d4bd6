"""The public CSV files: they load, their quirks are noted, their windows are counted."""

import time

import numpy as np
import pandas as pd
import pytest

from tsjax import data

LENGTHS = {"seq_len": 96, "label_len": 48, "pred_len": 96}


def load(real_data, name, **options):
    known = [e.file for e in data.catalogue().values() if e.answers_to(name)]
    file = known[0] if known else f"{name}.csv"
    if not any(real_data.rglob(file)):
        pytest.skip(f"no {file} in {real_data}: set TSJAX_DATA_DIR to run this test")
    return data.load(name, real_data, **options)


@pytest.mark.parametrize(
    ("name", "shape", "freq", "period", "windows"),
    [
        ("ETTh1", (17420, 7), "h", 24, (8449, 2785, 2785)),
        ("ETTm1", (69680, 7), "t", 96, (34369, 11425, 11425)),
        ("ETTm2", (69680, 7), "t", 96, (34369, 11425, 11425)),
        ("Exchange", (7588, 8), "d", 7, (5120, 665, 1422)),
        ("Weather", (52696, 21), "t", 144, (36696, 5175, 10444)),
    ],
)
def test_shapes_and_window_counts(real_data, name, shape, freq, period, windows):
    dataset = data.prepare(load(real_data, name), **LENGTHS)
    assert (dataset.values.shape, dataset.freq, dataset.period) == (shape, freq, period)
    assert tuple(len(dataset.starts(part)) for part in ("train", "val", "test")) == windows


def test_etth1_is_read_to_the_last_digit_and_unchanged(real_data):
    series = load(real_data, "etth1")
    assert series.dates[0] == pd.Timestamp("2016-07-01")
    assert series.dates[-1] == pd.Timestamp("2018-06-26 19:00")
    np.testing.assert_allclose(series.values[0, [0, 6]], [5.827000141143799, 30.5310001373291])
    assert series.notes == ()


def test_etth1_scaler_is_fitted_on_twelve_months(real_data):
    series = load(real_data, "ETTh1")
    dataset = data.prepare(series, **LENGTHS)
    np.testing.assert_allclose(dataset.mean, series.values[:8640].mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(dataset.scale, series.values[:8640].std(axis=0), rtol=1e-14)


def test_weathers_quirks_are_found_and_noted(real_data):
    series = load(real_data, "weather")
    notes = "\n".join(series.notes)
    assert "Repeated time stamps, kept: 1 (first 2020-05-12 06:00:00)." in notes
    assert "Gaps, not filled: 1 (first 2020-05-29 09:30:00 to 2020-05-29 11:10:00;" in notes
    assert "3 column names hold U+FFFD" in notes
    assert (
        "taken as a missing value: wv (m/s) 1, max. PAR (\ufffdmol/m\ufffd/s) 30, OT 50." in notes
    )
    assert series.values.min() > -100
    assert series.freq == "t"


@pytest.mark.parametrize("preset", ["paper", "tslib"])
def test_published_presets_keep_weathers_sentinels(real_data, preset):
    series = load(real_data, "weather", preset=preset)
    assert (series.values == -9999).sum() == 81
    assert any("-9999 was kept" in note for note in series.notes)


def test_exchange_dates_are_read_and_their_calendar_is_doubted(real_data):
    series = load(real_data, "exchange")
    assert series.dates[-1] == pd.Timestamp("2010-10-10")
    assert series.notes == ("The dates of this set do not follow the real calendar.",)


def test_load_blanks_are_an_error_until_filled(real_data):
    name = "western_europe_load_60min"
    with pytest.raises(ValueError, match=r"dk 2 \(first .*es 34 .*fr 66 .*no 117 .*se 49 "):
        load(real_data, name)
    series = load(real_data, name, missing="previous")
    assert np.isfinite(series.values).all()
    notes = "\n".join(series.notes)
    assert "far above zero, kept: se 51 " in notes
    assert "fr 1 (first 2020-07-07 17:00:00)" in notes


def test_the_opsd_layout_loads_in_utc(real_data):
    channels = ["AT_load_actual_entsoe_transparency", "AT_wind_onshore_generation_actual"]
    options = {"date_column": "utc_timestamp", "channels": channels}
    series = load(real_data, "opsd_singleindex_at_ch_fr", **options)
    assert series.dates[0] == pd.Timestamp("2017-12-31 23:00")
    assert series.dates.tz is None
    np.testing.assert_array_equal(series.values[0], [6155, 915])
    with pytest.raises(ValueError, match=r"'cet_cest_timestamp' has '2018.*\(a date\) in row 1"):
        load(real_data, "opsd_singleindex_at_ch_fr", date_column="utc_timestamp")
    with pytest.raises(ValueError, match="its columns are utc_timestamp, cet_cest_timestamp, "):
        load(real_data, "opsd_singleindex_at_ch_fr")


@pytest.mark.parametrize("name", ["electricity_first6", "traffic_first6"])
def test_slices_are_not_taken_for_the_whole_sets(real_data, name):
    series = load(real_data, name)
    assert (series.name, series.channels, series.freq) == (name, tuple("012345"), "h")


@pytest.mark.parametrize("name", ["ETTm1", "weather"])
def test_reading_is_quick(real_data, name):
    load(real_data, name)
    start = time.perf_counter()
    load(real_data, name)
    # About 0.2 s on two cores; the room is for machines that are busy.
    assert time.perf_counter() - start < 3
