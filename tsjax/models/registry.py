"""The table of models, and what is looked up in it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from tsjax.models import formulas, published, torch_names
from tsjax.models.autoformer import Autoformer, AutoformerConfig
from tsjax.models.base import PRESETS, ForecastConfig
from tsjax.models.crossformer import Crossformer
from tsjax.models.crossformer_config import CrossformerConfig
from tsjax.models.fedformer import FEDformer, FEDformerConfig
from tsjax.models.formula_blocks import Terms
from tsjax.models.informer import Informer, InformerConfig
from tsjax.models.published import Published
from tsjax.models.transformer import Transformer, TransformerConfig
from tsjax.wording import near, one_of


@dataclasses.dataclass(frozen=True)
class Model:
    """All that the library knows of one model.

    Attributes:
      module: makes the linen module of a configuration. The module is called with ``x_enc,
        x_mark_enc, x_dec, x_mark_dec`` and ``train``, and returns the forecast [B, pred_len, C].
      config: its configuration class, which also states the sizes that slicing changes.
      formula: ``formula(config, batch)`` yields the terms of its FLOPs, see :func:`product_flops`.
      torch_names: ``torch_names(config)`` maps the path of each leaf, without its collection, to
        its key in a PyTorch ``state_dict`` (or several, where layers share it) and its
        :class:`Layout`. Leaves that PyTorch does not store are left out.
      torch_unread: ``torch_unread(config)`` maps the keys of positional tables that PyTorch stores
        and the model does not read to their widths; none by default.
      published: how the published study ran it; None where it did not have the model.
    """

    module: Callable[[Any], nn.Module]
    config: type[ForecastConfig]
    formula: Callable[[Any, int], Terms]
    torch_names: Callable[[Any], torch_names.Names]
    torch_unread: Callable[[Any], dict[str, int]] = lambda _: {}
    published: Published | None = None


MODELS: dict[str, Model] = {
    "transformer": Model(
        module=Transformer,
        config=TransformerConfig,
        formula=formulas.transformer,
        torch_names=torch_names.transformer,
        published=published.COMMON,
    ),
    "informer": Model(
        module=Informer,
        config=InformerConfig,
        formula=formulas.informer,
        torch_names=torch_names.informer,
        published=published.COMMON,
    ),
    "autoformer": Model(
        module=Autoformer,
        config=AutoformerConfig,
        formula=formulas.autoformer,
        torch_names=torch_names.autoformer,
        torch_unread=torch_names.unread_positions,
        published=published.COMMON,
    ),
    "fedformer": Model(
        module=FEDformer,
        config=FEDformerConfig,
        formula=formulas.fedformer,
        torch_names=torch_names.fedformer,
        torch_unread=torch_names.unread_unless_positions,
        published=published.COMMON,
    ),
    "crossformer": Model(
        module=Crossformer,
        config=CrossformerConfig,
        formula=formulas.crossformer,
        torch_names=torch_names.crossformer,
        published=published.CROSSFORMER,
    ),
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


def product_flops(config: ForecastConfig, batch: int = 1, *, train: bool = False) -> dict[str, int]:
    """FLOPs of a forecaster's matrix products and convolutions, by closed formulas.

    They equal what ``costs.count`` finds under ``dot_general`` and ``conv_general_dilated``,
    for every configuration. A real multiply-add is 2 FLOPs, a complex one 8; taps of a convolution
    on padding count; what does not reach the forecast does not.

    Args:
      config: of any of the models, pruned or not.
      batch: number of windows.
      train: whether to count a training step: the forward pass, and the gradient with respect to
        the params of the mean squared error. Else one forward pass in evaluation.

    Returns:
      ``{term: flops}``. The terms are named after the blocks, such as ``encoder/attention/mixing``,
      each summed over the layers; the values add up to the total.

    Raises:
      ValueError: if ``batch`` is below 1, or ``config`` is of no known model.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    flops: dict[str, int] = {}
    for name, cost in entry_of(config).formula(config, batch):
        flops[name] = flops.get(name, 0) + cost.forward + (cost.backward if train else 0)
    return flops
