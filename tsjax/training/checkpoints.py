"""Trees of arrays on disk, through orbax."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from tsjax import trees

PyTree = Any


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
    with ocp.StandardCheckpointer() as checkpointer:
        # Checked here: orbax names no leaf, and leaves its readers running.
        stored = trees.by_path(checkpointer.metadata(path.absolute()).item_metadata.tree)
        expected = trees.by_path(like)
        trees.check_same_structure(
            stored, expected, name=f"the checkpoint at {path}", like_name="the tree expected"
        )
        return checkpointer.restore(path.absolute(), like)


def _is_checkpoint(path: Path) -> bool:
    return (path / "_CHECKPOINT_METADATA").is_file()
