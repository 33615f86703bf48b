"""`bedplate runs diff`: what differs between two runs, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from bedplate.cli.options import echo_json, json_option, open_registry, project_option
from bedplate.cli.tables import moment, number, table
from bedplate.errors import ProofError

if TYPE_CHECKING:
    from bedplate.registry.diff import Change
    from bedplate.registry.registry import Registry
    from bedplate.registry.run import StoredRun
    from bedplate.training.difference import DataDiff, MetricDiff, RunDiff
    from bedplate.training.resampling import Metrics

_WIDEST = 48


def run_of(registry: Registry, text: str) -> StoredRun:
    """The run of an id, of the beginning of one, or of a model version such as `ranker:3` or `ranker@champion`.

    Raises:
        NotFoundError: there is no such run or version, or the version was registered without a run.
        ConfigError: several runs begin so.
    """
    from bedplate.errors import NotFoundError

    if ":" not in text and "@" not in text:
        return registry.run(text)
    version = registry.get(text)
    if version.manifest.run is None:
        raise NotFoundError("it was registered without a run", where=f"model version '{version}'")
    return registry.run(version.manifest.run)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--check", metavar="METRIC", help="End with 7 where B is worse than A in METRIC, beyond its interval.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(0), help="How many drifted inputs to show.")
@project_option
@json_option
def diff(a: str, b: str, check: str | None, top: int, directory: Path, as_json: bool) -> None:
    """Show what differs between the runs A and B: config, code, data, environment, metrics.

    A and B are ids, beginnings of ids, or model versions. Where both predicted the same rows of the test split, the
    difference of each metric has a paired 95 % interval over requests; else each metric has its own interval. Of a
    label that is not 0 or 1 they are those of the model's own metrics, by its code as the project has it. Drift is
    the population stability index of an input between the two trainings: below 0.1 counts as the same, above 0.25 as
    another distribution.

    \b
    Examples:
      bedplate runs diff 20260105-093000-1f2e3d 20260106
      bedplate runs diff ranker@champion ranker:4 --check log_loss
      bedplate runs diff ranker:3 ranker:4 --json
    """
    from bedplate.training.difference import diff_runs

    registry = open_registry(directory)
    one, other = run_of(registry, a), run_of(registry, b)

    def own(run: StoredRun) -> Metrics:
        from bedplate.project import Project
        from bedplate.training.own_metrics import metrics_of_run

        return metrics_of_run(run, Project(directory).jobs)

    found = diff_runs(one, other, directory.resolve(), own=own)
    if as_json:
        echo_json(msgspec.to_builtins(found))
    else:
        _show(found, one, other, top)
    if check is not None:
        _require(found, other, check)


def _require(found: RunDiff, b: StoredRun, name: str) -> None:
    from bedplate.errors import ConfigError, NotFoundError, suggest
    from bedplate.training.difference import direction_in

    metric = next((m for m in found.metrics if m.name == name), None)
    if metric is None or metric.difference is None:
        raise NotFoundError(
            f"there is no paired difference of '{name}'" + (f": {found.note}" if found.note else ""),
            where="runs diff --check",
            hint=suggest(name, [m.name for m in found.metrics], "metrics"),
        )
    if direction_in(b.record, name) is None:
        raise ConfigError(
            f"whether a lower or a higher '{name}' is better is not known",
            where="runs diff --check",
            hint="a model says it of its own metrics (directions of its Config); name another metric",
        )
    if metric.better == "a":
        raise ProofError(
            f"run {found.b} is worse in {name}: {metric.difference} against run {found.a}", where="runs diff --check"
        )


def _show(found: RunDiff, a: StoredRun, b: StoredRun, top: int) -> None:
    for which, run in (("A", a), ("B", b)):
        click.echo(f"{which}  {run.id}  {run.record.name or '-'}  {run.status}  {moment(run.record.started)}")
    _section("config", _table(found.config))
    _section("code", _code(found))
    _section("data", _data(found.data, top))
    libraries = ["not known: a run before kept none"] if found.environment is None else _table(found.environment)
    _section("environment", libraries)
    _section("metrics of the test split" + (", paired" if found.paired else ""), _metrics(found, b))


def _section(title: str, lines: list[str]) -> None:
    click.echo(f"\n{title}\n" + "\n".join(f"  {line}".rstrip() for line in lines or ["equal"]))


def _table(changes: list[Change]) -> list[str]:
    rows = [[change.name, _text(change.a), _text(change.b)] for change in changes]
    return table(["", "a", "b"], rows).splitlines() if rows else []


def _text(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _code(found: RunDiff) -> list[str]:
    code, lines = found.code, list[str]()
    if code.a != code.b:
        from bedplate.registry.lineage import code_text

        lines += [f"A  {code_text(code.a)}", f"B  {code_text(code.b)}"]
    lines += code.files or ()
    lines += [code.note] if code.note else []
    kinds = {(True, False): "added", (False, True): "removed", (False, False): "changed"}
    lines += [f"{kinds[c.a is None, c.b is None]} {c.name}" for c in found.definitions]
    return lines


def _data(data: DataDiff, top: int) -> list[str]:
    lines = [f"source {c.name}: snapshot {_text(c.a)} and {_text(c.b)}" for c in data.snapshots]
    rows: list[list[str]] = []
    for name, (a, b) in data.splits.items():
        for which, split in (("A", a), ("B", b)):
            if split is not None:
                times = [moment(t) if t is not None else "-" for t in (split.first, split.last)]
                rows.append([name, which, f"{split.requests:,}", f"{split.rows:,}", *times])
    if rows:
        lines += table(["split", "run", "requests", "rows", "from", "to"], rows, [2, 3]).splitlines()
    lines += [f"label {c.name}: mean {_mean(c.a)} and {_mean(c.b)}" for c in data.labels]
    if data.drift is None:
        return [*lines, "drift is not known: a run before kept no summary of its training data"]
    drifted = [d for d in data.drift if d.index > 0][:top]
    if drifted:
        cells = [
            [d.name, f"{d.index:.3f}", *(f"{x:.1%}" for x in d.absent), *(_mean(m) for m in d.mean)] for d in drifted
        ]
        lines += table(
            ["input", "drift", "absent a", "absent b", "mean a", "mean b"], cells, [1, 2, 3, 4, 5]
        ).splitlines()
    return lines


def _mean(value: float | None) -> str:
    return "-" if value is None else number(value)


def _metrics(found: RunDiff, b: StoredRun) -> list[str]:
    from bedplate.training.difference import direction_in

    lines = table(["metric", "a", "b", "b - a", "better"], [_row(m) for m in found.metrics]).splitlines()
    lines = lines if found.metrics else []
    lines += [found.note] if found.note else []
    rows = [
        [c.name, number(c.a), number(c.b), direction_in(b.record, c.name) or "-"]
        for c in found.reported
        if c.a is not None or c.b is not None
    ]
    return [*lines, *(["", *table(["reported", "a", "b", "better is"], rows, [1, 2]).splitlines()] if rows else [])]


def _row(metric: MetricDiff) -> list[str]:
    difference = metric.difference
    if difference is None:
        return [metric.name, str(metric.a), str(metric.b), "-", "-"]
    change = f"{difference.mean:+.5f} [{difference.low:+.5f}, {difference.high:+.5f}]"
    better = {"a": "A", "b": "B", None: "-"}[metric.better]
    return [metric.name, f"{metric.a.mean:.5f}", f"{metric.b.mean:.5f}", change, better]
