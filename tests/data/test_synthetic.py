"""The embedded set: reproducible, and with the structure that its formula promises."""

import hashlib

import numpy as np
import pytest

from tsjax import data


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    first, again, other = data.synthetic(3), data.synthetic(3), data.synthetic(4)
    assert first.values.tobytes() == again.values.tobytes()
    assert (first.values != other.values).mean() > 0.99


def test_the_numbers_are_pinned():
    # Rounded, since sines may differ in the last bit from one processor to another.
    rounded = np.round(data.synthetic().values, 4)
    assert hashlib.sha256(rounded.tobytes()).hexdigest()[:16] == "637d5c5a2005b898"


def test_a_shorter_series_is_the_start_of_a_longer_one():
    np.testing.assert_array_equal(data.synthetic(rows=100).values, data.synthetic().values[:100])


def test_shape_names_and_calendar():
    series = data.synthetic()
    assert series.values.shape == (8760, 7)
    assert series.channels[:3] == ("driver", "load_a", "load_b")
    assert (series.freq, series.period, series.split, series.notes) == ("h", 24, "ratio", ())
    assert series.dates[0].day_of_week == 0
    assert data.synthetic(rows=30, channels=27).channels[-1] == "load_z"


def test_load_takes_rows_channels_and_split():
    series = data.load("synthetic", rows=200, channels=["load_b", "driver"], split="ett_hour")
    np.testing.assert_array_equal(series.values, data.synthetic(rows=200).values[:, [2, 0]])
    assert (series.channels, series.split) == (("load_b", "driver"), "ett_hour")
    with pytest.raises(ValueError, match=r"synthetic has no channel 'load_bb' .did you mean"):
        data.load("synthetic", channels=["load_bb"])


def test_the_driver_leads_the_other_channels_by_six_hours_each():
    values = remove_seasons(data.synthetic().values)[1]
    driver = values[:, 0]
    for c in range(1, 7):
        follows = [abs(correlation(driver[:-lag], values[lag:, c])) for lag in range(1, 60)]
        assert abs(int(np.argmax(follows)) + 1 - 6 * c) <= 3, c
        assert max(follows) > 0.5


def test_weekends_are_flatter_than_weekdays():
    seasons, _ = remove_seasons(data.synthetic().values)
    week = seasons[:168].reshape(7, 24, 7)
    swing = week.max(axis=1) - week.min(axis=1)
    assert (swing[5:].mean(axis=0) < 0.8 * swing[:5].mean(axis=0)).all()


def test_the_noise_has_two_levels():
    rough = np.abs(np.diff(remove_seasons(data.synthetic().values)[1], axis=0)).mean(axis=1)
    daily = rough[: 24 * 364].reshape(364, 24).mean(axis=1)
    assert np.percentile(daily, 90) > 1.8 * np.percentile(daily, 10)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_test_part_looks_like_the_training_part(seed):
    dataset = data.prepare(data.synthetic(seed), seq_len=96, label_len=48, pred_len=96)
    test = dataset.values[dataset.parts["test"].start :]
    assert (np.abs(test.mean(axis=0)) < 0.5).all()
    assert (np.abs(test.std(axis=0) - 1) < 0.25).all()


@pytest.mark.parametrize("pred_len", [24, 96])
def test_a_linear_model_beats_repeating_the_last_value_and_the_last_day(pred_len):
    dataset = data.prepare(data.synthetic(), seq_len=96, label_len=0, pred_len=pred_len)
    values, ahead = dataset.values, np.arange(pred_len)
    train, test = dataset.starts("train")[::4], dataset.starts("test")[::4]
    x, y = inputs(values, train), values[train[:, None] + 96 + ahead].reshape(len(train), -1)
    weights = np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ y)
    truth = values[test[:, None] + 96 + ahead]

    def error(forecast):
        return np.mean((forecast - truth) ** 2)

    model = error((inputs(values, test) @ weights).reshape(truth.shape))
    last = error(values[test + 95][:, None])
    day = error(values[test[:, None] + 96 - 24 + ahead % 24])
    assert model < 0.5 * last
    assert model < 0.7 * day
    assert model > 0.15  # there is a noise floor


def test_bad_sizes_are_reported():
    with pytest.raises(ValueError, match="rows is 1 and channels is 28: use rows >= 2 and 1 to 27"):
        data.synthetic(rows=1, channels=28)


def inputs(values, starts):
    """The flattened look-back [N, 96 * C], with the hour of the week."""
    hour = 2 * np.pi * (starts[:, None] % 168) * np.arange(1, 15) / 168
    past = values[starts[:, None] + np.arange(96)].reshape(len(starts), -1)
    return np.concatenate([past, np.cos(hour), np.sin(hour), np.ones((len(starts), 1))], axis=1)


def remove_seasons(values):
    """Returns the mean for each hour of the week, and what is left."""
    hours = np.arange(len(values)) % 168
    profile = np.stack([values[hours == hour].mean(axis=0) for hour in range(168)])
    return profile[hours], values - profile[hours]


def correlation(x, y):
    return np.corrcoef(x, y)[0, 1]
