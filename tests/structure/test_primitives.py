"""The records of primitives: what they say, and what holds where they do not."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive as JaxPrimitive
from random_layers import mystery

from tsjax import jaxprs, structure
from tsjax.structure.primitives import PRIMITIVES, Primitive
from tsjax.structure.primitives.record import by_place, reads_nothing
from tsjax.structure.units import any_along

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
PARAMS = {
    "up": jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)), jnp.float32),
    "down": jnp.asarray(np.random.default_rng(2).normal(size=(6, 3)), jnp.float32),
}


@pytest.fixture(autouse=True)
def _as_they_were():
    before = dict(PRIMITIVES)
    yield
    PRIMITIVES.clear()
    PRIMITIVES.update(before)


def test_every_name_is_one_of_a_primitive():
    known = {p.name for p in gc.get_objects() if issubclass(type(p), JaxPrimitive)}
    assert set(PRIMITIVES) <= known


def test_what_moves_elements_is_known():
    for name in (*jaxprs.HANDED_ON, *jaxprs.REARRANGED, *jaxprs.CASTS):
        assert PRIMITIVES[name].zeros, name


def test_programs_within_equations_have_no_records():
    """They are followed, unless a user's rule takes their place."""
    assert not set(jaxprs.BODIES) & set(PRIMITIVES)


total = JaxPrimitive("test_total")
total.def_abstract_eval(lambda x: x.update(shape=x.shape[:-1]))


def test_units_are_used_where_a_record_does_not_say_otherwise():
    """A record that has a rule for zeros and says nothing of the axis that goes."""

    def fn(params, x):
        return total.bind(jnp.tanh(x @ params["up"]))

    params = {"up": PARAMS["up"]}
    mask = {"up": np.ones((4, 6), bool)}
    mask["up"][:, 1] = False
    without_last = by_place(lambda eqn, ins: [any_along(ins[0], [1])])
    kept = {}
    for reads in (None, reads_nothing):
        PRIMITIVES["test_total"] = Primitive(lambda eqn: [eqn.ins[0][:-1]], without_last, reads)
        groups = structure.find_groups(fn, params, X)
        assert groups["up:1"].frozen is None
        _, plan = structure.compact(fn, params, mask, X, groups=groups)
        kept[reads] = plan.sizes["up:1"]
    assert kept == {None: 6, reads_nothing: 1}


def mlp(params, x):
    return jax.jit(jnp.tanh)(x @ params["up"]) @ params["down"]


def test_a_rule_for_an_equation_with_a_program_takes_its_place():
    assert structure.find_groups(mlp, PARAMS, X)["up:1"].frozen is None
    structure.rule("jit")(lambda eqn: [tuple(eqn.fixed(a.size, "said so") for a in eqn.ins[0])])
    assert structure.find_groups(mlp, PARAMS, X)["down:0"].frozen.detail == "said so"


def test_a_rule_says_nothing_of_zeros():
    @structure.rule("test_mystery", "tanh")
    def same(eqn):
        return [eqn.ins[0]]

    assert PRIMITIVES["test_mystery"] == PRIMITIVES["tanh"] == Primitive(same)
    mask = {"up": np.ones((4, 6), bool), "down": np.ones((6, 3), bool)}
    mask["up"][:, 1] = mask["down"][4] = False

    def fn(params, x):
        return mystery.bind(x @ params["up"]) @ params["down"]

    for each in (fn, mlp):
        groups = structure.find_groups(each, PARAMS, X)
        assert groups["up:1"].frozen is None
        assert structure.compact(each, PARAMS, mask, X, groups=groups)[1].got == 1
