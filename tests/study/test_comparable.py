"""What looks comparable with published results and is not says so."""

import numpy as np
import pandas as pd
import pytest

from tsjax import data, study
from tsjax.study.comparable import incomparable


def notes(rows=966, **given):
    """The notes of a run on a series of so many weekly rows under a data set's name."""
    settings = study.TrainSettings.make(**given)
    rng = np.random.default_rng(0)
    dates = pd.date_range("2002-01-01", periods=rows, freq="7D")
    series = data.Series(
        "x", dates, rng.normal(size=(rows, 2)), ("a", "b"), split=settings.split or "ratio"
    )
    lengths = {n: getattr(settings, n) for n in ("seq_len", "label_len", "pred_len")}
    return incomparable(settings, data.prepare(series, **lengths))


def test_ili_at_another_look_back():
    assert notes(dataset="ILI", preset="paper", batch_size=1) == ()
    for preset in ("corrected", "tslib"):
        (note,) = notes(dataset="ILI", preset=preset, seq_len=96, pred_len=24, batch_size=1)
        assert note == (
            "The look-back has 96 steps, and 36 in most published results on ILI: they are not "
            "comparable with these errors."
        )
    (note,) = notes(dataset="Exchange", seq_len=36, pred_len=24, batch_size=1)
    assert note.startswith("The look-back has 36 steps, and 96 in most published results on Exchan")


@pytest.mark.parametrize(("preset", "model"), [("tslib", "informer"), ("paper", "crossformer")])
def test_a_last_test_batch_that_is_counted(preset, model):
    # 193 test rows hold 170 windows: five batches of 32, and ten windows.
    (note,) = notes(dataset="ILI", preset=preset, model=model)
    assert note == (
        "The last 10 of 170 test windows fill no batch of 32. They are counted here, and left out "
        "by the code of FEDformer and Informer: its results are not comparable with these errors."
    )


def test_a_last_test_batch_that_is_left_out():
    (note,) = notes(dataset="ILI", preset="paper")
    assert note == (
        "The last 10 of 170 test windows fill no batch of 32. They are left out here, and counted "
        "by the code of Autoformer, Crossformer and Time-Series-Library: its results are not "
        "comparable with these errors."
    )


@pytest.mark.parametrize(
    ("batch_size", "said"), [(13, False), (168, True), (169, False), (170, False)]
)
def test_a_few_windows_among_many_are_not_worth_a_note(batch_size, said):
    # 2 of 170 windows are more than a hundredth of them, 1 is less.
    assert bool(notes(dataset="ILI", preset="tslib", batch_size=batch_size)) is said


def test_another_split():
    given = {"dataset": "ECL", "preset": "paper", "model": "crossformer", "batch_size": 1}
    (look_back, split) = notes(rows=17_000, **given)
    assert look_back.startswith("The look-back has 336 steps, and 96 in most published results")
    assert split == (
        "The split is months_15_3_4, and ratio in most published results on ECL: they are not "
        "comparable with these errors."
    )
    assert len(notes(rows=17_000, split="ratio", **given)) == 1


@pytest.mark.parametrize("dataset", ["mine.csv", "synthetic"])
def test_a_set_without_published_results_has_nothing_to_be_compared_with(dataset):
    assert notes(dataset=dataset, seq_len=48, pred_len=24) == ()


def test_a_studys_record_has_the_notes_on_the_series_and_on_its_errors(tmp_path):
    rng = np.random.default_rng(0)
    dates = pd.date_range("2016-07-01", periods=300, freq="h")
    frame = pd.DataFrame(rng.normal(size=(300, 2)), dates, ["a", "OT"])
    frame.to_csv(tmp_path / "ETTh1.csv", index_label="date")
    sizes = {"d_model": 4, "n_heads": 1, "d_ff": 4, "e_layers": 1}
    settings = study.TrainSettings.make(
        dataset=str(tmp_path / "ETTh1.csv"), split="ratio", seq_len=12, pred_len=6, **sizes
    )
    task = study.set_up(settings)
    notes = study.describe(task).notes
    assert notes == task.notes
    assert notes[0] == "The file differs from the published ETTh1.csv (by its sha256)."
    assert [note.split(",")[0] for note in notes[1:]] == [
        "The look-back has 12 steps",
        "The split is ratio",
        # 60 test rows hold 55 windows.
        "The last 23 of 55 test windows fill no batch of 32. They are counted here",
    ]
