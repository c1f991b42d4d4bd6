"""Pruning in PyTorch: masks are those of tsjax; smaller models run, or say why not."""

import dataclasses
import types

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch side needs torch")

from pytorch_cases import config_of, inputs_of, variables_of  # noqa: E402

from third_party import pytorch  # noqa: E402
from third_party.pytorch.layers import Attention  # noqa: E402
from tsjax import interop, models, pruning, trees  # noqa: E402
from tsjax.interop.torch_names import NAMES  # noqa: E402
from tsjax.study.prunable import EXEMPT  # noqa: E402


@pytest.mark.parametrize("variant", ["transformer brief", "fedformer brief"])
def test_the_same_weights_are_pruned(variant):
    name, config = config_of(variant)
    variables = variables_of(variant)
    params = variables["params"]
    module = pytorch.build(name, config, variables)
    pytorch.prune_unstructured(name, config, module, 0.3, permanent=True)
    mask = pruning.select(pruning.magnitude(params), 0.3)
    masked = {**variables, "params": pruning.apply(params, mask)}
    want = interop.to_torch(name, config, masked)
    for key, weight in module.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), want[key], err_msg=key)


@pytest.mark.parametrize("channels", [7, 8])
@pytest.mark.parametrize(
    "variant", ["transformer", "informer", "autoformer paper", "fedformer paper", "wavelets tslib",
                "crossformer"],
)  # fmt: skip
def test_the_published_studys_rule_is_that_of_linear_and_convolution_layers(variant, channels):
    name, config = config_of(variant)
    config = dataclasses.replace(config, enc_in=channels, dec_in=channels, c_out=channels)
    module = pytorch.build(name, config)
    layers = {
        f"{path}.weight"
        for path, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv1d) and layer.weight.shape[0] != 7
    }
    task = types.SimpleNamespace(config=config, settings=types.SimpleNamespace(model=name))
    prunes = EXEMPT["seven_outputs"](task)
    params, _ = jax.eval_shape(lambda: models.init(models.create(name, config), jax.random.key(0)))
    keys = {path: (k,) if isinstance(k, str) else k for path, (k, _) in NAMES[name](config).items()}
    chosen = {
        key
        for path, leaf in trees.by_path(params).items()
        if prunes(path, leaf)
        for key in keys[path]
    }
    assert chosen == layers


def test_training_leaves_pruned_weights_at_zero():
    name, config = config_of("transformer")
    module = pytorch.build(name, config, variables_of("transformer"))
    pytorch.prune_unstructured(name, config, module, 0.5)
    inputs, target = inputs_of(config)
    step = pytorch.train_step(module, 1e-2)
    before = module.encoder.attn_layers[0].conv1.weight.detach().clone()
    for _ in range(2):
        step(*pytorch.tensors(*inputs, target))
    pytorch.eager(module)(*pytorch.tensors(*inputs))
    after = module.encoder.attn_layers[0].conv1.weight
    assert not torch.equal(before, after)
    assert torch.equal(before == 0, after == 0)


@pytest.mark.parametrize("variant", ["transformer", "crossformer"])
@pytest.mark.parametrize("heads", [False, True])
def test_torch_pruning_makes_a_smaller_model(variant, heads):
    pytest.importorskip("torch_pruning", reason="structured pruning needs torch-pruning")
    name, config = config_of(variant)
    module = pytorch.build(name, config, variables_of(variant))
    inputs = pytorch.tensors(*inputs_of(config)[0])
    before = pytorch.eager(module)(*inputs)
    pruned = pytorch.prune_structured(module, inputs, 0.5, prune_num_heads=heads)
    assert pruned.failure is None
    assert pruned.params_after < 0.8 * pruned.params_before
    for block in pruned.module.modules():
        if isinstance(block, Attention):
            # Half of two heads, or half of each head's eight units.
            n_heads, width = (1, 8) if heads else (2, 4)
            assert block.n_heads == n_heads
            assert block.query_projection.out_features == n_heads * width
    assert pytorch.eager(pruned.module)(*inputs).shape == before.shape
    torch.testing.assert_close(pytorch.eager(module)(*inputs), before)


def test_what_torch_pruning_cannot_do_is_told():
    pytest.importorskip("torch_pruning", reason="structured pruning needs torch-pruning")
    name, config = config_of("transformer")
    module = pytorch.build(name, config)
    inputs = pytorch.tensors(*inputs_of(config)[0])
    pruned = pytorch.prune_structured(module, inputs, keep_width=False)
    assert pruned.module is None
    assert pruned.params_after is None
    assert pruned.failure.startswith("RuntimeError: The size of tensor a")
    slow = pytorch.prune_structured(module, inputs, seconds=1e-3)
    assert slow.failure == "TimeoutError: not done after 0.001 s"
