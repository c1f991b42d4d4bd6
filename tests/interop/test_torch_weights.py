"""A state_dict that does not fit is refused, and every key that is wrong is named."""

import dataclasses

import numpy as np
import pytest
from forecasters import drawn

from tsjax import interop, models, pruning, trees
from tsjax.models.layers import sinusoids

CONFIG = models.config(
    "transformer", enc_in=3, dec_in=3, c_out=2, seq_len=8, label_len=4, pred_len=4,
    d_model=4, n_heads=2, e_layers=1, d_layers=1, d_ff=6,
)  # fmt: skip


@pytest.fixture
def state_dict():
    return interop.to_torch(drawn(CONFIG))


def test_every_wrong_key_is_listed(state_dict):
    state_dict["decoder.projection.weight"] = state_dict["decoder.projection.weight"].T
    del state_dict["encoder.norm.bias"]
    state_dict["head.weight"] = np.zeros(3)
    with pytest.raises(ValueError, match="does not fit transformer") as caught:
        interop.from_torch(CONFIG, state_dict)
    assert str(caught.value).splitlines()[1:] == [
        "  encoder.norm.bias: missing",
        "  head.weight: not part of this model",
        "  decoder.projection.weight: shape (4, 2), expected (2, 4)",
    ]


def test_a_positional_table_may_be_longer_or_shorter_than_needed(state_dict):
    rows = np.arange(20, dtype=np.float32).reshape(1, 5, 4)
    state_dict["enc_embedding.position_embedding.pe"] = rows
    state_dict["dec_embedding.position_embedding.pe"] = np.ones((1, 5000, 4), np.float32)
    buffers = interop.from_torch(CONFIG, state_dict).state["buffers"]
    encoder = buffers["enc_embedding"]["position"]
    np.testing.assert_array_equal(encoder[:5], rows[0])
    np.testing.assert_array_equal(encoder[5:], sinusoids(8, 4)[5:].astype(np.float32))
    np.testing.assert_array_equal(buffers["dec_embedding"]["position"], np.ones((8, 4)))


def test_a_positional_table_of_another_width_is_refused(state_dict):
    state_dict["enc_embedding.position_embedding.pe"] = np.ones((1, 8, 6), np.float32)
    with pytest.raises(ValueError, match=r"pe: shape \(1, 8, 6\), expected \(1, rows, 4\)"):
        interop.from_torch(CONFIG, state_dict)


def test_leaves_that_no_configuration_has_are_refused():
    def wider(path, leaf):
        return np.zeros((3, 8)) if path.endswith("encoder/layer_0/feed_forward/up/kernel") else leaf

    wrong = trees.map_with_path(wider, drawn(CONFIG))
    with pytest.raises(
        ValueError, match="does not match the model of a TransformerConfig"
    ) as error:
        interop.to_torch(wrong)
    assert "params/encoder/layer_0/feed_forward/up/kernel" in str(error.value)


def test_what_is_no_model_has_no_names():
    with pytest.raises(AttributeError, match="is no model's function"):
        interop.to_torch(models.Forecaster(lambda params, state, *x, key=None: (x[0], state), {}))


def test_pruned_weights_are_written_as_zeros(state_dict):
    made = drawn(CONFIG)
    mask = pruning.select(pruning.magnitude(made.params), 0.5)
    masked = interop.to_torch(dataclasses.replace(made, mask=mask))
    name = "encoder.attn_layers.0.conv1.weight"
    kept = mask["encoder"]["layer_0"]["feed_forward"]["up"]["kernel"].T[..., None]
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(masked[name], np.where(kept, state_dict[name], 0))


@pytest.mark.parametrize("embed", ["fixed", "learned"])
def test_look_up_embeddings_have_their_names(embed):
    config = models.config("transformer", enc_in=1, dec_in=1, c_out=1, embed=embed, freq="t")
    names = interop.to_torch(drawn(config))
    suffix = "weight" if embed == "learned" else "emb.weight"
    for field, rows in {"month": 13, "day": 32, "weekday": 7, "hour": 24, "minute": 4}.items():
        key = f"enc_embedding.temporal_embedding.{field}_embed.{suffix}"
        assert names[key].shape == (rows, 512)
