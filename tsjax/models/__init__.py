"""Forecasting Transformers in Flax linen, numerically equal to the published ones.

config = models.config("transformer", enc_in=7, dec_in=7, c_out=7)
forecaster = models.create(config, jax.random.key(0))
forecast = models.forecast(forecaster, x_enc, x_mark_enc, x_dec, x_mark_dec)
"""

from tsjax.forecaster import Forecaster, forecast
from tsjax.models.autoformer import Autoformer, AutoformerConfig
from tsjax.models.base import PRESETS, EncoderDecoderConfig, ForecastConfig, spread
from tsjax.models.crossformer import Crossformer
from tsjax.models.crossformer_config import CrossformerConfig, TwoStageSizes
from tsjax.models.decomposition import DecompositionConfig
from tsjax.models.dropout import Dropout
from tsjax.models.fedformer import MOST_MODES, FEDformer, FEDformerConfig
from tsjax.models.fourier import Kept
from tsjax.models.functions import create, forward
from tsjax.models.informer import Informer, InformerConfig
from tsjax.models.layers import LOOK_UPS, Heads, sinusoids
from tsjax.models.published import Published
from tsjax.models.registry import (
    MODELS,
    Model,
    config,
    fields,
    input_shapes,
    module,
    name_of,
    product_flops,
)
from tsjax.models.sizes import config_from_params
from tsjax.models.torch_layouts import Layout
from tsjax.models.transformer import Transformer, TransformerConfig
from tsjax.models.wavelets import filter_tables, levels, padded_length

__all__ = [
    "LOOK_UPS",
    "MODELS",
    "MOST_MODES",
    "PRESETS",
    "Autoformer",
    "AutoformerConfig",
    "Crossformer",
    "CrossformerConfig",
    "DecompositionConfig",
    "Dropout",
    "EncoderDecoderConfig",
    "FEDformer",
    "FEDformerConfig",
    "ForecastConfig",
    "Forecaster",
    "Heads",
    "Informer",
    "InformerConfig",
    "Kept",
    "Layout",
    "Model",
    "Published",
    "Transformer",
    "TransformerConfig",
    "TwoStageSizes",
    "config",
    "config_from_params",
    "create",
    "fields",
    "filter_tables",
    "forecast",
    "forward",
    "input_shapes",
    "levels",
    "module",
    "name_of",
    "padded_length",
    "product_flops",
    "sinusoids",
    "spread",
]
