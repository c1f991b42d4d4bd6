"""Whole Transformers."""

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from .attention import attend
from .case import case, filled, initialised, normals


class ViT(nn.Module):
    width: int
    heads: int
    head_width: int
    hidden: int
    classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (4, 4), strides=(4, 4), padding="VALID", name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(1.0), (1, *x.shape[1:]))
        h = nn.LayerNorm(name="norm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(
            self.heads, qkv_features=self.heads * self.head_width, name="attention"
        )(h, h)
        h = nn.gelu(nn.Dense(self.hidden, name="up")(nn.LayerNorm(name="norm_1")(x)))
        x = x + nn.Dense(self.width, name="down")(h)
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="norm_2")(x)[:, 0])


PROJECTIONS = ("query", "key", "value")


@case(
    free=(
        (
            "patches/kernel:3",
            "patches/bias:0",
            "token:2",
            "positions:2",
            *(f"norm_{k}/{leaf}:0" for k in range(3) for leaf in ("scale", "bias")),
            *(f"attention/{name}/kernel:0" for name in PROJECTIONS),
            "attention/out/kernel:2",
            "attention/out/bias:0",
            "up/kernel:0",
            "down/kernel:1",
            "down/bias:0",
            "head/kernel:0",
        ),
        (
            *(f"attention/{name}/kernel:1" for name in PROJECTIONS),
            *(f"attention/{name}/bias:0" for name in PROJECTIONS),
            "attention/out/kernel:0",
        ),
        ("up/kernel:1", "up/bias:0", "down/kernel:0"),
    ),
    # Linen gives queries and values one width, and checks it, but the data would let them differ.
    together=(
        ("attention/query/kernel:2", "attention/query/bias:1", "attention/key/kernel:2"),
        ("attention/value/kernel:2", "attention/value/bias:1", "attention/out/kernel:1"),
    ),
    frozen={
        "patches/kernel:0": "conv",
        "patches/kernel:2": "input",
        "positions:1": "",
        "head/kernel:1": "output",
    },
    exact=("attention/out/kernel:0", "down/kernel:0"),
)
def vit_linen():
    def fn(params, x):
        heads, head_width, width = params["attention"]["out"]["kernel"].shape
        sizes = width, heads, head_width, params["up"]["bias"].size, params["head"]["bias"].size
        return ViT(*sizes).apply({"params": params}, x)

    x = normals()(2, 8, 12, 3)
    params = initialised(ViT(11, 3, 5, 13, 4).init, jax.random.key(0), x)["params"]
    return fn, params, (x,)


