"""Which leaves are meant: the default choice in every library's names, globs, complex pairs."""

import jax
import jax.numpy as jnp
import pytest

from tsjax import pruning, trees
from tsjax.pruning.choice import choose


def leaves(*paths, shape=(2, 2)):
    """A flat tree of ones, whose keys are paths."""
    return {path: jnp.ones(shape) for path in paths}


# The default.


@pytest.mark.parametrize(
    ("path", "ndim", "chosen"),
    [
        ("encoder/layer_0/attention/query/kernel", 2, True),
        ("encoder/layer_0/attention/query/kernel", 3, True),
        ("kernel", 2, True),
        ("encoder/layer_0/weight", 2, True),
        ("encoder/layer_0/attention/query/bias", 1, False),
        ("encoder/layer_0/attention/query/bias", 2, False),
        ("encoder/norm/scale", 1, False),
        ("kernel", 1, False),
        ("kernel", 0, False),
        ("embedding/time/embedding", 2, False),
        ("embedding/time/kernel", 2, True),
        ("embedding/position", 2, False),
        ("feed_forward/router", 2, False),
        ("cross_mixing/real", 4, False),
        ("cross_mixing/imag", 4, False),
        ("decoder/output_projection/kernel", 2, False),
        ("decoder/output_projection/low_rank/kernel", 2, False),
        ("decoder/output_projection_norm/kernel", 2, True),
        # Flax nnx: the array lies in its variable's `value`.
        ("layers/0/kernel/value", 2, True),
        ("attention/value/kernel/value", 3, True),
        ("attention/value/bias/value", 2, False),
        ("layers/2/embedding/value", 2, False),
        ("mixing/real/value", 3, False),
        ("output_projection/kernel/value", 2, False),
        ("value", 2, True),
        # Equinox: every array is called `weight`.
        ("layers/0/weight", 2, True),
        ("attention/query_proj/weight", 2, True),
        ("embedding/weight", 2, False),
        ("token_embedding/weight", 2, False),
        ("embedding/0/weight", 2, True),
        ("norm/weight", 1, False),
        # Haiku: a module's name is one key.
        ("mlp/~/linear_0/w", 2, True),
        ("mlp/~/linear_0/b", 1, False),
        ("embed/embeddings", 2, False),
        ("layer_norm/scale", 1, False),
    ],
)
def test_which_leaves_the_default_prunes(path, ndim, chosen):
    leaf = jnp.ones((2,) * ndim)
    assert pruning.kernels(path, leaf) is chosen
    # All kernels are these, and the output projection's.
    forecasts = path.startswith(("decoder/output_projection/", "output_projection/"))
    assert pruning.all_kernels(path, leaf) is (chosen or forecasts)


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32"])
def test_integers_are_no_weights(dtype):
    assert not pruning.kernels("kernel", jnp.ones((2, 2), dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "bool"])
def test_other_dtypes_are_weights_or_masks_of_them(dtype):
    assert pruning.kernels("kernel", jnp.ones((2, 2), dtype))


def test_the_default_on_a_module_of_nnx():
    nnx = pytest.importorskip("flax.nnx")

    def build():
        rngs = nnx.Rngs(0)
        return nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Embed(5, 3, rngs=rngs)])

    params = nnx.split(nnx.eval_shape(build), nnx.Param, ...)[1]
    assert trees.paths(params) == ["0/bias/value", "0/kernel/value", "1/embedding/value"]
    assert list(choose(params, pruning.kernels)) == ["0/kernel/value"]


def test_the_default_on_a_module_of_equinox():
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        embedding: eqx.nn.Embedding
        layers: list
        norm: eqx.nn.LayerNorm

    def build():
        key = jax.random.key(0)
        layers = [eqx.nn.Linear(3, 2, key=key), eqx.nn.Conv1d(2, 4, 3, key=key)]
        return Model(eqx.nn.Embedding(5, 3, key=key), layers, eqx.nn.LayerNorm(2))

    params = eqx.filter(eqx.filter_eval_shape(build), lambda leaf: hasattr(leaf, "dtype"))
    assert "embedding/weight" in trees.paths(params)
    assert list(choose(params, pruning.kernels)) == ["layers/0/weight", "layers/1/weight"]


def test_the_default_on_params_of_haiku():
    hk = pytest.importorskip("haiku")
    net = hk.transform(lambda i: hk.nets.MLP([3, 4])(hk.Embed(5, 2)(i)))
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.arange(2))
    assert "embed/embeddings" in trees.paths(params)
    assert list(choose(params, pruning.kernels)) == ["mlp/~/linear_0/w", "mlp/~/linear_1/w"]


# Globs, predicates, several of them.

