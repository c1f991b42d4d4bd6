"""What a case of the zoo claims, and how its claims are written."""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Case:
    """A function to analyse and what must be found. An axis is ``path:axis`` or ``path:axis#size``.

    The second form names the group of that size on an axis that several groups share.
    """

    name: str
    build: Callable  # () -> (fn, params, inputs)
    # Each inner tuple: axes of one group, not frozen. Different tuples: different groups.
    free: tuple[tuple[str, ...], ...] = ()
    # Axes of frozen groups, and a part of the reason ("": any reason), in lower case.
    frozen: dict[str, str] = field(default_factory=dict)
    # Axes of one group each, frozen or not, maybe with others: where a stronger claim is debatable.
    together: tuple[tuple[str, ...], ...] = ()
    # Axes of groups that can be cut with the result that zeroing all their members gives.
    exact: tuple[str, ...] = ()
    # Which position of a shared axis has which unit: see `units`.
    layout: dict[str, str] = field(default_factory=dict)
    # Whether each tuple of `free` lists all the members of its group.
    complete: bool = True


REGISTRY: list[Case] = []


def case(**claims) -> Callable:
    """Registers the decorated ``build`` under its own name."""

    def register(build: Callable) -> Callable:
        @functools.wraps(build)
        def allowed():
            # The suite forbids rank promotion, users' models are full of it.
            with jax.numpy_rank_promotion("allow"):
                fn, params, inputs = build()

            @functools.wraps(fn)
            def run(*args):
                with jax.numpy_rank_promotion("allow"):
                    return fn(*args)

            return run, params, inputs

        REGISTRY.append(Case(build.__name__, allowed, **claims))
        return allowed

    return register


def normals(seed: int = 0) -> Callable[..., jax.Array]:
    """A drawer of random leaves: ``w(3, 5)``."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        fan_in = shape[-2] if len(shape) > 1 else 4
        return jnp.asarray(rng.normal(size=shape) / math.sqrt(fan_in), jnp.float32)

    return draw


def complexes(w: Callable[..., jax.Array], *shape: int) -> jax.Array:
    return w(*shape) + 1j * w(*shape)


def filled(shapes):
    """Numbers in place of shapes; vectors are positive, as variances must be."""
    rng = np.random.default_rng(1)

    def fill(leaf):
        draw = rng.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]) or 1)
        if leaf.ndim < 2:
            draw = 0.5 + rng.random(leaf.shape)
        return jnp.asarray(draw, leaf.dtype)

    return jax.tree.map(fill, shapes)


def initialised(init, *args):
    """Params of the shapes that ``init(*args)`` makes, which to compute would take long."""
    return filled(jax.eval_shape(lambda: init(*args)))


def parted(make):
    """The arrays of an Equinox module, and the rest."""
    module = eqx.filter_eval_shape(make)
    shapes, static = eqx.partition(module, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    return filled(shapes), static


def leaf_axis(text: str) -> tuple[str, int, int | None]:
    """``path:axis#size`` in its parts."""
    path, axis, size = re.fullmatch(r"(.+):(\d+)(?:#(\d+))?", text).groups()
    return path, int(axis), None if size is None else int(size)


def units(layout: str) -> np.ndarray:
    """The unit at each position of an axis, -1 for none.

    ``3*[4]*5`` is a row-major product, its middle factor the group. ``[4]+7`` is a concatenation:
    the group, then 7 positions that are not its.
    """
    parts = []
    for part in layout.split("+"):
        factors = part.split("*")
        sizes = [int(factor.strip("[]")) for factor in factors]
        ours = [k for k, factor in enumerate(factors) if factor.startswith("[")]
        parts.append(np.indices(sizes)[ours[0]].ravel() if ours else np.full(math.prod(sizes), -1))
    return np.concatenate(parts)
