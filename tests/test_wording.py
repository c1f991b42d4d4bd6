"""The words that all messages share."""

import pytest

from tsjax import wording

OPTIONS = ("autoformer", "fedformer", "informer", "transformer")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("electrisity", " (did you mean 'electricity'?)"),
        ("ETTh", " (did you mean 'ETTh2' or 'ETTh1'?)"),
        ("resnet", ""),
        ("", ""),
    ],
)
def test_near_names(name, said):
    assert wording.near(name, ["ETTh1", "ETTh2", "weather", "electricity"]) == said


def test_near_ignores_case_and_gives_the_name_as_it_is_spelt():
    assert wording.near("etth1", ["ETTh1", "weather"]) == " (did you mean 'ETTh1'?)"


def test_near_without_options():
    assert wording.near("etth1", []) == ""


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
        (range(10), "0, 1, 2 and 7 more"),
    ],
)
def test_listing_shows_the_first_and_counts_the_rest(items, said):
    assert wording.listing(items, limit=3) == said


def test_listing_shows_ten_unless_told():
    assert wording.listing(range(10)).endswith("8, 9")
    assert wording.listing(range(11)).endswith("8, 9 and 1 more")


def test_one_of_accepts_the_options():
    for option in OPTIONS:
        wording.one_of("model", option, OPTIONS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("globl", "scope is 'globl' (did you mean 'global'?): use one of global, leaf"),
        ("x", "scope is 'x': use one of global, leaf"),
        (3, "scope is 3: use one of global, leaf"),
        (None, "scope is None: use one of global, leaf"),
    ],
)
def test_one_of_lists_the_options_and_the_nearest(given, said):
    with pytest.raises(ValueError, match="scope is") as error:
        wording.one_of("scope", given, ("global", "leaf"))
    assert str(error.value) == said
