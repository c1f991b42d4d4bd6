"""Importance scores: each function returns a tree like ``params`` of scores, larger is kept."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def magnitude(params: PyTree) -> PyTree:
    """Scores each weight by its absolute value, ``|w|`` (Han et al., arXiv 1506.02626).

    Args:
      params: tree of real or complex arrays; a complex weight is scored by its modulus.

    Returns:
      A tree like ``params`` of real scores >= 0.
    """
    return jax.tree.map(jnp.abs, params)
