"""Compiled models are one graph; training steps are those of tsjax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch side needs torch")

from pytorch_cases import BRIEF, config_of, forecaster_of, inputs_of  # noqa: E402

from third_party import pytorch  # noqa: E402


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("variant", BRIEF)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_model_is_one_graph(variant):
    config = config_of(variant)
    module = pytorch.build(forecaster_of(variant))
    inputs, target = inputs_of(config)
    batch = pytorch.tensors(*inputs, target)
    want = pytorch.eager(module)(*batch[:-1])
    # A graph break is an error in a full graph, in both modes.
    got = pytorch.compiled(module, backend="eager")(*batch[:-1])
    torch.testing.assert_close(got, want)
    step = pytorch.train_step(module, compile_options={"backend": "eager"})
    assert step(*batch).isfinite()


def test_steps_of_training_are_those_of_tsjax():
    variant = "transformer brief"
    config, forecaster = config_of(variant), forecaster_of(variant)
    inputs, target = inputs_of(config)
    module = pytorch.build(forecaster)
    step = pytorch.train_step(module, 1e-2)
    batch = pytorch.tensors(*inputs, target)
    got = [step(*batch).item() for _ in range(4)]

    forward, state = forecaster.forward, forecaster.state
    tx = optax.adam(1e-2)

    @jax.jit
    def ours(params, opt_state):
        def loss_of(params):
            forecast, _ = forward(params, state, *inputs, key=jax.random.key(0))
            return jnp.mean(jnp.square(forecast - target))

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    params, want = forecaster.params, []
    opt_state = tx.init(params)
    for _ in range(4):
        params, opt_state, loss = ours(params, opt_state)
        want.append(float(loss))
    assert want[3] < want[0]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_inference_keeps_no_gradient_and_leaves_evaluation_mode_on():
    config = config_of("transformer")
    module = pytorch.create(config)
    inputs = pytorch.tensors(*inputs_of(config)[0])
    forecast = pytorch.eager(module)(*inputs)
    assert forecast.is_inference()
    assert not module.training
