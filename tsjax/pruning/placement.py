"""Places arrays on a mesh with explicit axes, where an array's sharding is part of its type.

On such a mesh, the operands of an elementwise operation must be sharded alike, and an operation
across a sharded axis must be told where its result goes. On all other meshes the compiler decides
this, and both functions return the array that they are given.
"""

from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def replicated(x: Array) -> Array:
    """The array, copied as a whole to every device."""
    sharding = _explicit(x)
    if sharding is None:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*[None] * x.ndim)))


def placed_like(x: Array, like: Any) -> Array:
    """The array, sharded like another one of its shape."""
    sharding = _explicit(like)
    if sharding is None or jax.typeof(x).sharding == sharding:
        return x
    if isinstance(x, jax.core.Tracer) or isinstance(like, jax.core.Tracer):
        # A jitted function forgets arguments of which only the shape is read, and then has no mesh.
        x, _ = jax.lax.optimization_barrier((x, like))
        return jax.sharding.reshard(x, sharding)
    # What is not on the mesh yet cannot be resharded.
    return jax.device_put(x, like.sharding)


def _explicit(x: Any) -> Any:
    """The array's sharding where it is part of the type."""
    if not isinstance(x, jax.Array):
        return None
    sharding = jax.typeof(x).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None
