"""Trees of arrays on disk, through orbax."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tsjax import pruning, trees
from tsjax.pruning import packing

PyTree = Any

# Orbax looks for these only after its readers have started, and leaves them running.
_FILES = ("_METADATA", "manifest.ocdbt")

# Entries of the checkpoint's own metadata: the shapes of packed bool leaves by path, and the leaves
# of a sparse checkpoint.
_PACKED = "packed"
_SPARSE = "sparse"
_SPARSE_VERSION = 1


def save(path: str | os.PathLike[str], tree: PyTree) -> None:
    """Writes a tree of arrays to the folder ``path``, replacing a checkpoint that is there.

    The folder appears whole or not at all. Bool leaves, such as a mask's, are stored in one bit an
    element.

    Raises:
      FileExistsError: if something other than a checkpoint is at ``path``; it is left alone.
      ValueError: if a leaf has no elements, which orbax does not store.
    """
    leaves = trees.by_path(tree)
    if empty := [leaf_path for leaf_path, leaf in leaves.items() if np.size(leaf) == 0]:
        raise ValueError(f"leaves without elements cannot be saved: {', '.join(empty)}")
    packed = {p: list(leaf.shape) for p, leaf in leaves.items() if _is_bool(leaf)}
    tree = trees.map_with_path(
        lambda p, leaf: np.packbits(np.asarray(leaf).ravel()) if p in packed else leaf, tree
    )
    _write(Path(path), tree, {_PACKED: packed})


def restore(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Reads the tree that :func:`save` wrote.

    Args:
      path: the folder.
      like: a tree of arrays or ``ShapeDtypeStruct`` with the structure expected.

    Raises:
      FileNotFoundError: if there is no checkpoint at ``path``.
      ValueError: if what is stored has other leaves or shapes.
    """
    path = Path(path)
    with _opened(path) as (checkpointer, stored, about):
        if _SPARSE in about:
            raise ValueError(f"the checkpoint at {path} is sparse: read it with restore_sparse")
        packed = _readable(path, lambda: _packed_leaves(about))
        # Checked here: orbax names no leaf, and leaves its readers running.
        trees.check_same_structure(
            stored | packed,
            trees.by_path(like),
            name=f"the checkpoint at {path}",
            like_name="the tree expected",
        )

        def read() -> PyTree:
            target = trees.map_with_path(
                lambda p, leaf: _placeholder(stored[p]) if p in packed else leaf, like
            )
            return trees.map_with_path(
                lambda p, leaf, found: _unpacked(found, leaf) if p in packed else found,
                like,
                checkpointer.restore(path.absolute(), target),
            )

        return _readable(path, read)


def save_sparse(path: str | os.PathLike[str], params: PyTree, mask: PyTree) -> None:
    """Writes the weights that ``mask`` keeps, and the mask in one bit a weight, as a checkpoint.

    The folder appears whole or not at all. What pruned weights hold is not written.

    Args:
      path: the folder; a checkpoint that is there is replaced.
      params: tree of arrays.
      mask: tree of bool arrays with the structure and shapes of ``params``.

    Raises:
      FileExistsError: if something other than a checkpoint is at ``path``; it is left alone.
      ValueError: if ``mask`` is no mask of ``params``, listing every leaf at fault.
    """
    compressed = packing.compress(params, mask)
    about = {"version": _SPARSE_VERSION, "leaves": packing.describe(params)}
    # The count is for whoever looks, and because orbax reads back no tree without arrays.
    kept = np.asarray(sum(count for count, _ in pruning.summary(mask).values()))
    _write(Path(path), {"params": compressed, "kept": kept}, {_SPARSE: about})


def restore_sparse(path: str | os.PathLike[str], like: PyTree) -> tuple[PyTree, PyTree]:
    """Reads what :func:`save_sparse` wrote: bit by bit, but pruned weights are zero.

    Args:
      path: the folder.
      like: a tree of arrays or ``ShapeDtypeStruct`` with the params' structure, shapes and dtypes.

    Returns:
      Params and mask, two trees like ``like`` of numpy arrays.

    Raises:
      FileNotFoundError: if there is no checkpoint at ``path``.
      ValueError: if it is another kind of checkpoint, if it is damaged, or if what is stored has
        other leaves, shapes or dtypes.
    """
    path = Path(path)
    with _opened(path) as (checkpointer, stored, about):
        leaves = _readable(path, lambda: _sparse_leaves(about))
        packing.check_fits(leaves, like, name=f"the checkpoint at {path}")

        def parts(p: str, _: Any) -> dict[str, np.ndarray]:
            names = {part: f"{p}/{part}" for part in packing.PARTS}
            return {k: _placeholder(stored[name]) for k, name in names.items() if name in stored}

        target = trees.map_with_path(parts, {"params": like}) | {"kept": np.asarray(0)}
        found = _readable(path, lambda: checkpointer.restore(path.absolute(), target))
    try:
        return packing.decompress(found["params"], like)
    except ValueError as error:
        raise ValueError(f"the checkpoint at {path} contradicts itself: {error}") from None


def _write(path: Path, tree: PyTree, about: dict[str, Any]) -> None:
    if path.exists() and not _is_checkpoint(path):
        raise FileExistsError(f"{path} is there and no checkpoint: it is not replaced")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree, force=True, custom_metadata=about)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """A reader, the shapes and dtypes of what is stored by path, and what `_write` was told."""
    if not _is_checkpoint(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    if missing := [name for name in _FILES if not (path / name).is_file()]:
        raise ValueError(f"the checkpoint at {path} cannot be read: {missing[0]} is missing")
    with ocp.StandardCheckpointer() as checkpointer:
        metadata = _readable(path, lambda: checkpointer.metadata(path.absolute()))
        stored = _readable(path, lambda: trees.by_path(metadata.item_metadata.tree))
        yield checkpointer, stored, metadata.custom_metadata or {}


def _is_bool(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and leaf.dtype == np.dtype(bool)


def _packed_leaves(about: dict[str, Any]) -> dict[str, Any]:
    # Checkpoints from before bools were packed say nothing of them, and hold them as they are.
    shapes = about.get(_PACKED, {})
    return {path: jax.ShapeDtypeStruct(tuple(shape), bool) for path, shape in shapes.items()}


def _sparse_leaves(about: dict[str, Any]) -> dict[str, Any]:
    if _SPARSE not in about:
        raise ValueError("it is not sparse; training.restore may read it")
    if (version := about[_SPARSE]["version"]) != _SPARSE_VERSION:
        raise ValueError(
            f"it is sparse in version {version!r}, and only {_SPARSE_VERSION} is known"
        )
    return packing.described(about[_SPARSE]["leaves"])


def _placeholder(stored: Any) -> np.ndarray:
    """Asks orbax for a numpy array, which holds every dtype, of the stored shape."""
    return np.broadcast_to(np.zeros((), stored.dtype), stored.shape)


def _unpacked(bits: np.ndarray, like: Any) -> Any:
    found = packing.unpack(bits, like).astype(like.dtype)
    return np.array(found) if isinstance(like, np.ndarray) else jax.device_put(found, like.sharding)


def _readable(path: Path, read: Callable[[], PyTree]) -> PyTree:
    try:
        return read()
    except Exception as error:
        # Whatever orbax and its storage raise where files are damaged or missing.
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the checkpoint at {path} cannot be read: {what[:200]}") from error


def _is_checkpoint(path: Path) -> bool:
    return (path / "_CHECKPOINT_METADATA").is_file()
