"""`bedplate backfill`: build a view's index for a range of event times."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import table

if TYPE_CHECKING:
    from bedplate.offline.extend import Build


@click.command()
@click.argument("view")
@click.option("--from", "begin", metavar="TIME", help="The first event time; by default that of the first event.")
@click.option("--to", "until", metavar="TIME", help="The time after the last; by default all that there are.")
@click.option("--dry-run", is_flag=True, help="Only show what is there, what is missing, and the estimate.")
@project_option
@json_option
def backfill(directory: Path, view: str, begin: str | None, until: str | None, dry_run: bool, as_json: bool) -> None:
    """Build the index of VIEW for events from a time to before another, and only what is missing of it.

    First it says what is there and what is missing, with a rough estimate; then it builds, range after range. A lookup
    of values that need events outside of what is built is an error that says so. 'bedplate apply' builds the rest.
    Of a range before the table's first event or after its last one nothing is built, and a warning says when these are.
    After Ctrl-C or a crash the finished parts are kept, and the same command goes on from them. What it builds is on
    record as needed, until the next 'bedplate apply' says what is.

    \b
    Examples:
      bedplate backfill customer_lines --from 2011-01-01 --to 2011-04-01
      bedplate backfill customer_lines --from 2011-01-01 --to 2011-04-01 --dry-run --json
    """
    from bedplate.errors import ConfigError
    from bedplate.offline.segment import Span
    from bedplate.project import Project
    from bedplate.types import parse_time

    project = Project(directory)
    compiled = project.view(view)
    span = Span(
        None if begin is None else parse_time(begin, "--from"), None if until is None else parse_time(until, "--to")
    )
    if span.begin is not None and span.until is not None and span.begin >= span.until:
        raise ConfigError(f"got --from {begin} and --to {until}, expected the first to be earlier")
    with project.located():
        build = project.history.build(compiled, span)
        found = [_slot(build, i) for i in range(len(build.slots))]
        if not found:
            click.echo(_outside(build), err=True)
        elif not as_json:
            click.echo(_shown(found))
            click.echo(_estimate(build))
        began, done = time.perf_counter(), False
        if not dry_run and build.slots:
            project.history.reserve(project.root, [build])
        if not dry_run and not build.is_complete:
            try:
                with ProgressLine() as progress:
                    build.run(progress)
                project.history.reserve(project.root, [build])
            except KeyboardInterrupt:
                click.echo("interrupted: the finished parts are kept; the same command goes on from them", err=True)
                click.get_current_context().exit(INTERRUPTED_EXIT)
            done = True
    seconds = time.perf_counter() - began
    if as_json:
        echo_json({"view": view, "dry_run": dry_run, "parts": found, "built": done, "seconds": seconds})
    elif done:
        rows = sum(s.manifest.rows for s in build.segments)
        click.echo(f"built in {seconds:.1f} s; the index holds {rows:,} events")


def _outside(build: Build) -> str:
    """The warning that the table has no events in the range."""
    from bedplate.types import format_time

    source, bounds = build.view.view.source.name, build.bounds
    if bounds is None:
        return f"warning: source '{source}' has no events: nothing to build"
    first, last = map(format_time, bounds)
    return f"warning: source '{source}' has events from {first} to {last}, none in this range: nothing to build"


def _slot(build: Build, number: int) -> dict[str, Any]:
    slot, missing = build.slots[number], build.missing_of(number)
    return {
        "begin": slot.span.begin,
        "until": slot.span.until,
        "pieces": len(slot.pieces),
        "rows": build.rows(number),
        "there": slot.segment is not None,
        "missing": [m.text for m in missing],
        "kinds": [m.kind for m in missing],
        "seconds": build.seconds_of(number),
    }


def _shown(found: list[dict[str, Any]]) -> str:
    from bedplate.offline.listing import span_text
    from bedplate.offline.segment import Span

    rows = [
        [
            span_text(Span(f["begin"], f["until"])),
            f"{f['rows']:,}",
            "there" if f["there"] and not f["missing"] else _counted(f["kinds"]),
            f"{f['seconds']:.1f}" if f["missing"] else "-",
        ]
        for f in found
    ]
    return table(["times", "rows", "missing", "seconds"], rows, [1, 3])


def _counted(kinds: list[str]) -> str:
    """What is missing, in few words; JSON has every part."""
    from bedplate.cli.tables import counted

    return counted([(kinds.count(kind), kind) for kind in dict.fromkeys(kinds)])


def _estimate(build: Build) -> str:
    seconds = sum(build.seconds_of(i) for i in range(len(build.slots)))
    return "nothing to build" if build.is_complete else f"to build: about {max(seconds, 0.1):.1f} s"
