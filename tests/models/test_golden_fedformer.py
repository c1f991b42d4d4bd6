"""FEDformer's blocks equal the published ones: outputs and gradients of the layer cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layer_goldens import CASE, PATH, REASON, assert_layer, ctor, names, params_like

from tsjax.models import torch_names
from tsjax.models.fourier import FourierBlock, FourierCross, Kept
from tsjax.models.layers import Attention, Heads
from tsjax.models.torch_layouts import TABLE, merged
from tsjax.models.wavelets import (
    SparseKernel,
    WaveletBlock,
    WaveletCross,
    filter_tables,
    legendre_filters,
    low_attention,
)

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason=REASON)

HEADS = Heads(3, 4, 4)
ACTIVATIONS = {"tanh": "split", "softmax": "softmax"}


def dummy(*shape):
    return jnp.zeros(shape)


def as_published(x):
    """[B, L, H, V] as the reference's Fourier blocks return it."""
    return {"y": jnp.transpose(x, (0, 2, 3, 1))}


def kept(name, index, length):
    return Kept(CASE.arrays[f"{name}/rand/{index}"].size, length // 2, "low")


def fourier_block(name, context="transposed"):
    made = ctor(name)
    return FourierBlock(HEADS, kept(name, "index", made["seq_len"]), 1.0, "lowest", context)


def buffers(modes):
    return {"modes": modes, "bins": jnp.arange(len(modes))}


@pytest.mark.parametrize("name", names("fourier_block/"))
def test_fourier_block(name):
    block = fourier_block(name)

    def run(params, modes, q):
        variables = {"params": params, "buffers": buffers(modes)}
        return as_published(block.apply(variables, q, None, None))

    like = params_like(block, dummy(1, 8, 3, 4), None, None)
    entries = torch_names._complex("", "", TABLE)
    assert_layer(name, run, entries, like, lambda _, rand: jnp.asarray(rand["index"]))


@pytest.mark.parametrize("name", names("fourier_cross/"))
def test_fourier_cross(name):
    made = ctor(name)
    queries = kept(name, "index_q", made["seq_len_q"])
    keys = kept(name, "index_kv", made["seq_len_kv"])
    activation = ACTIVATIONS[made["activation"]]
    block = FourierCross(HEADS, queries, keys, 1.0, 1 / 144, activation, "transposed")

    def run(params, modes, q, k, v):
        return as_published(block.apply({"params": params, "buffers": modes}, q, k, v))

    def modes(_, rand):
        index = {"query_modes": rand["index_q"], "key_modes": rand["index_kv"]}
        return jax.tree.map(jnp.asarray, index)

    like = params_like(block, dummy(1, 8, 3, 4), dummy(1, 8, 3, 4), None)
    assert_layer(name, run, torch_names._complex("", "", TABLE), like, modes)


@pytest.mark.parametrize("name", names("fourier_block_layer/"))
def test_fourier_block_between_its_projections(name):
    layer, block = Attention(HEADS), fourier_block(name, "reread")

    def run(params, modes, x):
        variables = {"params": params["mixing"], "buffers": buffers(modes)}
        mix = functools.partial(block.apply, variables)
        return {"y": layer.apply({"params": params["attention"]}, x, x, mix)}

    x = dummy(1, 8, 12)
    like = {
        "attention": params_like(layer, x, x, lambda q, k, v: q),
        "mixing": params_like(block, dummy(1, 8, 3, 4), None, None),
    }
    entries = {
        f"attention{path}": (key.removeprefix("."), layout)
        for path, (key, layout) in torch_names.attention("", "")
    }
    entries.update(torch_names._complex("mixing/", "inner_correlation.", TABLE))
    assert_layer(name, run, entries, like, lambda _, rand: jnp.asarray(rand["index"]))


def filters_of(prefix, stored, _):
    """The stored filters, as buffers here."""
    return {
        path: jnp.asarray(stored[key].reshape(2, *stored[key].shape[1:] * 2))
        for path, (key, _) in torch_names._filters(prefix)
    }


def trained(entries):
    """Without the filters, which are no parameters."""
    filters = dict(torch_names._filters(""))
    return {path: entry for path, entry in entries if path not in filters}


@pytest.mark.parametrize("name", names("mwt_transform/"))
def test_wavelet_block(name):
    made = ctor(name)
    block = WaveletBlock(HEADS, made["c"], made["k"], made["alpha"], made["L"])

    def run(params, filters, v):
        return {"y": block.apply({"params": params, "buffers": filters}, None, None, v)}

    like = params_like(block, None, None, dummy(1, 8, 3, 4))
    buffers = functools.partial(filters_of, "MWT_CZ.0.")
    assert_layer(name, run, trained(torch_names._wavelets()), like, buffers)


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("name", names("mwt_cross/"))
def test_wavelet_cross(name, dead):
    made = ctor(name)
    activation = ACTIVATIONS[made["activation"]]
    block = WaveletCross(
        HEADS, made["c"], made["k"], made["modes"], 1 / 144, activation, dead
    )  # fmt: skip

    def run(params, filters, q, k, v):
        y = block.apply({"params": params, "buffers": filters}, q, k, v)
        return {"y": y.reshape(*y.shape[:2], -1)}

    like = params_like(block, *(dummy(1, 8, 3, 4),) * 3)
    entries = trained(torch_names._cross_wavelets(dead))
    assert_layer(name, run, entries, like, functools.partial(filters_of, ""))


@pytest.mark.parametrize("name", names("sparse_kernel/"))
def test_sparse_kernel(name):
    made = ctor(name)
    layer = SparseKernel(made["alpha"])
    like = params_like(layer, dummy(1, 4, made["c"], made["k"]))
    entries = torch_names._complex("", "", merged(2, 2, 1))
    assert_layer(name, lambda params, x: {"y": layer.apply({"params": params}, x)}, entries, like)


@pytest.mark.parametrize("name", names("fourier_cross_w/"))
def test_attention_among_the_lowest_frequencies(name):
    attend = functools.partial(
        low_attention, modes=ctor(name)["modes"], activation="split", scale=1 / 144
    )
    assert_layer(name, lambda params, q, k: {"y": attend(q, k)})


@pytest.mark.parametrize(("order", "rows", "error"), [(4, 4, 1e-8), (8, 4, 1e-4)])
def test_wavelet_filters(order, rows, error):
    stored = CASE.group(f"wavelet_filter/legendre_k{order}")
    smooth, detail = legendre_filters(order)
    for half in (0, 1):
        np.testing.assert_array_equal(stored[f"PHI{half}"], np.eye(order))
        np.testing.assert_allclose(smooth[:, half], stored[f"H{half}"], rtol=0, atol=1e-11)
        # Row by row the reference's rounding errors grow by powers of ten.
        got, want = detail[:rows, half], stored[f"G{half}"][:rows]
        np.testing.assert_allclose(got, want, rtol=0, atol=error)


def test_the_reference_filters_are_not_orthonormal_for_eight_polynomials():
    stored = CASE.group("wavelet_filter/legendre_k8")
    detail = np.concatenate([stored["G0"], stored["G1"]], axis=1)
    assert np.max(np.abs(detail @ detail.T - np.eye(8))) > 0.2


def test_filters_lie_as_in_the_reference():
    stored = CASE.group("mwt_transform/L48/param")
    tables = filter_tables(4)
    for path, (key, layout) in torch_names._filters("MWT_CZ.0."):
        np.testing.assert_allclose(layout.to_torch(tables[path]), stored[key], rtol=0, atol=1e-7)
