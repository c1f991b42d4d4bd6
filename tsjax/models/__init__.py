"""Forecasting Transformers in Flax linen, numerically equal to the published ones.

config = models.config("transformer", enc_in=7, dec_in=7, c_out=7)
forecaster = models.create(config, jax.random.key(0))
forecast = models.forecast(forecaster, x_enc, x_mark_enc, x_dec, x_mark_dec)
"""

from tsjax.forecaster import Forecaster, forecast
from tsjax.models.autoformer import Autoformer, AutoformerConfig
from tsjax.models.base import PRESETS, ForecastConfig
from tsjax.models.crossformer import Crossformer
from tsjax.models.crossformer_config import CrossformerConfig
from tsjax.models.fedformer import FEDformer, FEDformerConfig
from tsjax.models.formulas import product_flops
from tsjax.models.functions import create, forward
from tsjax.models.informer import Informer, InformerConfig
from tsjax.models.layers import sinusoids
from tsjax.models.registry import (
    MODELS,
    Model,
    config,
    fields,
    input_shapes,
    module,
    name_of,
)
from tsjax.models.sizes import config_from_params
from tsjax.models.transformer import Transformer, TransformerConfig

__all__ = [
    "MODELS",
    "PRESETS",
    "Autoformer",
    "AutoformerConfig",
    "Crossformer",
    "CrossformerConfig",
    "FEDformer",
    "FEDformerConfig",
    "ForecastConfig",
    "Forecaster",
    "Informer",
    "InformerConfig",
    "Model",
    "Transformer",
    "TransformerConfig",
    "config",
    "config_from_params",
    "create",
    "fields",
    "forecast",
    "forward",
    "input_shapes",
    "module",
    "name_of",
    "product_flops",
    "sinusoids",
]
