"""Weights to and from PyTorch ``state_dict`` mappings with Time-Series-Library's names."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import models, pruning, trees
from tsjax.interop.torch_modes import Modes, given_modes

Names = dict[str, tuple[tuple[str, ...], models.Layout]]


def from_torch(
    config: models.ForecastConfig,
    state_dict: Mapping[str, Any],
    *,
    modes: Modes | None = None,
) -> models.Forecaster:
    """A model with the weights of its PyTorch original.

    Args:
      config: its configuration; it must describe the checkpoint, which for one of
        Time-Series-Library's means the preset ``tslib``.
      state_dict: maps Time-Series-Library's names to arrays (anything ``numpy.asarray`` reads), as
        from :func:`tsjax.interop.read_weights`. Positional tables may have any number of rows:
        those needed are taken, and rows beyond the stored ones are computed. FEDformer's frequency
        weights may be pairs of real arrays or, as its authors have them, complex ones.
      modes: the frequencies that a FEDformer chose at its construction, which are not part of a
        ``state_dict``: lists named ``encoder``, ``decoder``, ``cross_q`` and ``cross_kv``, also
        with the suffix ``_modes``, or those four lists in that order; see
        :func:`tsjax.interop.drawn_modes`.

    Returns:
      The forecaster, of jax arrays in the arrays' own precision where ``jax_enable_x64`` allows it.

    Raises:
      ValueError: listing every key that is missing, extra or misshapen; or if the configuration is
        of no known model.
    """
    like = _abstract(config)
    names, shapes = _names(config, like), trees.by_path(like)
    arrays = _split_complex({key: np.asarray(value) for key, value in state_dict.items()})
    unread = _entry(config).torch_unread(config)
    keys = {key for aliases, _ in names.values() for key in aliases} | set(unread)
    problems = [f"{key}: missing" for key in sorted(keys - set(arrays))]
    problems += [f"{key}: not part of this model" for key in arrays if key not in keys]
    for key, width in unread.items():
        if key in arrays:
            _, problem = _fitted_table(key, arrays[key], (1, width))
            problems += problem
    values: dict[str, Any] = {}
    for path, (aliases, layout) in names.items():
        for key in aliases:
            if key not in arrays:
                continue
            array, problem = _fitted(key, arrays[key], layout, shapes[path].shape)
            if not problem and path in values and not np.array_equal(values[path], array):
                problem = [f"{key}: differs from {aliases[0]}, with which it is shared"]
            problems += problem
            values[path] = array
    given, problem = given_modes(config, shapes, modes)
    if problems := problems + problem:
        raise ValueError(
            f"this state_dict does not fit {models.name_of(config)} with the given config:\n  "
            + "\n  ".join(problems)
        )
    values.update(given)
    if left := [path for path in shapes if path not in values]:
        values.update(_fixed(config, left))
    return trees.map_with_path(lambda path, leaf: _as_like(values[path], leaf), like)


def to_torch(forecaster: models.Forecaster, *, position_rows: int = 5000) -> dict[str, np.ndarray]:
    """The inverse of :func:`from_torch`: numpy arrays under Time-Series-Library's names.

    Args:
      forecaster: a model of ``models.MODELS``; weights that its mask prunes are written as zeros.
      position_rows: rows of the positional tables, which PyTorch checks on loading. The model's
        own come first, those beyond are computed.

    Returns:
      The ``state_dict``. What PyTorch does not store, such as FEDformer's modes, is not in it, and
      complex weights are pairs of real ones, as Time-Series-Library has them.

    Raises:
      AttributeError: if the forecaster is none of these models.
      ValueError: if no configuration of the model has such leaves, or if the mask does not fit the
        weights.
    """
    config, params = forecaster.config, forecaster.params
    if forecaster.mask is not None:
        params = pruning.apply(params, forecaster.mask)
    leaves = trees.by_path(jax.device_get({"params": params, "state": forecaster.state}))
    state_dict = {}
    for path, (aliases, layout) in _names(config, forecaster).items():
        array = leaves[path]
        if layout.any_rows:
            array = _table_rows(array, (position_rows, array.shape[1]))
        state_dict.update(dict.fromkeys(aliases, layout.to_torch(array)))
    for key, width in _entry(config).torch_unread(config).items():
        state_dict[key] = models.sinusoids(position_rows, width)[None].astype(np.float32)
    return state_dict


def torch_shapes(config: models.ForecastConfig) -> dict[str, tuple[int, ...]]:
    """Shapes that a model's params have in PyTorch.

    Args:
      config: its configuration.

    Returns:
      Shapes by path, ``"encoder/layer_0/attention/query/kernel"``. A kernel's are those of the
      ``weight`` of a ``Linear`` or a ``Conv1d``: its outputs come first, its inputs second.
    """
    like = _abstract(config)
    names = _names(config, like)
    return {
        path: names[f"params/{path}"][1].torch_shape(leaf.shape)
        for path, leaf in trees.by_path(like.params).items()
    }


def _abstract(config: models.ForecastConfig) -> models.Forecaster:
    """The shapes of the model's leaves."""
    return jax.eval_shape(functools.partial(models.create, config), jax.random.key(0))


