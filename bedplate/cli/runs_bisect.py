"""`bedplate runs bisect`: which of the things that two runs differ in changed the metric."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.runs_diff import run_of
from bedplate.cli.tables import table

if TYPE_CHECKING:
    from bedplate.cli.bench import Bench
    from bedplate.metrics.intervals import Estimate
    from bedplate.registry.run import RunRecord, StoredRun
    from bedplate.training.bisect import Bisection, Effect, Made
    from bedplate.training.resampling import Metrics

_METHOD = (
    "Each factor is swapped alone, from A and into B; its effect is the mean of the two. What the effects leave of the "
    "change is the remainder: what factors do together, and what could not be swapped."
)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--metric", help="The metric to show; by default the one that the job is judged by. JSON has all.")
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(0), help="Trainings of A with other seeds.")
@click.option("--plan", is_flag=True, help="Only show what would be trained, and what is there already.")
@project_option
@json_option
def bisect(a: str, b: str, metric: str | None, seeds: int, plan: bool, directory: Path, as_json: bool) -> None:
    """Train what lies between the runs A and B, and attribute the change of the metric to what differs.

    Factors are the code (features, dataset and model, from git), the data, the dataset's name, the inputs, the model's
    and the trainer's choices and the seeds. Each is swapped alone, from A and into B; trainings with other seeds tell
    the noise. Every training is a run of its own (JOB.bisect) and is found again: after an interrupt, the same command
    goes on. What can't be swapped is said.

    \b
    Examples:
      bedplate runs bisect ranker:3 ranker:4
      bedplate runs bisect ranker:3 ranker:4 --plan
      bedplate runs bisect 20260105-093000-1f2e3d 20260106 --metric auc --json
    """
    from bedplate.cli.bench import Bench
    from bedplate.project import Project
    from bedplate.training.bisect import bisect as bisected
    from bedplate.training.interrupt import TrainingInterruptedError

    project = Project(directory)
    registry = project.registry
    one, other = run_of(registry, a), run_of(registry, b)
    with tempfile.TemporaryDirectory(prefix="bedplate-bisect-") as folder:
        bench = Bench(project, registry, one, other, Path(folder), lambda step: click.echo(step, err=True))
        ends, label, metrics = _ends(bench, one, other)
        shown = _judged(metric, one.record, _total(ends, label, metrics))
        if plan:
            _plan(bench, seeds, as_json=as_json)
            return
        try:
            found = bisected(*ends, bench.factors, label, bench.make, seeds=seeds, metrics=metrics)
        except TrainingInterruptedError as error:
            error.hint = f"the same command goes on from there: bedplate runs bisect {a} {b}"
            raise
    if as_json:
        echo_json({"method": _METHOD, **msgspec.to_builtins(found), "unswapped": bench.unswapped})
        return
    _show(found, shown, bench.unswapped)


def _ends(bench: Bench, a: StoredRun, b: StoredRun) -> tuple[tuple[Made, Made], str, Metrics | None]:
    """Both runs, the label that they predict, and where it is not 0 or 1 the metrics of the model's own.

    Raises:
        DataError: they predict other labels, or there is nothing that the label can be judged by.
        NotFoundError: a run has kept no predictions.
    """
    from bedplate.errors import BedplateError, DataError
    from bedplate.training.bisect import Made
    from bedplate.training.predictions import has_binary_values, judged_label, read_predictions

    ends = [Made(run.id, read_predictions(run.folder)) for run in (a, b)]
    labels = [judged_label(run.record, end.prediction) for run, end in zip((a, b), ends, strict=True)]
    if labels[0] is None or labels[0] != labels[1]:
        raise DataError(f"A predicts '{labels[0]}' and B '{labels[1]}', expected the same label", where="runs bisect")
    metrics = None
    if not all(has_binary_values(end.prediction, labels[0]) for end in ends):
        try:
            metrics = bench.metrics()
        except BedplateError as error:
            raise DataError(
                f"label '{labels[0]}' is not one of 0 and 1, and metrics of the model can't be had: {error.message}",
                where="runs bisect",
                hint="the project, or the commit of a run, must have the model's class",
            ) from error
    return (ends[0], ends[1]), labels[0], metrics


def _total(ends: tuple[Made, Made], label: str, metrics: Metrics | None) -> dict[str, Estimate]:
    """B minus A by metric, of which there must be some before anything is trained."""
    from bedplate.training.comparison import combine

    return combine([(1.0, ends[1].prediction), (-1.0, ends[0].prediction)], label, metrics=metrics)


def _judged(metric: str | None, record: RunRecord, total: dict[str, Estimate]) -> str:
    """The metric to show: the one asked for, or that of the job; its loss is told by the log loss."""
    from bedplate.errors import NotFoundError, suggest

    own: Any = record.config["trainer"].get("metric", "loss")
    name = metric or ("log_loss" if own == "loss" else own)
    if name in total:
        return name
    if metric is None and total:
        return next(iter(total))
    raise NotFoundError(
        f"there is no metric '{name}' of both runs", where="runs bisect", hint=suggest(name, total, "metrics")
    )


def _plan(bench: Bench, seeds: int, *, as_json: bool) -> None:
    from bedplate.errors import BedplateError
    from bedplate.training.bisect import experiments

    rows: list[dict[str, Any]] = []
    for experiment in experiments(bench.factors, seeds):
        row: dict[str, Any] = {"experiment": experiment.text(bench.factors), "run": None}
        try:
            done, begun = bench.find(experiment)
            row["state"] = "there" if done else "begun" if begun else "to train"
            row["run"] = done.id if done else begun.id if begun else None
        except BedplateError as error:
            row["state"] = f"can't be made: {error.message}"
        rows.append(row)
    if as_json:
        echo_json({"factors": msgspec.to_builtins(bench.factors), "experiments": rows})
        return
    if not bench.factors:
        click.echo("the two runs differ in nothing that can be swapped")
    for factor in bench.factors:
        click.echo(f"{factor.name}: {', '.join(change.name for change in factor.changes[:8])}")
    click.echo("")
    click.echo(table(["experiment", "state", "run"], [[r["experiment"], r["state"], r["run"] or "-"] for r in rows]))


def _show(found: Bisection, metric: str, unswapped: Sequence[str]) -> None:
    click.echo(f"{metric} of the test split, from run {found.a} to run {found.b}\n")
    noise = found.noise.get(metric)
    rows = [["total", *_cells(found.total.get(metric)), "", "", ""]]
    rows += [_row(effect, metric, noise) for effect in found.effects]
    rows.append(["remainder", *_cells(found.remainder.get(metric)), "", "", ""])
    click.echo(table(["factor", "effect", "95 % interval", "from A", "into B", ""], rows, [1, 3, 4]))
    click.echo("")
    if noise is None:
        click.echo(f"noise of seeds: not known ({found.noise_reason})")
    else:
        runs = len(found.noise_runs) + 1
        click.echo(f"noise of seeds: two trainings differ by up to {noise:.5f}, 95 times of 100 (of {runs} runs)")
    for effect in found.effects:
        names = [change.name for change in effect.factor.changes]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        click.echo(f"{effect.factor.name}: {', '.join(names[:6])}{more}")
    reasons = dict.fromkeys(reason for effect in found.effects for reason in effect.reasons)
    for reason in [*reasons, *unswapped]:
        click.echo(f"not swapped: {reason}")
    click.echo(_METHOD)


def _cells(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return ["0", "-"]
    return [f"{estimate.mean:+.5f}", f"[{estimate.low:+.5f}, {estimate.high:+.5f}]"]


def _row(effect: Effect, metric: str, noise: float | None) -> list[str]:
    estimate = effect.effect.get(metric)
    ends = [f"{e.mean:+.5f}" if (e := side.get(metric)) else "-" for side in (effect.forward, effect.backward)]
    if estimate is None:
        return [effect.factor.name, "-", "-", *ends, "can't be swapped"]
    if estimate.low <= 0 <= estimate.high:
        word = "no difference"
    elif noise is not None and abs(estimate.mean) <= noise:
        word = "within the noise of seeds"
    else:
        word = "differs"
    return [effect.factor.name, *_cells(estimate), *ends, word]