def normed(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def gpt(layers, sizes):
    """The function and its params, sizes ``(vocabulary, length, D, H, E, F)``."""
    V, L, D, H, E, F = sizes
    w = normals()
    blocks = [
        {
            "norm_0": w(D),
            "qkv": w(D, 3 * H * E),
            "qkv_bias": w(3 * H * E),
            "out": w(H, E, D),
            "norm_1": w(D),
            "up": w(D, F),
            "down": w(F, D),
        }
        for _ in range(layers)
    ]
    params = {"embed": w(V, D), "positions": w(L, D), "blocks": blocks, "norm": w(D)}

    def fn(params, tokens):
        b, length = tokens.shape
        x = params["embed"][tokens] + params["positions"][:length]
        mask = jnp.tril(jnp.ones((length, length), bool))
        for p in params["blocks"]:
            fused = normed(x, p["norm_0"]) @ p["qkv"] + p["qkv_bias"]
            q, k, v = jnp.split(fused, 3, axis=-1)
            q, k, v = (a.reshape(b, length, *p["out"].shape[:2]) for a in (q, k, v))
            scores = jnp.einsum("bqhe,bkhe->bhqk", q, k) / q.shape[-1] ** 0.5
            weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
            h = jnp.einsum("bhqk,bkhe->bqhe", weights, v)
            x = x + jnp.einsum("blhe,hed->bld", h, p["out"])
            x = x + jax.nn.gelu(normed(x, p["norm_1"]) @ p["up"]) @ p["down"]
        return normed(x, params["norm"]) @ params["embed"].T

    return fn, params


def gpt_claims(layers, H, E):
    stream = [f"blocks/{k}/{a}" for k in range(layers) for a in ("norm_0:0", "norm_1:0", "qkv:0")]
    stream += [f"blocks/{k}/{a}" for k in range(layers) for a in ("out:2", "up:0", "down:1")]
    free = [("embed:1", "positions:1", "norm:0", *stream)]
    layout = {}
    for k in range(layers):
        fused = f"blocks/{k}/qkv:1", f"blocks/{k}/qkv_bias:0"
        for axis, size, form in ((0, H, f"3*[{H}]*{E}"), (1, E, f"3*{H}*[{E}]")):
            free.append((*(f"{name}#{size}" for name in fused), f"blocks/{k}/out:{axis}"))
            layout |= {f"{name}#{size}": form for name in fused}
        free.append((f"blocks/{k}/up:1", f"blocks/{k}/down:0"))
    return {
        "free": tuple(free),
        "layout": layout,
        "exact": tuple(f"blocks/{k}/{a}" for k in range(layers) for a in ("out:0", "down:0")),
    }


@case(**gpt_claims(2, 3, 5), frozen={"embed:0": "", "positions:0": ""})
def gpt_fused_split_tied():
    fn, params = gpt(2, (17, 8, 11, 3, 5, 13))
    return fn, params, (jnp.array([[1, 5, 16, 2, 2, 0, 7]]),)


@case(
    free=(
        (
            "embed:1",
            "positions:1",
            "norm:0",
            *(
                f"blocks/0/{a}"
                for a in ("norm_0:0", "norm_1:0", "qkv:0", "out:2", "up:0", "down:1")
            ),
        ),
        ("blocks/0/out:0",),
        ("blocks/0/out:1",),
        ("blocks/0/up:1", "blocks/0/down:0"),
    ),
    frozen={"embed:0": "", "positions:0": ""},
    exact=("blocks/0/out:0", "blocks/0/down:0"),
    complete=False,
)
def gpt_all_sizes_equal():
    """Heads and their width share the size, so the fused axis names neither."""
    fn, params = gpt(1, (4, 4, 4, 4, 4, 4))
    return fn, params, (jnp.array([[1, 3, 2, 0]] * 4),)


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.enter = nnx.Linear(4, 7, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(3, 7, 15, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(7, rngs=rngs)
        self.up = nnx.Linear(7, 11, rngs=rngs)
        self.leave = nnx.Linear(11, 2, rngs=rngs)

    def __call__(self, x):
        x = self.enter(x)
        return self.leave(nnx.gelu(self.up(self.norm(x + self.attention(x)))))


@case(
    free=(("up/kernel/value:1", "up/bias/value:0", "leave/kernel/value:0"),),
    # The attention keeps the sizes it was made with, checks its input's, reshapes to the others.
    frozen={
        "enter/kernel/value:0": "input",
        "leave/bias/value:0": "output",
        **{
            f"attention/{name}/kernel/value:{axis}": "" for name in PROJECTIONS for axis in range(3)
        },
        **{f"attention/out/kernel/value:{axis}": "" for axis in range(3)},
        "enter/kernel/value:1": "",
        "norm/scale/value:0": "",
        "up/kernel/value:0": "",
    },
    exact=("leave/kernel/value:0",),
)
def library_attention_nnx():
    graph, params = nnx.split(nnx.eval_shape(lambda: Encoder(nnx.Rngs(0))))
    return lambda p, x: nnx.merge(graph, p)(x), filled(params), (normals()(2, 6, 4),)


HEADS = 2


@case(
    free=(
        (
            "embed/embeddings:1",
            *(f"{name}/w:0" for name in ("q", "k", "v", "up", "leave")),
            *(f"{name}/{leaf}" for name in ("out", "down") for leaf in ("w:1", "b:0")),
            *(f"norm_{k}/{leaf}:0" for k in range(2) for leaf in ("scale", "offset")),
        ),
        ("q/w:1#5", "q/b:0#5", "k/w:1#5", "k/b:0#5"),
        ("v/w:1#7", "v/b:0#7", "out/w:0#7"),
        ("up/w:1", "up/b:0", "down/w:0"),
    ),
    frozen={
        "embed/embeddings:0": "",
        "q/w:1#2": "reshape",
        "v/w:1#2": "reshape",
        "leave/w:1": "output",
    },
    exact=("out/w:0#7", "down/w:0"),
    layout={
        **{f"{n}/{leaf}#5": "2*[5]" for n in "qk" for leaf in ("w:1", "b:0")},
        **{f"{n}#7": "2*[7]" for n in ("v/w:1", "v/b:0", "out/w:0")},
    },
)
def encoder_post_norm_haiku():
    def model(tokens, vocabulary, D, qk, vo, F, out):
        x = hk.Embed(vocabulary, D, name="embed")(tokens)
        b, length, _ = x.shape
        features = {"q": qk, "k": qk, "v": vo}
        h = attend(
            *(
                hk.Linear(size, name=name)(x).reshape(b, length, HEADS, -1)
                for name, size in features.items()
            )
        )
        x = x + hk.Linear(D, name="out")(h.reshape(b, length, -1))
        x = hk.LayerNorm(-1, True, True, name="norm_0")(x)
        h = hk.Linear(D, name="down")(jax.nn.relu(hk.Linear(F, name="up")(x)))
        x = hk.LayerNorm(-1, True, True, name="norm_1")(x + h)
        return hk.Linear(out, name="leave")(x.mean(axis=1))

    net = hk.without_apply_rng(hk.transform(model))

    def fn(params, tokens):
        sizes = [params[name]["b"].size for name in ("q", "v", "up", "leave")]
        return net.apply(params, tokens, *params["embed"]["embeddings"].shape, *sizes)

    tokens = jnp.array([[1, 3, 12, 0], [2, 2, 7, 5]])
    params = initialised(net.init, jax.random.key(0), tokens, 17, 11, 10, 14, 13, 3)
    return fn, params, (tokens,)
