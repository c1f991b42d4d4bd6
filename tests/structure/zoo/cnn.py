"""Convolutions, their normalisations, skips and channel permutations."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from .case import case, filled, initialised, normals, parted


class ResNet(nn.Module):
    width: int
    hidden: tuple[int, ...]
    classes: int
    train: bool

    @nn.compact
    def __call__(self, x):
        def normalise(name):
            return nn.BatchNorm(use_running_average=not self.train, name=name)

        x = nn.relu(normalise("bn")(nn.Conv(self.width, (3, 3), use_bias=False, name="stem")(x)))
        for k, hidden in enumerate(self.hidden):
            h = nn.Conv(hidden, (3, 3), use_bias=False, name=f"conv_{k}_0")(x)
            h = nn.relu(normalise(f"bn_{k}_0")(h))
            h = nn.Conv(self.width, (3, 3), use_bias=False, name=f"conv_{k}_1")(h)
            x = nn.relu(x + normalise(f"bn_{k}_1")(h))
        return nn.Dense(self.classes, name="head")(x.mean(axis=(1, 2)))


def bn(name):
    """All the leaves of a BatchNorm."""
    return (
        *(f"params/{name}/{leaf}:0" for leaf in ("scale", "bias")),
        *(f"batch_stats/{name}/{leaf}:0" for leaf in ("mean", "var")),
    )


def resnet(train):
    def fn(variables, x):
        params = variables["params"]
        hidden = tuple(params[f"conv_{k}_0"]["kernel"].shape[-1] for k in range(2))
        model = ResNet(
            *params["head"]["kernel"].shape[:1], hidden, params["head"]["bias"].size, train
        )
        if train:
            return model.apply(variables, x, mutable=["batch_stats"])[0]
        return model.apply(variables, x)

    x = normals()(4, 6, 6, 3)
    return fn, initialised(ResNet(5, (7, 11), 2, False).init, jax.random.key(0), x), (x,)


RESNET = {
    "free": (
        (
            "params/stem/kernel:3",
            *bn("bn"),
            *bn("bn_0_1"),
            *bn("bn_1_1"),
            *(f"params/conv_{k}_0/kernel:2" for k in range(2)),
            *(f"params/conv_{k}_1/kernel:3" for k in range(2)),
            "params/head/kernel:0",
        ),
        ("params/conv_0_0/kernel:3", *bn("bn_0_0"), "params/conv_0_1/kernel:2"),
        ("params/conv_1_0/kernel:3", *bn("bn_1_0"), "params/conv_1_1/kernel:2"),
    ),
    "frozen": {
        "params/stem/kernel:0": "conv",
        "params/conv_0_0/kernel:1": "conv",
        "params/stem/kernel:2": "input",
        "params/head/bias:0": "output",
    },
    "exact": ("params/stem/kernel:3", "params/conv_0_1/kernel:2", "params/conv_1_1/kernel:2"),
}


@case(**RESNET)
def resnet_eval_linen():
    return resnet(train=False)


# The new statistics are dropped, but computing them still needs the old ones of the same size.
@case(**RESNET)
def resnet_train_linen():
    return resnet(train=True)


class Downsampling(eqx.Module):
    stem: eqx.nn.Conv2d
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    shortcut: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.stem = eqx.nn.Conv2d(3, 5, 3, padding=1, key=keys[0])
        self.first = eqx.nn.Conv2d(5, 7, 3, stride=2, padding=1, key=keys[1])
        self.second = eqx.nn.Conv2d(7, 11, 3, padding=1, key=keys[2])
        self.shortcut = eqx.nn.Conv2d(5, 11, 1, stride=2, use_bias=False, key=keys[3])
        self.head = eqx.nn.Linear(11, 2, key=keys[4])

    def __call__(self, x):
        x = jax.nn.relu(self.stem(x))
        h = self.second(jax.nn.relu(self.first(x)))
        return self.head(jax.nn.relu(h + self.shortcut(x)).mean(axis=(1, 2)))


@case(
    free=(
        ("stem/weight:0", "stem/bias:0", "first/weight:1", "shortcut/weight:1"),
        ("first/weight:0", "first/bias:0", "second/weight:1"),
        ("second/weight:0", "second/bias:0", "shortcut/weight:0", "head/weight:1"),
    ),
    frozen={"stem/weight:1": "input", "first/weight:2": "conv", "head/weight:0": "output"},
    exact=("stem/bias:0", "first/bias:0", "second/bias:0"),
)
def resnet_downsample_equinox():
    params, static = parted(lambda: Downsampling(jax.random.key(0)))
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, (normals()(2, 3, 6, 6),)


class UNet(nnx.Module):
    def __init__(self, rngs):
        self.enter = nnx.Conv(3, 5, (3, 3), rngs=rngs)
        self.down = nnx.Conv(5, 7, (3, 3), strides=2, rngs=rngs)
        self.up = nnx.ConvTranspose(7, 11, (2, 2), strides=2, rngs=rngs)
        self.merge = nnx.Conv(16, 13, (3, 3), rngs=rngs)
        self.leave = nnx.Conv(13, 2, (1, 1), rngs=rngs)

    def __call__(self, x):
        skip = nnx.relu(self.enter(x))
        deep = nnx.relu(self.up(nnx.relu(self.down(skip))))
        both = jnp.concatenate([skip, deep], axis=-1)
        return self.leave(nnx.relu(self.merge(both)))


@case(
    free=(
        (
            "enter/kernel/value:3",
            "enter/bias/value:0",
            "down/kernel/value:2",
            "merge/kernel/value:2#5",
        ),
        ("down/kernel/value:3", "down/bias/value:0", "up/kernel/value:2"),
        ("up/kernel/value:3", "up/bias/value:0", "merge/kernel/value:2#11"),
        ("merge/kernel/value:3", "merge/bias/value:0", "leave/kernel/value:2"),
    ),
    frozen={"enter/kernel/value:2": "input", "leave/bias/value:0": "output"},
    exact=("enter/bias/value:0", "down/bias/value:0", "up/bias/value:0", "merge/bias/value:0"),
    layout={"merge/kernel/value:2#5": "[5]+11", "merge/kernel/value:2#11": "5+[11]"},
)
def unet_nnx():
    graph, params = nnx.split(nnx.eval_shape(lambda: UNet(nnx.Rngs(0))))
    return lambda p, x: nnx.merge(graph, p)(x), filled(params), (normals()(2, 6, 6, 3),)


class Separable(nn.Module):
    widths: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x):
        for k, width in enumerate(self.widths):
            x = nn.relu6(nn.Conv(width, (1, 1), name=f"point_{k}")(x))
            x = nn.Conv(width, (3, 3), feature_group_count=width, name=f"depth_{k}")(x)
        return nn.Dense(self.classes, name="head")(x.mean(axis=(1, 2)))


@case(
    free=tuple(
        (
            f"point_{k}/kernel:3",
            f"point_{k}/bias:0",
            f"depth_{k}/kernel:3",
            f"depth_{k}/bias:0",
            ("point_1/kernel:2", "head/kernel:0")[k],
        )
        for k in range(2)
    ),
    frozen={"point_0/kernel:2": "input", "head/kernel:1": "output", "depth_0/kernel:0": "conv"},
    exact=("point_1/kernel:2", "head/kernel:0"),
)
def depthwise_separable_linen():
    def fn(params, x):
        widths = tuple(params[f"depth_{k}"]["bias"].size for k in range(2))
        return Separable(widths, params["head"]["bias"].size).apply({"params": params}, x)

    x = normals()(2, 6, 6, 3)
    params = initialised(Separable((7, 5), 2).init, jax.random.key(0), x)["params"]
    return fn, params, (x,)


@case(
    free=(
        (
            "stem/w:3",
            "stem/b:0",
            "depthwise_conv2_d/w:3#5",
            "depthwise_conv2_d/b:0#5",
            "head/w:0#5",
        ),
    ),
    frozen={"stem/w:2": "input", "depthwise_conv2_d/w:3#2": "", "head/w:1": "output"},
    exact=("stem/w:3",),
    layout={
        "depthwise_conv2_d/w:3#5": "[5]*2",
        "depthwise_conv2_d/b:0#5": "[5]*2",
        "head/w:0#5": "[5]*2",
    },
)
def depthwise_multiplier_haiku():
    def model(x, width, out):
        x = jax.nn.relu(hk.Conv2D(width, 3, name="stem")(x))
        x = jax.nn.relu(hk.DepthwiseConv2D(2, 3)(x))
        return hk.Linear(out, name="head")(x.mean(axis=(1, 2)))

    net = hk.without_apply_rng(hk.transform(model))
    x = normals()(2, 6, 6, 3)

    def fn(params, x):
        return net.apply(params, x, params["stem"]["b"].size, params["head"]["b"].size)

    return fn, initialised(net.init, jax.random.key(0), x, 5, 4), (x,)


class Grouped(nn.Module):
    wide: int
    wider: int
    classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.wide, (3, 3), name="enter")(x)
        x = nn.relu(nn.GroupNorm(num_groups=3, name="norm")(x))
        x = nn.Conv(self.wider, (3, 3), feature_group_count=3, name="grouped")(x)
        return nn.Dense(self.classes, name="head")(nn.relu(x).mean(axis=(1, 2)))


@case(
    free=(
        (
            "enter/kernel:3#5",
            "enter/bias:0#5",
            "norm/scale:0#5",
            "norm/bias:0#5",
            "grouped/kernel:2",
        ),
        ("grouped/kernel:3#7", "grouped/bias:0#7", "head/kernel:0#7"),
    ),
    frozen={"enter/kernel:3#3": "", "grouped/kernel:3#3": "", "head/kernel:1": "output"},
    exact=("grouped/bias:0#7",),
    layout={
        **dict.fromkeys(
            ("enter/kernel:3#5", "enter/bias:0#5", "norm/scale:0#5", "norm/bias:0#5"), "3*[5]"
        ),
        **dict.fromkeys(("grouped/kernel:3#7", "grouped/bias:0#7", "head/kernel:0#7"), "3*[7]"),
    },
)
def grouped_groupnorm_linen():
    def fn(params, x):
        model = Grouped(*(params[name]["bias"].size for name in ("enter", "grouped", "head")))
        return model.apply({"params": params}, x)

    x = normals()(2, 6, 6, 4)
    params = initialised(Grouped(15, 21, 2).init, jax.random.key(0), x)["params"]
    return fn, params, (x,)


class SqueezeExcite(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 7, (3, 3), rngs=rngs)
        self.squeeze = nnx.Linear(7, 5, rngs=rngs)
        self.excite = nnx.Linear(5, 7, rngs=rngs)
        self.head = nnx.Linear(7, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv(x))
        gate = nnx.sigmoid(self.excite(nnx.relu(self.squeeze(x.mean(axis=(1, 2))))))
        return self.head((x * gate[:, None, None, :]).mean(axis=(1, 2)))


@case(
    free=(
        (
            "conv/kernel/value:3",
            "conv/bias/value:0",
            "squeeze/kernel/value:0",
            "excite/kernel/value:1",
            "excite/bias/value:0",
            "head/kernel/value:0",
        ),
        ("squeeze/kernel/value:1", "squeeze/bias/value:0", "excite/kernel/value:0"),
    ),
    frozen={"conv/kernel/value:2": "input", "head/bias/value:0": "output"},
    exact=("conv/bias/value:0", "squeeze/bias/value:0"),
)
def squeeze_excite_nnx():
    graph, params = nnx.split(nnx.eval_shape(lambda: SqueezeExcite(nnx.Rngs(0))))
    return lambda p, x: nnx.merge(graph, p)(x), filled(params), (normals()(2, 6, 6, 3),)


def conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@case(
    free=(
        ("layers/0:3", "layers/1:2", "layers/2:2#5", "head:0#5"),
        ("layers/1:3", "layers/2:2#7", "head:0#7"),
        ("layers/2:3", "head:0#11"),
    ),
    frozen={"layers/0:2": "input", "layers/1:0": "conv", "head:1": "output"},
    exact=("layers/0:3", "layers/1:3", "layers/2:3"),
    layout={
        "layers/2:2#5": "[5]+7",
        "layers/2:2#7": "5+[7]",
        "head:0#5": "[5]+7+11",
        "head:0#7": "5+[7]+11",
        "head:0#11": "5+7+[11]",
    },
)
def densenet():
    w = normals()

    def fn(params, x):
        made = [conv(x, params["layers"][0])]
        for kernel in params["layers"][1:]:
            made.append(conv(jax.nn.relu(jnp.concatenate(made, axis=-1)), kernel))
        return jnp.concatenate(made, axis=-1).mean(axis=(1, 2)) @ params["head"]

    layers = [w(3, 3, 3, 5), w(3, 3, 5, 7), w(3, 3, 12, 11)]
    return fn, {"layers": layers, "head": w(23, 2)}, (w(2, 6, 6, 3),)


@case(
    free=(("conv/w:3", "conv/b:0", "head/w:0#5"),),
    frozen={"conv/w:2": "input", "conv/w:0": "conv", "head/w:1": "output"},
    exact=("conv/b:0",),
    layout={"head/w:0#5": "12*[5]"},
)
def pooled_and_flattened_haiku():
    def model(x, width, out):
        x = jax.nn.relu(hk.Conv2D(width, 3, name="conv")(x))
        x = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), "VALID")(x)
        return hk.Linear(out, name="head")(hk.Flatten()(x))

    net = hk.without_apply_rng(hk.transform(model))
    x = normals()(2, 8, 6, 3)

    def fn(params, x):
        return net.apply(params, x, params["conv"]["b"].size, params["head"]["b"].size)

    return fn, initialised(net.init, jax.random.key(0), x, 5, 4), (x,)


@case(
    free=(("a:1#5", "scale:0#5", "b:0#5"),),
    frozen={"a:0": "input", "a:1#2": "", "b:1": "output"},
    exact=("scale:0#5",),
    layout={"a:1#5": "2*[5]", "scale:0#5": "[5]*2", "b:0#5": "[5]*2"},
)
def channel_shuffle():
    w = normals()

    def fn(params, x):
        h = x @ params["a"]
        h = h.reshape(*h.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(h.shape)
        return jax.nn.relu(h * params["scale"]) @ params["b"]

    return fn, {"a": w(3, 10), "scale": w(10), "b": w(10, 4)}, (w(2, 6, 3),)


@case(
    free=(("a:3#5", "bias:0#5", "b:2"),),
    frozen={"a:2": "input", "b:0": "conv", "b:3": "output"},
    exact=("b:2",),
    layout={"a:3#5": "4*[5]", "bias:0#5": "4*[5]"},
)
def pixel_shuffle():
    w = normals()

    def fn(params, x):
        h = jax.nn.relu(conv(x, params["a"]) + params["bias"])
        n, height, width, _ = h.shape
        h = h.reshape(n, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
        return conv(h.reshape(n, 2 * height, 2 * width, -1), params["b"])

    return fn, {"a": w(3, 3, 3, 20), "bias": w(20), "b": w(3, 3, 5, 2)}, (w(2, 4, 6, 3),)
