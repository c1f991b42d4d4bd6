"""The models as functions that a sampler can time.

A call returns when the work is queued. On the CPU it is then done; on a GPU whoever samples waits
with ``torch.cuda.synchronize``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def tensors(*arrays: Any, device: str | torch.device = "cpu") -> tuple[Tensor, ...]:
    """Arrays of JAX or numpy as tensors of their own on a device."""
    return tuple(torch.tensor(np.asarray(array), device=device) for array in arrays)


def eager(module: nn.Module) -> Callable[..., Tensor]:
    """``run(x_enc, x_mark_enc, x_dec, x_mark_dec)``: the forecast, operation by operation.

    The module is put into evaluation mode.
    """
    module.eval()

    @torch.inference_mode()
    def run(*inputs: Tensor) -> Tensor:
        return module(*inputs)

    return run


def compiled(module: nn.Module, **options: Any) -> Callable[..., Tensor]:
    """:func:`eager` through ``torch.compile``; the first call compiles.

    Args:
      module: the model; it is put into evaluation mode.
      **options: of ``torch.compile``, such as ``mode="max-autotune"``. Shapes are static and the
        whole model is one graph unless they say otherwise.
    """
    module.eval()
    program = torch.compile(module, **{"dynamic": False, "fullgraph": True, **options})

    @torch.inference_mode()
    def run(*inputs: Tensor) -> Tensor:
        return program(*inputs)

    return run


def train_step(
    module: nn.Module, learning_rate: float = 1e-4, *, compile_options: dict[str, Any] | None = None
) -> Callable[..., Tensor]:
    """``step(x_enc, x_mark_enc, x_dec, x_mark_dec, target)``: a step of Adam on the squared error.

    What :func:`tsjax.training.train_step` does: train mode, the mean over all elements, Adam with
    its usual constants. The step changes the module and returns the loss before it, detached.

    Args:
      module: the model; it is put into train mode.
      learning_rate: Adam's.
      compile_options: of ``torch.compile`` for forward and backward pass, ``{}`` for its defaults;
        None for operation by operation.
    """
    module.train()
    # One kernel for all parameters, as XLA makes of the update.
    optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)

    def loss_of(*batch: Tensor) -> Tensor:
        *inputs, target = batch
        return functional.mse_loss(module(*inputs), target)

    if compile_options is not None:
        options = {"dynamic": False, "fullgraph": True, **compile_options}
        loss_of = torch.compile(loss_of, **options)

    def step(*batch: Tensor) -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(*batch)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step
