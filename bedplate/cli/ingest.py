"""`bedplate ingest`: keep the online store current from a directory of appended files, or from a topic."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click

from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.standing import Progressed, Standing, progress_table, strangers_text
from bedplate.cli.tables import counted, table
from bedplate.config import without_password
from bedplate.errors import ConfigError, NotFoundError, suggest
from bedplate.types import parse_time

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")

if TYPE_CHECKING:
    from bedplate.features.view import CompiledView
    from bedplate.online.base import OnlineStore
    from bedplate.online.ingest_metrics import MetricsEndpoint
    from bedplate.online.kafka import KafkaStream
    from bedplate.online.measures import Measures
    from bedplate.online.streams import Stream, StuckError
    from bedplate.project import Project


@final
class _WithReplay(click.Command):
    """The command, or the one of a word that comes first."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """`ingest replay ...` is a command of its own; a directory of that name is ./replay."""
        if args[:1] == ["replay"]:
            return replay.make_context(f"{info_name} replay", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


_format_option = click.option(
    "--format",
    "form",
    default="json",
    show_default=True,
    help="Of payloads, or of files of messages: json, avro:FILE or protobuf:FILE:MESSAGE.",
)
_source_option = click.option(
    "--source", "sources", metavar="SOURCE", multiple=True, help="What the files hold; may be repeated."
)
_late_option = click.option(
    "--late",
    is_flag=True,
    help="Of a directory: take in events from before the load too: history did not hold them.",
)


@final
@dataclass(frozen=True, slots=True)
class _Topic:
    """What the command line says of a topic: the group and the settings.

    Attributes:
        group: of its consumers.
        letters: where dead letters go.
        form: of payloads.
        settings: of librdkafka.
    """

    group: str | None
    letters: Path
    form: str
    settings: Path | None

    def open(
        self, url: str, chosen: Mapping[str, list[CompiledView]], store: OnlineStore, opened: ExitStack
    ) -> dict[str, KafkaStream]:
        """The topic once a source, as each is at a position of its own."""
        from bedplate.online.groups import group_name
        from bedplate.online.kafka import KafkaStream

        try:
            given = {} if self.settings is None else tomllib.loads(self.settings.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"can't read the settings: {error}", where=str(self.settings)) from error
        streams: dict[str, KafkaStream] = {}
        for name, views in chosen.items():
            group, letters = group_name(store, views, self.group), self.letters / name
            streams[name] = KafkaStream(url, views[0], group, letters, form=self.form, settings=given)
            opened.callback(streams[name].close)
        return streams


@click.command(cls=_WithReplay)
@_source_option
@click.option("--until", metavar="TIME", help="Stop before the first file with an event at this time or later.")
@click.option("--follow", is_flag=True, help="Wait for more files, until Ctrl-C or SIGTERM.")
@click.option(
    "--batch",
    metavar="EVENTS",
    type=click.IntRange(1),
    help="Events of a step. [default: what suits the store, 50000 for LMDB, 3000 for Redis]",
)
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Serve metrics for Prometheus there; port 0 picks a free one. [host: 127.0.0.1]",
)
@_late_option
@_format_option
@click.option(
    "--moved", is_flag=True, help="STREAM is the one taken in so far, moved or restored: go on from the positions."
)
@click.option(
    "--group",
    help="Of a topic: the consumer group that shares it; SOURCE is appended. [default: of the store and the views]",
)
@click.option(
    "--letters",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where events go that can't be taken in. [default: .bedplate/letters]",
)
@click.option(
    "--settings",
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="Of a topic: a TOML file with settings of librdkafka, such as security.protocol.",
)
@project_option
@json_option
@click.argument("stream", metavar="STREAM")
def ingest(
    stream: str,
    sources: tuple[str, ...],
    until: str | None,
    follow: bool,
    batch: int | None,
    metrics: str | None,
    late: bool,
    form: str,
    moved: bool,
    group: str | None,
    letters: Path | None,
    settings: Path | None,
    directory: Path,
    as_json: bool,
) -> None:
    """Take the events of STREAM into the online store, each once.

    STREAM is a directory to which files are appended, or kafka://HOST:PORT/TOPIC. Any number of these commands may
    share a stream: a directory's subdirectories and a topic's partitions are taken in side by side.

    Files (.parquet; .jsonl, .ndjson or .json with an object a line; .avro; .pb or .binpb with the length before each
    message) hold rows as the SOURCE's table does and are taken in by the order of their names. Several sources may be
    made from the same rows; without --source these are all sources of the project, which must then be made from one
    table. After Ctrl-C or a crash the same command goes on. Write a file aside and rename it when it is whole.

    An event that can't be taken in goes to a file of dead letters with the reason, and does not stop the stream: mend
    its payload there, then 'bedplate ingest replay FILE'. A file that can't be read stops its own partition: the others
    go on, and the command ends with an error; with --follow it is tried again.

    A store that can't be reached is tried again: with --follow as long as it takes, else for half a minute. --metrics
    serves what --follow shows: how many events are left, how many come in a second, how old the newest is, and errors.

    'bedplate materialize' loaded every event of history before its time. An event of the stream from before that time
    is an error, as it would count twice (of a topic it is passed over). Where they reached the stream only, --late
    takes them in; they change values from now on.

    \b
    Examples:
      bedplate ingest stream
      bedplate ingest --source lines --source returns stream --follow
      bedplate ingest --until 2011-11-25 stream --json
      bedplate ingest kafka://broker:9092/clicks --source clicks --follow --metrics 9100
      bedplate ingest replay .bedplate/letters/clicks/clicks-0-00000000000000000007.jsonl --source clicks
    """
    from bedplate.project import Project

    _check(stream, until, follow, {"--group": group, "--settings": settings})
    shown: list[Measures] = []
    with nullcontext() if metrics is None else _served(metrics, shown):
        project = Project(directory)
        chosen = _chosen(project, sources)
        aside = letters or project.root / ".bedplate" / "letters"
        topic = _Topic(group, aside, form, settings) if _is_topic(stream) else None
        end = parse_time(until, "--until") if until else None
        ended = _Taking(stream, topic, aside, form, end, follow, late, moved, batch).run(project, chosen, shown)
    _warn(stream, follow, aside, shown)
    _echo([Progressed.of(m, [v.name for v in chosen[m.source]], ended.seconds) for m in shown], ended, as_json)
    if ended.interrupted and not follow:
        click.get_current_context().exit(INTERRUPTED_EXIT)


@final
@dataclass(frozen=True, slots=True)
class _Ended:
    """How a command ended: whether by a signal, after how many seconds, and why partitions could not go on."""

    interrupted: bool
    seconds: float
    stuck: StuckError | None


def _warn(stream: str, follow: bool, letters: Path, shown: Sequence[Measures]) -> None:
    """Says what was not taken in."""
    from bedplate.online.file_rows import SUFFIXES

    if not _is_topic(stream) and not follow and not any(p.suffix in SUFFIXES for p in Path(stream).rglob("*")):
        suffixes = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        click.echo(f"warning: {stream} holds no file {suffixes}, so there was nothing to take in", err=True)
    for names in {m.strangers for m in shown if m.strangers}:
        click.echo(f"warning: {strangers_text(names)}", err=True)
    for measures in shown:
        if measures.letters:
            click.echo(
                f"warning: {counted([(measures.letters, 'dead letter')])} in {letters / measures.source}: mend them, "
                "then run: bedplate ingest replay FILE",
                err=True,
            )


def _echo(progressed: Sequence[Progressed], ended: _Ended, as_json: bool) -> None:
    """Shows what was taken in; for people on standard error, where an error follows.

    Raises:
        StuckError: partitions could not go on.
    """
    is_whole = ended.stuck is None
    if as_json:
        found = [asdict(p) for p in progressed]
        echo_json({"sources": found, "seconds": ended.seconds, "interrupted": ended.interrupted})
    else:
        click.echo(progress_table(progressed), err=not is_whole)
        ending = "interrupted" if ended.interrupted else "done" if is_whole else "ended"
        click.echo(f"{ending} after {ended.seconds:.1f} s", err=not is_whole)
    if ended.stuck is not None:
        raise ended.stuck


def _is_topic(stream: str) -> bool:
    return stream.startswith("kafka:")


def _check(stream: str, until: str | None, follow: bool, of_topics: Mapping[str, object]) -> None:
    if follow and until is not None:
        raise click.UsageError("--follow waits for all files to come, --until stops before one: give one of them")
    if _URL.match(stream) and not _is_topic(stream) and not Path(stream).exists():
        raise ConfigError(
            f"got '{without_password(stream)}', expected a directory to which files are appended, or "
            "kafka://HOST:PORT/TOPIC",
            where="ingest",
            hint="of a table of another kind 'bedplate materialize' loads the newest state",
        )
    if _is_topic(stream) and not follow:
        raise click.UsageError("a topic has no end, expected --follow")
    for option, given in of_topics.items():
        if given is not None and not _is_topic(stream):
            raise click.UsageError(f"{option} is of a topic, and '{stream}' is a directory: leave it out")


def _served(address: str, shown: Sequence[Measures]) -> MetricsEndpoint:
    """The endpoint of the metrics of what will be shown."""
    from bedplate.online.ingest_metrics import MetricsEndpoint, parse_address

    endpoint = MetricsEndpoint(*parse_address(address), shown)
    click.echo(f"metrics at {endpoint.url}", err=True)
    return endpoint


@final
@dataclass(frozen=True, slots=True)
class _Taking:
    """What the command line says of how a stream is taken in."""

    stream: str
    topic: _Topic | None
    letters: Path
    form: str
    until: int | None
    follow: bool
    late: bool
    moved: bool
    batch: int | None

    def run(self, project: Project, chosen: Mapping[str, list[CompiledView]], shown: list[Measures]) -> _Ended:
        """Takes in what there is for each source, how it stands being `shown`."""
        from bedplate.online.ingest import Ingest
        from bedplate.online.origins import move
        from bedplate.online.streams import StuckError
        from bedplate.online.workers import POLL, STORE_PATIENCE, run_workers

        with (
            project.open_store(STORE_PATIENCE) as store,
            ProgressLine(every=5.0) as progress,
            ExitStack() as opened,
        ):
            topics = {} if self.topic is None else self.topic.open(self.stream, chosen, store, opened)
            streams: Mapping[str, Stream] = topics or self._files(chosen)
            if self.moved:
                for name, views in chosen.items():
                    move(store, views, streams[name])
            ahead = project.config.online_ahead
            workers = [
                Ingest(store, v, streams[n], batch=self.batch, ahead=ahead, late=self.late) for n, v in chosen.items()
            ]
            shown.extend(w.measures for w in workers)
            if self.follow:
                groups = f" as group {', '.join(t.group for t in topics.values())}" if topics else ""
                progress(f"following {self.stream}{groups}; Ctrl-C ends it")
            wait = POLL if self.topic is None else 0.0  # a topic is waited for by its own
            begin, interrupted, stuck, show = time.perf_counter(), False, None, Standing(progress)
            try:
                interrupted = run_workers(workers, self.until, follow=self.follow, progress=show, poll=wait)
            except StuckError as error:
                stuck = error
            seconds = time.perf_counter() - begin
            for worker in workers:
                worker.measure_lag()
            return _Ended(interrupted, seconds, stuck)

    def _files(self, chosen: Mapping[str, list[CompiledView]]) -> Mapping[str, Stream]:
        """The directory once a source; an error where it can't be read."""
        from bedplate.online.files import FileStream

        directory = Path(self.stream)
        streams = {n: FileStream(directory, v[0], self.letters / n, self.form) for n, v in chosen.items()}
        for stream in streams.values():
            stream.partitions()
        return streams


