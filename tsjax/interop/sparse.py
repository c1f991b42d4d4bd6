"""Pruned params in a file of their kept values and bit-packed masks, and what that saves.

The file is an ordinary ``.safetensors`` file. Its metadata has one entry, ``tsjax.sparse``, whose
JSON text holds

* ``version``: 1;
* ``leaves``: for each leaf's path its ``dtype`` (numpy's name) and its ``shape``;
* ``model``: what :func:`tsjax.interop.write_model` says of the model; other files have none;
* ``crc32``: eight hexadecimal digits, the CRC-32 of ``json.dumps(leaves, sort_keys=True)``, of
  ``json.dumps(model, sort_keys=True)`` if there is one, and of the bytes of all tensors in the
  order of their sorted names.

Of a leaf whose weights are all kept there is the tensor ``<path>/values``, in the leaf's shape. Of
any other there are ``<path>/mask``, the kept weights as bits in row-major order, the first in the
highest bit of the first byte (uint8 ``[ceil(n / 8)]``, the last byte filled up with zeros), and,
unless none is kept, ``<path>/values`` ``[kept]`` in the same order. A leaf without elements has
no tensor. Another program reads it so::

    import json, numpy, safetensors  # and ml_dtypes, for bfloat16

    with safetensors.safe_open(path, "np") as file:
        leaves = json.loads(file.metadata()["tsjax.sparse"])["leaves"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    params = {name: numpy.zeros(leaf["shape"], leaf["dtype"]) for name, leaf in leaves.items()}
    for name, array in params.items():
        if f"{name}/mask" in tensors:
            kept = numpy.unpackbits(tensors[f"{name}/mask"], count=array.size).astype(bool)
            array.reshape(-1)[kept] = tensors.get(f"{name}/values", ())
        elif array.size:
            array[...] = tensors[f"{name}/values"]
"""

import dataclasses
import gzip
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tsjax import pruning, trees
from tsjax.interop import files
from tsjax.trees import PyTree
from tsjax.wording import listing, one_of

FORMAT = "tsjax.sparse"
VERSION = 1
GZIP_LEVEL = 6

