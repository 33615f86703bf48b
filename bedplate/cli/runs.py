"""`bedplate runs`: what jobs did, with their config and metrics."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from bedplate.cli.options import echo_json, json_option, open_registry, project_option
from bedplate.cli.runs_bisect import bisect
from bedplate.cli.runs_diff import diff, run_of
from bedplate.cli.runs_mirror import mirror
from bedplate.cli.runs_remove import remove
from bedplate.cli.tables import elapsed, facts, moment, number, sparkline, table

if TYPE_CHECKING:
    from bedplate.registry.run import Point, StoredRun

_MOST_COLUMNS = 20
"""So many columns of an estimator are shown."""


@click.group()
def runs() -> None:
    """List, show, compare and remove runs.

    \b
    Examples:
      bedplate runs list
      bedplate runs show 20260105-093000-1f2e3d
      bedplate runs diff ranker:3 ranker:4
      bedplate runs remove --status failed --older-than 30d
    """


runs.add_command(diff)
runs.add_command(bisect)
runs.add_command(mirror)
runs.add_command(remove)


@runs.command("list")
@click.option("--name", help="Only the runs of this name.")
@click.option(
    "--status",
    type=click.Choice(["running", "finished", "failed", "interrupted", "damaged"]),
    help="Only the runs of this status.",
)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="At most this many.")
@project_option
@json_option
def list_runs(name: str | None, status: str | None, limit: int, directory: Path, as_json: bool) -> None:
    """List the runs, newest first.

    \b
    Examples:
      bedplate runs list
      bedplate runs list --status failed --limit 5
      bedplate runs list --json
    """
    found = open_registry(directory).runs(name, status=status)
    shown = found[:limit]
    if as_json:
        echo_json([_plain(run) for run in shown])
        return
    if not shown:
        click.echo("no such runs" if name or status else "no runs yet: a training job makes one")
        return
    rows = [
        [
            run.id,
            run.record.name or "-",
            run.status,
            moment(run.record.started),
            _duration(run),
            ", ".join(f"{k} {number(v)}" for k, v in list(run.record.metrics.items())[:3]) or "-",
        ]
        for run in shown
    ]
    click.echo(table(["run", "name", "status", "started", "took", "metrics"], rows, [4]))
    if len(found) > limit:
        click.echo(f"... {len(found) - limit} older ones; --limit {len(found)} shows all")


@runs.command()
@click.argument("run")
@click.option("--plots/--no-plots", default=True, help="Draw the loss, the metric it is judged by and the calibration.")
@project_option
@json_option
def show(run: str, plots: bool, directory: Path, as_json: bool) -> None:
    """Show RUN: status, config, metrics, charts, and what counts for an estimator.

    RUN is an id, the beginning of one, or a model version. The charts of all metrics are files in the run's folder,
    plots/*.svg, which training writes; those of a run that goes on are written by this command.

    \b
    Examples:
      bedplate runs show 20260105-093000-1f2e3d
      bedplate runs show ranker@champion --no-plots
      bedplate runs show 20260105-0930 --json
    """
    from bedplate.training.importance import read_importance
    from bedplate.training.plots import charts

    found = run_of(open_registry(directory), run)
    metrics, importance = found.metrics(), read_importance(found.folder)
    if as_json:
        files = sorted(str(path) for path in (found.folder / "plots").glob("*.svg"))
        echo_json(
            {**_plain(found), "folder": str(found.folder), "points": metrics, "plots": files, "importance": importance}
        )
        return
    _echo_facts(found)
    if metrics:
        click.echo("\n" + _metrics_table(metrics))
        for line in _best(found, metrics):
            click.echo(line)
    if importance:
        click.echo("\n" + _importance_table(importance))
    drawn = charts(found) if plots else {}
    if drawn:
        from bedplate.cli.drawing import draw

        _write_missing(found)
        judged = str(found.record.config.get("trainer", {}).get("metric", ""))
        for name in dict.fromkeys(("loss", judged, "calibration")):
            if name in drawn:
                click.echo("\n" + draw(drawn[name]))
        click.echo(f"\nall {len(drawn)} charts: {found.folder / 'plots'}")


def _write_missing(run: StoredRun) -> None:
    """Writes the charts of a run that has none, or that goes on; a registry that can't be written is only read."""
    from bedplate.errors import StoreError
    from bedplate.training.plots import write_plots

    if run.status == "running" or not (run.folder / "plots").is_dir():
        with contextlib.suppress(StoreError):
            write_plots(run)


def _echo_facts(found: StoredRun) -> None:
    from bedplate.registry.lineage import branched, code_text, made_of

    record = found.record
    rows = [
        ("run", found.id),
        ("name", record.name or "-"),
        ("status", f"{found.status} (its process went away)" if found.died else found.status),
        ("started", moment(record.started)),
        ("took", _duration(found)),
        ("process", f"{record.pid} on {record.host}"),
        ("code", code_text(record.git)),
        ("folder", str(found.folder)),
        *([("error", record.error)] if record.error else []),
    ]
    click.echo(facts(rows))
    if record.config:
        lines = facts([(key, msgspec.json.encode(value).decode()) for key, value in record.config.items()])
        click.echo("\nconfig\n" + "\n".join(f"  {line}" for line in lines.splitlines()))
    branches = made_of(record.definitions, record.sources)
    if branches:
        click.echo("\nmade of\n" + "\n".join(f"  {line}" for line in branched(branches)))


def _metrics_table(metrics: dict[str, list[Point]]) -> str:
    rows: list[list[str]] = []
    for name, points in metrics.items():
        known = [point for point in points if point.value == point.value] or points
        low, high = min(known, key=lambda p: p.value), max(known, key=lambda p: p.value)
        best = [f"{number(point.value)} at {point.step}" for point in (low, high)]
        chart = sparkline([point.value for point in points])
        rows.append([name, number(points[-1].value), *best, str(len(points)), chart])
    return table(["metric", "last", "lowest", "highest", "values", "by step"], rows, [1, 2, 3, 4])


def _best(run: StoredRun, metrics: dict[str, list[Point]]) -> list[str]:
    """The best value of the metric that validations are judged by, where it has one."""
    from bedplate.training.difference import direction_in

    judged = str(run.record.config.get("trainer", {}).get("metric", ""))
    direction = direction_in(run.record, judged)
    known = [point for point in metrics.get(judged, []) if point.value == point.value]
    if not known:
        return []
    if direction is None:
        return [f"judged by {judged}: the run does not say whether a lower or a higher one is better"]
    best = (min if direction == "lower" else max)(known, key=lambda p: p.value)
    return [f"judged by {judged}, {direction} is better: the best is {number(best.value)} at {best.step}"]


def _importance_table(importance: dict[str, dict[str, float]]) -> str:
    """The columns that count most by the first measure."""
    measures = list(importance)
    counts = importance[measures[0]]
    names = sorted(
        dict.fromkeys(name for values in importance.values() for name in values), key=lambda n: -counts.get(n, 0.0)
    )
    rows = [
        [name, *(number(importance[m][name]) if name in importance[m] else "-" for m in measures)]
        for name in names[:_MOST_COLUMNS]
    ]
    more = f"\n... {len(names) - _MOST_COLUMNS} more; --json has all" if len(names) > _MOST_COLUMNS else ""
    return table(["column", *measures], rows, list(range(1, len(measures) + 1))) + more


def _plain(run: StoredRun) -> dict[str, Any]:
    return {**msgspec.to_builtins(run.record), "status": run.status, "died": run.died}


def _duration(run: StoredRun) -> str:
    return "-" if run.record.ended is None else elapsed(run.record.ended - run.record.started)
