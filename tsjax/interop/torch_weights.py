"""Weights to and from PyTorch ``state_dict`` mappings with Time-Series-Library's names."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import models, trees
from tsjax.interop.torch_names import NAMES, POSITION, Names
from tsjax.models.layers import sinusoids

PyTree = Any


def from_torch(
    name: str, config: models.ForecastConfig, state_dict: Mapping[str, Any]
) -> dict[str, PyTree]:
    """Variables of a model from the weights of its PyTorch original.

    Args:
      name: model name, e.g. ``"transformer"``.
      config: its configuration; it must describe the checkpoint.
      state_dict: maps Time-Series-Library's names to arrays (anything ``numpy.asarray`` reads).
        Positional tables may have any number of rows: those needed are taken, and rows beyond
        the stored ones are computed.

    Returns:
      ``{"params": ..., "buffers": ...}`` of jax arrays, in the arrays' own precision where
      ``jax_enable_x64`` allows it.

    Raises:
      ValueError: listing every key that is missing, extra or misshapen.
    """
    names, like = _names_and_shapes(name, config)
    arrays = {key: np.asarray(value) for key, value in state_dict.items()}
    shapes = trees.by_path(like)
    problems = [f"{key}: missing" for key, _ in names.values() if key not in arrays]
    keys = {key for key, _ in names.values()}
    problems += [f"{key}: not part of this model" for key in arrays if key not in keys]
    values = {}
    for path, (key, layout) in names.items():
        if key not in arrays:
            continue
        array, shape = arrays[key], shapes[path].shape
        want: tuple[int | str, ...] = layout.torch_shape(shape)
        if key.endswith(POSITION):
            want = (1, "rows", shape[1])
            if array.ndim == 3 and array.shape[::2] == (1, shape[1]):
                array = _table_rows(array[0], shape)
                want = shape
        if array.shape != want:
            listed = ", ".join(map(str, want))
            problems.append(f"{key}: shape {array.shape}, expected ({listed})")
        else:
            values[path] = jnp.asarray(layout.to_jax(array, shape))
    if problems:
        raise ValueError(
            f"this state_dict does not fit {name} with the given config:\n  "
            + "\n  ".join(problems)
        )
    return trees.map_with_path(lambda path, _: values[path], like)


def to_torch(
    name: str,
    config: models.ForecastConfig,
    variables: Mapping[str, PyTree],
    *,
    position_rows: int = 5000,
) -> dict[str, np.ndarray]:
    """The inverse of :func:`from_torch`: numpy arrays under Time-Series-Library's names.

    Args:
      name: model name, e.g. ``"transformer"``.
      config: its configuration.
      variables: ``{"params": ..., "buffers": ...}``.
      position_rows: rows of the positional tables, which PyTorch checks on loading. The model's
        own come first, those beyond are computed.

    Raises:
      ValueError: if ``variables`` do not fit the configuration, listing every leaf that does not.
    """
    names, like = _names_and_shapes(name, config)
    trees.check_same_structure(dict(variables), like, name="variables", like_name="the config")
    leaves = trees.by_path(jax.device_get(dict(variables)))
    state_dict = {}
    for path, (key, layout) in names.items():
        array = layout.to_torch(leaves[path])
        if key.endswith(POSITION):
            array = _table_rows(array, (position_rows, array.shape[1]))[None]
        state_dict[key] = array
    return state_dict


def _names_and_shapes(name: str, config: models.ForecastConfig) -> tuple[Names, PyTree]:
    """Names by full path (``params/...``, ``buffers/...``), and the variables' shapes."""
    model = models.create(name, config)
    params, state = jax.eval_shape(functools.partial(models.init, model), jax.random.key(0))
    like = {"params": params, **state}
    found = {path.split("/", 1)[1]: path for path in trees.paths(like)}
    return {found[path]: entry for path, entry in NAMES[name](config).items()}, like


def _table_rows(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The first rows of a stored table [rows, D]; what it lacks is computed."""
    rest = sinusoids(*shape)[len(table) :].astype(table.dtype)
    return np.concatenate([table, rest])[: shape[0]]
