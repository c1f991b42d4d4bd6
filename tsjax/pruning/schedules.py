"""Which densities to visit, and when: the ladder, and functions of the training step.

A schedule is a function ``step -> density`` of a traced step. The ones here take their numbers as
keywords, so that :func:`schedule` can hold these as data. If a jitted step gets the schedule as an
argument, other numbers do not compile it again.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Step = int | Array
Schedule = Callable[[Step], Array]


def ladder(ratio: float = 0.8, steps: int = 10, floor: float | None = None) -> tuple[float, ...]:
    """The geometric ladder of densities ``1, ratio, ratio^2, ..., ratio^steps``.

    Args:
      ratio: the share kept from one rung to the next, in (0, 1).
      steps: the exponent of the last rung.
      floor: if given, the ladder goes on beyond ``steps`` as long as rungs are above ``floor``, and
        its last rung is ``floor`` itself. A floor above the last rung changes nothing.

    Returns:
      Densities from 1 downwards, strictly decreasing.

    Raises:
      ValueError: for a ratio or a floor outside (0, 1), or negative steps.
    """
    problems = []
    if not 0 < ratio < 1:
        problems.append(f"ratio must be in (0, 1), got {ratio}")
    if steps < 0:
        problems.append(f"steps must be >= 0, got {steps}")
    if floor is not None and not 0 < floor < 1:
        problems.append(f"floor must be in (0, 1), got {floor}")
    if problems:
        raise ValueError("; ".join(problems))
    rungs = [ratio**n for n in range(steps + 1)]
    if floor is not None:
        # A rung that is the floor up to rounding is the floor.
        while (rung := ratio ** len(rungs)) > floor and not math.isclose(rung, floor):
            rungs.append(rung)
        if rungs[-1] > floor and not math.isclose(rungs[-1], floor):
            rungs.append(floor)
    return tuple(rungs)


def schedule(fn: Callable[..., Array], **numbers: Any) -> Schedule:
    """A schedule with its numbers as data: ``schedule(cubic, density=0.1, begin=0, end=1000)``.

    The result is a pytree, and the numbers are its leaves. If it is an argument of a jitted step,
    other numbers do not compile the step again.

    Args:
      fn: ``fn(step, **numbers)``, e.g. :func:`one_shot`, :func:`geometric` or :func:`cubic`.
      **numbers: its other arguments.
    """
    return jax.tree_util.Partial(fn, **numbers)


def one_shot(step: Step, *, density: float, begin: Step = 0) -> Array:
    """Dense before step ``begin``, then ``density``."""
    return jnp.where(jnp.asarray(step) >= begin, density, 1.0)


def geometric(step: Step, *, ratio: float, every: Step, rungs: Step, begin: Step = 0) -> Array:
    """The ladder in time: the next rung at ``begin``, and then every ``every`` steps.

    Args:
      step: training step.
      ratio: the share kept from one rung to the next, in (0, 1).
      every: steps between rungs.
      rungs: how many rungs below 1 there are.
      begin: the step of the first of them.
    """
    rung = jnp.clip((jnp.asarray(step) - begin) // every + 1, 0, rungs)
    return jnp.power(ratio, rung.astype(jnp.float32))


def cubic(
    step: Step,
    *,
    density: float,
    begin: Step,
    end: Step,
    initial: float = 1.0,
    power: float = 3.0,
) -> Array:
    """Gradual pruning: ``d + (d_0 - d) (1 - (t - t_0) / (t_1 - t_0))^3`` (Zhu and Gupta).

    This is equation 1 of arXiv 1710.01878, in densities rather than sparsities.

    Args:
      step: training step ``t``.
      density: the last density ``d``, held after ``end``.
      begin: ``t_0``; before this step the density is ``initial``.
      end: ``t_1``, the step from which on the density is ``d``.
      initial: the first density ``d_0``.
      power: the exponent, 3 in the paper.
    """
    left = jnp.clip((end - jnp.asarray(step)) / jnp.maximum(end - begin, 1), 0, 1)
    return density + (initial - density) * jnp.power(left, power)


def cosine(step: Step, *, initial: float, end: Step, final: float = 0.0) -> Array:
    """From ``initial`` at step 0 to ``final`` at ``end``, along half a cosine; RigL's eq. 1.

    ``final + (initial - final) (1 + cos(pi t / end)) / 2``, held after ``end``.
    """
    t = jnp.clip(jnp.asarray(step) / jnp.maximum(end, 1), 0, 1)
    return final + (initial - final) * 0.5 * (1 + jnp.cos(jnp.pi * t))


def periodic(step: Step, *, every: Step, begin: Step = 0, end: Step | None = None) -> Array:
    """Whether ``step`` is one of ``begin, begin + every, ...``, not after ``end``: bool []."""
    t = jnp.asarray(step)
    due = (t >= begin) & ((t - begin) % every == 0)
    return due if end is None else due & (t <= end)
