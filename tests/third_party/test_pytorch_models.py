"""The PyTorch models compute what tsjax computes, in both modes, and load the same weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch side needs torch")

from pytorch_cases import (  # noqa: E402
    ALL,
    BRIEF,
    VARIANTS,
    check_gradients,
    config_of,
    inputs_of,
    variables_of,
)

from third_party import pytorch  # noqa: E402
from third_party.pytorch.decomposition import LONGEST_PRODUCT, MovingAverage  # noqa: E402
from third_party.pytorch.informer import ProbAttention  # noqa: E402
from tsjax import interop, models, trees  # noqa: E402
from tsjax.models.decomposition import moving_average  # noqa: E402


def built(variant):
    """A module that samples the recorded keys, its configuration, and both sides' inputs."""
    name, config = config_of(variant)
    module = pytorch.build(name, config, variables_of(variant))
    for block in module.modules():
        if isinstance(block, ProbAttention):
            block.redraws = False
    inputs, target = inputs_of(config)
    return module, name, config, inputs, target


@pytest.mark.parametrize("variant", ALL)
def test_forecasts_are_those_of_tsjax(variant):
    module, name, config, inputs, target = built(variant)
    model = models.create(name, config)
    want = jax.jit(lambda variables: model.apply(variables, *inputs))(variables_of(variant))
    got = pytorch.eager(module)(*pytorch.tensors(*inputs))
    assert got.shape == target.shape
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", [*BRIEF, "wavelets"])
def test_forecasts_of_16_bits_are_near_those_of_32(variant):
    module, _, _, inputs, _ = built(variant)
    tensors = pytorch.tensors(*inputs)
    want = pytorch.eager(module)(*tensors)
    got = pytorch.eager(module.to(torch.bfloat16))(*(x.to(torch.bfloat16) for x in tensors))
    assert got.dtype == torch.bfloat16
    # Lags and queries may be chosen otherwise where two are nearly alike.
    assert ((got - want).abs() < 0.1 * want.std()).float().mean() > 0.95


# The gradients of the preset tslib are those of the reference cases.
@pytest.mark.parametrize("variant", BRIEF)
def test_losses_and_gradients_in_train_mode_are_those_of_tsjax(variant):
    module, name, config, inputs, target = built(variant)
    variables = variables_of(variant)
    params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    model = models.create(name, config)

    def loss_of(params):
        # Without a stream of keys Informer samples the recorded ones.
        rngs = {"dropout": jax.random.key(0)}
        forecast, new = model.apply(
            {"params": params, **state}, *inputs, train=True, rngs=rngs, mutable=list(state)
        )
        return jnp.mean(jnp.square(forecast - target)), new

    (loss, new), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params)
    module.train()
    got = torch.nn.functional.mse_loss(module(*pytorch.tensors(*inputs)), torch.tensor(target))
    got.backward()
    np.testing.assert_allclose(got.item(), loss, rtol=1e-5)
    want = interop.to_torch(name, config, {"params": grads, **state})
    check_gradients(module, want, 1e-5)
    # Batch statistics after the step.
    after = interop.to_torch(name, config, {"params": params, **state, **new})
    for key, buffer in module.state_dict().items():
        if key.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked"):
            np.testing.assert_allclose(buffer.numpy(), after[key], rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("variant", ALL)
def test_a_state_dict_is_that_of_tsjax(variant):
    module, name, config, _, _ = built(variant)
    want = interop.to_torch(name, config, variables_of(variant))
    got = module.state_dict()
    assert got.keys() == want.keys()
    for key, array in want.items():
        np.testing.assert_array_equal(got[key].numpy(), array, err_msg=key)
    assert module.load_state_dict(got, strict=True) == ([], [])


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_weights_have_the_same_names_and_shapes(variant):
    name, config = config_of(variant)
    want = interop.to_torch(name, config, variables_of(variant))
    got = pytorch.build(name, config).state_dict()
    assert {k: tuple(v.shape) for k, v in got.items()} == {k: v.shape for k, v in want.items()}


def test_new_weights_are_distributed_as_in_tsjax():
    name, config = config_of("fedformer brief")
    config = dataclasses.replace(config, d_model=64, d_ff=64, enc_in=32, dec_in=32, c_out=32)
    params, state = models.init(models.create(name, config), jax.random.key(0))
    want = interop.to_torch(name, config, {"params": params, **state})
    torch.manual_seed(0)
    for key, parameter in pytorch.build(name, config).named_parameters():
        if parameter.numel() >= 1000:
            spread, mean = np.std(want[key]), np.mean(want[key])
            assert abs(parameter.std().item() - spread) < 0.1 * spread, key
            assert abs(parameter.mean().item() - mean) < 0.2 * spread, key


@pytest.mark.parametrize("variant", ["transformer", "informer", "autoformer", "crossformer"])
def test_dropout_acts_in_train_mode_only(variant):
    name, config = config_of(variant)
    config = dataclasses.replace(config, dropout=0.5)
    module = pytorch.build(name, config, variables_of(variant))
    inputs = pytorch.tensors(*inputs_of(config)[0])
    module.train()
    assert not torch.equal(module(*inputs), module(*inputs))
    module.eval()
    assert torch.equal(module(*inputs), module(*inputs))


def test_train_mode_samples_keys_anew():
    name, config = config_of("informer")
    module = pytorch.build(name, config, variables_of("informer")).train()
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
    module, _, _, inputs, _ = built(variant)
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
    name, config = config_of("transformer")
    variables = variables_of("transformer")
    with pytest.raises(ValueError, match="informer needs a InformerConfig, got a Transformer"):
        pytorch.build("informer", config, variables)
    half = trees.map_with_path(
        lambda path, x: jnp.asarray(x, jnp.bfloat16) if path.endswith("bias") else x,
        variables["params"],
    )
    with pytest.raises(ValueError, match="params must be all of one of float32, float64, got bf"):
        pytorch.build(name, config, {**variables, "params": half})
    wider = dataclasses.replace(config, d_ff=25)
    with pytest.raises(ValueError, match="variables does not match the config"):
        pytorch.build(name, wider, variables)
