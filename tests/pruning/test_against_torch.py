"""Magnitude masks equal those of ``torch.nn.utils.prune`` on the shapes of whole models."""

import numpy as np
import pytest
from reference.cases import Reference

from tsjax import pruning, trees
from tsjax.pruning.choice import choose

torch = pytest.importorskip("torch", reason="PyTorch's own pruning needs torch")

from torch.nn.utils import prune  # noqa: E402

LADDER = pruning.ladder(0.8, 10, floor=0.01)


def params_of(name):
    """New weights for a model, by its PyTorch keys; no two are equal."""
    rng = np.random.default_rng(0)
    weights = Reference(name).group("param")
    return {
        f"{key}/kernel": rng.normal(size=leaf.shape).astype(np.float32)
        for key, leaf in weights.items()
        if leaf.ndim > 1
    } | {f"{key}/bias": leaf for key, leaf in weights.items() if leaf.ndim == 1}


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
    ("name", "scope"),
    [
        ("transformer", "global"),
        ("transformer", "leaf"),
        ("fedformer_corrected", "global"),
        ("crossformer_tslib", "global"),
    ],
)
def test_masks_of_whole_models_equal_pytorchs_at_every_density(name, scope):
    params = params_of(name)
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
