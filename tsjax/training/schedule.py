"""How to train: epochs, batches and the learning rate."""

import dataclasses
import functools
import math

import jax.numpy as jnp
import optax
from jax import Array


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How to train.

    Attributes:
      epochs: passes over the training windows, at most.
      batch_size: windows per step.
      learning_rate: Adam's rate in the first epochs.
      lr_decay: factor on the rate at each decay; 1 keeps the rate constant.
      full_rate_epochs: epochs before the first decay.
      decay_every: epochs from one decay to the next.
      lr_floor: the least rate, as a share of ``learning_rate``.
      patience: epochs without a better validation error before training stops.
      seed: fixes shuffling and dropout.
      drop_last: leave out each epoch's last incomplete batch (the order is new in each epoch).
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    lr_decay: float = 0.5
    full_rate_epochs: int = 1
    decay_every: int = 1
    lr_floor: float = 0.0
    patience: int = 3
    seed: int = 0
    drop_last: bool = True

    def __post_init__(self) -> None:
        found = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("epochs", "batch_size", "full_rate_epochs", "decay_every", "patience")
            if getattr(self, name) < 1
        ]
        if not 0 <= self.seed < 2**32:
            found.append(f"seed must be at least 0 and below 2**32, got {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            found.append(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.lr_decay <= 1:
            found.append(f"lr_decay must be in (0, 1], got {self.lr_decay}")
        if not 0 <= self.lr_floor <= 1:
            found.append(f"lr_floor must be in [0, 1], got {self.lr_floor}")
        if found:
            raise ValueError("; ".join(found))


def steps_per_epoch(config: FitConfig, windows: int) -> int:
    """Steps that one epoch on so many training windows takes."""
    batch_size = min(config.batch_size, windows)
    return windows // batch_size if config.drop_last else math.ceil(windows / batch_size)


def optimiser(config: FitConfig, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Adam, and its rate by the step.

    The same config and steps of an epoch give the same objects: a jitted step is compiled anew for
    a new optimiser.
    """
    c = config
    return _optimiser(
        c.learning_rate, c.lr_decay, c.full_rate_epochs, c.decay_every, c.lr_floor, steps
    )


@functools.lru_cache
def _optimiser(
    learning_rate: float,
    decay: float,
    full_rate_epochs: int,
    decay_every: int,
    floor: float,
    steps: int,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    def rate(step: Array) -> Array:
        # The first epoch after those at the full rate has decayed once.
        decayed = jnp.maximum(step // steps - (full_rate_epochs - 1), 0)
        decays = (decayed + (decay_every - 1)) // decay_every
        share = jnp.power(decay, decays.astype(jnp.float32))
        return learning_rate * jnp.maximum(share, floor)

    return optax.adam(rate), rate
