"""Weights under PyTorch's names, from files and to files; reading one never runs code from it."""

import dataclasses
import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from tsjax.wording import listing, near, one_of

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the weights, beside the optimiser's state and the epoch."""

PREFIX = "module."
"""What torch's DataParallel puts before every name."""

_DTYPES = frozenset({
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
})  # fmt: skip


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a checkpoint with PyTorch's names, e.g. for :func:`tsjax.interop.from_torch`.

    Weights one level down, under ``state_dict``, ``model_state_dict`` or ``model``, are taken from
    there. Where every name begins with ``module.``, as DataParallel has it, that is left out.

    Args:
      path: a ``.npz`` or ``.safetensors`` file, or one that ``torch.save`` wrote (``.pth``,
        ``.pt``, ``.bin``, ``.ckpt``; these need torch).

    Returns:
      The arrays by name, in their stored precision. Floats that numpy does not have (bfloat16,
      float8) come as float32, which holds each of their values.

    Raises:
      FileNotFoundError: if there is no such file.
      IsADirectoryError: if the path is a folder.
      ImportError: if the file needs torch and it is missing, with the command that installs it.
      ValueError: if the suffix is unknown, or if the file is empty, damaged, of another format,
        holds more than tensors (nothing of it is run), or is not a mapping of names to arrays.
    """
    path = Path(path)
    check_exists(path)
    form = _form(path)
    _check_not_empty(path, form)
    try:
        found = form.read(path)
    except ImportError:
        raise
    except Exception as error:  # On a damaged file the libraries raise nearly anything.
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as {path.suffix}: "
            f"{_reason(error)}. Expected {form.content}; if it was that, it is damaged: fetch it "
            "or write it again"
        ) from None
    arrays = _checked(*_unwrapped(path, found), _DTYPES)
    if all(name.startswith(PREFIX) for name in arrays):
        return {name.removeprefix(PREFIX): array for name, array in arrays.items()}
    return arrays


def write_weights(path: str | os.PathLike[str], state_dict: Mapping[str, Any]) -> None:
    """Writes weights, e.g. those of :func:`tsjax.interop.to_torch`, for use with PyTorch.

    The file is written whole or not at all, and replaces one that is there.

    Args:
      path: where to, in an existing folder. The suffix says the format: those of
        :func:`read_weights`. PyTorch reads ``.pth`` with ``torch.load(path)`` and ``.safetensors``
        with ``safetensors.torch.load_file(path)``.
      state_dict: maps names to arrays (anything ``numpy.asarray`` reads). Floats that numpy does
        not have (bfloat16, float8) are written as float32.

    Raises:
      FileNotFoundError: if the folder is missing.
      IsADirectoryError: if the path is a folder.
      ImportError: if the format needs torch and it is missing.
      ValueError: if the suffix is unknown, or entries are not named arrays of numbers that the
        format has, naming the first few.
    """
    path = Path(path)
    form = _form(path)
    given = {name: _asarray(value) for name, value in state_dict.items()}
    arrays = _checked(f"state_dict, for {path},", given, _DTYPES - form.lacks)
    write_whole(path, lambda file: form.write(file, arrays))


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file whole or not at all, replacing one that is there.

    Raises:
      FileNotFoundError: if the folder is missing.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder: create it to write {path.name}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Format:
    """How one kind of file is read and written, what it holds, and the types it lacks."""

    read: Callable[[Path], object]
    write: Callable[[IO[bytes], Mapping[str, np.ndarray]], None]
    content: str
    lacks: frozenset[str] = frozenset()


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # Not numpy.load, which takes whatever is not a zip file for a pickle, and says so.
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                try:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                except ValueError as error:
                    raise ValueError(f"entry {member!r}: {error}") from None
            found[member.removesuffix(".npy")] = array
    return found


def _write_npz(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    # Not numpy.savez, whose own arguments ("file") cannot be names.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    # It finds bfloat16 by name in numpy, where jax, imported above, has put it.
    return load_file(path)


def _write_safetensors(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    # The metadata that Hugging Face's loaders ask for.
    file.write(save(dict(arrays), metadata={"format": "pt"}))


def _read_torch(path: Path) -> object:
    torch = _torch()
    with warnings.catch_warnings():
        # About the file's pickle protocol and age; what it holds is checked all the same.
        warnings.simplefilter("ignore")
        found = torch.load(path, map_location="cpu", weights_only=True)

    def to_numpy(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: to_numpy(item) for key, item in value.items()}
        if not isinstance(value, torch.Tensor):
            return value
        tensor = value.detach().resolve_conj().resolve_neg()
        if tensor.is_floating_point() and str(tensor.dtype).removeprefix("torch.") not in _DTYPES:
            tensor = tensor.float()
        try:
            return tensor.numpy()
        except (TypeError, RuntimeError):  # Sparse, quantised, meta: named where it is a weight.
            return value

    return to_numpy(found)


def _write_torch(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    torch = _torch()
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, file)


def _torch() -> Any:
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"PyTorch's own files need {missing.name}, which is not installed: "
            'pip install "tsjax[torch]" in an environment, or pip install -e ".[torch]" from a '
            "checkout; or use .safetensors, to which a machine with torch converts them"
        ) from None
    return torch


_TORCH = _Format(
    _read_torch,
    _write_torch,
    "named tensors and nothing else, as torch.save(model.state_dict(), path) writes them",
)
_FORMATS = {
    ".npz": _Format(_read_npz, _write_npz, "arrays of numbers, as numpy.savez writes them"),
    ".safetensors": _Format(
        _read_safetensors,
        _write_safetensors,
        "named tensors, as safetensors.torch.save_file writes them",
        lacks=frozenset({"complex128"}),
    ),
    ".pth": _TORCH,
    ".pt": _TORCH,
    ".bin": _TORCH,
    ".ckpt": _TORCH,
}


def _form(path: Path) -> _Format:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file of weights")
    suffix = path.suffix.lower()
    one_of(f"the suffix of {path}", suffix, _FORMATS)
    return _FORMATS[suffix]


def check_exists(path: Path) -> None:
    """Raises FileNotFoundError, with the nearest names there are, if nothing is at ``path``."""
    if not path.exists():
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        hint = near(path.name, [other.name for other in beside])
        raise FileNotFoundError(f"{path} does not exist{hint}: name an existing file of weights")


def _check_not_empty(path: Path, form: _Format) -> None:
    with path.open("rb") as file:
        if not file.read(1):
            raise ValueError(
                f"{path} is empty: expected {form.content}; fetch it or write it again"
            )


def _reason(error: Exception) -> str:
    """One sentence of an error's text, without torch's advice to trust the file."""
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    sentence = re.split(r"\.?(?:\s*\n|\.\s|$)", text, maxsplit=1)[0]
    return f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__


def _unwrapped(path: Path, found: object) -> tuple[str, object]:
    """What to call the weights in messages, and the weights, from one level down if need be."""
    if not isinstance(found, Mapping):
        return str(path), found
    inner = [
        key
        for key in WRAPPERS
        if isinstance(found.get(key), Mapping)
        and any(isinstance(value, np.ndarray) for value in found[key].values())
    ]
    if len(inner) > 1:
        raise ValueError(
            f"{path} holds weights under {' and '.join(map(repr, inner))}: expected one of them; "
            "save that one alone"
        )
    return (f"{path}, under {inner[0]!r},", found[inner[0]]) if inner else (str(path), found)


def _checked(what: str, weights: object, dtypes: frozenset[str]) -> dict[str, np.ndarray]:
    """The weights as plain arrays (native byte order, row-major), or ValueError."""
    fix = "expected string names that map to arrays of numbers, as model.state_dict() has them"
    if not isinstance(weights, Mapping):
        raise ValueError(f"{what} holds {_kind(weights)}: {fix}")
    if not weights:
        raise ValueError(f"{what} holds no weights: {fix}")
    arrays = {name: _plain(value) for name, value in weights.items()}
    wrong = [
        f"{name!r} is a name of type {_kind(name)}" for name in arrays if not isinstance(name, str)
    ]
    wrong += [
        f"{name!r} is {_kind(value)}"
        for name, value in arrays.items()
        if not (isinstance(value, np.ndarray) and value.dtype.name in dtypes)
    ]
    if wrong:
        raise ValueError(
            f"{what} has entries that cannot be taken: {listing(wrong, 5)}; {fix} "
            f"(types: {', '.join(sorted(dtypes))})"
        )
    return arrays


def _plain(value: Any) -> Any:
    """The array in a form that each of the libraries takes; what is not an array, unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name in _DTYPES:
        return np.asarray(value, value.dtype.newbyteorder("="), order="C")
    if jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize < 4:
        return value.astype(np.float32, order="C")
    return value


def _asarray(value: Any) -> Any:
    """The value as an array; unchanged where it is none, to be named with the others."""
    try:
        array = np.asarray(value)
    except Exception:  # Whatever its __array__ raises; a torch.Tensor that needs a gradient does.
        return value
    return value if array.dtype == object else array


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}"
    if hasattr(value, "layout") and hasattr(value, "dtype") and hasattr(value, "device"):
        return f"a tensor ({value.layout}, {value.dtype}, on {value.device})"
    return type(value).__name__
