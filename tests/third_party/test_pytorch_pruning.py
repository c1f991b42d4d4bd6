"""Pruning in PyTorch: masks are those of tsjax; smaller models run, or say why not."""

import dataclasses
import types

import numpy as np
import pytest
from forecasters import shapes

torch = pytest.importorskip("torch", reason="the PyTorch side needs torch")

from pytorch_cases import config_of, forecaster_of, inputs_of  # noqa: E402

from third_party import pytorch  # noqa: E402
from third_party.pytorch.layers import Attention  # noqa: E402
from tsjax import interop, models, pruning, trees  # noqa: E402
from tsjax.study.prunable import EXEMPT  # noqa: E402


@pytest.mark.parametrize("variant", ["transformer brief", "fedformer brief"])
def test_the_same_weights_are_pruned(variant):
    forecaster = forecaster_of(variant)
    module = pytorch.build(forecaster)
    pytorch.prune_unstructured(config_of(variant), module, 0.3, permanent=True)
    mask = pruning.select(pruning.magnitude(forecaster.params), 0.3)
    masked = dataclasses.replace(forecaster, mask=mask)
    want = interop.to_torch(masked)
    given = pytorch.build(masked).state_dict()
    for key, weight in module.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), want[key], err_msg=key)
        assert torch.equal(weight, given[key]), key


@pytest.mark.parametrize("channels", [7, 8])
@pytest.mark.parametrize(
    "variant", ["transformer", "informer", "autoformer paper", "fedformer paper", "wavelets tslib",
                "crossformer"],
)  # fmt: skip
def test_the_published_studys_rule_is_that_of_linear_and_convolution_layers(variant, channels):
    config = config_of(variant)
    config = dataclasses.replace(config, enc_in=channels, dec_in=channels, c_out=channels)
    module = pytorch.create(config)
    layers = {
        f"{path}.weight"
        for path, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv1d) and layer.weight.shape[0] != 7
    }
    forecaster = shapes(config)
    prunes = EXEMPT["seven_outputs"](types.SimpleNamespace(forecaster=forecaster))
    names = models.MODELS[models.name_of(config)].torch_names(config).items()
    keys = {path: (k,) if isinstance(k, str) else k for path, (k, _) in names}
    chosen = {
        key
        for path, leaf in trees.by_path(forecaster.params).items()
        if prunes(path, leaf)
        for key in keys[path]
    }
    assert chosen == layers


def test_training_leaves_pruned_weights_at_zero():
    config = config_of("transformer")
    module = pytorch.build(forecaster_of("transformer"))
    pytorch.prune_unstructured(config, module, 0.5)
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
    config = config_of(variant)
    module = pytorch.build(forecaster_of(variant))
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
    config = config_of("transformer")
    module = pytorch.create(config)
    inputs = pytorch.tensors(*inputs_of(config)[0])
    pruned = pytorch.prune_structured(module, inputs, keep_width=False)
    assert pruned.module is None
    assert pruned.params_after is None
    assert pruned.failure.startswith("RuntimeError: The size of tensor a")
    slow = pytorch.prune_structured(module, inputs, seconds=1e-3)
    assert slow.failure == "TimeoutError: not done after 0.001 s"
