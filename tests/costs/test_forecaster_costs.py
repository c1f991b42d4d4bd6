"""What a forecaster costs: its weights are the parameters, state and mask are inputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import costs
from tsjax.forecaster import Forecaster, forecast

B, D, F = 2, 8, 4
X = jnp.ones((B, D))


def forward(params, state, x, *, key=None):
    return (x - state["mean"][None]) @ params["w"] + params["b"][None], state


PARAMS = {"w": jnp.ones((D, F)), "b": jnp.ones(F)}
STATE = {"mean": jnp.ones(D)}
MASK = {"w": jnp.arange(D * F).reshape(D, F) % 4 == 0, "b": jnp.ones(F, bool)}
DENSE, MASKED = Forecaster(forward, PARAMS, STATE), Forecaster(forward, PARAMS, STATE, MASK)
both = pytest.mark.parametrize("forecaster", [DENSE, MASKED], ids=["dense", "masked"])
PRODUCT = 2 * B * D * F


@both
def test_a_forecaster_costs_what_its_function_does(forecaster):
    counted = costs.count(forecast, forecaster, X)
    alone = costs.count(lambda params, state, x: forward(params, state, x)[0], PARAMS, STATE, X)
    assert counted.flops == alone.flops == PRODUCT + B * F + B * D
    assert (counted.params, counted.param_bytes) == (alone.params, alone.param_bytes)
    assert counted.params == D * F + F
    mask = D * F + F if forecaster.mask else 0
    assert counted.input_bytes == alone.input_bytes + mask == 4 * (D + B * D) + mask
    assert {path: flops for path, flops in counted.by_leaf.items() if flops} == {
        "params/w": PRODUCT
    }


@both
def test_the_mask_of_the_weights_says_what_sparse_work_is_left(forecaster):
    counted = costs.count(forecast, forecaster, X)
    assert counted.sparse_flops(MASK) == counted.flops - PRODUCT * 3 // 4
    kept = forecaster.kept()
    want = counted.flops - (PRODUCT * 3 // 4 if forecaster.mask else 0)
    assert counted.sparse_flops(kept) == want
    with pytest.raises(ValueError, match=r"mask has shape \(1,\), params \(4,\)"):
        counted.sparse_flops({**MASK, "b": np.ones(1, bool)})


def test_a_forecaster_is_timed():
    timing = costs.measure(forecast, MASKED, X, repeats=3)
    assert timing.median > 0
    assert timing.program.xla_flops > 0
