"""Dependency groups: which there are, what freezes the others, and where the message points."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir

from tsjax import structure
from tsjax.structure.primitives import PRIMITIVES

HERE = Path(__file__).name


def struct(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


X = struct(2, 4)
MLP = {"up": struct(4, 6), "bias": struct(6), "down": struct(6, 3)}


def mlp(params, x):
    hidden = jax.nn.relu(x @ params["up"] + params["bias"][None])
    return hidden @ params["down"]


def members(group):
    return [str(member) for member in group.members]


def free(groups):
    return {group.name: members(group) for group in groups.free}


def why(groups, name):
    return str(groups[name].frozen)


def line_of(fn, text):
    """``file:line`` of the line of a function that contains a text."""
    lines, start = inspect.getsourcelines(fn)
    (at,) = [i for i, line in enumerate(lines) if text in line]
    return f"{HERE}:{start + at}"


# What is found.


def test_an_mlp_has_one_free_group():
    groups = structure.find_groups(mlp, MLP, X)
    assert [group.name for group in groups] == ["up:1", "down:1", "up:0"]
    hidden = groups["up:1"]
    assert members(hidden) == ["bias:0", "down:0", "up:1"]
    assert hidden.size == 6
    # The bias and both matrices: no element is without a hidden unit.
    assert hidden.weights == 6 + 6 * 3 + 4 * 6
    assert groups.free == (hidden,)
    assert why(groups, "up:0").startswith("input 0, axis 1: inputs stay as they are; ")
    assert why(groups, "down:1") == "output 0, axis 1"


def test_groups_are_a_sequence_with_names():
    groups = structure.find_groups(mlp, MLP, X)
    assert len(groups) == 3
    assert groups[0] is groups["up:1"]
    assert list(groups[1:]) == [groups["down:1"], groups["up:0"]]
    assert groups.on("down", 0) == (groups["up:1"],)
    assert groups.on("down", 7) == groups.on("nowhere", 0) == ()
    with pytest.raises(KeyError, match=r"no group 'upp:1' \(did you mean 'up:1' or 'up:0'\?\)"):
        groups["upp:1"]


def test_the_table_lists_every_group():
    groups = structure.find_groups(mlp, MLP, X)
    assert str(groups).splitlines() == [
        "group   size  weights  members  frozen by",
        "up:1       6       48        3",
        "down:1     3       18        1  output 0, axis 1",
        "up:0       4       24        1  input 0, axis 1",
    ]


def test_sizes_of_groups_are_sizes_of_leaves():
    groups = structure.find_groups(mlp, MLP, X)
    assert groups.shapes({}) == {"up": (4, 6), "bias": (6,), "down": (6, 3)}
    assert groups.shapes({"up:1": 2}) == {"up": (4, 2), "bias": (2,), "down": (2, 3)}
    assert groups.resized({"up:1": 2})["down"] == struct(2, 3)


def attention(params, x):
    q, k, v = (jnp.einsum("bd,dhe->bhe", x, params[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bhe,che->hbc", q, k) / 8)
    mixed = jnp.einsum("hbc,che->bhe", weights, v)
    return mixed.reshape(len(x), -1) @ params["out"]


def test_heads_and_widths_of_attention():
    params = {name: struct(4, 2, 3) for name in "qk"} | {"v": struct(4, 2, 5)}
    groups = structure.find_groups(attention, {**params, "out": struct(10, 4)}, X)
    assert free(groups) == {
        "k:1": ["k:1", "out:0", "q:1", "v:1"],
        "k:2": ["k:2", "q:2"],
        "v:2": ["out:0", "v:2"],
    }
    assert {g.name for g in groups.on("out", 0)} == {"k:1", "v:2"}
    heads, values = (
        next(m.units for m in groups[name].members if m.path == "out") for name in ("k:1", "v:2")
    )
    np.testing.assert_array_equal(heads, [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(values, [0, 1, 2, 3, 4] * 2)
    assert groups["k:1"].weights == 24 + 24 + 40 + 40
    assert groups["v:2"].weights == 40 + 40


def test_a_member_is_path_axis_and_units():
    params = {"up": struct(4, 6), "down": struct(6, 3)}

    def run(params, x):
        return x @ params["up"] @ params["down"]

    first, second = (structure.find_groups(run, params, X) for _ in range(2))
    path, axis, units = first["up:1"].members[0]
    assert (path, axis, units.tolist()) == ("down", 0, list(range(6)))
    assert list(first) == list(second)
    assert len({*first, *second}) == len(first)
    assert first[0] != first[1]


def fused(params, x):
    q, k, v = jnp.split(x @ params["qkv"], 3, axis=-1)
    weights = jax.nn.softmax(q @ k.T)
    return weights @ v @ params["out"]


def test_parts_of_a_fused_projection_are_tied():
    """``jnp.split(x, 3)`` makes thirds: a cut of queries and keys only would shift them."""
    groups = structure.find_groups(fused, {"qkv": struct(4, 18), "out": struct(6, 4)}, X)
    assert free(groups) == {"qkv:1": ["out:0", "qkv:1"]}
    units = groups["qkv:1"].members[1].units
    np.testing.assert_array_equal(units, list(range(6)) * 3)
    assert groups["qkv:1"].weights == 4 * 18 + 6 * 4


def test_parts_that_the_params_measure_are_free():
    def run(params, x):
        at = params["values"].shape[0]
        h = x @ params["both"]
        return h[:, :at] @ params["values"] + jnp.tanh(h[:, at:]) @ params["others"]

    params = {"both": struct(4, 11), "values": struct(5, 3), "others": struct(6, 3)}
    groups = structure.find_groups(run, params, X)
    assert free(groups) == {"others:0": ["both:1", "others:0"], "values:0": ["both:1", "values:0"]}
    first, second = (groups[name].members[0].units for name in ("values:0", "others:0"))
    np.testing.assert_array_equal(first, [0, 1, 2, 3, 4] + [-1] * 6)
    np.testing.assert_array_equal(second, [-1] * 5 + [0, 1, 2, 3, 4, 5])


def test_an_axis_with_several_groups_numbers_their_names():
    def run(params):
        a, b = params["a"][:3], params["a"][3:]
        return jnp.sum(a) * jnp.max(b)

    groups = structure.find_groups(run, {"a": struct(7)}, verify=False)
    assert [(g.name, g.size) for g in groups] == [("a:0", 3), ("a:0#2", 4)]
    # Each has its own part of the leaf.
    assert [g.weights for g in groups] == [3, 4]


def test_an_outer_product_with_itself_is_a_double_member():
    def run(params, x):
        h = x @ params["w"]
        pairs = (h[:, :, None] * h[:, None, :]).reshape(len(h), -1)
        return pairs @ params["out"]

    groups = structure.find_groups(run, {"w": struct(4, 3), "out": struct(9, 2)}, X)
    assert free(groups) == {"w:1": ["out:0", "out:0", "w:1"]}
    first, second, _ = groups["w:1"].members
    np.testing.assert_array_equal(first.units, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(second.units, [0, 1, 2] * 3)
    # An element of both members counts once.
    assert groups["w:1"].weights == 9 * 2 + 4 * 3


def test_axes_of_one_place_have_no_group():
    params = {"up": struct(4, 1), "down": struct(1, 3)}
    groups = structure.find_groups(lambda p, x: x @ p["up"] @ p["down"], params, X)
    assert {m for g in groups for m in members(g)} == {"up:0", "down:1"}


# What freezes, and what is said of it.

double = Primitive("test_double")
double.def_abstract_eval(lambda aval: aval)
double.def_impl(lambda x: 2 * x)
mlir.register_lowering(double, mlir.lower_fun(lambda x: 2 * x, multiple_results=False))


def with_double(params, x):
    hidden = double.bind(x @ params["up"])
    return hidden @ params["down"]


WIDE = {"up": struct(4, 6), "down": struct(6, 3)}


def test_an_unknown_primitive_freezes_and_is_named_with_its_line():
    groups = structure.find_groups(with_double, WIDE, X)
    reason = groups["down:0"].frozen
    assert members(groups["down:0"]) == ["down:0"]
    assert reason.primitive == groups["up:1"].frozen.primitive == "test_double"
    line = line_of(with_double, "double.bind")
    assert re.search(rf"{re.escape(line)} \(with_double\)$", reason.line)
    assert str(groups["up:1"].frozen) == (
        "test_double, operand 0, axis 1: nothing is known of this primitive, see structure.rule, "
        f"at {reason.line}"
    )


def test_a_registered_rule_makes_it_free():
    before = dict(PRIMITIVES)
    try:

        @structure.rule("test_double")
        def keeps(eqn):
            return [eqn.ins[0]]

        groups = structure.find_groups(with_double, WIDE, X)
        assert free(groups) == {"up:1": ["down:0", "up:1"]}
        params = {"up": jnp.ones((4, 6)), "down": jnp.ones((6, 3))}
        plan = structure.plan(groups, params, keep={"up:1": 2})
        small = structure.slice(params, plan)
        # 2 units, each twice the sum of 4 ones.
        np.testing.assert_array_equal(with_double(small, jnp.ones((1, 4))), [[16] * 3])
    finally:
        PRIMITIVES.clear()
        PRIMITIVES.update(before)
    assert structure.find_groups(with_double, WIDE, X).free == ()


def test_nothing_is_executed_and_callbacks_freeze():
    calls = []

    def on_host(x):
        calls.append(1)
        return np.asarray(x)

    def run(params, x):
        h = x @ params["up"]
        h = jax.pure_callback(on_host, jax.ShapeDtypeStruct(h.shape, h.dtype), h)
        return h @ params["down"]

    groups = structure.find_groups(run, WIDE, X)
    assert not calls
    assert groups.free == ()
    line = line_of(run, "pure_callback")
    for name in ("up:1", "down:0"):
        assert groups[name].frozen.primitive == "pure_callback"
        assert line in why(groups, name)
    x = jnp.ones((2, 4))
    run(jax.tree.map(lambda s: jnp.ones(s.shape), WIDE), x)
    assert calls


def through(fn):
    """A function of ``up [4, 6]`` and ``down`` with something between them."""

    def run(params, x):
        return fn(x @ params["up"]) @ params["down"]

    return run


TABLE = np.arange(6.0, dtype=np.float32)
FREEZING = {
    "constant": (lambda h: h + TABLE[None], "constant, axis 1: an array of shape [1, 6]"),
    "iota": (
        lambda h: h * jax.lax.broadcasted_iota(h.dtype, h.shape, 1),
        "iota: its places are numbered",
    ),
    "top_k": (
        lambda h: jax.lax.top_k(h, 6)[0],
        "top_k, operand 0, axis 1: places are chosen along it",
    ),
    "sort": (lambda h: jnp.sort(h), "sort, operand 0, axis 1: it is sorted along the axis"),
    "argmax": (
        lambda h: h * jnp.argmax(h, 1)[:, None],
        "argmax, operand 0, axis 1: the result is a position along it",
    ),
    "cumsum": (
        lambda h: jnp.cumsum(h, 1),
        "cumsum, operand 0, axis 1: it runs along the axis",
    ),
    "pad": (lambda h: jnp.pad(h, ((0, 0), (1, 0)))[:, :6], "pad, operand 0, axis 1: it is padded"),
    "fft": (lambda h: jnp.fft.rfft(h).real[:, :1] * h, "fft, operand 0, axis 1: it is transformed"),
    "rev": (lambda h: h[:, ::-1], "rev, operand 0, axis 1: it is reversed"),
    "gather": (
        lambda h: h[:, np.array([2, 0, 1, 5, 4, 3])],
        "gather, operand 0, axis 1: it is looked up by position",
    ),
    "scan": (
        lambda h: jax.lax.scan(lambda carry, x: (carry + x, carry), jnp.zeros(2), h.T)[1].T,
        "scan, operand 1, axis 0: it is scanned over",
    ),
    "convolution": (
        lambda h: jax.lax.conv(h[:, None], jnp.ones((1, 1, 3)), (1,), "SAME")[:, 0],
        "conv_general_dilated, operand 0, axis 2: a convolution runs along it",
    ),
    "cholesky": (
        lambda h: h @ jnp.linalg.cholesky(h.T @ h),
        "cholesky, operand 0, axis 0: rows and columns of one matrix",
    ),
}


@pytest.mark.parametrize("name", FREEZING)
def test_axes_that_are_used_by_position_are_frozen(name):
    fn, text = FREEZING[name]
    groups = structure.find_groups(through(fn), WIDE, X)
    assert groups.free == ()
    (group,) = groups.on("up", 1)
    assert str(group.frozen).startswith(text)


def test_what_a_library_jits_is_at_the_line_that_calls_it():
    """The equations inside of such a function know nothing of its caller."""

    def run(params, x):
        h = x @ params["up"]
        return jnp.sort(h) @ params["down"]

    groups = structure.find_groups(run, WIDE, X)
    assert line_of(run, "jnp.sort(h)") in groups["up:1"].frozen.line


def test_uniform_constants_freeze_nothing():
    def ones(h):
        return h * jnp.ones(h.shape) + 2.0 + np.full((1, 6), 0.5, np.float32)[:, : h.shape[1]]

    groups = structure.find_groups(through(ones), WIDE, X)
    assert free(groups) == {"up:1": ["down:0", "up:1"]}


def test_a_uniform_constant_of_one_size_freezes_by_size():
    table = np.full((1, 6), 0.5, np.float32)
    groups = structure.find_groups(through(lambda h: h + table), WIDE, X)
    assert groups.free == ()
    assert "size" in why(groups, "up:1")


def test_a_head_count_in_the_code_freezes_heads():
    def run(params, x):
        h = (x @ params["up"]).reshape(len(x), 3, -1)
        return jax.nn.softmax(h).reshape(len(x), -1) @ params["down"]

    groups = structure.find_groups(run, WIDE, X)
    heads, widths = groups.on("up", 1)
    assert (heads.size, widths.size) == (3, 2)
    assert heads.frozen.primitive == "size"
    assert line_of(run, "reshape(len(x), 3, -1)") in heads.frozen.line
    assert widths.frozen is None
    np.testing.assert_array_equal(heads.members[0].units, [0, 0, 1, 1, 2, 2])
    unverified = structure.find_groups(run, WIDE, X, verify=False)
    assert [group.frozen for group in unverified.on("up", 1)] == [None, None]


def test_a_branch_on_a_size_freezes():
    def run(params, x):
        h = x @ params["up"]
        if params["up"].shape[1] % 2 == 0:
            h = jnp.tanh(h)
        return h @ params["down"]

    groups = structure.find_groups(run, WIDE, X)
    assert groups.free == ()
    assert "tanh" in why(groups, "up:1")


def test_an_error_for_other_sizes_is_the_reason():
    def run(params, x):
        if params["up"].shape[1] != 6:
            raise TypeError("six, please\nor else")
        return x @ params["up"] @ params["down"]

    groups = structure.find_groups(run, WIDE, X)
    (group,) = groups.on("up", 1)
    assert group.frozen.detail == "TypeError: six, please or else"
    assert line_of(run, "raise TypeError") in group.frozen.line


def test_sizes_that_only_the_code_ties_are_one_group():
    def run(params, x):
        assert params["a"].shape[1] == params["b"].shape[1]
        return (x @ params["a"]).sum() + (x @ params["b"]).max()

    groups = structure.find_groups(run, {"a": struct(4, 6), "b": struct(4, 6)}, X)
    assert free(groups) == {"a:1": ["a:1", "b:1"]}
    loose = structure.find_groups(run, {"a": struct(4, 6), "b": struct(4, 6)}, X, verify=False)
    assert free(loose) == {"a:1": ["a:1"], "b:1": ["b:1"]}


def test_one_size_that_is_twice_another_is_never_free_alone():
    def run(params, x):
        assert params["b"].shape[1] == 2 * params["a"].shape[1]
        return (x @ params["a"]).sum() + (x @ params["b"]).max()

    groups = structure.find_groups(run, {"a": struct(4, 3), "b": struct(4, 6)}, X)
    for group in groups.free:
        assert {"a:1", "b:1"} <= set(members(group))


# What may be passed.


def test_arrays_and_their_shapes_give_the_same_groups():
    arrays = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), (MLP, X))
    some = [structure.find_groups(mlp, *given) for given in ((MLP, X), arrays)]
    assert str(some[0]) == str(some[1])
    assert some[0].structure == jax.tree.structure(MLP)


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        jax.value_and_grad,
        lambda fn: jax.vmap(fn, in_axes=(None, 0)),
        lambda fn: jax.jit(jax.jit(fn)),
    ],
    ids=["jit", "checkpoint", "value_and_grad", "vmap", "twice jitted"],
)
def test_transformed_functions_have_the_same_free_group(wrap):
    def loss(params, x):
        return mlp(params, x.reshape(-1, 4)).sum()

    groups = structure.find_groups(wrap(loss), MLP, X)
    names = members(groups["up:1"])
    assert names == ["bias:0", "down:0", "up:1"]
    # The gradients are an output: of the shapes that the params have.
    assert (groups["up:1"].frozen is not None) == (wrap is jax.value_and_grad)


def test_any_outputs_will_do():
    def run(params, x):
        hidden = x @ params["up"]
        return {"y": hidden @ params["down"], "more": (None, [hidden.sum(), hidden])}

    groups = structure.find_groups(run, WIDE, X)
    assert why(groups, "up:1") == "output 1, axis 1"


def test_any_inputs_will_do():
    def run(params, batch, scale):
        return batch["x"][0] @ params["up"] @ params["down"] * scale

    groups = structure.find_groups(run, WIDE, {"x": [X]}, 2.0)
    assert list(free(groups)) == ["up:1"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "int32"])
def test_leaves_of_any_dtype_have_groups(dtype):
    params = {name: struct(*leaf.shape, dtype=dtype) for name, leaf in WIDE.items()}
    x = struct(2, 4, dtype=dtype)
    groups = structure.find_groups(lambda p, x: x @ p["up"] @ p["down"], params, x)
    assert free(groups) == {"up:1": ["down:0", "up:1"]}
    assert groups.resized({"up:1": 2})["up"] == struct(4, 2, dtype=dtype)


def test_scalar_leaves_and_unused_ones():
    def run(params, x):
        return x @ params["up"] @ params["down"] * params["scale"]

    params = {**WIDE, "scale": struct(), "unused": struct(5)}
    groups = structure.find_groups(run, params, X)
    assert free(groups) == {"up:1": ["down:0", "up:1"]}
    assert groups["unused:0"].frozen.primitive == "unread"
    assert groups.shapes({})["scale"] == ()


@pytest.mark.parametrize("params", [{}, (), None])
def test_no_params_have_no_groups(params):
    groups = structure.find_groups(lambda _, x: 2 * x, params, X)
    assert len(groups) == 0
    assert str(groups) == "group  size  weights  members  frozen by"


def test_leaves_that_are_no_arrays_are_refused():
    with pytest.raises(
        ValueError, match=r"these leaves are no arrays: act \(function\), n \(int\)"
    ):
        structure.find_groups(mlp, {"act": mlp, "n": 3}, X)


def test_equal_paths_are_refused():
    params = {"a/b": struct(2), "a": {"b": struct(2)}}
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        structure.find_groups(lambda p: p["a/b"] + p["a"]["b"], params)


def test_an_error_of_the_function_itself_is_raised():
    with pytest.raises(TypeError, match="dot_general"):
        structure.find_groups(mlp, MLP, struct(2, 5))
