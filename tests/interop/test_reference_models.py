"""Every model computes what its PyTorch counterpart did: the reference cases in tests/reference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import INPUTS, forecaster_of
from reference.cases import FOLDER, reference_cases

from tsjax import interop, models

CASES = reference_cases()
# Relative to the array's largest value. Gradients that are zero but for rounding have no scale.
RELATIVE, ABSOLUTE = 1e-10, 1e-14

# Compiling a gradient takes longest: one case of each kind in the short form.
STEPS = (
    "transformer",
    "informer_corrected",
    "autoformer_corrected",
    "fedformer_corrected",
    "wavelets_paper",
    "crossformer_tslib",
)

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
some_cases = pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c.name in STEPS else pytest.mark.long, id=c.name) for c in CASES],
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def assert_close(got, want, name, absolute=0.0):
    assert np.shape(got) == np.shape(want), name
    error = np.max(np.abs(np.asarray(got, np.float64) - want), initial=0.0)
    assert error <= RELATIVE * np.max(np.abs(want), initial=0.0) + absolute, f"{name}: {error:.2e}"


made_of = functools.cache(forecaster_of)


def inputs_of(case):
    return [jnp.asarray(case.arrays[f"in/{name}"]) for name in INPUTS]


@every_case
def test_forecast_equals_the_reference(case):
    got = jax.jit(models.forecast)(made_of(case), *inputs_of(case))
    assert got.dtype == "float64"
    assert_close(got, case.arrays["out/float64"], "forecast")


@some_cases
def test_a_training_step_equals_the_reference(case):
    forecaster, model = made_of(case), models.module(case.config())
    params, state = forecaster.params, forecaster.state
    inputs = dict(zip(INPUTS, inputs_of(case), strict=True))
    of_inputs = case.group("grad_in")

    @jax.jit
    def step(params, floats):
        def loss(params, floats):
            # Without a stream of keys Informer samples the recorded ones.
            forecast, new = model.apply(
                {"params": params, **state},
                *(inputs | floats).values(),
                train=True,
                rngs={"dropout": jax.random.key(0)},
                mutable=list(state),
            )
            return jnp.mean(jnp.square(forecast - case.arrays["in/target"])), (forecast, new)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, floats)

    (loss, (forecast, new)), gradients = step(params, {name: inputs[name] for name in of_inputs})
    assert_close(forecast, case.arrays["out_train/float64"], "forecast")
    assert_close(loss, case.arrays["loss_train/float64"], "loss")
    after = interop.to_torch(dataclasses.replace(forecaster, state={**state, **new}))
    for name, buffer in case.group("bn_after").items():
        assert_close(after[name], buffer, name)
    for name, want in of_inputs.items():
        assert_close(gradients[1][name], want, name, ABSOLUTE)
    got = interop.to_torch(dataclasses.replace(forecaster, params=gradients[0]))
    want = case.group("grad")
    assert set(want) <= set(got)
    for name, gradient in want.items():
        assert_close(got[name], gradient, name, ABSOLUTE)


@every_case
def test_weights_survive_the_way_there_and_back(case):
    stored = case.group("param")
    back = interop.to_torch(made_of(case))
    assert set(back) == set(stored)
    for name, array in stored.items():
        if name.endswith(".pe"):
            # The rows that are read are the stored ones, the others are computed.
            rows = min(array.shape[1], case.config().dec_len)
            got = back[name][:, :rows]
            np.testing.assert_allclose(got, array[:, :rows], rtol=0, atol=1e-7, err_msg=name)
        else:
            np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_a_clone_stays_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 2e6
