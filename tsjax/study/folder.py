"""A run's folder: the one place that says what lies where in it."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The files and folders of a run, by what they hold.

    Attributes:
      path: the run's folder.
    """

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The best weights, with state and mask."""
        return self.path / "checkpoint"

    @property
    def dense(self) -> Path:
        """The dense model that ``sparse`` trains beside the sparse one, in a folder like this."""
        return self.path / "dense"

    @property
    def settings(self) -> Path:
        """What the run was asked for."""
        return self.path / "settings.json"

    @property
    def training(self) -> Path:
        """The epochs of the training; its being there says that the training ended."""
        return self.path / "training.json"

    @property
    def test(self) -> Path:
        """The result of ``train``."""
        return self.path / "test.json"

    @property
    def pruning(self) -> Path:
        """The result of ``prune``."""
        return self.path / "pruning.json"

    @property
    def sparse(self) -> Path:
        """The result of ``sparse``."""
        return self.path / "sparse.json"

    @property
    def results(self) -> Path:
        """The result of ``study`` and of ``benchmark``."""
        return self.path / "results.json"

    @property
    def page(self) -> Path:
        """The report of ``study``."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """The report's figures."""
        return self.path / "figures"

    @property
    def tables(self) -> Path:
        """The report's tables."""
        return self.path / "tables"

    @property
    def benchmark_page(self) -> Path:
        """The report of ``benchmark``."""
        return self.path / "README.md"

    @property
    def times(self) -> Path:
        """Every time that ``benchmark`` took."""
        return self.path / "times.csv"

    def finetuned(self, density: float) -> Path:
        """The best weights after fine-tuning at a density, with state and mask."""
        return self.path / f"finetuned-{density:.6g}"

    def question(self, name: str) -> Path:
        """What a further question of the study leaves, in a folder like this one."""
        return self.path / name


def claim(folder: Path) -> RunFolder:
    """Makes the folder of a run, and shows that it can be written.

    Raises:
      ValueError: if it cannot, or if it holds another run.
    """
    run = RunFolder(folder)
    held = [
        path.name
        for path in (run.settings, run.test, run.pruning, run.sparse, run.results)
        if path.exists()
    ]
    if held:
        raise ValueError(f"{folder} holds a run ({', '.join(held)}): choose another --out_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".tsjax-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write to the output folder {folder}: {error.strerror}; "
            "choose another with --out_dir"
        ) from None
    return run
