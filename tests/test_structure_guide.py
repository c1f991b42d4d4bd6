"""What the pages on structured pruning show runs as it is written."""

import re
import types

import jax
import numpy as np
import pytest
from guides import Guide, code, name_of

from tsjax import costs, models, structure
from tsjax.structure.primitives import PRIMITIVES

FUNCTION, CHOOSING = ("Any JAX function", 0), ("Choosing what to cut", 0)
LATENCY = ("A target in time", 0)
GUIDE = Guide("docs/structure.md", base=FUNCTION)
REFERENCE = Guide("docs/structure-reference.md")

pytestmark = pytest.mark.usefixtures("as_a_user_has_it")


@pytest.fixture(autouse=True, scope="module")
def _rules_as_they_were():
    before = dict(PRIMITIVES)
    yield
    PRIMITIVES.clear()
    PRIMITIVES.update(before)


@pytest.mark.parametrize("block", GUIDE.blocks, ids=name_of)
def test_each_block_of_the_guide_runs(block):
    GUIDE.run_once(block)


@pytest.mark.parametrize("block", REFERENCE.blocks, ids=name_of)
def test_each_block_of_the_reference_runs(block):
    REFERENCE.run_once(block)


def test_the_table_is_what_print_shows(capsys):
    GUIDE.run(FUNCTION, GUIDE.before(FUNCTION))
    (table,) = re.findall(r"```text\n(.*?)```", GUIDE.sections[FUNCTION[0]], re.DOTALL)
    assert capsys.readouterr().out == table


def test_each_library_has_its_block():
    text = GUIDE.sections["Other model libraries"]
    for library in ("flax import linen", "flax import nnx", "import equinox", "import haiku"):
        assert library in text


def test_the_line_of_a_reason_is_as_shown():
    block = ("Why an axis is frozen", 0)
    (comment,) = re.findall(r"# (.*)\nprint\(", REFERENCE.blocks[block])
    reason = str(REFERENCE.after(block)["groups"]["up:1"].frozen)
    line = re.compile(re.escape(comment).replace("FILE:LINE", r".+:\d+"))
    assert line.fullmatch(reason), reason


def test_each_importance_is_in_its_table():
    named = [code(cells[0]) for cells in REFERENCE.rows("Importance", "importance")]
    names = {text.partition("(")[0] for cell in named for text in cell}
    assert names == {"l1", "l2", "norm", "taylor", "fisher", "activation", "random"}
    assert names <= set(structure.__all__)


def test_each_option_of_a_plan_is_in_its_table():
    arguments = {
        code(cells[0])[0]: cells for cells in REFERENCE.rows("The options of a plan", "argument")
    }
    options = structure.plan.__kwdefaults__
    assert set(arguments) == set(options)
    for name in ("scope", "round_to", "minimum"):
        assert arguments[name][2].strip("`") == str(options[name])
    assert options["importance"] is structure.l2


def test_what_an_equation_can_say_exists():
    text = REFERENCE.sections["A primitive of your own"]
    said = set(re.findall(r"`eqn\.(\w+)", text))
    assert said >= {"same", "freeze", "new", "fixed", "joined", "parts", "reshaped", "expect"}
    assert all(hasattr(structure.Equation, name) for name in said)


@pytest.mark.parametrize("name", models.MODELS)
def test_each_forecaster_can_be_cut_where_the_guide_says(name):
    """The widths of both halves, hidden layers, and each block's heads and their two widths."""
    config = models.config(name, enc_in=7, dec_in=7, c_out=7, d_model=32, n_heads=4, d_ff=64)
    forecaster = jax.eval_shape(lambda: models.create(config, jax.random.key(0)))
    inputs = models.input_shapes(config, 2)
    groups = structure.find_groups(models.forecast, forecaster, *inputs)
    by_size = [group.size for group in groups.free]
    blocks = by_size.count(4)
    # FEDformer's encoder layers share theirs.
    assert blocks >= (3 if name == "fedformer" else 4)
    assert by_size.count(8) >= 2 * blocks
    assert by_size.count(32) >= 2
    assert by_size.count(64) >= 3
    steps = [g for g in groups if "position" in g.name and g.name.endswith(":0")]
    assert all(group.frozen for group in steps)


def test_a_target_out_of_reach_names_what_holds_it_up():
    names = GUIDE.after(FUNCTION)
    with pytest.raises(ValueError, match="the smallest share is") as error:
        structure.plan(names["groups"], names["params"], target=structure.Params(0.001))
    assert "embed:0" in str(error.value)


def test_what_is_measured_was_cut(monkeypatch):
    def measure(fn, params, *inputs, **limits):
        # Of a machine that nothing disturbs: a second for each of the FLOPs.
        return types.SimpleNamespace(minimum=costs.count(fn, params, *inputs).flops)

    monkeypatch.setattr(costs, "measure", measure)
    plan = GUIDE.run(LATENCY, GUIDE.before(LATENCY))["plan"]
    assert all(
        size % 64 == 0 for group, size in plan.sizes.items() if not plan.groups[group].frozen
    )
    assert plan.params[1] < plan.params[0]
    assert plan.measured[1] / plan.measured[0] == pytest.approx(0.6, abs=0.05)


def test_a_plan_can_be_read():
    names = GUIDE.after(CHOOSING)
    assert "up:1: 48 of 64" in str(names["plan"])
    np.testing.assert_array_equal(names["plan"].keep["key:1"], [0, 2])
