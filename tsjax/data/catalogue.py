"""The data sets known by name, and where the file behind a name lies."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tsjax.wording import listing, near

SYNTHETIC = "synthetic"
DIRECTORY_VARIABLE = "TSJAX_DATA_DIR"

_ETT = "the ETDataset repository, github.com/zhouhaoyi/ETDataset"
_AUTOFORMER = "the Autoformer authors' collection, linked from github.com/thuml/Autoformer"
_NOT_REAL_DATES = "The dates of this set do not follow the real calendar."


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known about a public data set.

    Attributes:
      name: the name that `load` knows it by, whatever the case.
      file: the file's usual name.
      source: where to get it, for people.
      aliases: further names, in lower case; the file's stem is always one.
      split: the split rule of the published results.
      seq_len: the look-back of most published results.
      label_len: the known steps that the decoder begins with in these.
      horizons: the steps to forecast in these.
      sentinel: the number that stands for a missing value, if any. Published results keep it.
      sha256: the hash of the published file. A file with another hash is loaded, with a note.
      remark: a note on a known quirk that no check can see.
    """

    name: str
    file: str
    source: str
    aliases: tuple[str, ...] = ()
    split: str = "ratio"
    seq_len: int = 96
    label_len: int = 48
    horizons: tuple[int, ...] = (96, 192, 336, 720)
    sentinel: float | None = None
    sha256: str | None = None
    remark: str | None = None

    def answers_to(self, name: str) -> bool:
        """Whether `name`, in any case, means this set."""
        known = {self.name.lower(), Path(self.file).stem.lower(), *self.aliases}
        return name.lower().removesuffix(".csv") in known


_ENTRIES = (
    Entry(
        *("ETTh1", "ETTh1.csv", _ETT),
        split="ett_hour",
        sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    ),
    Entry(
        *("ETTh2", "ETTh2.csv", _ETT),
        split="ett_hour",
        sha256="a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
    ),
    Entry(
        *("ETTm1", "ETTm1.csv", _ETT),
        split="ett_minute",
        sha256="6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
    ),
    Entry(
        *("ETTm2", "ETTm2.csv", _ETT),
        split="ett_minute",
        sha256="db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd",
    ),
    Entry(
        *("ECL", "electricity.csv", _AUTOFORMER),
        remark=_NOT_REAL_DATES,
        sha256="7e45845d54c5219bad0ae6bc1b5316cf8ff9cead5d33fa998a5a51c2e4a497ad",
    ),
    Entry(
        *("Exchange", "exchange_rate.csv", _AUTOFORMER),
        remark=_NOT_REAL_DATES,
        sha256="48b4d9d3d508f5104162e85b9a6042e3557fde11aa9f2944eba8c0d0efc89842",
    ),
    Entry(
        *("Traffic", "traffic.csv", _AUTOFORMER),
        remark=_NOT_REAL_DATES,
        sha256="cb06463d56fa17d87f47027cd9389ceae82a69eddee51cdb61480e120dab0b16",
    ),
    Entry(
        *("Weather", "weather.csv", _AUTOFORMER),
        sentinel=-9999.0,
        sha256="34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
    ),
    Entry(
        *("ILI", "national_illness.csv", _AUTOFORMER, ("illness",)),
        seq_len=36,
        label_len=18,
        horizons=(24, 36, 48, 60),
        sha256="93601f64d2566dc796ca4305adad8b8560c2db1a1ff04543c3bd813a7263570a",
    ),
)


def catalogue() -> Mapping[str, Entry]:
    """Returns the entries of the public sets by name. 'synthetic' is embedded and has none."""
    return MappingProxyType({entry.name: entry for entry in _ENTRIES})


def find_entry(name: str) -> Entry | None:
    """Returns the catalogue's entry for a name, an alias or a file name, if there is one."""
    return next((entry for entry in _ENTRIES if entry.answers_to(name)), None)


def data_folder(data_dir: str | Path | None) -> Path | None:
    """Returns the given folder, or else the one that TSJAX_DATA_DIR names, or else None.

    Raises:
      FileNotFoundError: if that folder does not exist.
    """
    given = str(data_dir) if data_dir is not None else os.environ.get(DIRECTORY_VARIABLE, "")
    if not given:
        return None
    folder = _expand(given)
    if not folder.is_dir():
        told_by = "--data_dir (data_dir=)" if data_dir is not None else DIRECTORY_VARIABLE
        raise FileNotFoundError(f"{told_by} is {given!r}, which is not a folder: name one that is")
    return folder


