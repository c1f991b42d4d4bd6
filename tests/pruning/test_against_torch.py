"""Magnitude masks equal those of ``torch.nn.utils.prune`` on the reference models' weights."""

import functools

import jax
import numpy as np
import pytest
from conftest import golden_dir
from golden import model_cases

from tsjax import interop, pruning, trees
from tsjax.pruning.choice import choose

torch = pytest.importorskip("torch", reason="PyTorch's own pruning needs torch")

from torch.nn.utils import prune  # noqa: E402

CASES = model_cases()
LADDER = pruning.ladder(0.8, 10, floor=0.01)

pytestmark = pytest.mark.skipif(
    not CASES, reason=f"no reference cases in {golden_dir()}: set TSJAX_GOLDEN_DIR"
)


@functools.cache
def params_of(case):
    """A reference model's params, in the precision that both sides rank in."""
    modes = case.group("rand") or None if case.model == "fedformer" else None
    made = interop.from_torch(case.config(), case.group("param"), modes=modes)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), made.params)


def globally(weights, amount):
    prune.global_unstructured(weights, prune.L1Unstructured, amount=amount)


def each(weights, amount):
    for module, name in weights:
        prune.l1_unstructured(module, name, amount)


def torch_masks(leaves, density, scope):
    """What PyTorch keeps of modules that hold these leaves, in this order, as their weights."""
    modules = [torch.nn.Module() for _ in leaves]
    for module, leaf in zip(modules, leaves.values(), strict=True):
        module.weight = torch.nn.Parameter(torch.tensor(leaf))
    {"global": globally, "leaf": each}[scope]([(m, "weight") for m in modules], 1 - density)
    return {p: m.weight_mask.numpy() == 1 for p, m in zip(leaves, modules, strict=True)}


@pytest.mark.parametrize(
    ("case", "scope"),
    [*((case, "global") for case in CASES), *((case, "leaf") for case in CASES[:1])],
    ids=lambda given: given if isinstance(given, str) else given.path.stem,
)
def test_masks_of_reference_models_equal_pytorchs_at_every_density(case, scope):
    params = params_of(case)
    leaves = choose(params, pruning.kernels)
    scores = pruning.magnitude(params)
    for density in LADDER:
        mask = trees.by_path(pruning.select(scores, density, scope))
        expected = torch_masks(leaves, density, scope)
        ranked_together = [list(leaves)] if scope == "global" else [[path] for path in leaves]
        for group in ranked_together:
            sizes = np.concatenate([np.abs(leaves[path]).ravel() for path in group])
            kept = np.concatenate([np.ravel(mask[path]) for path in group])
            # No tie lies on the threshold, so that there is only one right answer.
            assert np.min(sizes[kept], initial=np.inf) > np.max(sizes[~kept], initial=-1), density
        for path in leaves:
            np.testing.assert_array_equal(mask[path], expected[path], f"{path} at {density}")
        assert all(np.all(keep) for path, keep in mask.items() if path not in leaves)
