"""FEDformer's weights and frequencies come over from PyTorch, and nothing that does not fit."""

import functools

import jax
import numpy as np
import pytest
from conftest import golden_dir
from forecasters import shapes
from golden import Case

from tsjax import interop, models, trees

SMALL = {
    "enc_in": 2, "dec_in": 2, "c_out": 2, "seq_len": 12, "label_len": 4, "pred_len": 8,
    "d_model": 4, "n_heads": 2, "d_ff": 6, "e_layers": 2, "d_layers": 2,
    "modes": 3, "wavelet_c": 2, "wavelet_k": 3, "wavelet_alpha": 2, "cross_c": 3, "cross_k": 2,
}  # fmt: skip
PATH = golden_dir() / "fedformer_fourier_tiny.json"


def small(preset="corrected", **sizes):
    return models.config("fedformer", preset, **{**SMALL, **sizes})


@functools.cache
def made(config):
    """A model with random leaves, its frequencies too."""
    rng = np.random.default_rng(0)

    def filled(path, leaf):
        if path.endswith("bins"):
            return np.arange(leaf.size, dtype=np.int32)
        if leaf.dtype == np.int32:
            return np.sort(rng.permutation(6)[: leaf.size]).astype(np.int32)
        return rng.normal(size=leaf.shape).astype(np.float32)

    return trees.map_with_path(filled, shapes(config))


def modes_of(config):
    blocks = made(config).state["buffers"]
    return {
        "encoder": blocks["encoder_mixing"]["modes"],
        "decoder": blocks["decoder_mixing"]["modes"],
        "cross_q": blocks["cross_mixing"]["query_modes"],
        "cross_kv": blocks["cross_mixing"]["key_modes"],
    }


def test_the_published_scripts_draw_these_frequencies():
    # numpy's shuffle after np.random.seed(2021), four times.
    modes = interop.drawn_modes(small("tslib"))
    np.random.seed(2021)  # noqa: NPY002
    for name, size in {"encoder": 6, "decoder": 7, "cross_q": 7, "cross_kv": 6}.items():
        order = list(range(size))
        np.random.shuffle(order)  # noqa: NPY002
        assert modes[name] == sorted(order[:3])


@pytest.mark.skipif(not PATH.is_file(), reason=f"no FEDformer case in {golden_dir()}")
def test_drawn_modes_are_the_reference_model_s():
    case = Case(PATH)
    modes = interop.drawn_modes(case.config(), case.meta["seeds"]["construct_torch_and_numpy"])
    stored = case.group("rand")
    assert [f"{name}_modes" for name in modes] == list(case.meta["random_draws"]["modes"])
    for name, drawn in modes.items():
        np.testing.assert_array_equal(drawn, stored[f"{name}_modes"])


def test_modes_that_are_no_numbers_are_said_to_be_none():
    config = small("tslib")
    weights = interop.to_torch(made(config))
    modes = {**modes_of(config), "encoder": ["a", "b", "c"], "decoder": [[1], [2, 3]]}
    with pytest.raises(ValueError, match=r"modes encoder: .*expected integers") as caught:
        interop.from_torch(config, weights, modes=modes)
    assert "modes decoder: not a list of numbers" in str(caught.value)


def test_a_complex_weight_beside_its_imaginary_part_is_refused():
    config = small("tslib")
    weights = interop.to_torch(made(config))
    key = "encoder.attn_layers.0.attention.inner_correlation.weights1"
    weights[key] = weights[key].astype(np.complex64)
    with pytest.raises(ValueError, match=f"{key}: complex, expected real numbers"):
        interop.from_torch(config, weights, modes=modes_of(config))


def test_low_modes_are_not_drawn():
    modes = interop.drawn_modes(small("tslib", mode_select="low", modes=7))
    assert [len(kept) for kept in modes.values()] == [6, 7, 7, 6]
    assert all(kept == list(range(len(kept))) for kept in modes.values())


def test_modes_that_are_not_drawn_are_not_made_up():
    with pytest.raises(ValueError, match="the wavelets version draws no frequencies"):
        interop.drawn_modes(small(version="wavelets"))
    with pytest.raises(ValueError, match=r"modes \(1, 2, 2, 1\) are counts of a pruned model"):
        interop.drawn_modes(small(modes=(1, 2, 2, 1)))


@pytest.mark.parametrize("version", ["fourier", "wavelets"])
@pytest.mark.parametrize("preset", models.PRESETS)
def test_weights_survive_the_way_there_and_back(preset, version):
    config = small(preset, version=version)
    stored = interop.to_torch(made(config))
    modes = modes_of(config) if version == "fourier" else None
    back = interop.from_torch(config, stored, modes=modes)
    jax.tree.map(np.testing.assert_array_equal, back, made(config))
    assert stored["dec_embedding.position_embedding.pe"].shape == (1, 5000, 4)


