"""A sixth model is its module, its configuration, its formula, its names, and one row of the table.

A toy is registered from outside, and all that takes models by name or by configuration takes it.
"""

import dataclasses
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forecasters import batch, drawn, shapes

from tsjax import benchmark, costs, interop, models, pruning, structure, study, trees
from tsjax.models.formula_blocks import real
from tsjax.models.torch_layouts import linear
from tsjax.models.torch_names import dense


@dataclasses.dataclass(frozen=True)
class ToyConfig(models.ForecastConfig):
    """Blocks of one hidden layer each."""

    presets = MappingProxyType({"tslib": {"d_ff": (5, 6)}})

    d_ff: int | tuple[int, ...] = 12
    e_layers: int = 2
    scale: float | tuple[float, ...] | None = None

    def problems(self):
        return super().problems() + self.below(1, "d_ff", "e_layers")

    @property
    def widths(self):
        return self.d_ff if isinstance(self.d_ff, tuple) else (self.d_ff,) * self.e_layers

    def sizes(self):
        return {"d_ff": self.widths}

    def scales(self):
        given = self.scale if isinstance(self.scale, tuple) else (self.scale,) * self.e_layers
        return {"scale": tuple(s or w**-0.5 for s, w in zip(given, self.widths, strict=True))}


class Toy(nn.Module):
    """Channels through hidden layers, step by step; then a map of steps."""

    config: ToyConfig

    @nn.compact
    def __call__(self, x_enc, x_mark_enc, x_dec, x_mark_dec, *, train=False):
        del x_mark_enc, x_dec, x_mark_dec, train
        c, x = self.config, x_enc
        for i, (width, scale) in enumerate(zip(c.widths, c.scales()["scale"], strict=True)):
            hidden = jax.nn.relu(nn.Dense(width, name=f"up_{i}")(x)) * scale
            x = x + nn.Dense(c.c_out, name=f"down_{i}")(hidden)
        return nn.Dense(c.pred_len, name="steps")(x.swapaxes(1, 2)).swapaxes(1, 2)


def formula(c, B):
    """``2 B L C d_ff`` in, as much out of each block, and ``2 B C L P`` for the steps."""
    for i, width in enumerate(c.widths):
        # The first input depends on no params.
        yield "up", real(B * c.seq_len * c.enc_in * width, gradients=2 if i else 1)
        yield "down", real(B * c.seq_len * c.enc_in * width)
    yield "steps", real(B * c.enc_in * c.seq_len * c.pred_len)


def torch_names(c):
    names = dict(dense("steps", "head", linear()))
    for i in range(c.e_layers):
        names.update(dense(f"up_{i}", f"blocks.{i}.0", linear()))
        names.update(dense(f"down_{i}", f"blocks.{i}.2", linear()))
    return names


def sizes(dataset, pred_len):
    return {"d_ff": 24 if dataset == "ETTh1" else 12, "epochs": 1}


