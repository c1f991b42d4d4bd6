"""A model in one file: its configuration, its weights and state, and the mask of its weights.

The file is that of :mod:`tsjax.interop.sparse`, with an entry ``model`` in its metadata: the
model's ``name`` and the fields of its ``config``. Leaves are named ``params/...`` and as the state
has them, ``buffers/...``. A sliced model is an ordinary model of a smaller configuration, so it is
written and read like any other.
"""

import dataclasses
import os
from typing import Any

import jax
import numpy as np

from tsjax import models
from tsjax.interop import files, sparse


def write_model(path: str | os.PathLike[str], forecaster: models.Forecaster) -> None:
    """Writes a model to one file, with the sizes that its leaves have.

    Weights that its mask prunes are not written. The file is written whole or not at all, and
    replaces one that is there.

    Args:
      path: where to, in an existing folder; ends in ``.safetensors``.
      forecaster: a model of ``models.MODELS``, dense, masked or sliced.

    Raises:
      FileNotFoundError: if the folder is missing.
      IsADirectoryError: if the path is a folder.
      AttributeError: if the forecaster is none of these models.
      ValueError: if no configuration of the model has such leaves, if the mask does not fit the
        weights, or as of :func:`write_sparse`.
    """
    path = sparse.checked_path(path)
    config, variables = forecaster.config, {"params": forecaster.params, **forecaster.state}
    keep = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables)
    if forecaster.mask is not None:
        keep = {**keep, "params": forecaster.mask}
    model = {"name": models.name_of(config), "config": dataclasses.asdict(config)}
    data = sparse.encoded(variables, keep, model)
    files.write_whole(path, lambda file: file.write(data))


def read_model(path: str | os.PathLike[str]) -> models.Forecaster:
    """Reads what :func:`write_model` wrote.

    Args:
      path: the file.

    Returns:
      The model, bit by bit, with numpy arrays; pruned weights are zero. Its mask is None where all
      weights are kept.

    Raises:
      FileNotFoundError: if there is no such file.
      IsADirectoryError: if the path is a folder.
      ValueError: if the file is damaged, holds no model or one that this version does not know, or
        if its weights are not those of its configuration.
    """
    _, values, kept, model = sparse.decoded(path)
    if model is None:
        raise ValueError(f"{path} holds no model but single leaves: interop.read_sparse reads it")
    try:
        config = models.config(model["name"], **model["config"])
        state, mask = _nested(values), _nested(kept)["params"]
        params = state.pop("params")
        fits = models.config_from_params(config, params, state) == config
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a model that cannot be made: {error}") from None
    if not fits:
        raise ValueError(f"{path} holds weights that are not those of its configuration")
    pruned = not all(leaf.all() for leaf in jax.tree.leaves(mask))
    return models.Forecaster(models.forward(config), params, state, mask if pruned else None)


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """The tree of dicts with leaves at these paths."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *scopes, last = path.split("/")
        inner = tree
        for scope in scopes:
            inner = inner.setdefault(scope, {})
        inner[last] = leaf
    return tree
