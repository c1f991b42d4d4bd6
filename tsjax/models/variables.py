"""Linen's side of a model: its variables are made here, and its module is called here.

Everywhere else a model's variables are params and state; here they are linen's collections.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core

from tsjax.jaxprs import bind, needed
from tsjax.models.base import ForecastConfig
from tsjax.models.layers import shapes_only
from tsjax.models.registry import input_shapes, module
from tsjax.trees import PyTree

RNG_STREAMS = ("dropout", "keys")
"""What train mode draws: zeroed elements, and the keys that Informer samples."""


def fresh(config: ForecastConfig, key: Array) -> tuple[PyTree, PyTree]:
    """New variables of a model.

    Args:
      config: its configuration.
      key: one random key; the same key gives the same variables.

    Returns:
      ``(params, state)``: plain dicts; ``state`` holds the other collections, such as ``buffers``.
    """
    # Within a trace everything is staged, also what depends on none of its arguments.
    staged = any(isinstance(x, jax.core.Tracer) for x in (key, jnp.zeros(())))
    run = _variables if staged else _draw_by_draw
    return _parted(run(config, key))


def abstract(config: ForecastConfig) -> tuple[PyTree, PyTree]:
    """The shapes of a model's params and state."""
    token = shapes_only.set(True)
    try:
        return _parted(jax.eval_shape(lambda: _variables(config, jax.random.key(0))))
    finally:
        shapes_only.reset(token)


def call(
    config: ForecastConfig,
    params: PyTree,
    state: PyTree,
    inputs: tuple[Array, ...],
    key: Array | None,
) -> tuple[Array, PyTree]:
    """The forecast of the model with exactly this configuration, and its new state.

    With a random ``key`` it runs in train mode, without one in evaluation mode.
    """
    model, variables = module(config), {"params": params, **state}
    if key is None:
        return model.apply(variables, *inputs, train=False), state
    rngs = dict(zip(RNG_STREAMS, jax.random.split(key, len(RNG_STREAMS)), strict=True))
    y, new = model.apply(variables, *inputs, train=True, rngs=rngs, mutable=list(state))
    return y, {**state, **new}


def _parted(variables: PyTree) -> tuple[PyTree, PyTree]:
    """Linen's collections as params and state."""
    state = dict(variables)
    params = state.pop("params")
    return params, state


def _variables(config: ForecastConfig, key: Array) -> PyTree:
    shapes = input_shapes(config, batch=1)
    return module(config).init(key, *(jnp.zeros(s.shape, s.dtype) for s in shapes))


_traced = jax.jit(_variables, static_argnums=0)


def _draw_by_draw(config: ForecastConfig, key: Array) -> PyTree:
    """The variables, where equal draws of numbers are compiled once and run for each leaf.

    As one program, the 286 draws of Crossformer take XLA twenty seconds to compile.
    """
    traced = _traced.trace(config, key)
    program = traced.jaxpr.jaxpr
    values = dict(zip(program.constvars, traced.jaxpr.consts, strict=True))
    values.update(zip(program.invars, [key], strict=True))

    def value(operand: Any) -> Any:
        return operand.val if isinstance(operand, core.Literal) else values[operand]

    # Beside the draws there is a forward pass, which tells linen the shapes and has no other use.
    live = needed(program, [True] * len(program.outvars))
    for eqn in program.eqns:
        if live.isdisjoint(eqn.outvars):
            continue
        operands = [value(operand) for operand in eqn.invars]
        drawn = eqn.primitive.name == "jit"
        run = _compiled(eqn.params["jaxpr"]) if drawn else functools.partial(bind, eqn)
        values.update(zip(eqn.outvars, run(*operands), strict=True))
    # Copied: a number that the program holds can be no buffer of its own, or that of two leaves.
    leaves = [jnp.array(value(var)) for var in program.outvars]
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), leaves)


@functools.lru_cache(maxsize=512)
def _compiled(program: core.ClosedJaxpr) -> Any:
    """A program within another one; what runs so seldom is compiled without optimisations."""
    return jax.jit(
        core.jaxpr_as_fun(program), compiler_options={"xla_backend_optimization_level": 0}
    )
