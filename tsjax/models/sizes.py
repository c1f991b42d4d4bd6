"""The sizes of a pruned model, read from the shapes of its variables.

Slicing units out of a model's variables leaves a smaller model of the same kind. Every axis of a
leaf is either fixed by the task (channels, steps) or one of the sizes that a configuration states:
here called a slot, a field and the block that it counts for. Which axes belong to which slot is
asked of the model itself, by initialising it, abstractly, with a different number for each slot.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tsjax import trees
from tsjax.models.autoformer import AutoformerConfig
from tsjax.models.base import EncoderDecoderConfig, ForecastConfig, spread
from tsjax.models.crossformer import CrossformerConfig
from tsjax.models.fedformer import MODES, FEDformerConfig
from tsjax.models.informer import InformerConfig
from tsjax.models.layers import LOOK_UPS, Heads, shapes_only
from tsjax.models.registry import MODELS, forward, init

PyTree = Any
Slot = tuple[str, int]
"""A field of a configuration, and which of the blocks that it counts for: the first of those that
have their size in common."""
Sizes = dict[str, tuple[int, ...]]
"""The sizes by field, one for each block."""
Axes = tuple[Slot | int, ...]
"""A leaf's axes: slots, or sizes that never change."""

_HEADS = ("n_heads", "d_keys", "d_values")

LOOSE: dict[type[ForecastConfig], dict[str, tuple[str, ...]]] = {
    # A width goes in, one goes out.
    InformerConfig: {r"distil_\d+/conv/kernel$": ("d_model",)},
    # All heads share the lags and their weights: the values could have any number of heads.
    AutoformerConfig: {r"attention/value/kernel$": ("n_heads",)},
    FEDformerConfig: {
        # Nothing reads the dead ones, and a wavelet block maps the heads that it reads to others.
        r"attention/(query|key|value|out)/kernel$": _HEADS,
        # The dead value; the others where series are too short for a level.
        r"cross_mixing/(query|value|out)/kernel$": ("cross_c",),
        # Each keeps its own frequencies, and none is passed where series are too short for a level.
        r"_mixing/\w+_to_\w+/real$": ("wavelet_c", "wavelet_alpha"),
    },
}
"""Leaves with axes that the configuration ties to others of the same fields, but that the model's
arithmetic does not, by a pattern of their paths."""


def config_from_params(config: ForecastConfig, params: PyTree) -> ForecastConfig:
    """The configuration of a model that has been sliced.

    A model that :func:`tsjax.models.create` makes of it has exactly these leaves. Fields that still
    fit stay as they are. A field that does not becomes one number, or a tuple where the blocks
    differ. Scales that the widths implied stay those of ``config``: ``attention_scale`` or
    ``cross_scale`` is set where they would change.

    Args:
      config: the configuration of the model before it was sliced.
      params: its sliced params, or all of its variables, ``{"params": params, **state}``. Only
        shapes are read: tracers and ``jax.ShapeDtypeStruct`` will do. The ``cross_kv`` modes of a
        FEDformer are seen in its state only; with params alone they stay.

    Returns:
      A configuration of the same type; ``config`` itself where no size has changed.

    Raises:
      ValueError: if no configuration has such leaves. All leaves that do not fit are listed.
    """
    axes = _axes(config)
    if not (isinstance(params, Mapping) and "params" in params):
        start = "params/"
        axes = {p.removeprefix(start): slots for p, slots in axes.items() if p.startswith(start)}
    trees.check_arrays(params)
    shapes = {path: tuple(leaf.shape) for path, leaf in trees.by_path(params).items()}
    found = _found(axes, shapes)
    want = {
        path: tuple(a if isinstance(a, int) else found.get(a, 0) for a in slots)
        for path, slots in axes.items()
    }
    if shapes != want:
        tree, like = ({p: _struct(s) for p, s in each.items()} for each in (shapes, want))
        like_name = f"the model of a {type(config).__name__}"
        trees.check_same_structure(tree, like, name="the tree", like_name=like_name)
    return _resized(config, found)


