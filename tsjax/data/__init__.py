"""Data sets for forecasting: read, checked, split, scaled and marked with their time features.

``load`` reads a series as it is and notes every quirk it met; ``prepare`` turns it into the
arrays that training needs. The package uses numpy and pandas only::

    series = data.load("ETTh1", "path/to/csv/files")
    dataset = data.prepare(series, seq_len=96, label_len=48, pred_len=96)
    dataset.values, dataset.marks, dataset.starts("train")

``docs/data.md`` describes the sets, the splits, the marks and the embedded synthetic set.
"""

from tsjax.data.catalogue import Entry, catalogue, find_entry, names
from tsjax.data.cleaning import MISSING
from tsjax.data.dataset import EMBEDS, Dataset, prepare
from tsjax.data.loading import PRESETS, load
from tsjax.data.series import Series
from tsjax.data.splits import SPLITS, Part
from tsjax.data.synthetic import synthetic
from tsjax.data.timemarks import FREQUENCIES, infer_freq, season, time_features, time_fields

__all__ = [
    "EMBEDS",
    "FREQUENCIES",
    "MISSING",
    "PRESETS",
    "SPLITS",
    "Dataset",
    "Entry",
    "Part",
    "Series",
    "catalogue",
    "find_entry",
    "infer_freq",
    "load",
    "names",
    "prepare",
    "season",
    "synthetic",
    "time_features",
    "time_fields",
]