def _expand(path: str) -> Path:
    """Returns the path with a leading ~ replaced by the home folder.

    Where there is no home folder, the path stays as it is, and is then not found.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def csv_files(folder: Path | None) -> list[Path]:
    """Returns the CSV files of a folder and, after them, of its subfolders one level down."""
    if folder is None:
        return []
    both = (*sorted(folder.glob("*")), *sorted(folder.glob("*/*")))
    return [path for path in both if path.suffix.lower() == ".csv" and path.is_file()]


def names(data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Returns every name that `load` can read now: 'synthetic', and what the data folder holds.

    Args:
      data_dir: the folder with the CSV files; by default the one TSJAX_DATA_DIR names.

    Returns:
      'synthetic', then a name for each file: its name in the catalogue, or else its stem.

    Raises:
      FileNotFoundError: if that folder does not exist.
    """
    found = {SYNTHETIC: None}
    for path in csv_files(data_folder(data_dir)):
        entry = find_entry(path.name)
        found[entry.name if entry else path.stem] = None
    return tuple(found)


def find_file(name: str, data_dir: str | Path | None) -> tuple[Path, Entry | None]:
    """Finds the CSV file behind a name: a path, a catalogue name, or a file's name or stem.

    Args:
      name: as for `load`.
      data_dir: as for `load`.

    Returns:
      The file, and its catalogue entry if its name is a known one.

    Raises:
      FileNotFoundError: if the folder, the file of a known set, or the path is missing.
      ValueError: if the name is unknown, or fits several files.
    """
    direct = _expand(name)
    # A bare name is never taken for a file that happens to lie in the working folder.
    is_path = len(direct.parts) > 1 or bool(direct.suffix)
    if is_path and direct.is_file():
        return direct, find_entry(direct.name)
    folder = data_folder(data_dir)
    files = csv_files(folder)
    entry = find_entry(name)
    fits = [path for path in files if entry and path.name.lower() == entry.file.lower()]
    if not fits:
        fits = [path for path in files if _fits(name, entry, path, folder)]
    # A file directly in the folder goes before one of the same name in a subfolder.
    top = [path for path in fits if path.parent == folder] or fits
    if len(top) == 1:
        return top[0], find_entry(top[0].name)
    if top:
        places = listing([_below(path, folder) for path in top])
        raise ValueError(f"{name!r} fits several files in {folder}: {places}; pass the path of one")
    raise _missing(name, entry, folder, files)


def _fits(name: str, entry: Entry | None, path: Path, folder: Path | None) -> bool:
    """Whether a file in the folder is the one that is meant by a name."""
    if entry:
        return entry.answers_to(path.name)
    wanted = (name.lower(), f"{name.lower()}.csv")
    return path.name.lower() in wanted or _below(path, folder).lower() in wanted


def _below(path: Path, folder: Path | None) -> str:
    return path.relative_to(folder).as_posix() if folder else path.as_posix()


def _missing(name: str, entry: Entry | None, folder: Path | None, files: list[Path]) -> Exception:
    """Returns the error that says why there is no file behind a name, and what to do."""
    if entry:
        where = f"which is not in {folder}" if folder else "but no data folder is set"
        return FileNotFoundError(
            f"{entry.name} needs {entry.file}, {where}: get the file from {entry.source}, and name "
            f"its folder with --data_dir (data_dir=) or {DIRECTORY_VARIABLE}"
        )
    unset = f"in a data folder (none is set: --data_dir, data_dir= or {DIRECTORY_VARIABLE})"
    where = f"in {folder}" if folder else unset
    if name.lower().endswith(".csv"):
        hint = near(name, [path.name for path in files])
        return FileNotFoundError(f"no file {name!r}, as a path or {where}{hint}: correct the path")
    options = [SYNTHETIC, *catalogue(), *(path.stem for path in files if not find_entry(path.name))]
    return ValueError(
        f"no data set {name!r}{near(name, options)}: use one of {listing(options, 30)}, "
        f"the name of a CSV file {where}, or the path of one"
    )
