"""`bedplate ingest`: keep the online store current from a directory of appended files."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import click

from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.cli.options import echo_json, json_option, open_online, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import table
from bedplate.errors import ConfigError, NotFoundError, suggest
from bedplate.types import format_time, parse_time

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")

if TYPE_CHECKING:
    from bedplate.features.view import CompiledView
    from bedplate.online.streams import MicroBatch
    from bedplate.project import Project


@final
@dataclass(slots=True)
class Progressed:
    """What was taken in for one source.

    Attributes:
        source: its name.
        views: the views that it keeps current.
        files: how many files were taken in to their end.
        rows: how many rows of files.
        watermark: reads from this time on are exact; microseconds.
    """

    source: str
    views: list[str]
    files: int = 0
    rows: int = 0
    watermark: int = 0


@click.command()
@click.option("--source", "sources", metavar="SOURCE", multiple=True, help="What the files hold; may be repeated.")
@click.option("--until", metavar="TIME", help="Stop before the first file with an event at this time or later.")
@click.option("--follow", is_flag=True, help="Wait for more files, until Ctrl-C or SIGTERM.")
@click.option("--late", is_flag=True, help="Take in events from before the load too: history did not hold them.")
@project_option
@json_option
@click.argument("stream", metavar="DIR", type=click.Path(path_type=Path))
def ingest(
    stream: Path, sources: tuple[str, ...], until: str | None, follow: bool, late: bool, directory: Path, as_json: bool
) -> None:
    """Take the Parquet files that are appended to DIR into the online store, each event once.

    Files hold rows as the SOURCE's table does and are taken in by the order of their names. Several sources may be
    made from the same rows; without --source these are all sources of the project, which must then be made from one
    table. Rows, texts and the position in the stream change in one step: after Ctrl-C or a crash the same command goes
    on. Write a file under another name and rename it when it is whole.

    'bedplate materialize' loaded every event of history before its time. An event of the stream from before that time
    is an error, as it would count twice. Where such events reached the stream only, --late takes them in; they change
    values from now on.

    \b
    Examples:
      bedplate ingest stream
      bedplate ingest --source lines --source returns stream --follow
      bedplate ingest --until 2011-11-25 stream --json
    """
    from bedplate.online.ingest import Ingest, run_workers
    from bedplate.project import Project

    if follow and until is not None:
        raise click.UsageError("--follow waits for all files to come, --until stops before one: give one of them")
    if _URL.match(str(stream)) and not stream.exists():
        raise ConfigError(
            f"got '{stream}', expected a directory to which Parquet files are appended",
            where="ingest",
            hint="of a table of another kind 'bedplate materialize' loads the newest state",
        )
    project = Project(directory)
    chosen = _chosen(project, sources)
    begin, limit = time.perf_counter(), None if until is None else parse_time(until, "--until")
    with open_online(project.config) as store, ProgressLine(every=5.0) as progress:
        workers = {name: Ingest(store, views, stream, late=late) for name, views in chosen.items()}
        names = {worker: name for name, worker in workers.items()}
        if follow:
            progress(f"following {stream}; Ctrl-C ends it")

        def show(worker: Ingest, batch: MicroBatch) -> None:
            place = Path(batch.end.name) if batch.partition == "" else Path(batch.partition, batch.end.name)
            progress(f"{names[worker]}: {place}, {batch.end.at:,} rows")

        interrupted = run_workers(list(workers.values()), limit, follow=follow, progress=show)
        progressed = [
            Progressed(name, [v.name for v in chosen[name]], w.files, w.events, w.watermark)
            for name, w in workers.items()
        ]
    seconds = time.perf_counter() - begin
    if not follow and not any(stream.glob("*.parquet")):
        click.echo(f"warning: {stream} holds no file '*.parquet', so there was nothing to take in", err=True)
    if as_json:
        found = [asdict(p) for p in progressed]
        echo_json({"sources": found, "seconds": seconds, "interrupted": interrupted})
    else:
        rows = [[p.source, ", ".join(p.views), f"{p.files:,}", f"{p.rows:,}", _moment(p)] for p in progressed]
        click.echo(table(["source", "views", "files", "rows", "exact from"], rows, [2, 3]))
        click.echo(f"{'interrupted' if interrupted else 'done'} after {seconds:.1f} s")
    if interrupted and not follow:
        click.get_current_context().exit(INTERRUPTED_EXIT)


def _moment(progressed: Progressed) -> str:
    return format_time(progressed.watermark) if progressed.watermark else "-"


def _chosen(project: Project, names: Sequence[str]) -> Mapping[str, list[CompiledView]]:
    """The views of each source that the stream feeds."""
    by_source: dict[str, list[CompiledView]] = {}
    for view in project.views.values():
        by_source.setdefault(view.view.source.name, []).append(view)
    for name in names:
        if name not in by_source:
            raise NotFoundError(
                f"no view has a source named '{name}'", where="--source", hint=suggest(name, by_source, "sources")
            )
    tables = {name: views[0].view.source.table(project.root).name for name, views in by_source.items()}
    if not names and len(set(tables.values())) != 1:
        raise ConfigError(
            f"the project has sources from {len(set(tables.values()))} tables, expected --source",
            where="ingest",
            hint="name what the files hold: " + ", ".join(f"{name} (from {table})" for name, table in tables.items()),
        )
    return {name: by_source[name] for name in dict.fromkeys(names or by_source)}
