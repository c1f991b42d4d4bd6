"""Models by name, with the weights of their counterparts in tsjax."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax.numpy as jnp
import torch
from torch import nn

from third_party.pytorch.autoformer import Autoformer
from third_party.pytorch.crossformer import Crossformer
from third_party.pytorch.fedformer import FEDformer
from third_party.pytorch.informer import Informer
from third_party.pytorch.transformer import Transformer
from tsjax import interop, models, trees
from tsjax.trees import PyTree

MODELS: dict[str, Callable[..., nn.Module]] = {
    "transformer": Transformer,
    "informer": Informer,
    "autoformer": Autoformer,
    "fedformer": FEDformer,
    "crossformer": Crossformer,
}

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def create(config: models.ForecastConfig) -> nn.Module:
    """A model in PyTorch with new weights, of PyTorch's current random state and default precision.

    Args:
      config: its configuration, as for :func:`tsjax.models.create`, of any preset and with sizes
        per block where it states them.

    Returns:
      A module called with ``(x_enc, x_mark_enc, x_dec, x_mark_dec)``, which returns the forecast
      [B, pred_len, c_out]; on the CPU and in train mode, as PyTorch makes them.

    Raises:
      ValueError: if the configuration is of no known model.
    """
    return MODELS[models.name_of(config)](config)


def build(forecaster: models.Forecaster) -> nn.Module:
    """A model of tsjax in PyTorch, with its weights, statistics and draws, in their precision.

    Args:
      forecaster: the model, dense, masked or sliced. Weights that its mask prunes are zeros.

    Returns:
      A module as :func:`create` makes them.

    Raises:
      AttributeError: if the forecaster is no model of ``tsjax.models``.
      ValueError: if no configuration of the model has such leaves, and for weights that are neither
        all float32 nor all float64.
    """
    state_dict, config = interop.to_torch(forecaster), forecaster.config
    buffers = forecaster.state.get("buffers", {})
    with _default_dtype(_precision(forecaster.params)):
        if isinstance(config, models.FEDformerConfig):
            module: nn.Module = FEDformer(config, buffers)
        else:
            module = create(config)
    module.load_state_dict({key: torch.tensor(x) for key, x in state_dict.items()}, strict=True)
    if isinstance(module, Informer):
        module.set_draws(buffers)
    return module


def _precision(params: PyTree) -> torch.dtype:
    found = sorted({str(jnp.result_type(leaf)) for leaf in trees.by_path(params).values()})
    if len(found) != 1 or found[0] not in DTYPES:
        raise ValueError(
            f"params must be all of one of {', '.join(DTYPES)}, got {', '.join(found)}: convert "
            "the module, not the forecaster, as in build(...).to(torch.bfloat16)"
        )
    return DTYPES[found[0]]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Makes new tensors in ``dtype``: constants such as averaging weights are then exact in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
