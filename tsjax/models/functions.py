"""Forecasters made of a configuration, and the function that computes them."""

import dataclasses
import functools

from jax import Array

from tsjax.forecaster import Forecaster
from tsjax.models.base import ForecastConfig
from tsjax.models.sizes import config_from_params, tie_loose_axes
from tsjax.models.variables import call, fresh
from tsjax.trees import PyTree


def create(config: ForecastConfig, key: Array) -> Forecaster:
    """A model with fresh weights.

    Args:
      config: its configuration, as of :func:`tsjax.models.config`.
      key: a random key; the same key gives the same weights and the same state. Under
        ``jax.eval_shape`` it gives their shapes.

    Raises:
      ValueError: if the configuration is of no known model.
    """
    return Forecaster(forward(config), *fresh(config, key))


@dataclasses.dataclass(frozen=True)
class ModelForward:
    """The pure function of a model; :func:`forward` gives it.

    Attributes:
      config: the configuration of the model before anything was sliced.
    """

    config: ForecastConfig

    def __call__(
        self, params: PyTree, state: PyTree, *inputs: Array, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        """The forecast [B, pred_len, c_out], and the new state.

        Args:
          params: weights, of the model or of one that was sliced from it.
          state: the other variables.
          *inputs: ``x_enc, x_mark_enc, x_dec, x_mark_dec``, as :func:`tsjax.models.input_shapes`
            has them.
          key: a random key for train mode (dropout, running statistics); None for evaluation.

        Raises:
          ValueError: if no configuration of this model has such leaves.
        """
        config = self.config_of(params, state)
        tie_loose_axes(self.config, params, state)
        return call(config, params, state, inputs, key)

    def config_of(self, params: PyTree, state: PyTree) -> ForecastConfig:
        """The configuration with the sizes that the leaves have."""
        return config_from_params(self.config, params, state)


@functools.cache
def forward(config: ForecastConfig) -> ModelForward:
    """The model as a pure function of its params, at any size that slicing leaves of it.

    What is computed depends on the shapes of the leaves: the model is that of
    :func:`tsjax.models.config_from_params`. Where a configuration has one size for axes that the
    arithmetic does not tie, sums over them are added up, and the result is left unread: whoever
    follows the computation then sees that they are cut together, and nothing is computed for it.

    Returns:
      ``fn(params, state, x_enc, x_mark_enc, x_dec, x_mark_dec, *, key=None)``, which returns
      ``(forecast [B, pred_len, c_out], new state)``. Equal configurations give the same function,
      so that what is compiled for one serves the other.
    """
    return ModelForward(config)
