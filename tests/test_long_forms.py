"""Tests marked ``long`` run with ``--all`` only, and are counted as deselected without it."""

from types import SimpleNamespace

import conftest
import pytest


def item(*marks):
    return SimpleNamespace(get_closest_marker=lambda name: name in marks)


@pytest.mark.parametrize("everything", [False, True])
def test_long_forms_are_left_out_unless_all_are_asked_for(everything):
    left_out = []
    config = SimpleNamespace(
        getoption={"--all": everything}.__getitem__,
        hook=SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items)),
    )
    short, long = item("parametrize"), item("parametrize", "long")
    items = [short, long]
    conftest.pytest_collection_modifyitems(config, items)
    assert items == ([short, long] if everything else [short])
    assert left_out == ([] if everything else [long])


def test_hypothesis_tries_more_examples_in_the_long_form(monkeypatch):
    monkeypatch.delenv(conftest.ALL_TESTS, raising=False)
    assert conftest.examples(10, 100) == 10
    monkeypatch.setenv(conftest.ALL_TESTS, "1")
    assert conftest.examples(10, 100) == 100


def test_the_command_line_decides(pytestconfig):
    assert conftest.examples(False, True) == pytestconfig.getoption("--all")
