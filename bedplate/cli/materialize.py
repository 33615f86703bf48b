"""`bedplate materialize`: fill the online store from history."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import table
from bedplate.config import without_password
from bedplate.types import format_time

if TYPE_CHECKING:
    from bedplate.materialize import Materialized


@click.command()
@click.option("--until", metavar="TIME", help="Load the events before this time, at most now: ISO 8601, UTC.")
@click.option("--replace", is_flag=True, help="Load views anew whose stream is at work.")
@click.option("--adopt", is_flag=True, help="Let changed views go on with the rows of their old version, freezing it.")
@project_option
@json_option
@click.argument("views", nargs=-1, metavar="[VIEW]...")
def materialize(
    views: tuple[str, ...], until: str | None, replace: bool, adopt: bool, directory: Path, as_json: bool
) -> None:
    """Fill the online store with VIEWs (all of them by default) as of a time, so that a stream can go on from there.

    Reads the indexes that 'bedplate apply' built. Without --until, all events are loaded that are not later than now.
    The stream goes on from there: 'bedplate ingest' refuses earlier events in files, and passes them over in a topic.
    A view that 'bedplate ingest' has brought further is kept as it is, and a new view of the same source is loaded up
    to where that stream began. Running it again gives the same store.
    A view that the store holds already is read as it was until its load is whole, and after Ctrl-C or a crash too.

    A view whose definition has changed is loaded beside its old version, which goes on. With --adopt it goes on with
    the rows and the stream of the old version instead, where these hold all that it needs: nothing is loaded. Where
    they don't, it is loaded up to where that stream began. An old version that is adopted is frozen: its workers end
    with an error, and its readers get what it held. Give it only where no other project, and no other branch of this
    one, needs the old version. Materializing that one lets it go on.

    \b
    Examples:
      bedplate materialize
      bedplate materialize --until 2011-11-11
      bedplate materialize --until 2011-11-11 customer_lines product_lines --json
      bedplate materialize --adopt
    """
    from bedplate.project import Project

    project = Project(directory)
    began = time.perf_counter()
    try:
        with project.open_store() as store, ProgressLine(every=1.0) as progress:
            done = project.materialize(store, views, until, replace=replace, adopt=adopt, progress=progress)
    except KeyboardInterrupt:
        click.echo(
            "interrupted: the store answers as before; 'bedplate materialize' loads the view at work from its start",
            err=True,
        )
        click.get_current_context().exit(INTERRUPTED_EXIT)
    seconds = time.perf_counter() - began
    for view in [d.view for d in done if d.adopted]:
        click.echo(
            f"warning: '{view}' reads rows of its old version, which is frozen: workers that still define it so end "
            "with an error, readers get what it held; 'bedplate online compact' takes the rows over and deletes it",
            err=True,
        )
    if as_json:
        echo_json({"views": done, "store": without_password(project.config.online_url), "seconds": seconds})
        return
    loaded = [d for d in done if not d.kept]
    click.echo(_table(done))
    counted = "1 view" if len(loaded) == 1 else f"{len(loaded)} views"
    click.echo(f"loaded {counted}, {sum(d.events for d in loaded):,} events, in {seconds:.1f} s")


def _later(done: Materialized) -> str:
    if done.adopted and done.kept:
        return "kept: goes on with the rows of its old version"
    return "kept: its stream goes on" if done.kept else f"{done.later:,}"


def _table(done: Sequence[Materialized]) -> str:
    rows = [
        [
            d.view,
            format_time(d.until),
            f"{d.events:,}",
            _later(d),
            "-" if d.kept else f"{d.seconds:.1f}",
        ]
        for d in done
    ]
    return table(["view", "until", "events", "later, for the stream", "seconds"], rows, [2, 4])
