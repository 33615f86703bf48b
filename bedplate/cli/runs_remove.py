"""`bedplate runs remove`: remove runs that nobody needs any longer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.options import echo_json, json_option, open_registry, project_option
from bedplate.cli.runs_diff import run_of
from bedplate.cli.tables import counted, moment, size, table

if TYPE_CHECKING:
    from bedplate.registry.registry import Registry
    from bedplate.registry.run import StoredRun


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--older-than", metavar="DURATION", help="The runs that ended longer ago than this, such as 30d.")
@click.option(
    "--status",
    type=click.Choice(["finished", "failed", "interrupted", "damaged"]),
    help="The runs of this status.",
)
@click.option("--name", help="The runs of this name.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@project_option
@json_option
def remove(
    runs: tuple[str, ...],
    older_than: str | None,
    status: str | None,
    name: str | None,
    dry_run: bool,
    directory: Path,
    as_json: bool,
) -> None:
    """Remove RUNs for good, or those that the options select: their folders, with checkpoints and predictions.

    A run stays that is at work, that made a model version, that is a trial of a study, or that another run's config
    names. Where such a run is named, nothing is removed and it is said what refers to it; a selection leaves it out.
    With several options, runs are selected of which all hold. Killed in between, each run is there whole or gone.

    \b
    Examples:
      bedplate runs remove 20260105-093000-1f2e3d 20260106
      bedplate runs remove --status failed --older-than 30d --dry-run
      bedplate runs remove --name ranker.bisect --json
    """
    from bedplate.errors import ConfigError

    selects = older_than is not None or status is not None or name is not None
    if bool(runs) == selects:
        raise ConfigError(
            "names and options are both given" if selects else "no run is named",
            where="runs remove",
            hint="name runs, or select them with --older-than, --status and --name",
        )
    registry = open_registry(directory)
    chosen = _selected(registry, older_than, status, name) if selects else [run_of(registry, run) for run in runs]
    known = {run.id: run for run in chosen}
    found = registry.remove_runs(known, skip_kept=selects, dry_run=dry_run)
    if as_json:
        kept = [{"run": run, "reasons": reasons} for run, reasons in found.kept.items()]
        echo_json({"dry_run": dry_run, "removed": found.removed, "bytes": found.bytes, "kept": kept})
        return
    for run, reasons in found.kept.items():
        click.echo(f"kept {run}: {', and '.join(reasons)}")
    if found.removed:
        click.echo(_table([known[run] for run in found.removed]))
    what = f"{counted([(len(found.removed), 'run')])}, {size(found.bytes)}" if found.removed else "nothing"
    click.echo(f"{'would remove' if dry_run else 'removed'} {what}")


def _selected(registry: Registry, older_than: str | None, status: str | None, name: str | None) -> list[StoredRun]:
    """The runs of a selection, newest first; of those whose time is not known none is older than anything."""
    from bedplate.clock import system_clock
    from bedplate.types import parse_duration

    found = registry.runs(name, status=status)
    if older_than is None:
        return found
    before = system_clock() - parse_duration(older_than, where="--older-than")
    return [run for run in found if 0 < (run.record.ended or run.record.started) < before]


def _table(runs: list[StoredRun]) -> str:
    rows = [[run.id, run.record.name or "-", run.status, moment(run.record.started)] for run in runs]
    return table(["run", "name", "status", "started"], rows)
