"""What walking programs takes: one table of the primitives that call, one of those that move."""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend import core
from jax.extend.core import primitives

from tsjax import costs, flop_rules, jaxprs, pruning, structure
from tsjax.costs.folding import constant_flops
from tsjax.costs.walking import VIEWS

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
PARAMS = {
    "up": jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)), jnp.float32),
    "down": jnp.asarray(np.random.default_rng(2).normal(size=(6, 2)), jnp.float32),
}


# Programs within equations.


def body(x, w):
    return jnp.tanh(x @ w)


def custom_jvp(fn):
    made = jax.custom_jvp(fn)
    made.defjvp(lambda primals, tangents: (fn(*primals), tangents[0]))
    return made


def custom_vjp(fn):
    made = jax.custom_vjp(fn)
    made.defvjp(lambda *args: (fn(*args), args), lambda args, _: tuple(map(jnp.zeros_like, args)))
    return made


def with_vmap_rule(fn):
    made = custom_vmap(fn)
    made.def_vmap(lambda size, _, *args: (jax.vmap(fn)(*args), True))
    return made


def bound(primitive, fn):
    """A function that is the program of a primitive which no function of JAX's makes."""

    def call(*args):
        program = jax.make_jaxpr(fn)(*args)
        inner = program.jaxpr if primitive is primitives.call_p else program
        return primitive.bind(*args, **primitive.get_bind_params({"call_jaxpr": inner}))[0]

    return call


# {name of the primitive: makes a function that is its program}
CALLERS = {
    "jit": jax.jit,
    "remat2": jax.checkpoint,
    "composite": functools.partial(lax.composite, name="tests.body"),
    "call": functools.partial(bound, primitives.call_p),
    "closed_call": functools.partial(bound, primitives.closed_call_p),
    "custom_jvp_call": custom_jvp,
    "custom_vjp_call": custom_vjp,
    "custom_vmap_call": with_vmap_rule,
}
calls = pytest.mark.parametrize("name", CALLERS)


def model(name, params, x):
    """A network whose hidden layer is in an equation of this name."""
    return CALLERS[name](body)(x, params["up"]) @ params["down"]


def plain(params, x):
    return body(x, params["up"]) @ params["down"]


def test_the_table_has_these_calls():
    assert set(jaxprs.CALLS) == set(CALLERS)


@calls
def test_each_call_holds_its_program(name):
    program = jax.make_jaxpr(CALLERS[name](body))(X, PARAMS["up"])
    (eqn,) = program.eqns
    assert eqn.primitive.name == name
    (inner,) = jaxprs.bodies(eqn)
    assert [each.primitive.name for each in inner.eqns] == ["dot_general", "tanh"]
    (want,) = core.jaxpr_as_fun(inner)(X, PARAMS["up"])
    np.testing.assert_array_equal(want, jaxprs.bind(eqn, X, PARAMS["up"])[0])


@calls
def test_costs_count_what_is_called(name):
    want, got = (costs.count(fn, PARAMS, X) for fn in (plain, functools.partial(model, name)))
    assert got.flops == want.flops == 2 * 5 * 3 * 6 + 5 * 6 + 2 * 5 * 6 * 2
    assert (got.by_leaf, got.uncounted) == (want.by_leaf, {})
    fn = functools.partial(model, name)
    # The hidden layer needs no argument, the output layer one of its two.
    closed_over = jax.make_jaxpr(lambda down: fn({"up": PARAMS["up"], "down": down}, X))
    assert constant_flops(closed_over(PARAMS["down"])) == 2 * 5 * 3 * 6 + 5 * 6
    # Within a call, too.
    inner = CALLERS[name](lambda x, w: x @ jnp.tanh(w))
    inside = jax.make_jaxpr(lambda x: inner(x, PARAMS["up"]))
    assert constant_flops(inside(X)) == 3 * 6


@calls
def test_structure_follows_what_is_called(name):
    fn = functools.partial(model, name)
    groups = structure.find_groups(fn, PARAMS, X)
    assert [(group.name, group.size) for group in groups.free] == [("up:1", 6)]
    half = {"up": PARAMS["up"][:, :3], "down": PARAMS["down"][:3]}
    assert groups.flops({"up:1": 3}) == costs.count(plain, half, X).flops
    scores = structure.activation(groups, X)(groups.free, PARAMS)["up:1"]
    inside = np.abs(X @ PARAMS["up"]).mean(0), np.abs(np.tanh(X @ PARAMS["up"])).mean(0)
    np.testing.assert_allclose(scores, inside[1] / inside[1].mean(), rtol=1e-5)
    mask = {"up": np.ones((3, 6), bool), "down": np.ones((6, 2), bool)}
    mask["up"][:, 1] = mask["down"][4] = False
    _, plan = structure.compact(fn, PARAMS, mask, X, groups=groups)
    assert plan.keep["up:1"].tolist() == [0, 2, 3, 5]


