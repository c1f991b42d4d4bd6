"""What the published study (arXiv 2412.12883) ran, for a model and a data set by name or file."""

from pathlib import Path
from typing import Any

from tsjax import data, models
from tsjax.wording import one_of


def protocol(model: str, dataset: str) -> dict[str, Any]:
    """How the study's code runs a model, where that is not what it does with most of them.

    Args:
      model: a key of ``models.MODELS``.
      dataset: a set's name or file.

    Returns:
      Settings by name; none of a model that the study did not have.

    Raises:
      ValueError: for an unknown model.
    """
    known = _of(model)
    return known.protocol(_name(dataset)) if known else {}


def sizes(model: str, dataset: str, pred_len: int) -> dict[str, Any]:
    """The published settings of a run, as far as they are known.

    Args:
      model: a key of ``models.MODELS``.
      dataset: a set's name or file, also of a set that the study did not have.
      pred_len: the horizon.

    Raises:
      ValueError: if the study did not have the model, or if it is unknown.
    """
    known = _of(model)
    if known is None:
        raise ValueError(f"size is 'paper', and {model} has no published sizes: use small")
    return known.sizes(_name(dataset), pred_len)


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


def _of(model: str) -> models.Published | None:
    one_of("model", model, models.MODELS)
    return models.MODELS[model].published


def _name(dataset: str) -> str:
    """The name of the set that a name or a path means in the catalogue, or what was given."""
    known = entry(dataset)
    return known.name if known else dataset
