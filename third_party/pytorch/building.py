"""Models by name, with the weights of their counterparts in tsjax."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import torch
from torch import nn

from third_party.pytorch.autoformer import Autoformer
from third_party.pytorch.crossformer import Crossformer
from third_party.pytorch.fedformer import FEDformer
from third_party.pytorch.informer import Informer
from third_party.pytorch.transformer import Transformer
from tsjax import interop, models, trees

PyTree = Any

MODELS: dict[str, Callable[..., nn.Module]] = {
    "transformer": Transformer,
    "informer": Informer,
    "autoformer": Autoformer,
    "fedformer": FEDformer,
    "crossformer": Crossformer,
}

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build(
    name: str, config: models.ForecastConfig, variables: Mapping[str, PyTree] | None = None
) -> nn.Module:
    """A model in PyTorch, on the CPU and in train mode as PyTorch makes them.

    Args:
      name: a key of ``MODELS``.
      config: its configuration, as for :func:`tsjax.models.create`, of any preset and with sizes
        per block where it states them.
      variables: ``{"params": ..., "buffers": ..., ...}`` of the tsjax model, whose weights,
        statistics and draws the module then has, in their precision; None for new weights of
        PyTorch's current random state and default precision.

    Returns:
      A module called with ``(x_enc, x_mark_enc, x_dec, x_mark_dec)``, which returns the forecast
      [B, pred_len, c_out].

    Raises:
      ValueError: for an unknown model, a configuration of another one, variables that do not fit
        the configuration, and weights that are neither all float32 nor all float64.
    """
    models.create(name, config)
    if variables is None:
        return MODELS[name](config)
    state_dict = interop.to_torch(name, config, variables)
    buffers = variables.get("buffers", {})
    with _default_dtype(_precision(variables["params"])):
        if isinstance(config, models.FEDformerConfig):
            module = FEDformer(config, buffers)
        else:
            module = MODELS[name](config)
    module.load_state_dict({key: torch.tensor(x) for key, x in state_dict.items()}, strict=True)
    if isinstance(module, Informer):
        module.set_draws(buffers)
    return module


def _precision(params: PyTree) -> torch.dtype:
    found = sorted({str(jnp.result_type(leaf)) for leaf in trees.by_path(params).values()})
    if len(found) != 1 or found[0] not in DTYPES:
        raise ValueError(
            f"params must be all of one of {', '.join(DTYPES)}, got {', '.join(found)}: convert "
            "the module, not the variables, as in build(...).to(torch.bfloat16)"
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
