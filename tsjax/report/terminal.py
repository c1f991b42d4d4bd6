"""The small table that a run ends with: plain ASCII of our own, at most 80 columns."""

from tsjax.report import findings, formats
from tsjax.study import records

_WIDTH = 80
_RUNGS = 5
_FINETUNED = 4


def _plain(text: str) -> str:
    """The page's typography in ASCII."""
    for fancy, plain in (
        (formats.THIN, ","),
        (formats.SPACE, " "),
        (formats.MINUS, "-"),
        (formats.NOTHING, "-"),
        ("×", "x"),
        ("…", "~"),
    ):
        text = text.replace(fancy, plain)
    return text


def _row(name: str, density: str, mse: str, mae: str, change: str) -> str:
    return _plain(
        f"{formats.label(name, 24):<24}{density:>12}{mse:>13}{mae:>13}{change:>14}"
    ).rstrip()


def _warning(text: str) -> str:
    line = _plain(f"WARNING: {text}")
    return line if len(line) <= _WIDTH else line[: _WIDTH - 3].rstrip() + "..."


def _chosen(study: records.Study) -> list[records.Rung]:
    """A few rungs of the ladder, descending: its ends, the answer, the fine-tuned, then between."""
    ladder = sorted(
        (rung for rung in study.ladder if rung.kept < rung.prunable), key=lambda rung: -rung.kept
    )
    if not ladder:
        return []
    tuned = {tuned.rung.kept for tuned in study.finetuned}
    answer = findings.lowest_pruned(study).density
    wanted = [ladder[-1], *(r for r in ladder if r.density == answer)]
    wanted += [rung for rung in ladder if rung.kept in tuned]
    wanted += [ladder[i * (len(ladder) - 1) // (_RUNGS - 1)] for i in range(_RUNGS)]
    chosen = list(dict.fromkeys(wanted))[:_RUNGS]
    return sorted(chosen, key=lambda rung: -rung.kept)


def terminal_table(study: records.Study) -> str:
    """The study's errors and times in about fifteen lines of at most 80 columns.

    Args:
      study: the record.

    Returns:
      The lines, without a final line end.
    """
    dense = study.dense

    def line(name: str, density: str, mse: float, mae: float) -> str:
        change = formats.change(findings.excess(mse, dense.mse))
        return _row(name, density, formats.error(mse), formats.error(mae), change)

    data = formats.label(study.data.name, 30)
    lines = [
        _plain(f"{findings.model(study)} on {data}, horizon {findings.horizon(study)}")[:_WIDTH],
        _row("", "density", "test MSE", "test MAE", "MSE vs dense"),
        "-" * 76,
    ]
    lines += [line(b.name, "", b.mse, b.mae) for b in study.baselines]
    lines.append(_row("dense", "1", formats.error(dense.mse), formats.error(dense.mae), ""))
    lines += [line("pruned", formats.short_share(r.density), r.mse, r.mae) for r in _chosen(study)]
    tuned = sorted(study.finetuned, key=lambda tuned: -tuned.rung.kept)
    for one in tuned[-_FINETUNED:]:
        lines.append(line("fine-tuned", formats.short_share(one.rung.density), one.mse, one.mae))
    for found in findings.timings(study)[:2]:
        spread = "within" if found.within_spread else "beyond"
        dense_ms, masked_ms = (formats.milliseconds(c.median_ms) for c in (found.dense, found.cost))
        lines.append(
            _plain(
                f"batch {found.cost.batch}: dense {dense_ms} ms, masked {masked_ms} ms "
                f"({formats.times(found.ratio)}, {spread} the spread)"
            )
        )
    back = findings.revived(study)
    if back:
        lines.append(f"WARNING: pruned weights came back in {len(back)} fine-tuned model(s)")
    lines += [_warning(text) for text in findings.warnings(study)]
    return "\n".join(lines)
