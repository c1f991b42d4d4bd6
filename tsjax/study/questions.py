"""The questions that a study can ask of its trained model besides that of masks, by name.

A further question is a file of its own, with its settings and its function, and a row of
:data:`QUESTIONS`; :mod:`tsjax.report` can show its record in a section.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tsjax.settings import among, at_least, distinct, setting
from tsjax.study import sparse
from tsjax.study.folder import RunFolder
from tsjax.study.masks import PruneSettings
from tsjax.study.settings import TrainSettings
from tsjax.study.task import Task
from tsjax.study.trained import Trained


class Question(NamedTuple):
    """A question that can be asked of a trained model.

    Attributes:
      settings: its settings. Those of data, model and training are the study's.
      ask: ``ask(task, trained, settings, folder)`` answers it with a record, and may leave weights
        in the folder, which is its own.
    """

    settings: type[TrainSettings]
    ask: Callable[[Task, Trained, Any, Path], Any]


QUESTIONS: dict[str, Question] = {"sparse": Question(sparse.SparseSettings, sparse.ask)}


@dataclasses.dataclass(frozen=True)
class StudySettings(PruneSettings):
    """Also what to time, and what else to ask: the whole study."""

    script: ClassVar[str] = "study"

    cost_batches: tuple[int, ...] = setting(
        (1, 32), "batch sizes to time", at_least(1), group="timing"
    )
    questions: tuple[str, ...] = setting(
        (),
        f"what else to ask: {', '.join(QUESTIONS)}",
        among(QUESTIONS),
        distinct,
        group="further questions",
    )


def answers(
    task: Task, trained: Trained, settings: StudySettings, folder: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Asks the further questions that the settings name.

    Args:
      task: the task.
      trained: the trained model.
      settings: of the study; what a question sets besides has its defaults.
      folder: the run's; each question has a folder below it.

    Returns:
      A record for each question, by its name, and a warning for each whose training diverged.
    """
    found, warnings = {}, []
    for name in settings.questions:
        own = RunFolder(folder).question(name)
        own.mkdir()
        question = QUESTIONS[name]
        names = {field.name for field in dataclasses.fields(question.settings)}
        shared = {n: v for n, v in dataclasses.asdict(settings).items() if n in names}
        try:
            found[name] = question.ask(task, trained, question.settings(**shared), own)
        except FloatingPointError as error:
            warnings.append(str(error))
    return found, tuple(warnings)
