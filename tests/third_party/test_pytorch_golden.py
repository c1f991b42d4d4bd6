"""The PyTorch models reproduce the reference cases in float64."""

import jax
import numpy as np
import pytest
from conftest import golden_dir
from golden import INPUTS, forecaster_of, model_cases

torch = pytest.importorskip("torch", reason="the PyTorch side needs torch")

from pytorch_cases import check_gradients  # noqa: E402

from third_party import pytorch  # noqa: E402
from third_party.pytorch.informer import ProbAttention  # noqa: E402

CASES = model_cases()

pytestmark = pytest.mark.skipif(
    not CASES, reason=f"no reference cases in {golden_dir()}: set TSJAX_GOLDEN_DIR"
)


def module_of(case):
    with jax.enable_x64(True):
        return pytorch.build(forecaster_of(case))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_forecast_equals_the_reference(case):
    module = module_of(case)
    inputs = pytorch.tensors(*(case.arrays[f"in/{name}"] for name in INPUTS))
    got = pytorch.eager(module)(*inputs)
    want = case.arrays["out/float64"]
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-10 * np.max(np.abs(want)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_training_equals_the_reference(case):
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
