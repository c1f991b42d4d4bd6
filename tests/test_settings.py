"""Settings: what their fields are checked for, and the command line that they make."""

import dataclasses
import math
import re

import pytest

from tsjax.settings import (
    accepted_by,
    among,
    at_least,
    check,
    check_names,
    command,
    differing,
    distinct,
    filled,
    setting,
    share,
)


def refuse_odd(number):
    if number % 2:
        raise ValueError(f"{number} is odd")


@dataclasses.dataclass(frozen=True)
class Toy:
    """Settings with a field for each check."""

    count: int = setting(1, "how many", at_least(1))
    rates: tuple[float, ...] = setting((0.5,), "shares", filled, share(), distinct)
    names: tuple[str, ...] = setting((), "words", among(("alpha", "beta")))
    even: int = setting(2, "no odd number", accepted_by(refuse_odd))
    limit: float | None = setting(None, "may be left out", at_least(0))

    def __post_init__(self):
        check(self, self.together)

    def together(self):
        if self.count > 10 * self.even:
            raise ValueError("count is too large for even")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"rates": ()}, "rates must not be empty"),
        ({"rates": (0.5, 1.5, 0.0)}, "rates must be in (0, 1], got 1.5, 0"),
        ({"rates": (0.5, 0.25, 0.5, 0.5)}, "rates holds 0.5 twice"),
        ({"names": ("beta", "b")}, "names is 'b': use one of alpha, beta"),
        ({"even": 3}, "3 is odd"),
        ({"limit": -1.0}, "limit must be at least 0, got -1"),
        ({"limit": math.inf}, "limit must be at least 0, got inf"),
        ({"limit": math.nan}, "limit must be at least 0, got nan"),
        ({"count": 30}, "count is too large for even"),
        ({"count": True}, "count must be int, got True"),
        ({"count": 1.0}, "count must be int, got 1.0"),
        ({"limit": "x"}, "limit must be float | None, got 'x'"),
        ({"rates": [0.5]}, "rates must be tuple[float, ...], got [0.5]"),
        ({"rates": ("0.5",)}, "rates must be tuple[float, ...], got ('0.5',)"),
    ],
)  # fmt: skip
def test_what_a_field_does_not_allow_is_refused(given, says):
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        Toy(**given)


def test_all_faults_are_said_at_once():
    with pytest.raises(ValueError, match="count") as caught:
        Toy(count=-1, even=3, rates=(2.0,))
    assert str(caught.value) == (
        "count must be at least 1, got -1; rates must be in (0, 1], got 2; 3 is odd"
    )


def test_what_is_allowed():
    Toy(count=20, rates=(1, 0.5), names=("beta",), limit=0)


def test_unknown_names_are_met_with_near_ones():
    with pytest.raises(ValueError, match=r"setting is 'cuont'.*did you mean 'count'"):
        check_names(Toy, ["even", "cuont"])


def test_the_command_has_what_differs():
    values = differing(Toy(names=("alpha", "beta"), rates=(1.0,)), Toy())
    assert command("toy", values) == "./launch.sh toy --rates=1.0 --names=alpha,beta"
    assert command("toy", {"limit": None, "names": ("a b", "c,d")}) == (
        """./launch.sh toy --limit= '--names=a b,"c,d"'"""
    )
