"""Where each leaf of a model is found in a Time-Series-Library ``state_dict``.

Each function maps our leaf paths (below ``params`` or ``buffers``) to ``(PyTorch key, layout)``.
"""

from collections.abc import Callable, Iterable, Iterator

from tsjax.interop.layouts import CONV, FLAT, TABLE, Layout, linear
from tsjax.models import ForecastConfig, TransformerConfig

Names = dict[str, tuple[str, Layout]]
Entry = tuple[str, tuple[str, Layout]]

POSITION = "position_embedding.pe"
"""PyTorch keeps 5000 rows of this table behind a leading axis of 1; here it has the rows needed."""


def transformer(config: TransformerConfig) -> Names:
    """Names of :class:`tsjax.models.Transformer`."""
    names: Names = {}
    for ours in ("enc_embedding", "dec_embedding"):
        names.update(_data_embedding(ours, config))
    for i in range(config.e_layers):
        ours, theirs = f"encoder/layer_{i}", f"encoder.attn_layers.{i}"
        names.update(_attention(f"{ours}/attention", f"{theirs}.attention"))
        names.update(_feed_forward_and_norms(ours, theirs, norms=2))
    for i in range(config.d_layers):
        ours, theirs = f"decoder/layer_{i}", f"decoder.layers.{i}"
        for block in ("self_attention", "cross_attention"):
            names.update(_attention(f"{ours}/{block}", f"{theirs}.{block}"))
        names.update(_feed_forward_and_norms(ours, theirs, norms=3))
    for stack in ("encoder", "decoder"):
        names.update(_norm(f"{stack}/norm", f"{stack}.norm"))
    names.update(_dense("output_projection", "decoder.projection", linear()))
    return names


NAMES: dict[str, Callable[..., Names]] = {"transformer": transformer}


def _dense(ours: str, theirs: str, layout: Layout) -> Iterable[Entry]:
    yield f"{ours}/kernel", (f"{theirs}.weight", layout)
    yield f"{ours}/bias", (f"{theirs}.bias", FLAT)


def _norm(ours: str, theirs: str) -> Iterable[Entry]:
    yield f"{ours}/scale", (f"{theirs}.weight", FLAT)
    yield f"{ours}/bias", (f"{theirs}.bias", FLAT)


def _attention(ours: str, theirs: str) -> Iterator[Entry]:
    for name in ("query", "key", "value"):
        yield from _dense(f"{ours}/{name}", f"{theirs}.{name}_projection", linear())
    yield from _dense(f"{ours}/out", f"{theirs}.out_projection", linear(in_axes=2))


def _feed_forward_and_norms(ours: str, theirs: str, *, norms: int) -> Iterator[Entry]:
    yield from _dense(f"{ours}/feed_forward/up", f"{theirs}.conv1", linear(as_conv=True))
    yield from _dense(f"{ours}/feed_forward/down", f"{theirs}.conv2", linear(as_conv=True))
    for n in range(1, norms + 1):
        yield from _norm(f"{ours}/norm{n}", f"{theirs}.norm{n}")


def _data_embedding(name: str, config: ForecastConfig) -> Iterator[Entry]:
    yield f"{name}/value/kernel", (f"{name}.value_embedding.tokenConv.weight", CONV)
    yield f"{name}/position", (f"{name}.{POSITION}", TABLE)
    temporal = f"{name}.temporal_embedding"
    if config.embed == "timeF":
        yield f"{name}/time/projection/kernel", (f"{temporal}.embed.weight", linear())
        return
    for field in ("month", "day", "weekday", "hour", "minute")[: config.mark_dim]:
        if config.embed == "learned":
            yield f"{name}/time/{field}/embedding", (f"{temporal}.{field}_embed.weight", TABLE)
        else:
            yield f"{name}/time/{field}", (f"{temporal}.{field}_embed.emb.weight", TABLE)
