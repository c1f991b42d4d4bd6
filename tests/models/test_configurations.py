"""What a configuration takes, refuses and fills in."""

import dataclasses

import jax
import numpy as np
import pytest
from test_models import NAMES, small_config

from tsjax import models

TASK = {"enc_in": 3, "dec_in": 3, "c_out": 3}


def test_a_wrong_config_is_refused_with_all_its_faults():
    faults = {"d_model": 0, "pred_len": 0, "dropout": 1.0, "freq": "x", "activation": "tanh"}
    with pytest.raises(ValueError, match="TransformerConfig: ") as caught:
        small_config("transformer", **faults)
    for fault in faults:
        assert fault in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_heads": 3}, r"d_model \(8\) must be a multiple of n_heads \(3\): pass d_model=6 or"),
        ({"label_len": 14}, r"label_len must be at most seq_len \(13\), got 14"),
        ({"e_layers": 0}, "e_layers must be at least 1, got 0"),
        ({"d_ff": (3, 4)}, r"d_ff must be one number or \d+, one per .*, got 2"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"embed": "fix"}, "embed must be one of timeF, fixed, learned, got 'fix'"),
    ],
)
def test_a_bad_size_is_refused_by_every_model(name, wrong, says):
    with pytest.raises(ValueError, match=says):
        small_config(name, **wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("informer", {"factor": 0}, "factor must be at least 1, got 0"),
        (
            "informer",
            {"context": "mixed"},
            "context must be one of transposed, reread, got 'mixed'",
        ),
        ("informer", {"distil_padding": 3}, "distil_padding must be 1 or 2, got 3"),
        (
            "autoformer",
            {"moving_avg": 24},
            r"moving_avg must be odd .* got 24: pass 23 or 25, \(24",
        ),
        ("autoformer", {"c_out": 2}, r"c_out \(2\) must equal enc_in \(3\)"),
        ("fedformer", {"moving_avg": 24}, "moving_avg must be odd"),
        ("fedformer", {"moving_avg": ()}, "a number of steps or several, got none"),
        (
            "autoformer",
            {"moving_avg": (5, 7), "mix_input": False},
            r"mix_input=False .* but moving_avg has 2, \(5, 7\): pass one of them",
        ),
        ("fedformer", {"modes": 1000}, "modes"),
        ("crossformer", {"seg_len": 0}, "seg_len must be at least 1, got 0"),
    ],
)
def test_a_bad_size_is_refused_by_the_model_that_it_matters_to(name, wrong, says):
    with pytest.raises(ValueError, match=says):
        small_config(name, **wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"positions": "no"}, "positions must be bool, got 'no'"),
        ({"d_model": "8"}, "d_model must be int, got '8'"),
        ({"seq_len": 13.0}, "seq_len must be int, got 13.0"),
        ({"n_heads": None}, "n_heads must be .*, got None"),
        ({"factor": True, "moving_avg": ((3,),)}, r"moving_avg must be .*, got \(\(3,\),\)"),
        ({"cross_scale": float("nan")}, "cross_scale must be positive, got nan"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        small_config("fedformer", **wrong)


def test_values_may_be_lists_and_numpy_numbers():
    config = small_config("transformer", d_model=np.int64(8), d_ff=[3, 4, 5], dropout=np.float32(0))
    assert config.d_ff == (3, 4, 5)
    assert hash(config) == hash(dataclasses.replace(config))


def test_heads_need_to_divide_the_width_of_their_own_block():
    small_config("transformer", d_model=8, d_model_dec=6, n_heads=(4, 2, 3, 6))
    with pytest.raises(ValueError, match=r"d_model_dec \(6\) must be a multiple of n_heads \(4\)"):
        small_config("transformer", d_model=8, d_model_dec=6, n_heads=4)
    small_config("transformer", d_model=8, d_model_dec=6, n_heads=4, d_keys=2, d_values=2)


def test_presets_fill_in_and_fields_beat_them():
    assert small_config("informer").context == "transposed"
    assert small_config("informer", "tslib").context == "reread"
    assert small_config("informer", "tslib", context="transposed").context == "transposed"
    assert set(models.PRESETS) == {"corrected", "tslib", "paper"}
    for name in NAMES:
        assert set(models.MODELS[name].config.presets) == set(models.PRESETS)
        assert models.MODELS[name].config.presets["corrected"] == {}
    with pytest.raises(ValueError, match=r"preset is 'papr' \(did you mean 'paper'"):
        small_config("informer", "papr")


def test_unknown_names_are_met_with_near_ones():
    with pytest.raises(ValueError, match="did you mean 'transformer'"):
        models.config("transfomer", **TASK)
    with pytest.raises(ValueError, match=r"no field 'd_modle' \(did you mean 'd_model'"):
        models.config("transformer", **TASK, d_modle=3)


def test_a_config_of_no_model_is_refused():
    base = models.ForecastConfig(enc_in=1, dec_in=1, c_out=1)
    message = "config must be one of TransformerConfig, .*, got a ForecastConfig"
    for use in (models.name_of, models.module, lambda c: models.create(c, jax.random.key(0))):
        with pytest.raises(ValueError, match=message):
            use(base)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_follows_from_the_configuration(name):
    assert models.name_of(small_config(name)) == name


def test_config_is_hashable_and_replaceable():
    config = small_config("transformer")
    assert hash(dataclasses.replace(config)) == hash(config)
