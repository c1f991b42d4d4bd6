"""The PyTorch models compute what tsjax computes, at any sizes, and load the same weights.

That whole models have the same forecasts, gradients and statistics follows from the reference
cases: both sides compute what is stored (tests/interop/test_reference_models.py,
test_reference_making.py).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch side needs torch")

from pytorch_cases import (  # noqa: E402
    BRIEF,
    PRUNED,
    VARIANTS,
    config_of,
    forecaster_of,
    inputs_of,
)

from third_party import pytorch  # noqa: E402
from third_party.pytorch.decomposition import LONGEST_PRODUCT, MovingAverage  # noqa: E402
from tsjax import interop, models, trees  # noqa: E402
from tsjax.models.decomposition import moving_average  # noqa: E402


def built(variant):
    """A module, and both sides' inputs."""
    inputs, target = inputs_of(config_of(variant))
    return pytorch.build(forecaster_of(variant)), inputs, target


@pytest.mark.parametrize("variant", [*PRUNED, "fedformer mixtures"])
def test_forecasts_are_those_of_tsjax(variant):
    module, inputs, target = built(variant)
    want = jax.jit(models.forecast)(forecaster_of(variant), *inputs)
    got = pytorch.eager(module)(*pytorch.tensors(*inputs))
    assert got.shape == target.shape
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", [*BRIEF, "wavelets"])
def test_forecasts_of_16_bits_are_near_those_of_32(variant):
    module, inputs, _ = built(variant)
    tensors = pytorch.tensors(*inputs)
    want = pytorch.eager(module)(*tensors)
    got = pytorch.eager(module.to(torch.bfloat16))(*(x.to(torch.bfloat16) for x in tensors))
    assert got.dtype == torch.bfloat16
    # Lags and queries may be chosen otherwise where two are nearly alike.
    assert ((got - want).abs() < 0.1 * want.std()).float().mean() > 0.95


@pytest.mark.parametrize("variant", PRUNED)
def test_a_state_dict_is_that_of_tsjax(variant):
    module, *_ = built(variant)
    want = interop.to_torch(forecaster_of(variant))
    got = module.state_dict()
    assert got.keys() == want.keys()
    for key, array in want.items():
        np.testing.assert_array_equal(got[key].numpy(), array, err_msg=key)
    assert module.load_state_dict(got, strict=True) == ([], [])


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_weights_have_the_same_names_and_shapes(variant):
    want = interop.to_torch(forecaster_of(variant))
    got = pytorch.create(config_of(variant)).state_dict()
    assert {k: tuple(v.shape) for k, v in got.items()} == {k: v.shape for k, v in want.items()}


def test_new_weights_are_distributed_as_in_tsjax():
    config = config_of("fedformer brief")
    config = dataclasses.replace(config, d_model=64, d_ff=64, enc_in=32, dec_in=32, c_out=32)
    want = interop.to_torch(models.create(config, jax.random.key(0)))
    torch.manual_seed(0)
    for key, parameter in pytorch.create(config).named_parameters():
        if parameter.numel() >= 1000:
            spread, mean = np.std(want[key]), np.mean(want[key])
            assert abs(parameter.std().item() - spread) < 0.1 * spread, key
            assert abs(parameter.mean().item() - mean) < 0.2 * spread, key


@pytest.mark.parametrize("variant", ["transformer", "informer", "autoformer", "crossformer"])
def test_dropout_acts_in_train_mode_only(variant):
    config = dataclasses.replace(config_of(variant), dropout=0.5)
    module = pytorch.build(
        dataclasses.replace(forecaster_of(variant), forward=models.forward(config))
    )
    inputs = pytorch.tensors(*inputs_of(config)[0])
    module.train()
    assert not torch.equal(module(*inputs), module(*inputs))
    module.eval()
    assert torch.equal(module(*inputs), module(*inputs))


def test_train_mode_samples_keys_anew():
    config = config_of("informer")
    module = pytorch.build(forecaster_of("informer")).train()
    inputs = pytorch.tensors(*inputs_of(config)[0])
    torch.manual_seed(0)
    forecasts = {module(*inputs).sum().item() for _ in range(5)}
    assert len(forecasts) > 1


@pytest.mark.parametrize("padding", ["edge", "zeros"])
@pytest.mark.parametrize("steps", [5, 6])
@pytest.mark.parametrize("length", [11, LONGEST_PRODUCT + 1])
def test_both_ways_to_average_agree(steps, padding, length):
    x = np.random.default_rng(0).normal(size=(2, length, 3)).astype(np.float32)
    average = MovingAverage(steps, padding, length)
    assert (average.matrix is None) == (length > LONGEST_PRODUCT)
    want = moving_average(jnp.asarray(x), steps, padding)
    np.testing.assert_allclose(average(torch.tensor(x)).numpy(), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", ["fedformer", "fedformer tslib", "wavelets"])
def test_inverse_transforms_get_no_imaginary_part_that_a_series_has_not(variant, monkeypatch):
    module, inputs, _ = built(variant)
    inverse, lengths = torch.fft.irfft, []

    def checked(x, *, n, dim):
        assert dim == 1
        assert not x[:, 0].imag.any()
        assert n % 2 or x.shape[1] <= n // 2 or not x[:, n // 2].imag.any()
        lengths.append(n)
        return inverse(x, n=n, dim=dim)

    monkeypatch.setattr(torch.fft, "irfft", checked)
    pytorch.eager(module)(*pytorch.tensors(*inputs))
    assert lengths


def test_what_cannot_be_built_is_refused():
    forecaster = forecaster_of("transformer")
    half = trees.map_with_path(
        lambda path, x: jnp.asarray(x, jnp.bfloat16) if path.endswith("bias") else x,
        forecaster.params,
    )
    with pytest.raises(ValueError, match="params must be all of one of float32, float64, got bf"):
        pytorch.build(dataclasses.replace(forecaster, params=half))
    other = models.forward(config_of("informer"))
    with pytest.raises(ValueError, match="does not match the model of a InformerConfig"):
        pytorch.build(dataclasses.replace(forecaster, forward=other))
