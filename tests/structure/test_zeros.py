"""Where arrays are said to be zero they are, whatever the other numbers are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tsjax import structure
from tsjax.structure.primitives import PRIMITIVES, Fact
from tsjax.structure.primitives.elementwise import ELEMENTWISE
from tsjax.structure.primitives.record import anything, unchanged
from tsjax.structure.zeros import Zeros

# Of an array [4, 6]. The rows that are zero stay so, unless a function works along columns.
BY_ROWS = {
    "reshape": lambda w: w.reshape(4, 2, 3),
    "transpose": lambda w: w.T,
    "broadcast_in_dim": lambda w: w[:, None] + jnp.zeros((4, 2, 6)),
    "squeeze": lambda w: lax.squeeze(w[:, :1], (1,)),
    "concatenate": lambda w: jnp.concatenate([w, w[:, ::-1]], axis=1),
    "stack": lambda w: jnp.stack([w, w * 2], axis=1),
    "tile": lambda w: jnp.tile(w, (1, 2)),
    "unstack": lambda w: jnp.unstack(w, axis=1)[2],
    "split": lambda w: jnp.split(w, (2,), axis=1)[1],
    "slice": lambda w: w[:, 1:5:2],
    "pad": lambda w: lax.pad(w, 0.0, ((0, 0, 0), (2, -1, 1))),
    "rev": lambda w: lax.rev(w, (1,)),
    "cumsum": lambda w: jnp.cumsum(w, axis=1),
    "cumprod": lambda w: jnp.cumprod(w, axis=1),
    "cummax": lambda w: lax.cummax(w, axis=1),
    "sort": lambda w: lax.sort((w, w * 3), dimension=1)[1],
    "top_k": lambda w: lax.top_k(w, 3)[0],
    "fft": lambda w: jnp.fft.rfft(w, axis=1),
    "reduce_window_sum": lambda w: lax.reduce_window(w, 0.0, lax.add, (1, 3), (1, 1), "SAME"),
    "dynamic_slice": lambda w: lax.dynamic_slice(w, (0, jnp.argmax(w[0])), (4, 2)),
    "dynamic_update_slice": lambda w: lax.dynamic_update_slice(w, w[:, :2], (0, jnp.argmax(w[0]))),
    "gather": lambda w: w[:, jnp.array([5, 0, 0])],
    "gather, as a window": lambda w: jax.vmap(
        lambda i: lax.dynamic_slice(w, (0, i), (4, 2)), out_axes=1
    )(jnp.array([3, 0])),
    "gather, filled": lambda w: w.at[:, jnp.array([1, 9])].get(mode="fill", fill_value=0),
    "scatter": lambda w: w.at[:, jnp.array([1, 3])].set(w[:, :2]),
    "scatter-add": lambda w: jnp.zeros((4, 3)).at[:, jnp.array([2, 0, 2, 1, 1, 0])].add(w),
    "scatter-mul": lambda w: w.at[:, jnp.array([0, 1])].multiply(jnp.arange(8.0).reshape(4, 2)),
    "scatter-max": lambda w: w.at[:, jnp.array([0, 1])].max(w[:, 2:4]),
    "dot_general": lambda w: w @ jnp.arange(18.0).reshape(6, 3),
    "dot_general, batched": lambda w: jnp.einsum("ij,ijk->ik", w, jnp.ones((4, 6, 2))),
    "conv_general_dilated": lambda w: lax.conv(w[:, None], jnp.ones((2, 1, 3)), (1,), "SAME"),
    "conv_general_dilated, in groups": lambda w: lax.conv_general_dilated(
        jnp.ones((3, 4, 5)), w[:, None], (1,), "SAME", feature_group_count=4
    ).swapaxes(0, 1),
    "reduce_sum": lambda w: w.sum(1),
    "reduce_max": lambda w: w.max(1),
    "mul": lambda w: w * jnp.arange(6.0)[None] * w[:, :1],
    "div": lambda w: w / (1 + jnp.abs(w[:, :1])),
    "select_n": lambda w: jnp.where(w[:1] > 0, w, 2 * w),
    "sin": lambda w: jnp.sin(w) + jnp.tanh(w) * jnp.exp(w),
    "convert_element_type": lambda w: w.astype(jnp.bfloat16),
    "scan": lambda w: lax.scan(lambda c, x: (c + x, c * x), w[:, 0], w.T)[0],
    "cond": lambda w: lax.cond(w[0, 0] > 0, lambda: w, lambda: jnp.sin(w)),
    "custom_jvp_call": jax.nn.relu,
}
ANYWHERE = {
    "rev": lambda w: lax.rev(w, (0,)),
    "cumsum": lambda w: jnp.cumsum(w, axis=0),
    "cumsum, backwards": lambda w: lax.cumsum(w, axis=0, reverse=True),
    "cumlogsumexp": lambda w: lax.cumlogsumexp(w, axis=1),
    "sort": lambda w: jnp.sort(w, axis=0),
    "argmax": lambda w: jnp.argmax(w, axis=1),
    "fft": lambda w: jnp.fft.fft(w, axis=0),
    "pad": lambda w: lax.pad(w, 0.0, ((1, -1, 0), (0, 0, 0))),
    "pad with ones": lambda w: lax.pad(w, 1.0, ((0, 0, 0), (1, 0, 0))),
    "dynamic_slice": lambda w: lax.dynamic_slice(w, (jnp.argmax(w[:, 0]), 0), (2, 6)),
    "dynamic_update_slice": lambda w: lax.dynamic_update_slice(
        jnp.zeros((6, 6)), w, (jnp.argmax(w[:, 0]), 0)
    ),
    "gather": lambda w: w[jnp.array([3, 0, 1, 1])],
    "gather, filled": lambda w: w.at[:, jnp.array([1, 9])].get(mode="fill", fill_value=5),
    "gather, filled with NaN": lambda w: w.at[jnp.array([1, 9])].get(mode="fill", fill_value=0),
    "scatter": lambda w: jnp.zeros((5, 6)).at[jnp.array([4, 0, 2, 2])].set(w),
    "scatter, of a window": jax.vmap(
        lambda row: lax.dynamic_update_slice(row, row[:2], (jnp.argmax(row),))
    ),
    "scatter-add": lambda w: w.at[jnp.array([1, 0])].add(w[2:]),
    "scatter-min": lambda w: w.at[jnp.array([1, 0])].min(w[2:] - 1),
    "reduce_window_sum": lambda w: lax.reduce_window(w, 0.0, lax.add, (2, 1), (1, 1), "SAME"),
    "reduce_window_max": lambda w: lax.reduce_window(w, -1.0, lax.max, (1, 2), (1, 1), "SAME"),
    "max of none": lambda w: w[:, :0].max(1, initial=-jnp.inf),
    "cos": jnp.cos,
    "atan2": lambda w: jnp.arctan2(w, -jnp.ones_like(w)),
    "add": lambda w: w + w[::-1],
    "cholesky": lambda w: jnp.linalg.cholesky(w @ w.T + jnp.eye(4)),
    "iota": lambda w: w * 0 + lax.broadcasted_iota(jnp.float32, (4, 6), 0),
    "while": lambda w: lax.fori_loop(0, 3, lambda _, c: jnp.roll(c, 1, axis=0), w),
    "divided integers": lambda w: lax.div(w.astype(int), w.astype(int)),
}


def said_and_true(fn, w):
    """Where the result is said to be filled, and where it is."""
    groups = structure.find_groups(fn, w, verify=False)
    zeros = Zeros(groups.followed, [w], ())
    (fact,) = zeros.follow(groups.followed, [Fact(np.asarray(w) != 0)], [True])
    result = np.asarray(fn(w))
    return np.broadcast_to(fact.filled, result.shape), result != 0


def leaves():
    """Arrays of which rows, columns or any places are zero."""
    rng = np.random.default_rng(0)
    for masked in ([0], [2], [1, 3], [0, 1, 2]):
        for axis in (0, 1):
            w = rng.uniform(0.5, 2, (4, 6)) * rng.choice([-1, 1], (4, 6))
            w[(slice(None),) * axis + (masked,)] = 0
            yield jnp.asarray(w, jnp.float32)
    yield jnp.asarray(w * (rng.random((4, 6)) < 0.4), jnp.float32)


@pytest.mark.parametrize("name", [*BY_ROWS, *(f"{name} anywhere" for name in ANYWHERE)])
def test_what_is_said_to_be_zero_is(name):
    fn = BY_ROWS.get(name) or ANYWHERE[name.removesuffix(" anywhere")]
    for w in leaves():
        said, true = said_and_true(fn, w)
        assert not (true & ~said).any()


@pytest.mark.parametrize("name", BY_ROWS)
def test_rows_of_zeros_stay_rows_of_zeros(name):
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32).at[jnp.array([1, 3])].set(0)
    said, _ = said_and_true(BY_ROWS[name], w)
    axis = 1 if name == "transpose" else 0
    rows = said.any(tuple(at for at in range(said.ndim) if at != axis))
    assert rows.tolist() == [True, False, True, False]


def test_each_rule_for_zeros_is_tried():
    """But for those by which any number may come of zeros, and those of elementwise primitives."""
    named = {name.partition(",")[0] for name in (*BY_ROWS, *ANYWHERE)}
    tried = {PRIMITIVES[name].zeros for name in named if name in PRIMITIVES}
    rules = {r.zeros for name, r in PRIMITIVES.items() if name not in ELEMENTWISE and r.zeros}
    assert rules - {anything, unchanged} <= tried
