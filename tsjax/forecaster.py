"""A forecaster as one value: the function that computes it, its weights, its state and its mask.

Every forecaster, whether dense, masked, cut, loaded or fine-tuned, is a :class:`Forecaster`. The
models make one, and training, evaluation, slicing, files, the study and the benchmark take it and
give it back. What it computes is a pure function of its params, so a function written by hand makes
a forecaster too::

    def forward(params, state, x_enc, x_mark_enc, x_dec, x_mark_dec, *, key=None):
        return x_enc @ params["kernel"], state

    forecaster = Forecaster(forward, {"kernel": kernel})
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tsjax import trees
from tsjax.trees import PyTree

Forward = Callable[..., tuple[Array, PyTree]]
"""``forward(params, state, *inputs, key=None)`` returns ``(forecast, new state)``. With a random
``key`` it runs in train mode, without one in evaluation mode."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "state", "mask"],
    meta_fields=["forward"],
)
@dataclasses.dataclass(frozen=True)
class Forecaster:
    """A forecaster: a pytree whose leaves are arrays, and whose function is static.

    ``dataclasses.replace`` gives one with other leaves. Functions over pytrees work on it as on any
    other: ``jax.tree.map``, ``jax.eval_shape``, :func:`tsjax.structure.slice`.

    Attributes:
      forward: the function that computes it, see :data:`Forward`. That of a model,
        ``models.forward(config)``, runs at the sizes that the leaves have.
      params: the weights, which training changes.
      state: the other variables, which training does not move by gradients: positional tables,
        running statistics, chosen frequencies.
      mask: which weights are kept, a tree of bool arrays with the structure and shapes of
        ``params``; None where no weight is pruned.
    """

    forward: Forward
    params: PyTree
    state: PyTree = dataclasses.field(default_factory=dict)
    mask: PyTree | None = None

    @property
    def config(self) -> Any:
        """The model's configuration, with the sizes that the leaves have.

        Raises:
          AttributeError: if ``forward`` is not the function of a model.
        """
        sizes_of: Any = getattr(self.forward, "config_of", None)
        if sizes_of is None:
            raise AttributeError(
                f"{self.forward!r} is no model's function: it has no configuration"
            )
        return sizes_of(self.params, self.state)

    def kept(self) -> "Forecaster":
        """Which elements of each leaf are kept: a tree like this one, with bool leaves.

        All of them are, but for the weights that the mask prunes. :func:`tsjax.structure.compact`
        takes it as the mask of the whole forecaster.
        """
        whole = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), self)
        if self.mask is None:
            return whole
        return dataclasses.replace(whole, params=self.mask, mask=self.mask)


def forecast(forecaster: Forecaster, *inputs: Array, key: Array | None = None) -> Array:
    """The forecast, as a function of one tree and the inputs.

    This is the form that :func:`tsjax.structure.find_groups` and :func:`tsjax.costs.count` take:
    ``find_groups(forecast, forecaster, *inputs)``. The mask is applied once, in front.

    Args:
      forecaster: what forecasts.
      *inputs: ``x_enc, x_mark_enc, x_dec, x_mark_dec`` of a model.
      key: a random key for train mode; what that does to the state is dropped.

    Returns:
      The forecast [B, pred_len, C].

    Raises:
      ValueError: if the mask is no mask of the params.
    """
    params, mask = forecaster.params, forecaster.mask
    if mask is not None:
        trees.check_mask(mask, params)
        params = jax.tree.map(lambda w, keep: jnp.where(keep, w, jnp.zeros_like(w)), params, mask)
    return forecaster.forward(params, forecaster.state, *inputs, key=key)[0]
