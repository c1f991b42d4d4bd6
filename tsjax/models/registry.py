"""The table of models, and what is looked up in it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from tsjax.models.autoformer import Autoformer, AutoformerConfig
from tsjax.models.base import PRESETS, ForecastConfig
from tsjax.models.crossformer import Crossformer
from tsjax.models.crossformer_config import CrossformerConfig
from tsjax.models.fedformer import FEDformer, FEDformerConfig
from tsjax.models.informer import Informer, InformerConfig
from tsjax.models.transformer import Transformer, TransformerConfig
from tsjax.wording import near, one_of


@dataclasses.dataclass(frozen=True)
class Model:
    """All that the library knows of one model.

    Attributes:
      module: makes the linen module of a configuration. The module is called with ``x_enc,
        x_mark_enc, x_dec, x_mark_dec`` and ``train``, and returns the forecast [B, pred_len, C].
      config: its configuration class, which also states the sizes that slicing changes.
    """

    module: Callable[[Any], nn.Module]
    config: type[ForecastConfig]


MODELS: dict[str, Model] = {
    "transformer": Model(Transformer, TransformerConfig),
    "informer": Model(Informer, InformerConfig),
    "autoformer": Model(Autoformer, AutoformerConfig),
    "fedformer": Model(FEDformer, FEDformerConfig),
    "crossformer": Model(Crossformer, CrossformerConfig),
}


def name_of(config: ForecastConfig) -> str:
    """The name of the model that a configuration is of.

    Raises:
      ValueError: if it is of no known model.
    """
    for name, entry in MODELS.items():
        if type(config) is entry.config:
            return name
    known = ", ".join(entry.config.__name__ for entry in MODELS.values())
    raise ValueError(f"config must be one of {known}, got a {type(config).__name__}")


def entry_of(config: ForecastConfig) -> Model:
    """The entry of the model that a configuration is of; raises as :func:`name_of` does."""
    return MODELS[name_of(config)]


def entry_named(name: str) -> Model:
    """The entry of a model.

    Raises:
      ValueError: for an unknown model.
    """
    one_of("model", name, MODELS)
    return MODELS[name]


def module(config: ForecastConfig) -> nn.Module:
    """The linen module of a configuration.

    Raises:
      ValueError: if the configuration is of no known model.
    """
    return entry_of(config).module(config)


def fields(name: str) -> tuple[str, ...]:
    """Names of the fields of a model's configuration."""
    return tuple(field.name for field in dataclasses.fields(entry_named(name).config))


def config(name: str, preset: str = "corrected", **sizes: Any) -> ForecastConfig:
    """The named model's configuration, e.g. ``config("transformer", enc_in=7, ...)``.

    Args:
      name: a key of ``MODELS``.
      preset: whose behaviour: ``corrected``, ``tslib`` or ``paper``, see ``docs/presets.md``.
      **sizes: fields of the configuration; they beat the preset's.

    Raises:
      ValueError: for an unknown model or preset, unknown fields, or fields out of range.
    """
    cls, known = entry_named(name).config, fields(name)
    one_of("preset", preset, PRESETS)
    if unknown := sorted(set(sizes) - set(known)):
        named = "; ".join(f"{name!r}{near(name, known)}" for name in unknown)
        raise ValueError(f"{cls.__name__} has no field {named}: it has {', '.join(known)}")
    return cls(**{**cls.presets.get(preset, {}), **sizes})


def input_shapes(config: ForecastConfig, batch: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of ``x_enc, x_mark_enc, x_dec, x_mark_dec`` for a batch, in float32."""
    shapes = (
        (batch, config.seq_len, config.enc_in),
        (batch, config.seq_len, config.mark_dim),
        (batch, config.dec_len, config.dec_in),
        (batch, config.dec_len, config.mark_dim),
    )
    return tuple(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
