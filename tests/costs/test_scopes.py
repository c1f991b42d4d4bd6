"""Under which name-stack scope an operation is counted."""

import jax
import jax.numpy as jnp
from jax import lax

from tsjax import costs

B, D = 2, 8


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def scoped(params, x):
    with jax.named_scope("encoder"):
        with jax.named_scope("layer_0"):
            x = jax.jit(lambda x: jax.named_scope("attention")(lambda x: x @ params)(x))(x)

        def body(carry, _):
            with jax.named_scope("inner"):
                return jax.checkpoint(lambda c: jnp.sin(c @ params))(carry), None

        x, _ = lax.scan(body, x, None, length=3)
    with jax.named_scope("head"):
        return jax.vmap(jax.named_scope("row")(lambda r: (r * r).sum()))(x).sum()


def test_flops_by_scope_through_jit_scan_and_vmap():
    counted = costs.count(scoped, shape(D, D), shape(B, D))
    assert counted.by_scope == {
        "encoder/layer_0/attention": 2 * B * D * D,
        "encoder/inner": 3 * (2 * B * D * D + B * D),
        "head/row": B * D + B * D - B,
        "head": B - 1,
    }


def test_a_scope_within_one_of_the_same_name():
    def fn(w, x):
        with jax.named_scope("a"), jax.named_scope("a"):
            return x @ w

    assert set(costs.count(fn, shape(D, D), shape(B, D)).by_scope) == {"a/a"}


def test_backward_pass_is_under_the_scope_of_its_layer():
    counted = costs.count(jax.grad(scoped), shape(D, D), shape(B, D))
    assert set(counted.by_scope) == {
        "encoder/layer_0/attention",
        "encoder/layer_0",
        "encoder/inner",
        "head/row",
    }
    assert counted.by_scope["encoder/inner"] > 3 * 4 * (2 * B * D * D)
    assert counted.by_scope["encoder/layer_0/attention"] == 2 * (2 * B * D * D)


def test_backward_pass_of_a_checkpoint_is_under_its_scope():
    def loss(w, x):
        with jax.named_scope("a"), jax.named_scope("b"):
            return jax.checkpoint(jax.named_scope("c")(lambda x: jnp.sin(x @ w)))(x).sum()

    counted = costs.count(jax.grad(loss), shape(D, D), shape(B, D))
    assert set(counted.by_scope) == {"a/b/c"}
