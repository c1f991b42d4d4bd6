"""The sizes of a sliced model, read from the shapes of its leaves.

Slicing units out of a model leaves a smaller model of the same kind. Every axis of a leaf is either
fixed by the task (channels, steps) or has one of the sizes that a configuration states, which is
called its slot. Which axes belong to which slot is asked of the model itself: it is initialised,
abstractly, with a different number for each slot.
"""

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tsjax import trees
from tsjax.models.base import ForecastConfig, Slot, spread
from tsjax.models.layers import LOOK_UPS
from tsjax.models.variables import abstract
from tsjax.trees import PyTree

Axes = tuple[Slot | int, ...]
"""A leaf's axes: slots, or sizes that never change."""


def config_from_params(
    config: ForecastConfig, params: PyTree, state: PyTree | None = None
) -> ForecastConfig:
    """The configuration of a model that has been sliced.

    A model that :func:`tsjax.models.create` makes of it has exactly these leaves. Fields that still
    fit stay as they are. A field that does not becomes one number, or a tuple where the blocks
    differ. Factors that followed from the widths stay those of ``config``: ``attention_scale`` or
    ``cross_scale`` is set where the new widths would imply others.

    Args:
      config: the configuration of the model before it was sliced.
      params: its sliced params. Only shapes are read: tracers and ``jax.ShapeDtypeStruct`` will do.
      state: its other variables. What only they show, the ``cross_kv`` modes of a FEDformer, stays
        as it is where they are not given.

    Returns:
      A configuration of the same type; ``config`` itself where no size has changed.

    Raises:
      ValueError: if no configuration has such leaves. All leaves that do not fit are listed.
    """
    tree = {"params": params} if state is None else {"params": params, "state": state}
    axes = {p: slots for p, slots in _axes(config).items() if p.partition("/")[0] in tree}
    trees.check_arrays(tree)
    shapes = {path: tuple(leaf.shape) for path, leaf in trees.by_path(tree).items()}
    found = _found(axes, shapes)
    want = {
        path: tuple(a if isinstance(a, int) else found.get(a, 0) for a in slots)
        for path, slots in axes.items()
    }
    if shapes != want:
        have, like = ({p: _struct(s) for p, s in each.items()} for each in (shapes, want))
        like_name = f"the model of a {type(config).__name__}"
        trees.check_same_structure(have, like, name="the tree", like_name=like_name)
    return _resized(config, found)


def tie_loose_axes(config: ForecastConfig, params: PyTree, state: PyTree) -> None:
    """Makes the trace show which axes have one size by the configuration alone.

    Those are the model's ``loose`` ones, see :class:`tsjax.models.ForecastConfig`.
    """
    if ties := _ties(config):
        leaves = trees.by_path({"params": params, "state": state})
        for (path, axis), (other, other_axis) in ties:
            _tie(leaves[path], axis, leaves[other], other_axis)


def _tie(x: Array, axis: int, other: Array, other_axis: int) -> None:
    """Makes the trace show that an axis of ``x`` and one of ``other`` have the same size.

    It adds the sums over all their other axes. Nothing reads the result, and so XLA leaves it out.
    """
    ends = ((x, axis), (other, other_axis))
    jnp.add(*(jnp.sum(y, [i for i in range(y.ndim) if i != kept]) for y, kept in ends))


@functools.cache
def _ties(config: ForecastConfig) -> tuple[tuple[tuple[str, int], tuple[str, int]], ...]:
    """Pairs of (path, axis): each loose axis, and one of the same slot that is not loose."""
    members: dict[Slot, list[tuple[str, int]]] = {}
    for path, slots in _axes(config).items():
        for axis, slot in enumerate(slots):
            if not isinstance(slot, int):
                members.setdefault(slot, []).append((path, axis))
    found = []
    for (field, _), axes in members.items():
        loose = [
            axis
            for axis in axes
            if any(field in fields and re.search(p, axis[0]) for p, fields in config.loose.items())
        ]
        anchor = next((axis for axis in axes if axis not in loose), axes[0])
        found += [(axis, anchor) for axis in loose if axis != anchor]
    return tuple(found)


@functools.cache
def _axes(config: ForecastConfig) -> dict[str, Axes]:
    """The axes of each leaf of a model, by path, ``params/...`` and ``state/...``."""
    listed = config.listed()
    told = {field for field, _ in listed.values()}
    slots = {field: _slots(config, field) for field in config.sizes() if field not in told}
    # A slot is told by a size that no axis can have otherwise. Sizes that never change are lengths,
    # other numbers of the configuration, or the rows of a look-up, and so smaller than these.
    fixed = (value for field, value in vars(config).items() if field not in slots)
    stated = (x for value in fixed for x in spread(value, 1) if isinstance(x, int))
    unused = itertools.count(1 + sum(stated) + max(LOOK_UPS.values()))
    number = {slot: next(unused) for each in slots.values() for slot in dict.fromkeys(each)}
    slot_of = {size: slot for slot, size in number.items()}
    numbers = {field: _value([number[s] for s in each]) for field, each in slots.items()}
    axes: dict[str, Axes] = {}
    for path, shape in _shapes(dataclasses.replace(config, **numbers)).items():
        found: Axes = tuple(slot_of.get(size, size) for size in shape)
        last = next((slot for part, slot in listed.items() if part in path), None)
        axes[path] = found if last is None else (*found[:-1], last)
    return axes


@functools.cache
def _shapes(config: ForecastConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's leaves, by path.

    Models that differ in their sizes alone are asked with one configuration, and share the answer.
    """
    params, state = abstract(config)
    return {p: leaf.shape for p, leaf in trees.by_path({"params": params, "state": state}).items()}


def _found(axes: Mapping[str, Axes], shapes: Mapping[str, tuple[int, ...]]) -> dict[Slot, int]:
    """The size that most axes of a slot have."""
    votes: dict[Slot, Counter[int]] = {}
    for path, slots in axes.items():
        shape = shapes.get(path, ())
        if len(shape) == len(slots):
            for slot, size in zip(slots, shape, strict=True):
                if not isinstance(slot, int):
                    votes.setdefault(slot, Counter())[size] += 1
    return {slot: sizes.most_common(1)[0][0] for slot, sizes in votes.items()}


def _resized(config: ForecastConfig, found: Mapping[Slot, int]) -> ForecastConfig:
    """``config`` with the sizes that were found; fields that still fit stay as they are."""
    old, new, seen = config.sizes(), {}, {}
    for field, sizes in old.items():
        slots = _slots(config, field)
        new[field] = tuple(found.get(slot, size) for slot, size in zip(slots, sizes, strict=True))
        seen[field] = [i for i, slot in enumerate(slots) if slot in found]
    if new == old:
        return config
    small = dataclasses.replace(config, **{field: _value(sizes) for field, sizes in new.items()})
    # What None means follows from the fields before it, which are settled by then.
    for field, sizes in new.items():
        try:
            same = dataclasses.replace(small, **{field: getattr(config, field)})
        except ValueError:  # The field was None, and heads no longer divide the width.
            continue
        if all(same.sizes()[field][i] == sizes[i] for i in seen[field]):
            small = same
    scales = small.scales()
    kept = {field: each for field, each in config.scales().items() if each != scales[field]}
    return dataclasses.replace(small, **{field: _value(each) for field, each in kept.items()})


def _slots(config: ForecastConfig, field: str) -> tuple[Slot, ...]:
    """A field's slots, one for each block."""
    return tuple((field, first) for first in config.sharing(field))


def _value(sizes: Sequence[Any]) -> Any:
    """A field's value: one number where all blocks agree."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def _struct(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")
