"""Forecasting Transformers in Flax linen, numerically equal to the published ones.

config = models.config("transformer", enc_in=7, dec_in=7, c_out=7)
model = models.create("transformer", config)
params, state = models.init(model, jax.random.key(0))
forecast, state = models.forward(model)(params, state, x_enc, x_mark_enc, x_dec, x_mark_dec)
"""

from tsjax.models.autoformer import Autoformer, AutoformerConfig
from tsjax.models.base import PRESETS, ForecastConfig
from tsjax.models.crossformer import Crossformer, CrossformerConfig
from tsjax.models.fedformer import FEDformer, FEDformerConfig
from tsjax.models.formulas import product_flops
from tsjax.models.informer import Informer, InformerConfig
from tsjax.models.registry import (
    MODELS,
    Forward,
    config,
    create,
    fields,
    forward,
    init,
    input_shapes,
)
from tsjax.models.sizes import config_from_params, sized_forward
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
    "Forward",
    "Informer",
    "InformerConfig",
    "Transformer",
    "TransformerConfig",
    "config",
    "config_from_params",
    "create",
    "fields",
    "forward",
    "init",
    "input_shapes",
    "product_flops",
    "sized_forward",
]
