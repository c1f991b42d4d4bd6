"""Where each leaf of a model is found in a Time-Series-Library ``state_dict``.

Each function maps our leaf paths (below their collection) to ``(PyTorch key, layout)``; where one
tensor has several keys, because layers share it, to all of them. The functions of whole models are
named in the table of models, ``tsjax.models.MODELS``.
"""

from collections.abc import Iterable, Iterator

from tsjax.models.base import EncoderDecoderConfig, ForecastConfig
from tsjax.models.crossformer_config import CrossformerConfig
from tsjax.models.decomposition import DecompositionConfig
from tsjax.models.fedformer import FEDformerConfig
from tsjax.models.informer import InformerConfig
from tsjax.models.torch_layouts import CONV, FLAT, POSITIONS, TABLE, Layout, linear, merged

Keys = str | tuple[str, ...]
Names = dict[str, tuple[Keys, Layout]]
Entry = tuple[str, tuple[Keys, Layout]]

POSITION = "position_embedding.pe"
"""PyTorch keeps 5000 rows of this table behind a leading axis of 1; here it has the rows needed."""

BATCH_STATISTICS = {"mean": "running_mean", "var": "running_var", "count": "num_batches_tracked"}


def transformer(config: EncoderDecoderConfig) -> Names:
    """Names of :class:`tsjax.models.Transformer`."""
    names: Names = {}
    for ours in ("enc_embedding", "dec_embedding"):
        names.update(_data_embedding(ours, config))
    for i in range(config.e_layers):
        ours, theirs = f"encoder/layer_{i}", f"encoder.attn_layers.{i}"
        names.update(attention(f"{ours}/attention", f"{theirs}.attention"))
        names.update(_feed_forward_and_norms(ours, theirs, norms=2))
    for i in range(config.d_layers):
        ours, theirs = f"decoder/layer_{i}", f"decoder.layers.{i}"
        for block in ("self_attention", "cross_attention"):
            names.update(attention(f"{ours}/{block}", f"{theirs}.{block}"))
        names.update(_feed_forward_and_norms(ours, theirs, norms=3))
    for stack in ("encoder", "decoder"):
        names.update(norm(f"{stack}/norm", f"{stack}.norm"))
    names.update(dense("output_projection", "decoder.projection", linear()))
    return names


def informer(config: InformerConfig) -> Names:
    """Names of :class:`tsjax.models.Informer`."""
    names = transformer(config)
    for i in range(config.e_layers - 1 if config.distil else 0):
        ours, theirs = f"distil_{i}", f"encoder.conv_layers.{i}"
        names.update(dense(f"{ours}/conv", f"{theirs}.downConv", CONV))
        names.update(norm(f"{ours}/norm", f"{theirs}.norm"))
        for statistic, key in BATCH_STATISTICS.items():
            names[f"{ours}/norm/{statistic}"] = (f"{theirs}.norm.{key}", TABLE)
    return names


def autoformer(
    config: DecompositionConfig,
    *,
    position: bool = False,
    projections: tuple[str, str] = ("qkv", "qkv"),
) -> Names:
    """Names of :class:`tsjax.models.Autoformer`, and of what FEDformer shares with it."""
    own, cross = projections
    names: Names = {}
    for ours in ("enc_embedding", "dec_embedding"):
        names.update(_data_embedding(ours, config, position=position))
    names.update(_decomposition("decomp", "decomp", config.input_moving_avg))
    for i in range(config.e_layers):
        ours, theirs = f"encoder/layer_{i}", f"encoder.attn_layers.{i}"
        names.update(attention(f"{ours}/attention", f"{theirs}.attention", own))
        names.update(_decomposing_layer(ours, theirs, config, 2))
    for i in range(config.d_layers):
        ours, theirs = f"decoder/layer_{i}", f"decoder.layers.{i}"
        for block, parts in {"self_attention": own, "cross_attention": cross}.items():
            names.update(attention(f"{ours}/{block}", f"{theirs}.{block}", parts))
        names.update(_decomposing_layer(ours, theirs, config, 3))
        names[f"{ours}/trend_projection/kernel"] = (f"{theirs}.projection.weight", CONV)
    for stack in ("encoder", "decoder"):
        names.update(norm(f"{stack}/norm/norm", f"{stack}.norm.layernorm"))
    names.update(dense("output_projection", "decoder.projection", linear()))
    return names


