"""Weights to and from PyTorch ``state_dict`` mappings with Time-Series-Library's names."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import models, trees
from tsjax.interop.layouts import Layout
from tsjax.interop.torch_modes import Modes, given_modes
from tsjax.interop.torch_names import NAMES, POSITION, UNREAD
from tsjax.models.layers import sinusoids

PyTree = Any
Names = dict[str, tuple[tuple[str, ...], Layout]]


def from_torch(
    name: str,
    config: models.ForecastConfig,
    state_dict: Mapping[str, Any],
    *,
    modes: Modes | None = None,
) -> dict[str, PyTree]:
    """Variables of a model from the weights of its PyTorch original.

    Args:
      name: model name, e.g. ``"transformer"``.
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
      ``{"params": ..., "buffers": ..., ...}`` of jax arrays, in the arrays' own precision where
      ``jax_enable_x64`` allows it.

    Raises:
      ValueError: listing every key that is missing, extra or misshapen.
    """
    names, like = _names_and_shapes(name, config)
    arrays = _split_complex({key: np.asarray(value) for key, value in state_dict.items()})
    shapes = trees.by_path(like)
    unread = UNREAD[name](config) if name in UNREAD else {}
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
            f"this state_dict does not fit {name} with the given config:\n  "
            + "\n  ".join(problems)
        )
    values.update(given)
    if left := [path for path in shapes if path not in values]:
        values.update(_fixed(name, config, left))
    return trees.map_with_path(lambda path, leaf: _as_like(values[path], leaf), like)


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
      variables: ``{"params": ..., "buffers": ..., ...}``.
      position_rows: rows of the positional tables, which PyTorch checks on loading. The model's
        own come first, those beyond are computed.

    Returns:
      The ``state_dict``. What PyTorch does not store, such as FEDformer's modes, is not in it, and
      complex weights are pairs of real ones, as Time-Series-Library has them.

    Raises:
      ValueError: if ``variables`` do not fit the configuration, listing every leaf that does not.
    """
    names, like = _names_and_shapes(name, config)
    trees.check_same_structure(dict(variables), like, name="variables", like_name="the config")
    leaves = trees.by_path(jax.device_get(dict(variables)))
    state_dict = {}
    for path, (aliases, layout) in names.items():
        array = layout.to_torch(leaves[path])
        if aliases[0].endswith(POSITION):
            array = _table_rows(array, (position_rows, array.shape[1]))[None]
        state_dict.update(dict.fromkeys(aliases, array))
    for key, width in (UNREAD[name](config) if name in UNREAD else {}).items():
        state_dict[key] = sinusoids(position_rows, width)[None].astype(np.float32)
    return state_dict


def torch_shapes(name: str, config: models.ForecastConfig) -> dict[str, tuple[int, ...]]:
    """Shapes that a model's params have in PyTorch.

    Args:
      name: model name, e.g. ``"transformer"``.
      config: its configuration.

    Returns:
      Shapes by path, ``"encoder/layer_0/attention/query/kernel"``. A kernel's are those of the
      ``weight`` of a ``Linear`` or a ``Conv1d``: its outputs come first, its inputs second.
    """
    names, like = _names_and_shapes(name, config)
    leaves = trees.by_path({"params": like["params"]})
    return {
        path.removeprefix("params/"): names[path][1].torch_shape(leaf.shape)
        for path, leaf in leaves.items()
    }


def _names_and_shapes(name: str, config: models.ForecastConfig) -> tuple[Names, PyTree]:
    """Names by full path (``params/...``, ``buffers/...``), and the variables' shapes."""
    model = models.create(name, config)
    params, state = jax.eval_shape(functools.partial(models.init, model), jax.random.key(0))
    like = {"params": params, **state}
    found = {path.split("/", 1)[1]: path for path in trees.paths(like)}
    return {
        found[path]: ((keys,) if isinstance(keys, str) else keys, layout)
        for path, (keys, layout) in NAMES[name](config).items()
    }, like


def _fitted(
    key: str, array: np.ndarray, layout: Layout, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[str]]:
    """An array of a checkpoint in our layout, or what is wrong with its shape."""
    if key.endswith(POSITION):
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
    rest = sinusoids(*shape)[len(table) :].astype(table.dtype)
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


def _fixed(name: str, config: models.ForecastConfig, paths: list[str]) -> dict[str, Any]:
    """State that no checkpoint has and every new model has alike, such as Informer's fixed draw."""
    model = models.create(name, config)
    state = jax.jit(lambda key: models.init(model, key)[1])(jax.random.key(0))
    leaves = trees.by_path(state)
    return {path: leaves[path] for path in paths}