def _names(config: models.ForecastConfig, like: models.Forecaster) -> Names:
    """Keys and layouts by full path, ``params/...`` or ``state/buffers/...``."""
    collections = {"params": like.params}
    collections |= {f"state/{name}": tree for name, tree in like.state.items()}
    full = {
        path: f"{name}/{path}" for name, tree in collections.items() for path in trees.paths(tree)
    }
    return {
        full[path]: ((keys,) if isinstance(keys, str) else keys, layout)
        for path, (keys, layout) in _entry(config).torch_names(config).items()
    }


def _entry(config: models.ForecastConfig) -> models.Model:
    return models.MODELS[models.name_of(config)]


def _fitted(
    key: str, array: np.ndarray, layout: models.Layout, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[str]]:
    """An array of a checkpoint in our layout, or what is wrong with its shape."""
    if layout.any_rows:
        return _fitted_table(key, array, shape)
    want = layout.torch_shape(shape)
    if array.shape != want:
        return array, [f"{key}: shape {array.shape}, expected {want}"]
    if np.iscomplexobj(array):
        return array, [f"{key}: complex, expected real numbers"]
    return layout.to_jax(array, shape), []


def _fitted_table(
    key: str, array: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[str]]:
    if array.ndim != 3 or array.shape[::2] != (1, shape[1]):
        return array, [f"{key}: shape {array.shape}, expected (1, rows, {shape[1]})"]
    return _table_rows(array[0], shape), []


def _table_rows(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The first rows of a stored table [rows, D]; what it lacks is computed."""
    rest = models.sinusoids(*shape)[len(table) :].astype(table.dtype)
    return np.concatenate([table, rest])[: shape[0]]


def _as_like(value: Any, leaf: Any) -> Array:
    """An array in its own precision, but a count or an index as the integers that it stands for."""
    dtype = leaf.dtype if jnp.issubdtype(leaf.dtype, jnp.integer) else None
    return jnp.asarray(value, dtype)


def _split_complex(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Complex ``weights1``, as FEDformer's authors store them, as Time-Series-Library's pairs."""
    pairs: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        partner = f"{key.removesuffix('1')}2"
        if key.endswith("weights1") and np.iscomplexobj(array) and partner not in arrays:
            pairs |= {key: array.real, partner: array.imag}
    return arrays | pairs


def _fixed(config: models.ForecastConfig, paths: list[str]) -> dict[str, Any]:
    """State that no checkpoint has and every new model has alike, such as Informer's fixed draw."""
    state = jax.jit(lambda key: models.create(config, key).state)(jax.random.key(0))
    leaves = trees.by_path({"state": state})
    return {path: leaves[path] for path in paths}
