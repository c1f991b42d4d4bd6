"""Prunes a forecaster in one shot, and fine-tunes it at chosen densities.

    ./launch.sh prune --checkpoint=RUN_FOLDER --densities=0.5,0.1 --finetune_densities=0.1

Without ``--checkpoint`` it trains first. Weights are ranked by global magnitude, or as
``--criterion``, ``--scope`` and ``--block`` say. The claim under test (arXiv 2412.12883): about
half of the weights can go without loss in most models, and fine-tuning with the mask held wins back
much of what is lost below. Leaves ``pruning.json`` in the run folder, and the fine-tuned weights
with their masks in ``finetuned-DENSITY/``.
"""

from experiments import common
from tsjax import results, study
from tsjax.study import records


def run(settings: study.PruneSettings) -> records.PruneResult:
    """Prunes; see the module's docstring.

    Raises:
      ValueError: if something asked for is not sound; nothing has been written then.
    """
    task = study.set_up(settings)
    folder, trained = common.folder_and_model(task, settings)
    pruner = study.pruner(task, trained, settings)
    ladder = study.rungs(task, trained, pruner, settings.densities)
    tuned, warnings = study.fine_tune_all(task, trained, pruner, folder.path)
    result = records.PruneResult(
        **results.provenance(settings),
        dense=trained.error,
        baselines=task.baselines(),
        notes=task.notes,
        ladder=ladder,
        finetuned=tuple(t.record for t in tuned),
        warnings=warnings,
    )
    results.write_json(result, folder.pruning)
    _show(result)
    print(f"run folder: {folder.path}")
    return result


def _show(result: records.PruneResult) -> None:
    common.show(*result.baselines, result.dense)
    tuned = {record.rung.asked: record for record in result.finetuned}
    rungs = {rung.asked: rung for rung in result.ladder}
    rungs |= {asked: record.rung for asked, record in tuned.items()}
    for asked, rung in sorted(rungs.items(), reverse=True):
        after = f"  fine-tuned MSE {tuned[asked].mse:.4f}" if asked in tuned else ""
        print(f"density {rung.density:<8.4f} test MSE {rung.mse:.4f}  MAE {rung.mae:.4f}{after}")
    for warning in result.warnings:
        print(f"WARNING: {warning}")
    common.show_notes(result.notes)


if __name__ == "__main__":
    common.main(study.PruneSettings, run)