_DTYPES = frozenset({
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bfloat16", "float16", "float32", "float64", "complex64",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FileSizes:
    """Sizes of one model's files in bytes; a megabyte (MB) is 1e6 of them.

    The files are those of :func:`write_sparse`: ``dense`` is written with a mask that keeps all,
    ``masked`` the same after the pruned weights were set to zero, and ``sparse`` with the mask.
    Each is also compressed, by Python's ``gzip`` at level 6, the level that the gzip program takes.
    """

    dense: int
    masked: int
    sparse: int
    dense_gzip: int
    masked_gzip: int
    sparse_gzip: int


def write_sparse(path: str | os.PathLike[str], params: PyTree, mask: PyTree) -> None:
    """Writes the weights that a mask keeps, and the mask in one bit a weight.

    The file is written whole or not at all, and replaces one that is there. What pruned weights
    hold is not written. :mod:`tsjax.interop.sparse` describes the format.

    Args:
      path: where to, in an existing folder; ends in ``.safetensors``.
      params: tree of arrays.
      mask: tree of bool arrays with the structure and shapes of ``params``.

    Raises:
      FileNotFoundError: if the folder is missing.
      IsADirectoryError: if the path is a folder.
      ValueError: for another suffix, if ``mask`` is no mask of ``params``, or if a leaf has a type
        or a path that the format has not; leaves are named.
    """
    path = checked_path(path)
    data = encoded(params, mask)
    files.write_whole(path, lambda file: file.write(data))


def read_sparse(
    path: str | os.PathLike[str], like: PyTree | None = None, *, same_shapes: bool = True
) -> tuple[PyTree, PyTree]:
    """Reads what :func:`write_sparse` wrote: the kept weights bit by bit, and zeros.

    A damaged file is refused: a checksum covers all of its content. It guards against accidents;
    whoever changes a file on purpose can write a new one.

    Args:
      path: the file.
      like: the tree that is expected, of arrays or ``ShapeDtypeStruct``. By default what the file
        holds is taken, as ``{path: array}``.
      same_shapes: whether the leaves must have the shapes of ``like``. Those of a model that
        :func:`tsjax.structure.slice` made smaller have not.

    Returns:
      Params and mask, two trees like ``like`` of numpy arrays.

    Raises:
      FileNotFoundError: if there is no such file.
      IsADirectoryError: if the path is a folder.
      ValueError: if the file is damaged, of another format or version, contradicts itself, or holds
        other leaves, shapes or dtypes than ``like``.
    """
    leaves, params, mask, _ = decoded(path)
    if like is None:
        return params, mask
    stored = leaves
    if not same_shapes:
        shapes = {p: leaf.shape for p, leaf in trees.by_path(like).items()}
        stored = {
            p: jax.ShapeDtypeStruct(shapes[p], leaf.dtype)
            if p in shapes and len(shapes[p]) == leaf.ndim
            else leaf
            for p, leaf in leaves.items()
        }
    trees.check_fits(stored, like, name=f"the file {path}")
    return (
        trees.map_with_path(lambda leaf_path, _: params[leaf_path], like),
        trees.map_with_path(lambda leaf_path, _: mask[leaf_path], like),
    )


def file_sizes(params: PyTree, mask: PyTree, dense: PyTree | None = None) -> FileSizes:
    """How large a model's files are, dense and pruned, plain and compressed.

    The files are made in memory and counted; nothing is written. Sixteen million float32 weights
    take about 6 seconds on one CPU core, nearly all of it compression.

    Args:
      params: tree of arrays.
      mask: tree of bool arrays with the structure and shapes of ``params``.
      dense: the weights before they were pruned, where ``params`` are zero already: zeros compress.

    Raises:
      ValueError: as :func:`write_sparse`.
    """
    everything = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
    masked, _ = pruning.decompress(pruning.compress(params, mask), params)
    sizes = [
        (len(data), len(gzip.compress(data, GZIP_LEVEL, mtime=0)))
        for data in (
            encoded(params if dense is None else dense, everything),
            encoded(masked, everything),
            encoded(params, mask),
        )
    ]
    plain, compressed = zip(*sizes, strict=True)
    return FileSizes(*plain, *compressed)


def encoded(params: PyTree, mask: PyTree, model: Any = None) -> bytes:
    """The bytes of the file, the same for the same arguments; ``model`` joins its metadata."""
    from safetensors.numpy import save

    trees.check_mask(mask, params)
    leaves = trees.describe(params)
    _check_writable(leaves)
    compressed = pruning.compress(trees.by_path(params), trees.by_path(mask))
    tensors = {
        f"{path}/{part}": array
        for path, parts in compressed.items()
        for part, array in parts.items()
    }
    # One entry, since safetensors writes several in an order that changes from run to run.
    about = {"version": VERSION, "crc32": _checksum(leaves, tensors, model), "leaves": leaves}
    about |= {} if model is None else {"model": model}
    return save(tensors, metadata={FORMAT: json.dumps(about)})


def decoded(path: str | os.PathLike[str]) -> tuple[dict[str, Any], PyTree, PyTree, Any]:
    """Shapes and dtypes of the leaves, the leaves and their masks, each by path; the model, if any.

    Raises:
      FileNotFoundError: if there is no such file.
      IsADirectoryError: if the path is a folder.
      ValueError: if the file is damaged, or of another format or version.
    """
    path = checked_path(path)
    files.check_exists(path)
    try:
        return _decoded(path)
    except Exception as error:  # On a damaged file the libraries raise nearly anything.
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as {FORMAT}: {reason[:1000]}. "
            "Expected a file that interop.write_sparse wrote; if it was that, it is damaged: fetch "
            "it or write it again"
        ) from None


def _decoded(path: Path) -> tuple[dict[str, Any], PyTree, PyTree, Any]:
    from safetensors.numpy import load_file

    about = _about(path)
    leaves = trees.described(about["leaves"])
    # It finds bfloat16 by name in numpy, where jax, imported above, has put it.
    tensors = load_file(path)
    compressed: dict[str, dict[str, np.ndarray]] = {leaf: {} for leaf in leaves}
    problems = []
    for name, tensor in tensors.items():
        leaf, _, part = name.rpartition("/")
        if leaf not in leaves or part not in pruning.COMPRESSED_PARTS:
            problems.append(f"tensor {name!r} belongs to no leaf")
        elif tensor.dtype == bool and (tensor.view(np.uint8) > 1).any():
            problems.append(f"tensor {name!r} is bool and has other bytes than 0 and 1")
        else:
            compressed[leaf][part] = tensor
    if problems:
        raise ValueError(listing(problems, 5))
    params, mask = pruning.decompress(compressed, leaves)
    model = about.get("model")
    if about["crc32"] != (found := _checksum(about["leaves"], tensors, model)):
        raise ValueError(f"its checksum is {found}, and {about['crc32']} was written")
    return leaves, params, mask, model


def _about(path: Path) -> dict[str, Any]:
    """What the file says about itself."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError("it does not begin with a safetensors header")
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    text = header.get("__metadata__", {}).get(FORMAT)
    if text is None:
        raise ValueError(f"its metadata has no {FORMAT!r} (interop.read_weights may read it)")
    about = json.loads(text, object_pairs_hook=_unique)
    if about.get("version") != VERSION:
        raise ValueError(f"it has version {about.get('version')!r}, and only {VERSION} is known")
    if missing := {"crc32", "leaves"} - about.keys():
        raise ValueError(f"its metadata lacks {listing(sorted(missing))}")
    return about


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, which must not have a name twice: readers differ in which one they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = [name for name in found if names.count(name) > 1]
        raise ValueError(f"its header has {listing([repr(name) for name in twice], 5)} twice")
    return found


def _checksum(leaves: Any, tensors: Mapping[str, np.ndarray], model: Any = None) -> str:
    total = zlib.crc32(json.dumps(leaves, sort_keys=True).encode())
    if model is not None:
        total = zlib.crc32(json.dumps(model, sort_keys=True).encode(), total)
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def _check_writable(leaves: Mapping[str, Mapping[str, Any]]) -> None:
    problems = [
        f"{path}: {leaf['dtype']} is not among {', '.join(sorted(_DTYPES))}"
        for path, leaf in leaves.items()
        if leaf["dtype"] not in _DTYPES
    ]
    problems += [f"{path!r}: a path must be Unicode text" for path in leaves if not _is_text(path)]
    if problems:
        raise ValueError("cannot be written to a sparse file:\n  " + "\n  ".join(problems))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # Half of a surrogate pair.
        return False
    return True


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file of this format, which need not exist."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file")
    one_of(f"the suffix of {path}", path.suffix.lower(), (".safetensors",))
    return path
