"""How the published study (arXiv 2412.12883) ran the models: sizes, schedules and protocol.

All is by the names of the study's settings. Data sets go by their names in the catalogue.
"""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Published:
    """How the study ran one model.

    Attributes:
      sizes: ``sizes(dataset, pred_len)``, the published sizes and schedule of a run, as far as they
        are known.
      protocol: ``protocol(dataset)``, what the study's code does with this model and not with most
        of them.
    """

    sizes: Callable[[str, int], dict[str, Any]]
    protocol: Callable[[str], dict[str, Any]] = lambda _: {}


_COMMON: dict[str, Any] = {
    "d_model": 512,
    "n_heads": 8,
    "d_ff": 2048,
    "learning_rate": 1e-4,
    "epochs": 10,
    "finetune_epochs": 10,
}
"""Of the four models with an encoder and a decoder; what is not here are the settings' defaults."""

_CROSSFORMER: dict[str, Any] = {
    "d_model": 256,
    "n_heads": 4,
    "d_ff": 512,
    "e_layers": 3,
    "dropout": 0.2,
    "factor": 10,
    "win_size": 2,
    "epochs": 20,
    "finetune_epochs": 20,
}
_NARROW: dict[str, Any] = {"d_model": 64, "n_heads": 2, "d_ff": 128}

# (look-back, steps of a segment, learning rate) by horizon.
_ETT_MINUTE = {
    96: (672, 12, 1e-4),
    192: (672, 24, 1e-5),
    336: (672, 24, 1e-5),
    720: (672, 24, 1e-5),
}
_ETT_HOUR = {96: (168, 6, 1e-4), 192: (720, 24, 1e-5), 336: (720, 24, 1e-5), 720: (720, 24, 1e-5)}
_DAILY = {96: (336, 6, 5e-4), 192: (336, 12, 5e-4), 336: (336, 24, 5e-4), 720: (720, 24, 5e-5)}
_LONG = {96: (96, 12, 1e-3), 192: (336, 24, 1e-3), 336: (720, 24, 1e-3), 720: (720, 24, 5e-3)}
_WINDOWS = {
    "ETTm1": _ETT_MINUTE, "ETTm2": _ETT_MINUTE, "ETTh1": _ETT_HOUR, "ETTh2": _ETT_HOUR,
    "ECL": _DAILY, "Exchange": _DAILY, "Traffic": _LONG, "Weather": _LONG,
}  # fmt: skip
_CONSTANT_RATE = ("ECL", "Exchange")

_CROSSFORMER_RUNS: dict[str, Any] = {
    "decay_every": 2,
    "lr_floor": 1 / 32,
    "drop_last_train": False,
    "drop_last_test": False,
}
_CROSSFORMER_SPLITS = {"ECL": "months_15_3_4"}


def _common(dataset: str, pred_len: int) -> dict[str, Any]:
    del pred_len
    return _COMMON | ({"epochs": 3, "finetune_epochs": 3} if dataset == "Traffic" else {})


def _crossformer(dataset: str, pred_len: int) -> dict[str, Any]:
    """Look-back, segments, widths and rate go by data set and horizon.

    For sets that the study did not have, and for other horizons than 96, 192, 336 and 720,
    look-back and segments stay the defaults.
    """
    found = _COMMON | _CROSSFORMER
    if not dataset.startswith("ETT") and dataset in _WINDOWS:
        found |= _NARROW
    if pred_len in _WINDOWS.get(dataset, {}):
        found |= dict(
            zip(("seq_len", "seg_len", "learning_rate"), _WINDOWS[dataset][pred_len], strict=True)
        )
    if dataset == "Traffic" and pred_len == 720:
        found |= {"n_heads": 4}
    if dataset == "Weather" and pred_len == 720:
        found |= {"d_model": 256, "n_heads": 4, "d_ff": 512}
    if dataset in _CONSTANT_RATE:
        found |= {"lr_decay": 1.0}
    return found


def _crossformer_protocol(dataset: str) -> dict[str, Any]:
    """Crossformer came with the code of its authors, which trains and splits in ways of its own.

    Its rate halves after every second epoch down to a 32nd, no batch is left out, and ECL is split
    by months.
    """
    split = _CROSSFORMER_SPLITS.get(dataset)
    return _CROSSFORMER_RUNS | ({"split": split} if split else {})


COMMON = Published(_common)
"""Of the four models with an encoder and a decoder."""

CROSSFORMER = Published(_crossformer, _crossformer_protocol)