@click.command()
@_source_option
@_format_option
@_late_option
@project_option
@json_option
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def replay(file: Path, sources: tuple[str, ...], form: str, late: bool, directory: Path, as_json: bool) -> None:
    """Take the mended dead letters of FILE into the online store, each once.

    A letter is known by its topic, partition and offset, or by its file and row. Into each view those are taken whose
    events were withheld from it, once; others are passed over. All payloads are looked at first: one that is still
    wrong is an error that names it, and nothing of its view is changed.

    \b
    Example:
      bedplate ingest replay .bedplate/letters/clicks/clicks-0-00000000000000000007.jsonl --source clicks
    """
    from bedplate.online.ingest import Ingest
    from bedplate.online.replay import LetterStream
    from bedplate.project import Project

    project = Project(directory)
    taken: dict[str, tuple[int, int, int]] = {}
    interrupted = False
    with project.open_store(create=False) as store:
        for view in (v for views in _chosen(project, sources).values() for v in views):
            stream = LetterStream(file, view, store, form, ahead=project.config.online_ahead)
            before = len(stream.withheld())
            done = Ingest(store, [view], stream, late=late).run()
            taken[view.name] = done.events, len(stream) - before, len(stream.withheld())
            if interrupted := done.interrupted:
                break
    names = ("letters", "passed_over", "left")
    if as_json:
        views = [{"view": view} | dict(zip(names, counts, strict=True)) for view, counts in taken.items()]
        echo_json({"views": views, "interrupted": interrupted})
    else:
        rows = [[view, *(f"{count:,}" for count in counts)] for view, counts in taken.items()]
        click.echo(table(["view", "letters", "passed over", "left"], rows, [1, 2, 3]))
    if interrupted:
        click.echo("interrupted: run it again, which takes what is left", err=True)
        click.get_current_context().exit(INTERRUPTED_EXIT)
    if not any(count for count, *_ in taken.values()):
        click.echo(
            "warning: no letter was taken in: none of them is withheld from a view now, as it was taken in before, the "
            "view was loaded since, or the letter is of another project's stream",
            err=True,
        )


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
