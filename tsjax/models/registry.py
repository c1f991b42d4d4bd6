"""Models by name, and the one way that training, pruning and timing call them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tsjax.models.autoformer import Autoformer, AutoformerConfig
from tsjax.models.base import PRESETS, ForecastConfig
from tsjax.models.crossformer import Crossformer, CrossformerConfig
from tsjax.models.fedformer import FEDformer, FEDformerConfig
from tsjax.models.informer import Informer, InformerConfig
from tsjax.models.transformer import Transformer, TransformerConfig
from tsjax.wording import near, one_of

PyTree = Any
Forward = Callable[..., tuple[Array, PyTree]]


class _Entry(NamedTuple):
    module: Callable[[Any], nn.Module]
    config: type[ForecastConfig]


RNG_STREAMS = ("dropout", "keys")
"""What train mode draws: zeroed elements, and the keys that Informer samples."""

MODELS: dict[str, _Entry] = {
    "transformer": _Entry(Transformer, TransformerConfig),
    "informer": _Entry(Informer, InformerConfig),
    "autoformer": _Entry(Autoformer, AutoformerConfig),
    "fedformer": _Entry(FEDformer, FEDformerConfig),
    "crossformer": _Entry(Crossformer, CrossformerConfig),
}


def _entry(name: str) -> _Entry:
    one_of("model", name, MODELS)
    return MODELS[name]


def fields(name: str) -> tuple[str, ...]:
    """Names of the fields of a model's configuration."""
    return tuple(field.name for field in dataclasses.fields(_entry(name).config))


def config(name: str, preset: str = "corrected", **sizes: Any) -> ForecastConfig:
    """The named model's configuration, e.g. ``config("transformer", enc_in=7, ...)``.

    Args:
      name: a key of ``MODELS``.
      preset: whose behaviour: ``corrected``, ``tslib`` or ``paper``, see ``docs/presets.md``.
      **sizes: fields of the configuration; they beat the preset's.

    Raises:
      ValueError: for an unknown model or preset, unknown fields, or fields out of range.
    """
    cls, known = _entry(name).config, fields(name)
    one_of("preset", preset, PRESETS)
    if unknown := sorted(set(sizes) - set(known)):
        named = "; ".join(f"{name!r}{near(name, known)}" for name in unknown)
        raise ValueError(f"{cls.__name__} has no field {named}: it has {', '.join(known)}")
    return cls(**{**cls.presets[preset], **sizes})


def create(name: str, config: ForecastConfig) -> nn.Module:
    """The named model as a linen module.

    Raises:
      ValueError: for an unknown model, or a configuration of another model.
    """
    entry = _entry(name)
    if not isinstance(config, entry.config):
        raise ValueError(f"{name} needs a {entry.config.__name__}, got a {type(config).__name__}")
    return entry.module(config)


def input_shapes(config: ForecastConfig, batch: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of ``x_enc, x_mark_enc, x_dec, x_mark_dec`` for a batch, in float32."""
    shapes = (
        (batch, config.seq_len, config.enc_in),
        (batch, config.seq_len, config.mark_dim),
        (batch, config.dec_len, config.dec_in),
        (batch, config.dec_len, config.mark_dim),
    )
    return tuple(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)


def init(model: nn.Module, key: Array) -> tuple[PyTree, PyTree]:
    """Fresh variables of a model.

    Args:
      model: from :func:`create`.
      key: one random key; the same key gives the same variables.

    Returns:
      ``(params, state)``: plain dicts; ``state`` holds the other collections, such as ``buffers``.
    """
    run = _variables if isinstance(key, jax.core.Tracer) else _variables_at_once
    variables = dict(run(model, key))
    params = variables.pop("params")
    return params, variables


def _variables(model: nn.Module, key: Array) -> PyTree:
    shapes = input_shapes(model.config, batch=1)
    return model.init(key, *(jnp.zeros(s.shape, s.dtype) for s in shapes))


# What runs once is compiled in a hurry: XLA's optimisations would take longer than they save. Only
# a function that no other one traces may have such options.
_variables_at_once = jax.jit(
    _variables, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
)


@functools.cache
def forward(model: nn.Module) -> Forward:
    """The model as a pure function of its params.

    Returns:
      ``fn(params, state, x_enc, x_mark_enc, x_dec, x_mark_dec, *, key=None)``, which returns
      ``(forecast [B, pred_len, c_out], new state)``. With a random ``key`` it runs in train mode
      (dropout on), without one in evaluation mode. Equal models give the same function, so that
      what is compiled for one serves the other.
    """

    def fn(
        params: PyTree, state: PyTree, *inputs: Array, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        variables = {"params": params, **state}
        if key is None:
            return model.apply(variables, *inputs, train=False), state
        rngs = dict(zip(RNG_STREAMS, jax.random.split(key, len(RNG_STREAMS)), strict=True))
        y, new = model.apply(variables, *inputs, train=True, rngs=rngs, mutable=list(state))
        return y, {**state, **new}

    return fn
