"""Which densities to visit, and when."""

import math


def ladder(ratio: float = 0.8, steps: int = 10, floor: float | None = None) -> tuple[float, ...]:
    """The geometric ladder of densities ``1, ratio, ratio^2, ..., ratio^steps``.

    Args:
      ratio: the share kept from one rung to the next, in (0, 1).
      steps: the exponent of the last rung.
      floor: if given, the ladder goes on beyond ``steps`` while a rung is above ``floor``, and ends
        in ``floor`` itself; a floor above the last rung adds nothing.

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
