"""Trees of arrays on disk, through orbax."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from tsjax import trees

PyTree = Any

# Orbax looks for these only after its readers have started, and leaves them running.
_FILES = ("_METADATA", "manifest.ocdbt")


def save(path: Path, tree: PyTree) -> None:
    """Writes a tree of arrays to the folder ``path``, replacing a checkpoint that is there.

    The folder appears whole or not at all.

    Raises:
      FileExistsError: if something other than a checkpoint is at ``path``; it is left alone.
    """
    if path.exists() and not _is_checkpoint(path):
        raise FileExistsError(f"{path} is there and no checkpoint: it is not replaced")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree, force=True)


def restore(path: Path, like: PyTree) -> PyTree:
    """Reads the tree that :func:`save` wrote.

    Args:
      path: the folder.
      like: a tree of arrays or ``ShapeDtypeStruct`` with the structure expected.

    Raises:
      FileNotFoundError: if there is no checkpoint at ``path``.
      ValueError: if what is stored has other leaves or shapes.
    """
    if not _is_checkpoint(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    if missing := [name for name in _FILES if not (path / name).is_file()]:
        raise ValueError(f"the checkpoint at {path} cannot be read: {missing[0]} is missing")
    with ocp.StandardCheckpointer() as checkpointer:
        # Checked here: orbax names no leaf, and leaves its readers running.
        stored = _readable(path, lambda: checkpointer.metadata(path.absolute()).item_metadata.tree)
        trees.check_same_structure(
            trees.by_path(stored),
            trees.by_path(like),
            name=f"the checkpoint at {path}",
            like_name="the tree expected",
        )
        return _readable(path, lambda: checkpointer.restore(path.absolute(), like))


def _readable(path: Path, read: Callable[[], PyTree]) -> PyTree:
    try:
        return read()
    except Exception as error:
        # Whatever orbax and its storage raise where files are damaged or missing.
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the checkpoint at {path} cannot be read: {what[:200]}") from error


def _is_checkpoint(path: Path) -> bool:
    return (path / "_CHECKPOINT_METADATA").is_file()
