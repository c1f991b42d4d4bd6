"""The ladder of densities."""

import itertools

import numpy as np
import pytest

from tsjax import pruning


def test_the_ladder_is_geometric():
    assert pruning.ladder() == tuple(0.8**n for n in range(11))
    assert pruning.ladder(0.5, 3) == (1, 0.5, 0.25, 0.125)
    assert pruning.ladder(0.5, 0) == (1,)


def test_with_a_floor_the_ladder_goes_on_to_it():
    rungs = pruning.ladder(0.8, 10, floor=0.01)
    assert rungs[:11] == pruning.ladder(0.8, 10)
    np.testing.assert_allclose(rungs[:-1], [0.8**n for n in range(len(rungs) - 1)])
    assert rungs[-1] == 0.01
    assert rungs[-2] > 0.01 > 0.8 * rungs[-2]


def test_a_floor_on_a_rung_comes_once():
    assert pruning.ladder(0.5, 1, floor=0.125) == (1, 0.5, 0.25, 0.125)
    assert pruning.ladder(0.5, 3, floor=0.125) == (1, 0.5, 0.25, 0.125)


@pytest.mark.parametrize(("ratio", "n"), [(0.1, 2), (0.8, 12), (0.7, 5), (0.9, 20)])
def test_a_floor_that_is_a_rung_up_to_rounding_comes_once(ratio, n):
    rungs = pruning.ladder(ratio, 1, floor=round(ratio**n, 15))
    assert len(rungs) == n + 1


def test_a_floor_above_the_last_rung_adds_nothing():
    assert pruning.ladder(0.5, 3, floor=0.3) == (1, 0.5, 0.25, 0.125)


@pytest.mark.parametrize("floor", [None, 0.01, 0.3, 0.999])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.95])
def test_rungs_fall_strictly_from_one(ratio, floor):
    rungs = pruning.ladder(ratio, 4, floor)
    assert rungs[0] == 1
    assert all(low < high for high, low in itertools.pairwise(rungs))
    assert all(0 < rung <= 1 for rung in rungs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ratio": 1.0}, "ratio must be in (0, 1), got 1.0"),
        ({"ratio": 0}, "ratio must be in (0, 1), got 0"),
        ({"ratio": float("nan")}, "ratio must be in (0, 1), got nan"),
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"floor": 0.0}, "floor must be in (0, 1), got 0.0"),
        (
            {"ratio": 2, "steps": -3, "floor": 1},
            (
                "ratio must be in (0, 1), got 2; steps must be >= 0, got -3; "
                "floor must be in (0, 1), got 1"
            ),
        ),
    ],
)
def test_bad_arguments_are_all_named(arguments, said):
    with pytest.raises(ValueError, match="must be") as error:
        pruning.ladder(**arguments)
    assert str(error.value) == said
