"""Writes the reference cases by the models of ``third_party/pytorch``; needs PyTorch.

    python -m tests.reference.make [CASE ...]

Run it where a preset or a model is meant to compute something else than before. The models that it
runs are compared with Time-Series-Library's, where the reference cases of that library lie beside
the checkout (tests/third_party/test_pytorch_golden.py).
"""

import sys
import zlib

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from third_party import pytorch
from third_party.pytorch.fedformer import FEDformer
from third_party.pytorch.informer import ProbAttention
from tsjax import models

from . import cases

INPUTS = ("x_enc", "x_mark_enc", "x_dec", "x_mark_dec")
TABLE_ROWS = 32
# Factors on the kernels of queries and keys, so that attention is neither uniform nor all on one
# step. Autoformer's correlations are sums over steps.
SHARPNESS = {"autoformer": 0.5}


def arrays_of(case: cases.Reference) -> dict[str, np.ndarray]:
    """What the file of a case holds."""
    # This generator's stream is the same in all versions of numpy.
    random = np.random.RandomState(zlib.crc32(case.name.encode()))
    config = case.config()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        module, draws = module_of(case.model, config, random)
        fill(module, random, SHARPNESS.get(case.model, 2.0))
        arrays = {f"param/{key}": stored(key, x) for key, x in module.state_dict().items()}
        arrays |= {f"rand/{name}": np.asarray(draw, np.int32) for name, draw in draws.items()}
        inputs, target = inputs_of(config, random)
        arrays |= {f"in/{key}": x.astype(np.float16) for key, x in zip(INPUTS, inputs, strict=True)}
        arrays["in/target"] = target.astype(np.float16)
        return arrays | results(module, [torch.tensor(x) for x in inputs], torch.tensor(target))
    finally:
        torch.set_default_dtype(before)


def module_of(
    model: str, config: models.ForecastConfig, random: np.random.RandomState
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """A model, and what it has drawn: frequencies, or sampled keys."""
    if isinstance(config, models.FEDformerConfig) and config.version == "fourier":
        draws = {
            name: np.sort(random.permutation(kept.spectrum)[: kept.n_modes])
            for name, kept in config.kept.items()
        }
        own = {
            f"{name}_mixing": {"modes": draws[name], "bins": np.arange(len(draws[name]))}
            for name in ("encoder", "decoder")
        }
        cross = {"query_modes": draws["cross_q"], "key_modes": draws["cross_kv"]}
        return FEDformer(config, {**own, "cross_mixing": cross}), draws
    module = pytorch.MODELS[model](config)
    draws = {}
    for block in module.modules():
        if isinstance(block, ProbAttention):
            keys = random.randint(len(block.steps), size=block.index.shape)
            block.index.copy_(torch.tensor(keys))
            # The same keys in train mode.
            block.redraws = False
            draws[f"index_sample_{len(draws):02}"] = keys
    return module, draws


def fill(module: nn.Module, random: np.random.RandomState, sharpness: float) -> None:
    """Gives a module new weights and running statistics, which 16 bits hold exactly."""
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.requires_grad and "running" not in key:
            continue
        values = random.standard_normal(tuple(tensor.shape))
        if key.endswith("var") or (tensor.ndim == 1 and key.endswith("weight")):
            values = 1 + 0.2 * np.abs(values)
        elif tensor.ndim == 1:
            values *= 0.2
        else:
            mixes = key.endswith(("query_projection.weight", "key_projection.weight"))
            values *= (sharpness if mixes else 1.0) / np.sqrt(tensor[0].numel())
        with torch.no_grad():
            tensor.copy_(torch.tensor(values.astype(np.float16)))


def stored(key: str, tensor: torch.Tensor) -> np.ndarray:
    """A weight in as few bits as hold it."""
    array = tensor.numpy()
    if key.endswith(".pe"):
        array = array[:, :TABLE_ROWS]
    for dtype in (np.float16, np.float32):
        if np.array_equal(array.astype(dtype), array):
            return array.astype(dtype)
    return array


def inputs_of(
    config: models.ForecastConfig, random: np.random.RandomState
) -> tuple[list[np.ndarray], np.ndarray]:
    """The four inputs and a target."""

    def values(shape: tuple[int, ...]) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float16).astype(np.float64)

    shapes = [struct.shape for struct in models.input_shapes(config, cases.BATCH)]
    inputs = [values(shape) for shape in shapes]
    if config.embed != "timeF":
        for i in (1, 3):
            inputs[i] = random.randint(1, 4, shapes[i]).astype(np.float64)
    return inputs, values((cases.BATCH, config.pred_len, config.c_out))


def results(
    module: nn.Module, inputs: list[torch.Tensor], target: torch.Tensor
) -> dict[str, np.ndarray]:
    """Forecasts, loss, gradients and statistics of a module."""
    with torch.no_grad():
        found = {"out/float64": module.eval()(*inputs)}
    for x in inputs:
        x.requires_grad_()
    forecast = module.train()(*inputs)
    loss = torch.nn.functional.mse_loss(forecast, target)
    loss.backward()
    found |= {"out_train/float64": forecast, "loss_train/float64": loss}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.grad is not None:
            # As a state_dict has it: a convolution's kernel axis behind a linear layer's.
            shape = module.state_dict()[key].shape
            found[f"grad/{key}"] = parameter.grad.reshape(shape)
    found |= {
        f"grad_in/{name}": x.grad
        for name, x in zip(INPUTS, inputs, strict=True)
        if x.grad is not None
    }
    found |= {
        f"bn_after/{key}": buffer
        for key, buffer in module.state_dict().items()
        if key.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked")
    }
    return {key: tensor.detach().numpy().copy() for key, tensor in found.items()}


if __name__ == "__main__":
    for name in sys.argv[1:] or cases.CASES:
        case = cases.Reference(name)
        # The writer takes memory as it lies.
        save_file({k: np.array(x, order="C") for k, x in arrays_of(case).items()}, case.path)
        print(f"{case.path.name}: {case.path.stat().st_size} bytes")