@functools.cache
def sized_forward(config: ForecastConfig) -> Callable[..., Array]:
    """The forecast of a model, or of any pruned version of it, whose variables it is given.

    What is computed depends on the variables' shapes: the model is that of
    :func:`config_from_params`. Where a configuration has one size for axes that the arithmetic does
    not tie, sums over them are added up, and the result left unread, so that whoever follows the
    computation sees that they must be cut together.

    Args:
      config: the configuration of the model before it was sliced.

    Returns:
      ``fn(variables, x_enc, x_mark_enc, x_dec, x_mark_dec, *, key=None)``, which returns the
      forecast [B, pred_len, c_out]; ``variables`` are ``{"params": params, **state}``. With a
      random ``key`` it runs in train mode, and what that does to the state is dropped. It raises
      ValueError as :func:`config_from_params` does.
    """

    def fn(variables: PyTree, *inputs: Array, key: Array | None = None) -> Array:
        if "params" not in variables:
            given = ", ".join(map(str, variables)) or "nothing"
            raise ValueError(f"variables must be {{'params': params, **state}}, got {given}")
        model = _model(config_from_params(config, variables))
        leaves = trees.by_path(variables)
        for (path, axis), (other, other_axis) in _ties(config):
            _tie(leaves[path], axis, leaves[other], other_axis)
        state = {name: tree for name, tree in variables.items() if name != "params"}
        return forward(model)(variables["params"], state, *inputs, key=key)[0]

    return fn


def _tie(x: Array, axis: int, other: Array, other_axis: int) -> None:
    """Has an axis of ``x`` agree with one of ``other``: adds the sums over all their other axes.

    Nobody reads the result, so that XLA leaves it out.
    """
    ends = ((x, axis), (other, other_axis))
    jnp.add(*(jnp.sum(y, [i for i in range(y.ndim) if i != kept]) for y, kept in ends))


@functools.cache
def _ties(config: ForecastConfig) -> tuple[tuple[tuple[str, int], tuple[str, int]], ...]:
    """Pairs of (path, axis): each loose one, and one of its slot that is not."""
    patterns = LOOSE.get(type(config), {})
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
            if any(field in fields and re.search(p, axis[0]) for p, fields in patterns.items())
        ]
        anchor = next((axis for axis in axes if axis not in loose), axes[0])
        found += [(axis, anchor) for axis in loose if axis != anchor]
    return tuple(found)


@functools.cache
def _axes(config: ForecastConfig) -> dict[str, Axes]:
    """The axes of each variable of a model, by path."""
    blocks = {field: _slots(config, field) for field in _sizes(config) if field != "modes"}
    # Sizes that no axis has otherwise tell the slots apart: a fixed one is a length or a number of
    # the configuration, or the rows of a look-up.
    stated = (x for value in vars(config).values() for x in spread(value, 1) if isinstance(x, int))
    unused = itertools.count(1 + sum(stated) + max(LOOK_UPS.values()))
    number = {slot: next(unused) for slots in blocks.values() for slot in dict.fromkeys(slots)}
    slot_of = {size: slot for slot, size in number.items()}
    numbers = {field: _value([number[s] for s in slots]) for field, slots in blocks.items()}
    lists = _frequency_lists(config)
    axes: dict[str, Axes] = {}
    for path, shape in _shapes(dataclasses.replace(config, **numbers)).items():
        found: Axes = tuple(slot_of.get(size, size) for size in shape)
        index = next((i for name, i in lists.items() if name in path), None)
        axes[path] = found if index is None else (*found[:-1], ("modes", index))
    return axes


