"""Trees of arrays on disk, through orbax."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

PyTree = Any


def save(path: Path, tree: PyTree) -> None:
    """Writes a tree of arrays to the folder ``path``, replacing one that is there.

    The folder appears whole or not at all.
    """
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
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {path}")
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute(), like)
