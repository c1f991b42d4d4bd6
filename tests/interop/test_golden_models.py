"""Every model equals the published one: outputs and gradients of every reference case."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from golden import INPUTS, Case, forecaster_of, model_cases

from tsjax import interop, models, trees

CASES = model_cases()

pytestmark = pytest.mark.skipif(
    not CASES, reason=f"no reference cases in {golden_dir()}: set TSJAX_GOLDEN_DIR"
)

# Relative to the largest reference value of the array. The float32 bars are below 8e-6, the effect
# of a LayerNorm epsilon of 1e-6: a bar of 1e-5 would miss it.
FORWARD = {"float64": 1e-10, "float32": 5e-6}
GRADIENT = {"float64": 1e-10, "float32": 1e-5}

# Gradients that are zero but for rounding, such as a key bias's, have no scale of their own.
ABSOLUTE = {"float64": 1e-14, "float32": 1e-6}


def assert_close(got, want, relative, absolute, name):
    error = np.max(np.abs(np.asarray(got, np.float64) - want), initial=0.0)
    assert error <= relative * np.max(np.abs(want), initial=0.0) + absolute, f"{name}: {error:.2e}"


# As users run it, whatever the tests' own settings.
optimised = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True},
)


def run(forward, *, train):
    return optimised(functools.partial(forward, train=train))


def parts(case: Case):
    """Forward function, model and inputs of a case, in the precision enabled.

    With ``train`` the function has no rng stream for keys, and so uses the recorded draws.
    """
    made = forecaster_of(case)
    module = models.module(case.config())

    def forward(params, state, *inputs, train):
        rngs = {"dropout": jax.random.key(0)}
        return module.apply(
            {"params": params, **state}, *inputs, train=train, rngs=rngs, mutable=list(state)
        )

    inputs = [jnp.asarray(case.arrays[f"in/{name}"]) for name in INPUTS]
    return forward, made, inputs


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_forecast_equals_the_reference(case, dtype):
    forward, made, inputs = parts(case)
    got, _ = run(forward, train=False)(made.params, made.state, *inputs)
    assert got.dtype == dtype
    assert_close(got, case.arrays["out/float64"], FORWARD[dtype], 0.0, "forecast")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_train_mode_forecast_equals_the_reference(case, dtype):
    forward, made, inputs = parts(case)
    assert case.meta["config"]["dropout"] == 0
    got, new = run(forward, train=True)(made.params, made.state, *inputs)
    assert_close(got, case.arrays["out_train/float64"], FORWARD[dtype], 0.0, "forecast")
    after = interop.to_torch(dataclasses.replace(made, state={**made.state, **new}))
    for name, buffer in case.group("bn_after").items():
        assert_close(after[name], buffer, FORWARD[dtype], 0.0, name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_gradients_equal_the_reference(case, dtype):
    forward, made, inputs = parts(case)
    target = jnp.asarray(case.arrays["in/target"])

    stored = case.group("grad_in")  # None for marks that are look-up indices.
    floats = {name: x for name, x in zip(INPUTS, inputs, strict=True) if name in stored}

    @optimised
    def gradients(params, floats):
        def loss(params, floats):
            chosen = [floats.get(name, x) for name, x in zip(INPUTS, inputs, strict=True)]
            forecast, _ = forward(params, made.state, *chosen, train=True)
            return jnp.mean(jnp.square(forecast - target))

        return jax.grad(loss, argnums=(0, 1))(params, floats)

    of_params, of_inputs = gradients(made.params, floats)
    got = interop.to_torch(dataclasses.replace(made, params=of_params))
    want = case.group("grad")
    assert set(want) <= set(got)
    for name, gradient in want.items():
        assert_close(got[name], gradient, GRADIENT[dtype], ABSOLUTE[dtype], name)
    for name, gradient in of_inputs.items():
        assert_close(gradient, stored[name], GRADIENT[dtype], ABSOLUTE[dtype], name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_weights_survive_the_way_there_and_back(case, dtype):
    stored = case.group("param")
    made = forecaster_of(case)
    back = interop.to_torch(made)
    assert set(back) == set(stored)
    leaves = {
        path.split("/", 1)[1]: leaf
        for path, leaf in trees.by_path({**made.state, "params": made.params}).items()
    }
    entry = models.MODELS[case.model]
    names = entry.torch_names(case.config()).items()
    tables = {key: len(leaves[path]) for path, (key, _) in names if leaves[path].ndim == 2}
    for name, array in back.items():
        if name.endswith(".pe"):
            # The rows that the model uses are the stored ones; PyTorch expects 5000.
            assert array.shape == (1, 5000, stored[name].shape[2])
            used = tables.get(name, 128)
            array, stored[name] = array[:, :used], stored[name][:, :used]
        if name in entry.torch_unread(case.config()):
            # Computed anew, while the reference rounds angles up to the row's number to float32.
            assert np.max(np.abs(array - stored[name])) <= used * 2.0**-23
            continue
        np.testing.assert_array_equal(array, stored[name], err_msg=name)
    assert trees.size(made.params) == case.meta["n_params"]
