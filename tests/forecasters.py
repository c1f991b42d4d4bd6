"""Models and batches for tests that need no initialised weights: nothing is compiled for them."""

import functools

import numpy as np

from tsjax import models, trees
from tsjax.models.variables import abstract


@functools.cache
def shapes(config):
    """The model, with ``jax.ShapeDtypeStruct`` leaves."""
    return models.Forecaster(models.forward(config), *abstract(config))


@functools.cache
def drawn(config, scale=0.3):
    """The model with numpy leaves: normal numbers, of which variances are positive.

    Indices are the first ones: the lowest frequencies of a FEDformer, keys of an Informer that all
    of its memories have.
    """
    rng = np.random.default_rng(0)

    def leaf(path, struct):
        if np.issubdtype(struct.dtype, np.integer):
            return np.indices(struct.shape, struct.dtype)[-1] if struct.shape else np.int32(0)
        values = scale * rng.normal(size=struct.shape)
        return np.asarray(abs(values) + 0.1 if path.endswith("/var") else values, struct.dtype)

    return trees.map_with_path(leaf, shapes(config))


@functools.cache
def batch(config, size=2):
    """Four inputs, normal numbers."""
    rng = np.random.default_rng(1)
    return tuple(
        rng.normal(size=struct.shape).astype(struct.dtype)
        for struct in models.input_shapes(config, size)
    )
