"""The PyTorch models reproduce the reference cases in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from golden import INPUTS, model_cases

torch = pytest.importorskip("torch", reason="the PyTorch side needs torch")

from pytorch_cases import check_gradients  # noqa: E402

from third_party import pytorch  # noqa: E402
from third_party.pytorch.informer import ProbAttention  # noqa: E402
from tsjax import interop  # noqa: E402

CASES = model_cases()

pytestmark = pytest.mark.skipif(
    not CASES, reason=f"no reference cases in {golden_dir()}: set TSJAX_GOLDEN_DIR"
)


def module_of(case):
    modes = case.group("rand") or None if case.model == "fedformer" else None
    made = interop.from_torch(case.config(), case.group("param"), modes=modes)
    if case.model == "informer":
        draws = [jnp.asarray(draw) for _, draw in sorted(case.group("rand").items())]
        config, buffers = case.config(), made.state["buffers"]
        names = [f"encoder_sampling_{i}" for i in range(config.e_layers)]
        names += [f"{k}_sampling_{i}" for i in range(config.d_layers) for k in ("self", "cross")]
        for name, draw in zip(names, draws, strict=True):
            buffers[name]["index"] = draw
    return pytorch.build(made)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_forecast_equals_the_reference(case):
    with jax.enable_x64(True):
        module = module_of(case)
    inputs = pytorch.tensors(*(case.arrays[f"in/{name}"] for name in INPUTS))
    got = pytorch.eager(module)(*inputs)
    want = case.arrays["out/float64"]
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-10 * np.max(np.abs(want)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_training_equals_the_reference(case):
    with jax.enable_x64(True):
        module = module_of(case)
    for block in module.modules():
        if isinstance(block, ProbAttention):
            block.redraws = False
    inputs = pytorch.tensors(*(case.arrays[f"in/{name}"] for name in INPUTS))
    got = module.train()(*inputs)
    want = case.arrays["out_train/float64"]
    error = np.max(np.abs(got.detach().numpy() - want))
    assert error <= 1e-10 * np.max(np.abs(want))
    torch.nn.functional.mse_loss(got, torch.tensor(case.arrays["in/target"])).backward()
    check_gradients(module, case.group("grad"), 1e-10)
    for name, buffer in case.group("bn_after").items():
        np.testing.assert_allclose(module.state_dict()[name].numpy(), buffer, rtol=1e-10)
