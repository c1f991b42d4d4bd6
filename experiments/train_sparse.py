"""Trains a forecaster sparse from its first step, beside the same one trained dense.

    ./launch.sh sparse --method=pals --dataset=ETTh1 --data_dir=DIR --model=fedformer

Methods: ``pals`` finds the sparsity by the validation loss; ``gradual``, ``straight_through``,
``rigl``, ``set`` and ``static`` go to, or stay at, ``--density``. The claim under test (PALS, arXiv
2305.18382): five forecasting Transformers lose 65 % of their parameters on average at about the
dense error. Leaves ``sparse.json`` in the run folder, and weights and mask in ``checkpoint/``.
"""

from experiments import common
from tsjax import results, study
from tsjax.study import records


def run(settings: study.SparseSettings) -> records.SparseResult:
    """Trains twice; see the module's docstring.

    Raises:
      ValueError: if something asked for is not sound; nothing has been written then.
    """
    task = study.set_up(settings)
    folder = common.task_folder(settings)
    folder.dense.mkdir()
    dense = study.train(task, folder.dense)
    sparse = study.train_sparse(task, settings, folder.path).record
    result = records.SparseResult(
        **results.provenance(settings),
        dense=dense.error,
        baselines=task.baselines(),
        notes=task.notes,
        sparse=sparse,
    )
    results.write_json(result, folder.sparse)
    common.show(*result.baselines, result.dense)
    print(f"{sparse.method:<16} test MSE {sparse.mse:.4f}  MAE {sparse.mae:.4f}")
    print(
        f"{sparse.nonzero:,} of {sparse.params:,} parameters kept "
        f"({sparse.nonzero / sparse.params:.1%}), {sparse.kept / sparse.prunable:.1%} of the "
        f"prunable ones; {sparse.sparse_flops / sparse.flops:.1%} of the FLOPs on a machine that "
        "skips zeros"
    )
    common.show_notes(result.notes)
    print(f"run folder: {folder.path}")
    return result


if __name__ == "__main__":
    common.main(study.SparseSettings, run)
