"""Pruning with PyTorch's own means: ``torch.nn.utils.prune``, and ``torch_pruning`` from PyPI."""

import copy
import dataclasses
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from third_party.pytorch.layers import Attention
from tsjax import models, pruning, trees

EMBEDDINGS = ("enc_embedding", "dec_embedding", "enc_value_embedding")


def kernels(config: models.ForecastConfig, module: nn.Module) -> dict[str, nn.Module]:
    """The layers whose ``weight`` tsjax prunes by default (:func:`tsjax.pruning.kernels`).

    Args:
      config: the model's configuration.
      module: from :func:`third_party.pytorch.build`.

    Returns:
      Layers by the path of the kernel in tsjax, ``"encoder/layer_0/attention/query/kernel"``.
    """
    shapes = jax.eval_shape(lambda: models.create(config, jax.random.key(0)))
    names = models.MODELS[models.name_of(config)].torch_names(config)
    found = {}
    for path, leaf in trees.by_path(shapes.params).items():
        if pruning.kernels(path, leaf):
            keys = names[path][0]
            key = keys if isinstance(keys, str) else keys[0]
            found[path] = module.get_submodule(key.removesuffix(".weight"))
    return found


def prune_unstructured(
    config: models.ForecastConfig,
    module: nn.Module,
    density: float,
    *,
    permanent: bool = False,
) -> None:
    """Prunes the smallest of all kernels' weights together, in place.

    Args:
      config: the model's configuration.
      module: the model.
      density: share of the kernels' weights that is kept.
      permanent: whether zeros are written into the weights. Else each forward pass multiplies the
        weights by their mask, so that training leaves the zeros alone.
    """
    layers = [(layer, "weight") for layer in kernels(config, module).values()]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=1 - density)
    if permanent:
        for layer, weight in layers:
            prune.remove(layer, weight)


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What became of a model.

    Attributes:
      module: the smaller model, or None.
      failure: why there is none: the exception and its text.
      params_before: parameters before.
      params_after: parameters after, or None.
    """

    module: nn.Module | None
    failure: str | None
    params_before: int
    params_after: int | None


def prune_structured(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    ratio: float = 0.5,
    *,
    global_pruning: bool = False,
    prune_num_heads: bool = False,
    keep_width: bool = True,
    round_to: int | None = None,
    seconds: float = 60.0,
) -> Pruned:
    """Removes the groups of smallest L2 norm that ``torch_pruning`` finds in a copy of the model.

    Whatever goes wrong is caught and told, also that the smaller model does not run.

    Args:
      module: the model, left as it is.
      inputs: example inputs, on its device.
      ratio: share of each group's units that is removed, or of all units if ``global_pruning``.
      global_pruning: whether groups compete.
      prune_num_heads: whether whole heads are removed; else each head becomes narrower.
      keep_width: whether the model's width stays. ``torch_pruning`` does not know of positional
        tables, which are no parameters.
      round_to: sizes become multiples of it.
      seconds: when to give up. It has no effect outside of the main thread.
    """
    before = sum(p.numel() for p in module.parameters())
    small = copy.deepcopy(module).eval()
    try:
        with warnings.catch_warnings(), torch.enable_grad(), _at_most(seconds):
            # It warns of each parameter that belongs to no layer.
            warnings.simplefilter("ignore")
            shape = small(*inputs).shape
            _prune(small, inputs, ratio, global_pruning, prune_num_heads, keep_width, round_to)
            if (got := small(*inputs).shape) != shape:
                raise ValueError(f"the forecast's shape is {tuple(got)}, not {tuple(shape)}")
    # Which exceptions there are is what is to be found out.
    except Exception as error:
        return Pruned(None, f"{type(error).__name__}: {error}", before, None)
    return Pruned(small, None, before, sum(p.numel() for p in small.parameters()))


def _prune(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    ratio: float,
    global_pruning: bool,
    prune_num_heads: bool,
    keep_width: bool,
    round_to: int | None,
) -> None:
    import torch_pruning

    attentions = [m for m in module.modules() if isinstance(m, Attention)]
    projections = {
        layer: attention.n_heads
        for attention in attentions
        for name, layer in attention.named_children()
        if name in ("query_projection", "key_projection", "value_projection")
    }
    pruner = torch_pruning.pruner.MetaPruner(
        module,
        example_inputs=inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=global_pruning,
        pruning_ratio=ratio,
        ignored_layers=_fixed(module, keep_width=keep_width),
        num_heads=dict(projections),
        prune_num_heads=prune_num_heads,
        prune_head_dims=not prune_num_heads,
        head_pruning_ratio=ratio,
        round_to=round_to,
    )
    pruner.step()
    for attention in attentions:
        for layer in attention.children():
            if layer in projections:
                attention.n_heads = pruner.num_heads[layer]


def _fixed(module: nn.Module, *, keep_width: bool) -> list[nn.Module]:
    """Layers whose outputs stay: those that forecast and, for the width's sake, embeddings."""

    def fixed(name: str) -> bool:
        forecasts = name.endswith((".projection", ".linear_pred"))
        return forecasts or (keep_width and name.startswith(EMBEDDINGS))

    return [layer for name, layer in module.named_modules() if fixed(name)]


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in what takes longer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
