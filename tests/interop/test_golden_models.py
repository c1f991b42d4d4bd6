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


# In single precision as users run it; in double precision, where only the arithmetic matters,
# compiled in the tests' hurry.
OPTIONS = {
    "float64": None,
    "float32": {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True},
}


def stepped(case: Case, precision: str):
    """A training step in the precision that is enabled: forecast, new state and gradients."""
    made, model = forecaster_of(case), models.module(case.config())
    inputs = {name: jnp.asarray(case.arrays[f"in/{name}"]) for name in INPUTS}
    stored = case.group("grad_in")  # None for marks that are look-up indices.

    @functools.partial(jax.jit, compiler_options=OPTIONS[precision])
    def step(params, floats):
        def loss(params, floats):
            # Without a stream of keys Informer samples the recorded ones.
            forecast, new = model.apply(
                {"params": params, **made.state},
                *(inputs | floats).values(),
                train=True,
                rngs={"dropout": jax.random.key(0)},
                mutable=list(made.state),
            )
            return jnp.mean(jnp.square(forecast - case.arrays["in/target"])), (forecast, new)

        gradients, (forecast, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, floats)
        return forecast, new, *gradients

    forecast, new, of_params, of_inputs = step(made.params, {name: inputs[name] for name in stored})
    assert forecast.dtype == precision
    after = dataclasses.replace(made, state={**made.state, **new})
    return forecast, after, dataclasses.replace(made, params=of_params), of_inputs


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(params=["float64", pytest.param("float32", marks=pytest.mark.long)])
def dtype_of_steps(request):
    """Compiling a gradient takes longest: in the short form in one precision."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(params=["float32", pytest.param("float64", marks=pytest.mark.long)])
def dtype_of_forecasts(request):
    """In double precision the steps have forecasts too."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_forecast_equals_the_reference(case, dtype_of_forecasts):
    dtype = dtype_of_forecasts
    inputs = [jnp.asarray(case.arrays[f"in/{name}"]) for name in INPUTS]
    forecast = jax.jit(models.forecast, compiler_options=OPTIONS[dtype])
    got = forecast(forecaster_of(case), *inputs)
    assert got.dtype == dtype
    assert_close(got, case.arrays["out/float64"], FORWARD[dtype], 0.0, "forecast")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_a_training_step_equals_the_reference(case, dtype_of_steps):
    """Forecast in train mode, running statistics, and the gradients of weights and inputs."""
    assert case.meta["config"]["dropout"] == 0
    forecast, after, of_params, of_inputs = stepped(case, dtype_of_steps)
    relative, absolute = FORWARD[dtype_of_steps], ABSOLUTE[dtype_of_steps]
    assert_close(forecast, case.arrays["out_train/float64"], relative, 0.0, "forecast")
    arrays = interop.to_torch(after)
    for name, buffer in case.group("bn_after").items():
        assert_close(arrays[name], buffer, relative, 0.0, name)

    relative = GRADIENT[dtype_of_steps]
    got, want = interop.to_torch(of_params), case.group("grad")
    assert set(want) <= set(got)
    for name, gradient in want.items():
        assert_close(got[name], gradient, relative, absolute, name)
    stored = case.group("grad_in")
    assert set(of_inputs) == set(stored)
    for name, gradient in of_inputs.items():
        assert_close(gradient, stored[name], relative, absolute, name)


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