@calls
def test_weights_are_followed_into_what_is_called(name):
    fn = functools.partial(model, name)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5),
        pruning.input_squares(fn, PARAMS, X),
        pruning.input_squares(plain, PARAMS, X),
    )


def test_loops_and_branches_hold_their_programs():
    def fn(x):
        x = lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=2)[0]
        x = lax.while_loop(lambda c: c.sum() < 1, jnp.cos, x)
        return lax.cond(x[0, 0] > 0, jnp.tanh, jnp.exp, x)

    found = {e.primitive.name: jaxprs.bodies(e) for e in jax.make_jaxpr(fn)(X).eqns}
    last = {
        name: [inner.eqns[-1].primitive.name for inner in found[name]]
        for name in ("scan", "while", "cond")
    }
    assert last == {"scan": ["sin"], "while": ["lt", "cos"], "cond": ["exp", "tanh"]}
    assert found["gt"] == []


# Names.


def test_every_name_is_one_of_a_primitive():
    """A table that names a primitive which JAX has no more would lie about what it handles."""
    known = {p.name for p in gc.get_objects() if issubclass(type(p), core.Primitive)}
    named = {*jaxprs.BODIES, *jaxprs.HANDED_ON, *jaxprs.REARRANGED, *jaxprs.CASTS}
    assert named | {*flop_rules.RULES, *VIEWS} <= known


# What results are made of.

EXAMPLES = {
    "reshape": (lambda x: x.reshape(-1),),
    "transpose": (lambda x: x.T,),
    "broadcast_in_dim": (lambda x: x[:, None] + jnp.zeros((5, 2, 3)),),
    "squeeze": (lambda x: lax.squeeze(x[:1], (0,)),),
    "rev": (lambda x: lax.rev(x, (0,)),),
    "tile": (lambda x: jnp.tile(x, (2, 1)),),
    "slice": (lambda x: x[1:4:2],),
    "dynamic_slice": (lambda x, i: lax.dynamic_slice_in_dim(x, i, 2), 1),
    "split": (lambda x: lax.split(x, (2, 3)),),
    "unstack": (lambda x: jnp.unstack(x),),
    "concatenate": (lambda x, y: jnp.concatenate([x, y]), X + 10),
    "stack": (lambda x, y: jnp.stack([x, y]), X + 10),
    "pad": (lambda x, y: lax.pad(x, y, ((1, 1, 1), (-1, 0, 0))), 7.0),
    "select_n": (lambda x, y: lax.select_n(y > 10, x, y), X + 10),
    "copy": (jnp.copy,),
    "optimization_barrier": (lambda *xs: lax.optimization_barrier(xs), X + 10),
    "device_put": (lambda x: jax.device_put(x),),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_results_are_elements_of_their_sources(name):
    fn, *more = EXAMPLES[name]
    program = jax.make_jaxpr(fn)(X, *more)
    known = dict(zip(program.jaxpr.invars, (X, *more), strict=True))
    known.update(zip(program.jaxpr.constvars, program.consts, strict=True))
    seen = []
    for eqn in program.eqns:
        ins = [v.val if isinstance(v, core.Literal) else known[v] for v in eqn.invars]
        outs = jaxprs.bind(eqn, *ins)
        known.update(zip(eqn.outvars, outs, strict=True))
        if eqn.primitive.name == name:
            seen.append(eqn)
            for out, taken in zip(outs, jaxprs.sources(eqn), strict=True):
                elements = np.concatenate([np.ravel(ins[i]) for i in taken])
                assert set(np.ravel(out)) <= set(elements)
                # Of no operand too much: each has something to say.
                assert all(set(np.ravel(out)) & set(np.ravel(ins[i])) for i in taken)
    assert seen


def test_arithmetic_has_no_sources():
    (eqn,) = jax.make_jaxpr(jnp.sin)(X).eqns
    assert jaxprs.sources(eqn) == [()]
    assert not set(jaxprs.HANDED_ON) & set(jaxprs.REARRANGED)


def test_what_is_needed():
    def fn(x):
        unused = jnp.exp(x)
        return jnp.sin(x), jnp.cos(unused)

    jaxpr = jax.make_jaxpr(fn)(X).jaxpr

    def by_name(wanted):
        found = jaxprs.needed(jaxpr, wanted)
        return {e.primitive.name for e in jaxpr.eqns if e.outvars[0] in found}

    assert by_name([True, False]) == {"sin"}
    assert by_name([False, True]) == {"exp", "cos"}
    assert by_name([False, False]) == set()


def test_a_parameter_can_be_changed():
    (eqn,) = jax.make_jaxpr(lambda x: x.astype(jnp.float16))(X).eqns
    assert jaxprs.bind(eqn, X)[0].dtype == jnp.float16
    assert jaxprs.bind(eqn, X, new_dtype=jnp.bfloat16)[0].dtype == jnp.bfloat16
