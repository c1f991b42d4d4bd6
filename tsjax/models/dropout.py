"""Dropout whose random numbers do not take longer than the arithmetic around it.

On a CPU, those of ``jax.random.bits`` do: it runs there as a loop over many small kernels, and in
its usual mode throws half of its words away. The random numbers here are compiled into one kernel,
and half as many bits are drawn for an element.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


class Dropout(nn.Module):
    """Zeroes a random share of the elements, and scales up the others (arXiv 1207.0580).

    The rate is rounded to a multiple of 2**-16: each element takes 16 random bits, where linen's
    layer takes 32.

    Attributes:
      rate: share of elements to zero, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        threshold = round(self.rate * 2**16)
        if not train or threshold == 0:
            return x
        words = random_words(self.make_rng("dropout"), -(-x.size // 2))
        bits = lax.bitcast_convert_type(words, jnp.uint16).ravel()[: x.size].reshape(x.shape)
        return jnp.where(bits >= threshold, x / (1 - threshold / 2**16), jnp.zeros_like(x))


def dropout(rate: float, *, train: bool) -> Callable[[Array], Array]:
    """A dropout layer of the module that is being called, as a function of its input."""
    layer: Any = Dropout(rate)
    return lambda x: layer(x, train=train)


def random_words(key: Array, count: int) -> Array:
    """Random uint32 [count]: what ``jax.random.bits`` draws where it is not partitionable.

    Args:
      key: one key. One that is not of Threefry's two words, such as ``rbg``'s, draws them first.
      count: how many, less than 2**33.
    """
    words = jax.random.key_data(key)
    if words.shape != (2,):
        words = jax.random.bits(key, (2,), jnp.uint32)
    half = -(-count // 2)
    first = lax.iota(jnp.uint32, half)
    second = first + np.uint32(half)
    if count % 2:
        # Of an odd number of counters the last has no partner: it is paired with zero, as in JAX.
        second = jnp.where(second == count, np.uint32(0), second)
    return _threefry(words, first, second)[:count]


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@jax.jit
def _threefry(key: Array, x: Array, y: Array) -> Array:
    """Threefry-2x32 of 20 rounds (Salmon et al., SC 2011), unrolled: words [N] and [N] -> [2 N]."""
    parity = np.uint32(0x1BD11BDA)
    keys = (key[0], key[1], key[0] ^ key[1] ^ parity)
    x, y = x + keys[0], y + keys[1]
    for i in range(5):
        for distance in _ROTATIONS[i % 2]:
            x = x + y
            y = x ^ (y << np.uint32(distance) | y >> np.uint32(32 - distance))
        x, y = x + keys[(i + 1) % 3], y + (keys[(i + 2) % 3] + np.uint32(i + 1))
    return jnp.concatenate([x, y])
