"""Small models of every kind, with random weights, for the tests of the PyTorch side."""

import functools

import numpy as np
from forecasters import shapes

from tsjax import models, trees
from tsjax.models.fedformer import MODES

# Odd lengths, memories shorter and longer than the queries, segments that divide no length.
SMALL = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 15, "label_len": 5, "pred_len": 8,
    "d_model": 16, "n_heads": 2, "d_ff": 24, "e_layers": 2, "d_layers": 1, "dropout": 0.0,
    "modes": 4, "moving_avg": 5, "seg_len": 4, "factor": 2, "wavelet_c": 2, "wavelet_k": 3,
    "wavelet_alpha": 3, "cross_c": 3, "cross_k": 2,
}  # fmt: skip
# Name, preset, and fields that differ from SMALL. All presets are in the reference cases.
VARIANTS = {
    "transformer": ("transformer", "corrected", {}),
    "informer": ("informer", "corrected", {}),
    "autoformer": ("autoformer", "corrected", {}),
    "fedformer": ("fedformer", "corrected", {"d_layers": 2}),
    "fedformer tslib": ("fedformer", "tslib", {"d_layers": 2, "modes": 7, "label_len": 1}),
    "autoformer paper": ("autoformer", "paper", {"moving_avg": (6,)}),
    "fedformer paper": ("fedformer", "paper", {"moving_avg": (6,)}),
    "fedformer mixtures": ("fedformer", "paper", {"moving_avg": (4, 7), "mix_input": True}),
    "wavelets": ("fedformer", "corrected", {"version": "wavelets", "pred_len": 13}),
    "wavelets tslib": ("fedformer", "tslib", {"version": "wavelets"}),
    "crossformer": ("crossformer", "corrected", {}),
}  # fmt: skip
# Sizes per block, as pruned models have them.
PRUNED = {
    "transformer pruned": ("transformer", "corrected", {
        "d_model": 10, "d_model_dec": 12, "n_heads": (1, 2, 3, 2), "d_keys": (3, 4, 5, 6),
        "d_values": (2, 7, 4, 3), "d_ff": (5, 9, 7), "attention_scale": 0.3,
    }),
    "informer pruned": ("informer", "corrected", {
        "d_model": 10, "d_model_dec": 12, "n_heads": (1, 2, 3, 2), "d_keys": (3, 4, 5, 6),
        "d_values": (2, 7, 4, 3), "d_ff": (5, 9, 7),
    }),
    "autoformer pruned": ("autoformer", "corrected", {
        "d_model": 10, "d_model_dec": 12, "n_heads": (1, 2, 3, 2), "d_keys": (3, 4, 5, 6),
        "d_values": (2, 7, 4, 3), "d_ff": (5, 9, 7), "attention_scale": (0.1, 0.2, 0.3, 0.4),
    }),
    "fedformer pruned": ("fedformer", "corrected", {
        "d_model": 10, "d_model_dec": 12, "n_heads": (2, 2, 3, 2), "d_keys": (3, 3, 5, 6),
        "d_values": (4, 4, 3, 5), "d_ff": (5, 9, 7), "modes": (3, 4, 2, 5), "cross_scale": 0.1,
    }),
    "crossformer pruned": ("crossformer", "corrected", {
        "d_model": (10, 14), "d_model_dec": 12, "n_heads": 2, "d_keys": tuple(range(3, 21)),
        "d_values": tuple(range(21, 3, -1)), "factor": (1, 2, 3, 2, 1),
        "d_router": (5, 6, 7, 8, 9), "d_message": (6, 5, 4, 7, 8), "d_ff": tuple(range(5, 15)),
        "d_mlp": (7, 8, 9),
    }),
}  # fmt: skip
# As few layers as do all that the model does: compiling is most of the tests' time.
BRIEF = {
    "transformer brief": ("transformer", "corrected", {"e_layers": 1}),
    "informer brief": ("informer", "corrected", {}),
    "autoformer brief": ("autoformer", "corrected", {"e_layers": 1}),
    "fedformer brief": ("fedformer", "corrected", {"e_layers": 1}),
    "crossformer brief": ("crossformer", "corrected", {"e_layers": 1}),
}  # fmt: skip
BATCH = 3


def config_of(variant):
    name, preset, own = (VARIANTS | PRUNED | BRIEF)[variant]
    known = models.fields(name)
    return models.config(name, preset, **{k: v for k, v in {**SMALL, **own}.items() if k in known})


@functools.cache
def forecaster_of(variant):
    """A model with random leaves, alike in all runs; no JAX program is compiled for them."""
    config = config_of(variant)
    rng = np.random.default_rng(1)
    most = dict(zip(MODES, getattr(config, "spectra", [0] * len(MODES)), strict=True))
    lists = {"encoder_mixing/modes": "encoder", "decoder_mixing/modes": "decoder",
             "query_modes": "cross_q", "key_modes": "cross_kv"}  # fmt: skip

    def filled(path, leaf):
        kept = [most[name] for end, name in lists.items() if path.endswith(end)]
        if kept:
            return np.sort(rng.permutation(kept[0])[: leaf.size]).astype(np.int32)
        if path.endswith("bins"):
            return np.arange(leaf.size, dtype=np.int32)
        if leaf.dtype == np.int32:
            # The sampled keys of Informer; the shortest memory has 8. A count of steps.
            return rng.integers(0, 8, leaf.shape, np.int32)
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if path.endswith(("scale", "var")):
            return 1 + 0.2 * np.abs(values)
        # Sums over kernels keep the size of what goes in; the receiver's are larger, or its
        # attention would be alike for all routers, and gradients through it vanish.
        fan_in = leaf.size ** (0.5 / (leaf.ndim - 1)) if path.endswith("kernel") else 1
        return values / np.float32(fan_in) * np.float32(0.5 + ("receiver" in path))

    return trees.map_with_path(filled, shapes(config))


def inputs_of(config, dtype=np.float32):
    """Inputs and a target."""
    rng = np.random.default_rng(3)
    shapes = [struct.shape for struct in models.input_shapes(config, BATCH)]
    arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    if config.embed != "timeF":
        for i in (1, 3):
            arrays[i] = rng.integers(1, 4, shapes[i]).astype(dtype)
    return arrays, rng.normal(size=(BATCH, config.pred_len, config.c_out)).astype(dtype)


def check_gradients(module, want, relative):
    """Compares a module's gradients with those wanted by key, relative to the largest of all."""
    largest = max(np.max(np.abs(gradient), initial=0.0) for gradient in want.values())
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for key, parameter in parameters.items():
        if parameter.grad is None:
            # What is not trained, and dead projections.
            assert key not in want or not want[key].any() or not parameter.requires_grad, key
            continue
        gradient = parameter.grad.numpy().reshape(want[key].shape)
        error = np.max(np.abs(gradient - want[key]))
        assert error <= relative * largest, f"{key}: {error / largest:.1e}"
