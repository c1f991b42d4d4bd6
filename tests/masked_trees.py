"""Random params with masks, for whatever stores them, and how to compare what comes back."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

DTYPES = tuple(jnp.dtype(name) for name in ("float32", "bfloat16", "complex64", "int32"))
SHAPES = ((), (0,), (3, 0), (1,), (8,), (17,), (3, 5), (2, 3, 4))

_keys = st.text("abz", min_size=1, max_size=3)


def random_leaf(shape, dtype, rng):
    """Any bits at all: NaNs with payloads, negative zeros, denormal numbers."""
    raw = rng.bytes(int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


@st.composite
def masked_trees(draw):
    """``(params, mask)``: dicts, lists and tuples in one another, at least one leaf."""
    leaf = st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES))
    # A tuple would be taken for a container.
    leaf = leaf.map(lambda drawn: jax.ShapeDtypeStruct(*drawn))
    shapes = draw(
        st.recursive(
            leaf,
            lambda inner: st.one_of(
                st.dictionaries(_keys, inner, min_size=1, max_size=3),
                st.lists(inner, min_size=1, max_size=3),
                st.lists(inner, min_size=1, max_size=3).map(tuple),
            ),
            max_leaves=6,
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    density = draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    params = jax.tree.map(lambda s: random_leaf(s.shape, s.dtype, rng), shapes)
    mask = jax.tree.map(lambda s: np.asarray(rng.random(s.shape) < density), shapes)
    return params, mask


def zeroed(params, mask):
    """The params with pruned weights set to zero, on the host."""
    return jax.tree.map(lambda w, keep: np.where(keep, w, np.zeros_like(w)), params, mask)


def assert_bitwise_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
