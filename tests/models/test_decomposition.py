"""What takes season and trend apart: averages, and where their mixtures are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forecasters import batch, drawn, shapes

from tsjax import interop, models, trees
from tsjax.models.decomposition import moving_average

SMALL = {
    "enc_in": 2, "dec_in": 2, "c_out": 2, "seq_len": 12, "label_len": 6, "pred_len": 6,
    "d_model": 4, "n_heads": 2, "d_ff": 6, "e_layers": 1, "d_layers": 1,
}  # fmt: skip
DECOMPOSING = ("autoformer", "fedformer")
MIXED = [f"encoder/layer_0/decomp{n}" for n in (1, 2)] + [
    f"decoder/layer_0/decomp{n}" for n in (1, 2, 3)
]


def averaged(x, steps, padding):
    return jax.jit(moving_average, static_argnums=(1, 2))(
        jnp.asarray(x)[None, :, None], steps, padding
    )[0, :, 0]


@pytest.mark.parametrize(
    ("steps", "padding", "want"),
    [
        # Two steps before each, one after it.
        (4, "edge", [1.25, 2, 3.75, 7.5, 11]),
        # One step before each, two after it.
        (4, "zeros", [1.75, 3.75, 7.5, 7, 6]),
        (3, "edge", [4 / 3, 7 / 3, 14 / 3, 28 / 3, 40 / 3]),
        (3, "zeros", [1, 7 / 3, 14 / 3, 28 / 3, 8]),
    ],
)
def test_averages_by_hand(steps, padding, want):
    np.testing.assert_allclose(averaged([1.0, 2, 4, 8, 16], steps, padding), want, rtol=1e-6)


def test_the_studys_average_of_24_has_11_zeros_in_front_and_12_behind():
    got = averaged(np.ones(40), 24, "zeros") * 24
    np.testing.assert_allclose(got[:12], np.arange(13, 25), rtol=1e-6)
    np.testing.assert_allclose(got[-13:], np.arange(24, 11, -1), rtol=1e-6)


@pytest.mark.parametrize("name", DECOMPOSING)
def test_the_studys_layers_mix_one_average_and_its_input_none(name):
    paper = models.config(name, "paper", **SMALL)
    assert (paper.moving_avg, paper.input_moving_avg) == ((24,), 24)
    leaves = trees.by_path(shapes(paper)).items()
    found = {path: leaf.shape for path, leaf in leaves if "decomp" in path}
    assert found == {f"params/{p}/mixture/kernel": (1, 1) for p in MIXED} | {
        f"params/{p}/mixture/bias": (1,) for p in MIXED
    }
    for mixed in (models.config(name, moving_avg=(5, 9), **SMALL), models.config(name, **SMALL)):
        assert mixed.input_moving_avg == mixed.moving_avg


@pytest.mark.parametrize("name", DECOMPOSING)
def test_a_checkpoint_of_the_study_has_mixtures_in_its_layers_only(name):
    config = models.config(name, "paper", **SMALL)
    forecaster = drawn(config)
    state_dict = interop.to_torch(forecaster)
    keys = {key for key in state_dict if "decomp" in key}
    theirs = [f"encoder.attn_layers.0.decomp{n}" for n in (1, 2)]
    theirs += [f"decoder.layers.0.decomp{n}" for n in (1, 2, 3)]
    assert keys == {f"{path}.layer.{part}" for path in theirs for part in ("weight", "bias")}
    modes = None
    if name == "fedformer":
        blocks = forecaster.state["buffers"]
        modes = (
            blocks["encoder_mixing"]["modes"],
            blocks["decoder_mixing"]["modes"],
            blocks["cross_mixing"]["query_modes"],
            blocks["cross_mixing"]["key_modes"],
        )
    back = trees.by_path(interop.from_torch(config, state_dict, modes=modes))
    for path, array in trees.by_path(forecaster).items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)
    state_dict["decomp.layer.weight"] = np.zeros((1, 1))
    with pytest.raises(ValueError, match=r"decomp\.layer\.weight: not part of this model"):
        interop.from_torch(config, state_dict, modes=modes)


def test_mixing_one_average_is_that_average():
    plain, mixed = (
        models.config("autoformer", "paper", moving_avg=steps, **SMALL) for steps in (5, (5,))
    )
    made = drawn(mixed)
    leaves = trees.by_path(made)
    unmixed = trees.map_with_path(lambda path, _: leaves[path], shapes(plain))
    want, got = (jax.jit(models.forecast)(each, *batch(mixed)) for each in (unmixed, made))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