ENTRY = models.Model(
    module=Toy,
    config=ToyConfig,
    formula=formula,
    torch_names=torch_names,
    published=models.Published(sizes),
)
TASK = {"enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 8, "label_len": 4, "pred_len": 4}


@pytest.fixture(autouse=True)
def config(monkeypatch):
    monkeypatch.setitem(models.MODELS, "toy", ENTRY)
    return models.config("toy", **TASK)


def cut(config):
    """The toy with nine of twelve units in one block, and what it was cut by."""
    groups = structure.find_groups(models.forecast, shapes(config), *models.input_shapes(config, 2))
    plan = structure.plan(groups, drawn(config), keep={"params/up_1/kernel:1": 9})
    return groups, structure.slice(drawn(config), plan)


def test_it_is_made_by_name_and_called(config):
    assert models.name_of(config) == "toy"
    assert models.config("toy", "tslib", **TASK).widths == (5, 6)
    made = models.create(config, jax.random.key(0))
    assert made.config == config
    forecast = jax.jit(models.forecast)(made, *batch(config))
    assert forecast.shape == (2, 4, 3)
    assert np.isfinite(forecast).all()
    with pytest.raises(ValueError, match=r"no field 'd_f' \(did you mean 'd_ff'"):
        models.config("toy", **TASK, d_f=3)
    with pytest.raises(ValueError, match=r"config must be one of .*, ToyConfig, got a Forecast"):
        models.name_of(models.ForecastConfig(**TASK))


@pytest.mark.parametrize("train", [False, True])
def test_its_formula_is_what_is_counted(config, train):
    made, inputs = shapes(config), models.input_shapes(config, 5)

    def loss(params, *inputs):
        forecast, _ = made.forward(params, {}, *inputs, key=None)
        return jnp.mean(jnp.square(forecast))

    if train:
        count = costs.count(jax.value_and_grad(loss), made.params, *inputs)
    else:
        count = costs.count(models.forecast, made, *inputs)
    closed = models.product_flops(config, 5, train=train)
    assert sum(closed.values()) == count.by_primitive["dot_general"]


def test_it_is_sliced_to_a_configuration_of_its_own(config):
    groups, small = cut(config)
    assert {group.name for group in groups.free} == {f"params/up_{i}/kernel:1" for i in range(2)}
    # Scales that follow from widths stay those that it was trained with.
    assert small.config == dataclasses.replace(config, d_ff=(12, 9), scale=12**-0.5)
    made = models.create(small.config, jax.random.key(0))
    assert {p: x.shape for p, x in trees.by_path(made).items()} == {
        p: x.shape for p, x in trees.by_path(small).items()
    }
    assert models.product_flops(small.config)["up"] == 2 * 8 * 3 * (12 + 9)


def test_it_goes_through_a_file_and_to_pytorch(config, tmp_path):
    _, small = cut(config)
    mask = pruning.select(pruning.magnitude(small.params), 0.5)
    path = tmp_path / "toy.safetensors"
    interop.write_model(path, dataclasses.replace(small, mask=mask))
    found = interop.read_model(path)
    assert found.config == small.config
    jax.tree.map(np.testing.assert_array_equal, found.mask, mask)
    stored = interop.to_torch(small)
    assert stored["blocks.1.0.weight"].shape == (9, 3)
    back = interop.from_torch(small.config, stored)
    jax.tree.map(np.testing.assert_array_equal, back.params, small.params)


def test_the_study_takes_it():
    given = {"model": "toy", "seq_len": 8, "pred_len": 4}
    task = study.set_up(study.TrainSettings.make(**given, d_ff=7, options=("scale=0.5",)))
    config = task.forecaster.config
    assert models.name_of(config) == "toy"
    assert (config.enc_in, config.seq_len, config.pred_len, config.widths) == (7, 8, 4, (7, 7))
    assert config.scale == 0.5
    paper = study.TrainSettings.make(**given, size="paper", dataset="ETTh1.csv")
    assert (paper.d_ff, paper.epochs) == (24, 1)
    with pytest.raises(ValueError, match="toy has no seg_len"):
        study.TrainSettings.make(**given, seg_len=3)


def test_a_model_that_was_not_published_has_no_published_size(monkeypatch):
    monkeypatch.setitem(models.MODELS, "toy", dataclasses.replace(ENTRY, published=None))
    assert study.TrainSettings.make(model="toy", preset="paper", size="small").model == "toy"
    with pytest.raises(ValueError, match="toy has no published sizes: use small"):
        study.TrainSettings.make(model="toy", size="paper")


def test_the_benchmark_takes_it():
    config = benchmark.BenchmarkSettings(models=("toy",), size="small").config("toy")
    assert config.d_ff == 128
    contender = benchmark.make_contender(config, "structured-0.5")
    batches = [benchmark.random_batch(config, 2, seed=0)]
    runner = benchmark.xla(contender, "inference", batches)
    assert runner.call().shape == (2, config.pred_len, 7)
    assert contender.model == "toy"
    assert max(contender.forecaster.config.widths) < 128