def _shapes(config: ForecastConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's variables, by path."""
    model = _model(config)
    token = shapes_only.set(True)
    try:
        params, state = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    finally:
        shapes_only.reset(token)
    return {path: leaf.shape for path, leaf in trees.by_path({"params": params, **state}).items()}


def _frequency_lists(config: ForecastConfig) -> dict[str, int]:
    """Which list of modes the last axis of a Fourier block's variables counts; the first holds.

    There are too few frequencies to tell the lists apart by their lengths.
    """
    if not isinstance(config, FEDformerConfig) or config.version != "fourier":
        return {}
    names = ("cross_mixing/key_modes", "encoder_mixing", "decoder_mixing", "cross_mixing")
    lists = ("cross_kv", "encoder", "decoder", "cross_q")
    return {name: MODES.index(list_) for name, list_ in zip(names, lists, strict=True)}


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
    """``config`` with the sizes that were found, otherwise as it is where it still fits."""
    old, new, seen = _sizes(config), {}, {}
    for field, sizes in old.items():
        slots = _slots(config, field)
        new[field] = tuple(found.get(slot, size) for slot, size in zip(slots, sizes, strict=True))
        seen[field] = [i for i, slot in enumerate(slots) if slot in found]
    if new == old:
        return config
    small = dataclasses.replace(config, **{field: _value(sizes) for field, sizes in new.items()})
    # The fields stand in such an order that what None means follows from those before it.
    for field, sizes in new.items():
        try:
            same = dataclasses.replace(small, **{field: getattr(config, field)})
        except ValueError:  # None, where heads no longer divide the width.
            continue
        if all(_sizes(same)[field][i] == sizes[i] for i in seen[field]):
            small = same
    return _with_scales_of(config, small)


def _with_scales_of(config: ForecastConfig, small: ForecastConfig) -> ForecastConfig:
    """``small`` with the scales that the widths of ``config`` imply."""
    if isinstance(config, FEDformerConfig):
        assert isinstance(small, FEDformerConfig)
        if config.cross_scale is not None or small.decoder_width == config.decoder_width:
            return small
        return dataclasses.replace(small, cross_scale=config.decoder_width**-2)
    scales = _scales(config)
    if _scales(small) == scales:
        return small
    fields: dict[str, Any] = {"attention_scale": _value(scales)}
    return dataclasses.replace(small, **fields)


def _scales(config: ForecastConfig) -> tuple[float, ...]:
    """Factors on the attention logits, one for each block."""

    def implied(heads: Heads) -> float:
        if isinstance(config, AutoformerConfig):
            return 1 / (heads.n_heads * heads.d_keys)
        return 1 / math.sqrt(heads.d_keys)

    return tuple(implied(heads) if heads.scale is None else heads.scale for heads in _heads(config))


def _sizes(config: ForecastConfig) -> Sizes:
    """What a model's sizes are, wherever they come from; invisible ones too."""
    heads = _heads(config)
    sizes = {
        "n_heads": tuple(block.n_heads for block in heads),
        "d_keys": tuple(block.d_keys for block in heads),
        "d_values": tuple(block.d_values for block in heads),
    }
    if isinstance(config, CrossformerConfig):
        layers = (*config.encoder_sizes, *config.decoder_sizes)
        return {
            "d_model": config.level_widths,
            "d_model_dec": (config.decoder_width,),
            **sizes,
            "factor": tuple(layer.n_routers for layer in layers),
            "d_router": tuple(layer.d_router for layer in layers),
            "d_message": tuple(layer.d_message for layer in layers),
            "d_ff": tuple(width for layer in layers for width in layer.d_ff),
            "d_mlp": config.mlp_widths,
        }
    assert isinstance(config, EncoderDecoderConfig)
    sizes = {
        "d_model": (config.d_model,),
        "d_model_dec": (config.decoder_width,),
        **sizes,
        "d_ff": config.ff_widths,
    }
    if not isinstance(config, FEDformerConfig):
        return sizes
    if config.version == "fourier":
        return {**sizes, "modes": tuple(kept.n_modes for kept in config.kept.values())}
    return {
        **sizes,
        "wavelet_c": config.wavelet_channels,
        "wavelet_alpha": spread(config.wavelet_alpha, 2),
        "cross_c": (config.cross_channels,),
    }


def _heads(config: ForecastConfig) -> tuple[Heads, ...]:
    """Sizes of all attention blocks, in the order of their calls."""
    if isinstance(config, CrossformerConfig):
        layers = ((s.time, s.sender, s.receiver) for s in config.encoder_sizes)
        decoder = zip(config.decoder_sizes, config.cross_heads, strict=True)
        layers_dec = ((s.time, s.sender, s.receiver, cross) for s, cross in decoder)
        return tuple(itertools.chain(*layers, *layers_dec))
    assert isinstance(config, EncoderDecoderConfig)
    pairs = zip(config.self_heads, config.cross_heads, strict=True)
    return (*config.encoder_heads, *itertools.chain(*pairs))


def _slots(config: ForecastConfig, field: str) -> tuple[Slot, ...]:
    """A field's slots, one for each block; blocks that share their weights share it."""
    count = len(_sizes(config)[field])
    first = list(range(count))
    if isinstance(config, FEDformerConfig) and field in ("n_heads", "d_keys", "d_values"):
        # One mixing for all encoder layers, one for all self and one for all cross blocks.
        n = config.e_layers
        first = [0] * n + [n, n + 1] * config.d_layers
    if isinstance(config, CrossformerConfig) and field == "d_model" and config.win_size == 1:
        # Nothing stands between two levels that maps one width to another.
        first = [0] * count
    return tuple((field, i) for i in first)


def _value(sizes: Sequence[Any]) -> Any:
    """A field's value: one number where all blocks agree."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def _model(config: ForecastConfig) -> nn.Module:
    for entry in MODELS.values():
        if type(config) is entry.config:
            return entry.module(config)
    known = ", ".join(entry.config.__name__ for entry in MODELS.values())
    raise ValueError(f"config must be one of {known}, got a {type(config).__name__}")


def _struct(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")
