"""`bedplate apply`: build what is missing in the offline store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.plan import Planned, planned
from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import size, table
from bedplate.files import remove_leftovers

if TYPE_CHECKING:
    from bedplate.project import Project


@click.command()
@project_option
@json_option
def apply(directory: Path, as_json: bool) -> None:
    """Build the indexes that 'bedplate plan' lists as missing, and nothing else.

    At the end the features are put on record: the next 'bedplate plan' says what has changed since. Each part is whole
    or not there. After Ctrl-C or a crash the finished parts are kept, and the same command goes on
    from them.

    \b
    Examples:
      bedplate apply
      bedplate apply --project retail
      bedplate apply --json
    """
    from bedplate.project import Project

    project = Project(directory)
    began = time.perf_counter()
    try:
        with ProgressLine() as progress:
            plans = planned(project)
            built = _build(project, [p for p in plans if p.parts], progress)
            project.history.finish(project.root, [p.build for p in plans], progress)
        project.record_applied()
    except KeyboardInterrupt:
        click.echo("interrupted: the finished parts are kept; 'bedplate apply' goes on from them", err=True)
        click.get_current_context().exit(INTERRUPTED_EXIT)
    seconds, written = time.perf_counter() - began, sum(b["bytes"] for b in built)
    if as_json:
        echo_json({"built": built, "seconds": seconds, "bytes": written})
        return
    if not built:
        click.echo("nothing to build")
        return
    rows = [[b["view"], str(b["parts"]), f"{b['seconds']:.1f}", size(b["bytes"])] for b in built]
    click.echo(table(["view", "parts", "seconds", "size"], rows, [1, 2, 3]))
    click.echo(f"built {sum(b['parts'] for b in built)} parts, {size(written)}, in {seconds:.1f} s")


def _build(project: Project, plans: Sequence[Planned], progress: ProgressLine) -> list[dict[str, Any]]:
    total, done = sum(p.steps for p in plans), 0

    def show(step: str) -> None:
        nonlocal done
        done = min(done + 1, total)  # a segment of several buckets has more steps
        progress(f"[{done}/{total}] {step}")

    built: list[dict[str, Any]] = []
    remove_leftovers(project.config.offline_path)
    if plans:
        project.history.reserve(project.root, [p.build for p in plans])
    for plan in plans:
        began, before = time.perf_counter(), plan.build.size()
        with project.located():
            plan.build.run(show)
        seconds, written = time.perf_counter() - began, plan.build.size() - before
        facts = {"view": plan.name, "parts": plan.parts, "rows": plan.rows}
        built.append(facts | {"seconds": seconds, "bytes": written})
    return built
