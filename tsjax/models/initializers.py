"""Initialisers equal in distribution to PyTorch's defaults, which the published models rely on."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

Init = Callable[..., Array]


def torch_uniform(fan_in: int) -> Init:
    """``U(-1/sqrt(fan_in), 1/sqrt(fan_in))``: torch's ``Linear`` and ``Conv``, weight and bias."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def kaiming_normal(fan_in: int) -> Init:
    """``N(0, 2 / fan_in)`` (He et al., arXiv 1502.01852, eq. 10), for the token embedding.

    The reference asks for a leaky slope but leaves its value at 0, so the gain is ``sqrt(2)``.
    """
    std = math.sqrt(2 / fan_in)

    # One program, as a draw of uniform numbers is: see ``tsjax.models.variables``.
    @functools.partial(jax.jit, static_argnums=(1, 2))
    def init(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return std * jax.random.normal(key, shape, dtype)

    return init
