"""A model in one file: its configuration, its weights and state, and the mask of its weights.

The file is that of :mod:`tsjax.interop.sparse`, with an entry ``model`` in its metadata: the
model's ``name`` and the fields of its ``config``. Leaves are named ``params/...`` and as the state
has them, ``buffers/...``. A pruned model is an ordinary model of a smaller configuration, so it is
written and read like any other.
"""

import dataclasses
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from tsjax import models
from tsjax.interop import files, sparse

PyTree = Any


class SavedModel(NamedTuple):
    """A model from a file.

    Attributes:
      name: a key of ``models.MODELS``.
      config: its configuration, for ``models.create(name, config)``.
      params: its weights, numpy arrays; zero where ``mask`` is False.
      state: its other collections, as of ``models.init``.
      mask: tree of bool arrays like ``params``.
    """

    name: str
    config: models.ForecastConfig
    params: PyTree
    state: PyTree
    mask: PyTree


def write_model(
    path: str | os.PathLike[str],
    name: str,
    config: models.ForecastConfig,
    params: PyTree,
    state: PyTree,
    mask: PyTree | None = None,
) -> None:
    """Writes a model to one file, pruned or not.

    The file is written whole or not at all, and replaces one that is there.

    Args:
      path: where to, in an existing folder; ends in ``.safetensors``.
      name: a key of ``models.MODELS``.
      config: its configuration; of sliced params, what ``models.config_from_params`` gives.
      params: its weights.
      state: its other collections, as of ``models.init``.
      mask: tree of bool arrays like ``params``; pruned weights are not written. None keeps all.

    Raises:
      FileNotFoundError: if the folder is missing.
      IsADirectoryError: if the path is a folder.
      ValueError: if the weights are not those of a model with this configuration, if ``mask`` is
        no mask of them, or as of :func:`write_sparse`.
    """
    path = sparse.checked_path(path)
    models.create(name, config)
    variables = {"params": params, **state}
    fitting = models.config_from_params(config, variables)
    if fitting != config:
        said, fit = (dataclasses.asdict(each) for each in (config, fitting))
        wrong = [f"{f} is {said[f]}, {fit[f]} would fit" for f in said if said[f] != fit[f]]
        raise ValueError(
            f"the weights are not those of this configuration: {'; '.join(wrong)}. "
            "models.config_from_params(config, params) gives the one that fits"
        )
    keep = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables)
    if mask is not None:
        keep = {**keep, "params": mask}
    model = {"name": name, "config": dataclasses.asdict(config)}
    data = sparse.encoded(variables, keep, model)
    files.write_whole(path, lambda file: file.write(data))


def read_model(path: str | os.PathLike[str]) -> SavedModel:
    """Reads what :func:`write_model` wrote.

    Args:
      path: the file.

    Returns:
      The model, bit by bit; pruned weights are zero.

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
        name = model["name"]
        config = models.config(name, **model["config"])
        variables, mask = _nested(values), _nested(kept)
        fits = models.config_from_params(config, variables) == config
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a model that cannot be made: {error}") from None
    if not fits:
        raise ValueError(f"{path} holds weights that are not those of its configuration")
    params = variables.pop("params")
    return SavedModel(name, config, params, variables, mask["params"])


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