@pytest.mark.parametrize(
    "modes",
    [
        {"encoder_modes": [0, 1], "decoder_modes": [2], "cross_q_modes": [3, 5], "cross_kv": [4]},
        [[0, 1], [2], [3, 5], [4]],
        [np.array([0, 1]), (2,), range(3, 6, 2), [4]],
    ],
)
def test_modes_come_by_name_or_in_order(modes):
    config = small(modes=(2, 1, 2, 1))
    stored = interop.to_torch(made(config))
    blocks = interop.from_torch(config, stored, modes=modes).state["buffers"]
    for (block, name), kept in {
        ("encoder", "modes"): [0, 1],
        ("decoder", "modes"): [2],
        ("cross", "query_modes"): [3, 5],
        ("cross", "key_modes"): [4],
    }.items():
        np.testing.assert_array_equal(blocks[f"{block}_mixing"][name], kept)
        assert blocks[f"{block}_mixing"][name].dtype == np.int32


def refused(config, stored, modes):
    with pytest.raises(ValueError, match="does not fit") as caught:
        interop.from_torch(config, stored, modes=modes)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_random_modes_must_be_given_and_low_ones_need_not():
    config = small()
    stored = interop.to_torch(made(config))
    (problem,) = refused(config, stored, None)
    assert problem.startswith("modes: missing; a state_dict does not have the frequencies")
    assert "interop.drawn_modes(config, seed)" in problem
    buffers = interop.from_torch(small(mode_select="low"), stored).state["buffers"]
    np.testing.assert_array_equal(buffers["cross_mixing"]["key_modes"], [0, 1, 2])


def test_every_fault_of_the_modes_is_listed_beside_those_of_the_weights():
    config = small()
    stored = interop.to_torch(made(config))
    del stored["decoder.projection.bias"]
    modes = {
        "encoder": [0, 1], "decoder": [1, 1, 2], "cross_q": [0, 6, 7], "kv": [0, 1, 2]
    }  # fmt: skip
    assert refused(config, stored, modes) == [
        "decoder.projection.bias: missing",
        "modes cross_kv: missing",
        "modes kv: not one of encoder, decoder, cross_q, cross_kv",
        "modes encoder: shape (2,), expected (3,)",
        "modes decoder: [1] more than once",
        "modes cross_q: [6, 7] not in 0 ... 5",
    ]
    del stored["decoder.projection.weight"]
    assert refused(config, stored, [[0, 1, 2]])[-1] == (
        "modes: 1 lists, expected 4: encoder, decoder, cross_q, cross_kv"
    )
    assert refused(config, stored, [[0.5, 1, 2]] + [[0, 1, 2]] * 3)[-1] == (
        "modes encoder: float64, expected integers"
    )


@pytest.mark.parametrize(
    "config",
    [models.config("transformer", enc_in=1, dec_in=1, c_out=1), small(version="wavelets")],
)
def test_models_without_modes_take_none(config):
    with pytest.raises(ValueError, match="modes: this model has none, leave them out"):
        interop.from_torch(config, {}, modes={"encoder": [0]})


@pytest.mark.parametrize("version", ["fourier", "wavelets"])
def test_complex_weights_are_read_as_pairs(version):
    config = small("paper", version=version)
    stored = interop.to_torch(made(config))
    pairs = [key for key in stored if key.endswith("weights1")]
    assert pairs
    for key in pairs:
        stored[key] = stored[key] + 1j * stored.pop(key[:-1] + "2")
    modes = modes_of(config) if version == "fourier" else None
    back = interop.from_torch(config, stored, modes=modes)
    jax.tree.map(np.testing.assert_array_equal, back, made(config))


def test_shared_weights_must_agree():
    config = small()
    stored = interop.to_torch(made(config))
    key = "encoder.attn_layers.{}.attention.inner_correlation.weights2"
    np.testing.assert_array_equal(stored[key.format(0)], stored[key.format(1)])
    stored[key.format(1)] = stored[key.format(1)] + 1
    assert refused(config, stored, modes_of(config)) == [
        f"{key.format(1)}: differs from {key.format(0)}, with which it is shared"
    ]


def test_a_checkpoint_with_projections_that_nothing_reads_needs_a_config_with_them():
    published = small("tslib", decoder_spectrum="decoder")
    stored = interop.to_torch(made(published))
    problems = refused(small(), stored, modes_of(small()))
    assert "decoder.layers.1.cross_attention.value_projection.bias: not part of this model" in (
        problems
    )
    assert len(problems) == 2 * (2 * 2 + 2 * 2 + 2)
    ours = set(trees.by_path(shapes(published).params))
    assert len(ours - set(trees.by_path(shapes(small()).params))) == len(problems)
