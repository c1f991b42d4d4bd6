"""Dropout at 16 random bits an element against linen's at 32, timed in turns.

    python benchmarks/dropout.py

The array is one batch of attention weights of the small Transformer's decoder, [32, 4, 144, 144].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tsjax import costs
from tsjax.models import Dropout

SHAPE = (32, 4, 144, 144)


def main() -> None:
    """Prints the median of each and their ratio."""
    ours, linen = Dropout(0.05), nn.Dropout(0.05, deterministic=False)

    def run_ours(x: jax.Array, key: jax.Array) -> jax.Array:
        return ours.apply({}, x, train=True, rngs={"dropout": key})

    def run_linen(x: jax.Array, key: jax.Array) -> jax.Array:
        return linen.apply({}, x, rngs={"dropout": key})

    x = jnp.ones(SHAPE)
    functions = {"tsjax": (run_ours, x), "linen": (run_linen, x)}
    timings = costs.measure_in_turns(functions, jax.random.key(0))
    for name, timing in timings.items():
        print(f"{name:<6} median {1e3 * timing.median:6.2f} ms, IQR {1e3 * timing.iqr:.2f} ms")
    print(f"ratio  {timings['tsjax'].median / timings['linen'].median:.2f}")
    described = costs.device_description()
    print(", ".join(described[k] for k in ("cpu_model", "cpu_count", "device_kind", "jax")))


if __name__ == "__main__":
    main()
