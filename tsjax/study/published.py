"""Sizes and schedules of the published study (arXiv 2412.12883), by model, data set and horizon."""

from pathlib import Path
from typing import Any

from tsjax import data

COMMON: dict[str, Any] = {
    "d_model": 512,
    "n_heads": 8,
    "d_ff": 2048,
    "learning_rate": 1e-4,
    "epochs": 10,
    "finetune_epochs": 10,
}
"""Of the four models with an encoder and a decoder; what is not here are the flags' defaults."""

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


def protocol(model: str, dataset: str) -> dict[str, Any]:
    """How the study's code runs a model, where that is not what it does with most of them.

    Crossformer came with the code of its authors, which trains it and splits ECL in ways of its
    own. Its rate halves after every second epoch down to a 32nd, and no batch is left out.

    Args:
      model: the model.
      dataset: a set's name or file.
    """
    if model != "crossformer":
        return {}
    known = entry(dataset)
    split = _CROSSFORMER_SPLITS.get(known.name) if known else None
    return _CROSSFORMER_RUNS | ({"split": split} if split else {})


def lengths(dataset: str) -> dict[str, int]:
    """Look-back, decoder's start and first horizon of a known set's published results."""
    known = entry(dataset)
    if known is None:
        return {}
    first = known.horizons[0]
    return {"seq_len": known.seq_len, "label_len": known.label_len, "pred_len": first}


def entry(dataset: str) -> data.Entry | None:
    """The catalogue's entry of the set that a name or a path means, if there is one."""
    return data.find_entry(Path(dataset).name)


def sizes(model: str, dataset: str, pred_len: int) -> dict[str, Any]:
    """The published settings of a run, as far as they are known.

    Args:
      model: the model.
      dataset: a set's name or file. For sets that the study did not have, and for other horizons
        than 96, 192, 336 and 720, Crossformer's look-back and segments stay the defaults.
      pred_len: the horizon.
    """
    known = entry(dataset)
    name = known.name if known else dataset
    if model != "crossformer":
        short = {"epochs": 3, "finetune_epochs": 3} if name == "Traffic" else {}
        return COMMON | short
    found = COMMON | _CROSSFORMER
    if not name.startswith("ETT") and name in _WINDOWS:
        found |= _NARROW
    if pred_len in _WINDOWS.get(name, {}):
        found |= dict(
            zip(("seq_len", "seg_len", "learning_rate"), _WINDOWS[name][pred_len], strict=True)
        )
    if name == "Traffic" and pred_len == 720:
        found |= {"n_heads": 4}
    if name == "Weather" and pred_len == 720:
        found |= {"d_model": 256, "n_heads": 4, "d_ff": 512}
    if name in _CONSTANT_RATE:
        found |= {"lr_decay": 1.0}
    return found