TREE = leaves("decoder/0/kernel", "encoder/0/bias", "encoder/0/kernel", "encoder/1/kernel", "w[0]")


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("encoder/*", ["encoder/0/bias", "encoder/0/kernel", "encoder/1/kernel"]),
        ("*/kernel", ["decoder/0/kernel", "encoder/0/kernel", "encoder/1/kernel"]),
        ("encoder/?/kernel", ["encoder/0/kernel", "encoder/1/kernel"]),
        ("encoder/0/kernel", ["encoder/0/kernel"]),
        ("*[!s]", ["decoder/0/kernel", "encoder/0/kernel", "encoder/1/kernel", "w[0]"]),
        ("w[0]", ["w[0]"]),
        (("encoder/1/*", "w*"), ["encoder/1/kernel", "w[0]"]),
        (["*/bias", lambda path, leaf: path < "e"], ["decoder/0/kernel", "encoder/0/bias"]),
        (lambda path, leaf: leaf.ndim == 1, []),
        ((), []),
    ],
)
def test_where(where, chosen):
    assert list(choose(TREE, where)) == chosen


@pytest.mark.parametrize(
    "where", ["layers/0/kernel", "layers/0/kernel/value", "*/kernel", "*kernel*", "*/value"]
)
def test_globs_may_leave_out_the_value_that_ends_nnx_paths(where):
    tree = leaves("layers/0/kernel/value", "layers/0/scale")
    assert list(choose(tree, where)) == ["layers/0/kernel/value"]


def test_a_predicate_gets_each_leaf():
    tree = {"long": jnp.ones((3, 5)), "short": jnp.ones((3, 2))}
    assert list(choose(tree, lambda path, leaf: leaf.shape[1] > 2)) == ["long"]


def test_empty_leaves_are_not_chosen():
    tree = {"a/kernel": jnp.ones((0, 2)), "b/kernel": jnp.ones((2, 2))}
    assert list(choose(tree, "*")) == ["b/kernel"]
    assert choose(tree, "a/*") == {}


def test_shapes_alone_suffice():
    assert list(choose(jax.eval_shape(lambda: TREE), "w*")) == ["w[0]"]


def test_a_glob_that_matches_nothing_is_named_with_near_paths():
    with pytest.raises(ValueError, match="no leaf") as error:
        choose(leaves("encoder/0/kernel", "norm/scale"), ("*", "encodr/0/kernel"))
    assert str(error.value) == (
        "no leaf matches 'encodr/0/kernel' (did you mean 'encoder/0/kernel'?): "
        "the paths are encoder/0/kernel, norm/scale"
    )


def test_of_many_paths_the_first_are_listed():
    tree = leaves(*(f"layer_{i:02d}/kernel" for i in range(13)))
    with pytest.raises(ValueError, match=r"layer_09/kernel and 3 more$"):
        choose(tree, "bias")


def test_a_glob_on_an_empty_tree_is_no_mistake():
    assert choose({}, "encoder/*") == {}


# Complex weights in two leaves.


def test_both_parts_are_chosen_by_name():
    tree = leaves("a/kernel", "a/real", "a/imag", "b/real/value", "b/imag/value", "imag/bias")
    chosen = ["a/imag", "a/real", "b/imag/value", "b/real/value"]
    assert list(choose(tree, pruning.complex_pairs)) == chosen
    both = choose(tree, (pruning.kernels, pruning.complex_pairs))
    assert list(both) == sorted([*chosen, "a/kernel"])


@pytest.mark.parametrize(
    ("where", "half"),
    [
        ("a/real", "a/real"),
        ("a/imag", "a/imag"),
        ("b/real/value", "b/real/value"),
        ("*/imag", "a/imag, b/imag/value"),
    ],
)
def test_half_of_a_complex_weight_is_refused(where, half):
    tree = leaves("a/real", "a/imag", "b/real/value", "b/imag/value")
    with pytest.raises(ValueError, match="pruned whole") as error:
        choose(tree, where)
    assert str(error.value) == (
        f"a complex weight is pruned whole, but only one of its parts is chosen: {half}"
    )


def test_all_halves_are_listed():
    with pytest.raises(ValueError, match=r"chosen: f/imag, g/imag$"):
        choose(leaves("f/real", "f/imag", "g/real", "g/imag"), "*imag")


@pytest.mark.parametrize(
    "tree",
    [
        leaves("a/real", "b/imag"),
        leaves("real/a", "imag/a"),
        leaves("a/real", "a/imag/value"),
        {"real": jnp.ones((2, 2)), "imag": jnp.ones((2, 3))},
    ],
)
def test_leaves_that_are_no_pair_are_chosen_one_by_one(tree):
    (first, *_), path = trees.paths(tree), trees.paths(tree)[-1]
    assert list(choose(tree, path)) == [path]
    assert list(choose(tree, first)) == [first]


def test_a_pair_at_the_top_of_the_tree():
    tree = leaves("real", "imag")
    assert list(choose(tree, "*")) == ["imag", "real"]
    with pytest.raises(ValueError, match=r"only one of its parts is chosen: real$"):
        choose(tree, "real")