def _decomposing_layer(
    ours: str, theirs: str, config: DecompositionConfig, decompositions: int
) -> Iterator[Entry]:
    for part, conv in (("up", "conv1"), ("down", "conv2")):
        kernel = (f"{theirs}.{conv}.weight", linear(as_conv=True))
        yield f"{ours}/feed_forward/{part}/kernel", kernel
    for n in range(1, decompositions + 1):
        yield from _decomposition(f"{ours}/decomp{n}", f"{theirs}.decomp{n}", config.moving_avg)


def _decomposition(ours: str, theirs: str, moving_avg: int | tuple[int, ...]) -> Iterable[Entry]:
    """Names of a mixture of moving averages; a single average has no weights."""
    if isinstance(moving_avg, tuple):
        yield from dense(f"{ours}/mixture", f"{theirs}.layer", linear())


def unread_positions(config: EncoderDecoderConfig) -> dict[str, int]:
    """Positional tables that PyTorch stores and an Autoformer does not read: widths by key."""
    return {
        f"enc_embedding.{POSITION}": config.d_model,
        f"dec_embedding.{POSITION}": config.decoder_width,
    }


def fedformer(config: FEDformerConfig) -> Names:
    """Names of :class:`tsjax.models.FEDformer`, whose layers share their mixing blocks."""
    names = autoformer(config, position=config.positions, projections=config.projections)
    encoder = [f"encoder.attn_layers.{i}.attention" for i in range(config.e_layers)]
    layers = [f"decoder.layers.{i}" for i in range(config.d_layers)]
    own, cross = ([f"{layer}.{kind}_attention" for layer in layers] for kind in ("self", "cross"))
    if config.version == "fourier":
        mixing = cross_mixing = dict(_complex("", "", TABLE))
    else:
        mixing, cross_mixing = dict(_wavelets()), dict(_cross_wavelets(config.dead_projections))
    parts = (("encoder", encoder, mixing), ("decoder", own, mixing), ("cross", cross, cross_mixing))
    for kind, blocks, entries in parts:
        for ours, (theirs, layout) in entries.items():
            keys = tuple(f"{block}.inner_correlation.{theirs}" for block in blocks)
            names[f"{kind}_mixing/{ours}"] = (keys, layout)
    return names


def _complex(ours: str, theirs: str, layout: Layout) -> Iterator[Entry]:
    yield f"{ours}real", (f"{theirs}weights1", layout)
    yield f"{ours}imag", (f"{theirs}weights2", layout)


def _wavelets() -> Iterator[Entry]:
    yield from dense("value", "Lk0", linear(in_axes=2))
    yield from dense("out", "Lk1", linear(in_axes=2))
    yield from _filters("MWT_CZ.0.")
    yield from dense("coarsest", "MWT_CZ.0.T0", linear())
    kernels = {"A": "detail_to_detail", "B": "smooth_to_detail", "C": "detail_to_smooth"}
    for theirs, ours in kernels.items():
        yield from _complex(f"{ours}/", f"MWT_CZ.0.{theirs}.", merged(2, 2, 1))


def _cross_wavelets(dead: bool) -> Iterator[Entry]:
    yield from _filters("")
    for ours, theirs in {"query": "Lq", "key": "Lk", "out": "out"}.items():
        yield from dense(ours, theirs, linear(in_axes=2))
    if dead:
        yield from dense("value", "Lv", linear(in_axes=2))
        yield from dense("coarsest", "T0", linear())


def _filters(theirs: str) -> Iterator[Entry]:
    filters = {"smooth": "ec_s", "detail": "ec_d", "even": "rc_e", "odd": "rc_o"}
    for ours, key in filters.items():
        yield ours, (f"{theirs}{key}", merged(2, 1))


def unread_unless_positions(config: FEDformerConfig) -> dict[str, int]:
    """The tables that a FEDformer does not read: none where its configuration has positions."""
    return {} if config.positions else unread_positions(config)


