"""What the guide to masks shows runs as it is written."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from guides import Guide, code, name_of

from tsjax import pruning

GUIDE = Guide("docs/masks.md")
SECTIONS, START = GUIDE.sections, GUIDE.start
rows, run, before, after = GUIDE.rows, GUIDE.run, GUIDE.before, GUIDE.after
OPTIMISER, CHANGE = ("In an optimiser, for any tree", 0), ("Masks that change", 0)

pytestmark = pytest.mark.usefixtures("as_a_user_has_it")


def same(tree, other):
    return jax.tree.all(jax.tree.map(np.array_equal, tree, other))


def algorithm(expression):
    return eval(expression, {**vars(pruning), "pruning": pruning, **after(CHANGE)})


@pytest.mark.parametrize("block", GUIDE.blocks, ids=name_of)
def test_each_block_runs(block):
    GUIDE.run_once(block)


def test_each_library_has_its_block():
    text = SECTIONS[OPTIMISER[0]]
    for library in ("flax import linen", "flax import nnx", "import equinox", "import haiku"):
        assert library in text


def test_another_mask_or_another_density_compiles_nothing():
    assert after(START)["step"]._cache_size() == 1
    names = after(CHANGE)
    compiled = names["step"]._cache_size()
    names["run"](algorithm("gradual(0.5, begin=1, end=2, select=by_leaf)"), names["params"], 2)
    assert names["step"]._cache_size() == compiled


def test_the_guide_notices_an_optimiser_that_forgets_the_mask(monkeypatch):
    monkeypatch.setattr(pruning, "keep_pruned", lambda tx, mask: tx)
    with pytest.raises(AssertionError):
        run(OPTIMISER, before(OPTIMISER))


def test_what_is_read_from_disk_is_what_was_written():
    block = ("On disk", 0)
    names = run(block, before(block))
    assert same(names["restored"], names["pruned"])
    assert same(names["restored_mask"], names["mask"])
    assert same(names["checkpoint"], (names["pruned"], names["mask"]))


def test_each_criterion_exists_and_is_complete():
    named = {code(cells[0])[0].partition("(")[0] for cells in rows("Criteria", "function")}
    module = pruning.magnitude.__module__
    assert named == {name for name in pruning.__all__
                     if getattr(getattr(pruning, name), "__module__", None) == module}  # fmt: skip


ALGORITHMS = rows("Masks that change", "algorithm")


@pytest.mark.parametrize("cells", ALGORITHMS, ids=lambda cells: code(cells[0])[0])
def test_each_algorithm_of_the_table_trains(cells):
    names = after(CHANGE)
    (expression,) = code(cells[0])
    params, mask = names["run"](algorithm(expression), names["params"])
    kept = pruning.density(mask, pruning.kernels)
    if expression.startswith("pals"):
        assert 0.2 < kept < 1
    else:
        assert kept == (1 if "no_prune" in cells[2] else 0.25)
    untrained = pruning.apply(names["params"], mask)
    assert same(params, pruning.apply(params, mask))
    assert names["loss"](params, *names["batch"]) < 0.8 * names["loss"](untrained, *names["batch"])


def test_all_algorithms_of_jaxpruner_are_there():
    # The keys of its registry.
    assert sorted(name for cells in ALGORITHMS for name in code(cells[2])) == [
        "global_magnitude", "global_saliency", "magnitude", "magnitude_ste", "no_prune", "random",
        "random_ste", "rigl", "saliency", "set", "static_sparse",
    ]  # fmt: skip


def test_what_jaxpruner_does_otherwise_can_be_written():
    text = SECTIONS["Coming from JaxPruner"]
    regrow, once, cubic = re.findall(r"`((?:Regrow|Prune|schedule)\(.*\))`", text)
    assert algorithm(regrow).grow == "random"
    assert algorithm(regrow).drop(15) == pytest.approx(0.05)
    assert [bool(algorithm(once).due(step)) for step in (19, 20, 21)] == [False, True, False]
    assert float(algorithm(once).density(20)) == 0.25
    # Sparsity 0.75 (1 - (1 - 0.4)^3), ten of 25 steps on the way.
    assert float(algorithm(cubic)(15)) == pytest.approx(1 - 0.75 * (1 - 0.6**3))


def test_scores_in_units_of_their_leaf():
    params = after(CHANGE)["params"]
    larger = {
        name: {k: (i + 1) * w for k, w in params[name].items()} for i, name in enumerate(params)
    }
    (text,) = re.findall(r"`score=(lambda .*)`", SECTIONS["Coming from JaxPruner"])
    by_leaf = [algorithm(text)(tree, None, None) for tree in (params, larger)]
    masks = [pruning.select(scores, 0.25) for scores in by_leaf]
    assert same(*masks)
    assert not same(masks[1], pruning.select(pruning.magnitude(larger), 0.25))


def test_n_of_m_in_training():
    names = after(CHANGE)
    (text,) = re.findall(r"`(Prune\(None, .*\))`", SECTIONS[CHANGE[0]])
    _, mask = names["run"](algorithm(text), names["params"], steps=3)
    groups = np.asarray(mask["up"]["kernel"]).reshape(2, 4, 32)
    assert set(groups.sum(1).ravel()) == {2}


def test_a_step_that_changes_the_mask_can_leave_the_weights_alone():
    names = after(CHANGE)
    tx, rigl = names["tx"], pruning.rigl(0.25, end=4, every=2)

    @jax.jit
    def step(params, sparse, state):
        grads = jax.grad(names["loss"])(pruning.apply(params, sparse.mask), *names["batch"])
        updates, state = jax.lax.cond(
            rigl.due(sparse.step + 1),
            lambda: (jax.tree.map(jnp.zeros_like, params), state),
            lambda: tx.update(grads, state, params, mask=rigl.held(sparse.mask)),
        )
        return *rigl.update(optax.apply_updates(params, updates), sparse, grads), state

    params, sparse = names["params"], rigl.init(names["params"], jax.random.key(0))
    state, counts = tx.init(params), []
    for _ in range(2):
        old, before_it = params, sparse.mask
        params, sparse, state = step(params, sparse, state)
        counts.append(int(optax.tree.get(state, "count")))
    assert counts == [1, 1]
    assert not same(sparse.mask, before_it)
    assert same(params, pruning.apply(old, sparse.mask))
