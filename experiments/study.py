"""The whole study: train, prune, fine-tune, count, time, and report.

    ./launch.sh study --dataset=ETTh1 --data_dir=DIR --model=transformer --pred_len=96

The claims under test (arXiv 2412.12883): about half of a forecasting Transformer's weights can be
set to zero at little cost in accuracy, fewer after fine-tuning; and zeros alone buy no time on a
dense machine. Ends with the path of one self-contained page, ``report.html``; figures, tables and
``results.json`` lie beside it.
"""

import dataclasses
import time

from experiments import common
from tsjax import report, results, study
from tsjax.study import records


def run(settings: study.StudySettings) -> records.Study:
    """Runs the study; see the module's docstring.

    Raises:
      ValueError: if something asked for is not sound; nothing has been written then.
    """
    began = time.perf_counter()
    report.require()
    task = study.set_up(settings)
    folder, trained = common.folder_and_model(task, settings)
    pruner = study.pruner(task, trained, settings)
    ladder = study.rungs(task, trained, pruner, settings.densities)
    tuned, diverged = study.fine_tune_all(task, trained, pruner, folder.path)
    answers, failed = study.answers(task, trained, settings, folder.path)

    pruned = [t for t in tuned if t.record.rung.kept < t.record.rung.prunable]
    shown = {f"density {t.record.rung.density:.4g}, fine-tuned": t.forecaster for t in pruned}
    models = {t.record.rung.density: t.forecaster for t in pruned}
    if not models:
        sparsest = min(ladder, key=lambda rung: rung.kept)
        mask = pruner.mask(sparsest.asked)
        models = {sparsest.density: dataclasses.replace(trained.forecaster, mask=mask)}
    masks = {density: model.mask for density, model in models.items()}

    result = records.Study(
        **results.provenance(settings),
        data=study.describe(task),
        baselines=task.baselines(),
        dense=trained.error,
        training=trained.training,
        ladder=ladder,
        finetuned=tuple(t.record for t in tuned),
        costs=study.forward_costs(task, trained, masks, settings.cost_batches),
        sizes=study.file_sizes(trained, models),
        forecasts=study.forecasts(task, {"dense": trained.forecaster, **shown}),
        warnings=(*diverged, *failed),
        seconds=time.perf_counter() - began,
        answers=answers,
    )
    page = report.write(result, folder.path)
    print(report.terminal_table(result))
    common.show_notes(result.data.notes)
    print(f"report: {page}")
    return result


if __name__ == "__main__":
    common.main(study.StudySettings, run)