def crossformer(config: CrossformerConfig) -> Names:
    """Names of :class:`tsjax.models.Crossformer`.

    The segments' projection is called as Time-Series-Library has it where it has no bias, and
    otherwise as the model's authors do; all other names are common to both.
    """
    names: Names = {}
    ours, theirs = "enc_embedding/segments", "enc_value_embedding"
    if config.embedding_bias:
        names.update(dense(f"{ours}/value", f"{theirs}.linear", linear()))
    else:
        names[f"{ours}/value/kernel"] = (f"{theirs}.value_embedding.weight", linear())
    if config.sinusoid:
        names[f"{ours}/position"] = (f"{theirs}.{POSITION}", POSITIONS)
    names["enc_embedding/position"] = ("enc_pos_embedding", TABLE)
    names["decoder/position"] = ("dec_pos_embedding", TABLE)
    names.update(norm("enc_embedding/norm", "pre_norm"))
    for i in range(config.e_layers):
        ours, theirs = f"encoder/level_{i}", f"encoder.encode_blocks.{i}"
        names.update(_two_stage(f"{ours}/two_stage", f"{theirs}.encode_layers.0"))
        if i and config.win_size > 1:
            names.update(norm(f"{ours}/merging/norm", f"{theirs}.merge_layer.norm"))
            merging = f"{theirs}.merge_layer.linear_trans"
            names.update(dense(f"{ours}/merging/projection", merging, linear(in_axes=2)))
    for i in range(config.e_layers + 1):
        ours, theirs = f"decoder/layer_{i}", f"decoder.decode_layers.{i}"
        names.update(_two_stage(f"{ours}/two_stage", f"{theirs}.self_attention"))
        names.update(attention(f"{ours}/cross_attention", f"{theirs}.cross_attention"))
        names.update(_mlp_and_norms(ours, theirs, {"feed_forward": "MLP1"}))
        names.update(dense(f"{ours}/output_projection", f"{theirs}.linear_pred", linear()))
    return names


def _two_stage(ours: str, theirs: str) -> Iterator[Entry]:
    yield f"{ours}/router", (f"{theirs}.router", TABLE)
    yield from attention(f"{ours}/time_attention", f"{theirs}.time_attention")
    for name in ("sender", "receiver"):
        yield from attention(f"{ours}/{name}", f"{theirs}.dim_{name}")
    mlps = {"feed_forward1": "MLP1", "feed_forward2": "MLP2"}
    yield from _mlp_and_norms(ours, theirs, mlps)


def _mlp_and_norms(ours: str, theirs: str, mlps: dict[str, str]) -> Iterator[Entry]:
    """Names of Crossformer's MLPs, each of which comes with two norms."""
    for name, mlp in mlps.items():
        yield from dense(f"{ours}/{name}/up", f"{theirs}.{mlp}.0", linear())
        yield from dense(f"{ours}/{name}/down", f"{theirs}.{mlp}.2", linear())
    for n in range(1, 2 * len(mlps) + 1):
        yield from norm(f"{ours}/norm{n}", f"{theirs}.norm{n}")


def dense(ours: str, theirs: str, layout: Layout) -> Iterable[Entry]:
    """Names of a kernel of this layout and its bias."""
    yield f"{ours}/kernel", (f"{theirs}.weight", layout)
    yield f"{ours}/bias", (f"{theirs}.bias", FLAT)


def norm(ours: str, theirs: str) -> Iterable[Entry]:
    """Names of a norm's scale and bias."""
    yield f"{ours}/scale", (f"{theirs}.weight", FLAT)
    yield f"{ours}/bias", (f"{theirs}.bias", FLAT)


def attention(ours: str, theirs: str, projections: str = "qkv") -> Iterator[Entry]:
    """Names of the projections of an attention block: those of ``projections``, and ``out``."""
    for name in ("query", "key", "value"):
        if name[0] in projections:
            yield from dense(f"{ours}/{name}", f"{theirs}.{name}_projection", linear())
    yield from dense(f"{ours}/out", f"{theirs}.out_projection", linear(in_axes=2))


def _feed_forward_and_norms(ours: str, theirs: str, *, norms: int) -> Iterator[Entry]:
    yield from dense(f"{ours}/feed_forward/up", f"{theirs}.conv1", linear(as_conv=True))
    yield from dense(f"{ours}/feed_forward/down", f"{theirs}.conv2", linear(as_conv=True))
    for n in range(1, norms + 1):
        yield from norm(f"{ours}/norm{n}", f"{theirs}.norm{n}")


def _data_embedding(name: str, config: ForecastConfig, *, position: bool = True) -> Iterator[Entry]:
    yield f"{name}/value/kernel", (f"{name}.value_embedding.tokenConv.weight", CONV)
    if position:
        yield f"{name}/position", (f"{name}.{POSITION}", POSITIONS)
    temporal = f"{name}.temporal_embedding"
    if config.embed == "timeF":
        yield f"{name}/time/projection/kernel", (f"{temporal}.embed.weight", linear())
        return
    for field in ("month", "day", "weekday", "hour", "minute")[: config.mark_dim]:
        if config.embed == "learned":
            yield f"{name}/time/{field}/embedding", (f"{temporal}.{field}_embed.weight", TABLE)
        else:
            yield f"{name}/time/{field}", (f"{temporal}.{field}_embed.emb.weight", TABLE)
