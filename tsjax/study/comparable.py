"""What keeps a run's errors from being compared with those published for its data set."""

from tsjax import data
from tsjax.study import published
from tsjax.study.settings import TrainSettings

LEAST_SHARE = 0.01
"""The share of the test windows that an incomplete last batch must have to be worth a note."""


def incomparable(settings: TrainSettings, dataset: data.Dataset) -> tuple[str, ...]:
    """One sentence for each way in which a run differs from published ones on a known data set.

    The data set's catalogue entry says how most of its published results were made. Sentinels that
    are taken for missing values are in the notes of the series itself.

    Args:
      settings: how the model is trained and tested.
      dataset: the data set that they name, prepared.

    Returns:
      The sentences; none for a set of one's own, which has no published results.
    """
    entry = published.entry(settings.dataset)
    if entry is None:
        return ()
    found = (
        _look_back(entry, dataset),
        _split(entry, settings),
        _last_batch(settings, len(dataset.starts("test"))),
    )
    return tuple(note for note in found if note)


def _look_back(entry: data.Entry, dataset: data.Dataset) -> str:
    if dataset.seq_len == entry.seq_len:
        return ""
    here, there = dataset.seq_len, entry.seq_len
    return (
        f"The look-back has {here} steps, and {there} in most published results on {entry.name}: "
        "they are not comparable with these errors."
    )


def _split(entry: data.Entry, settings: TrainSettings) -> str:
    if settings.split in (None, entry.split):
        return ""
    return (
        f"The split is {settings.split}, and {entry.split} in most published results on "
        f"{entry.name}: they are not comparable with these errors."
    )


def _last_batch(settings: TrainSettings, windows: int) -> str:
    left = windows % settings.batch_size
    if left < LEAST_SHARE * windows:
        return ""
    counted = "counted here, and left out by the code of FEDformer and Informer"
    if settings.drop_last_test:
        others = "Autoformer, Crossformer and Time-Series-Library"
        counted = f"left out here, and counted by the code of {others}"
    return (
        f"The last {left} of {windows} test windows fill no batch of {settings.batch_size}. They "
        f"are {counted}: its results are not comparable with these errors."
    )
