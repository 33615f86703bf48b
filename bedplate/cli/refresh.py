"""`bedplate online refresh`: new versions of resident views, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import moment, size, table

if TYPE_CHECKING:
    from bedplate.online.base import OnlineStore
    from bedplate.online.refresh import Refreshed
    from bedplate.project import Project


@click.command()
@click.option("--every", metavar="DURATION", help='Go on until interrupted, at each multiple of, say, "1m".')
@project_option
@json_option
@click.argument("views", nargs=-1, metavar="[VIEW]...")
def refresh(views: tuple[str, ...], every: str | None, directory: Path, as_json: bool) -> None:
    """Copy resident VIEWs (by default those of online.resident) from the online store into files that servers map.

    Servers on this machine read them as soon as they are whole, and go on with the version before until then, also
    after Ctrl-C or a crash. A view of which the store holds nothing new is left as it is. With --every an error is
    shown, and the next round tries again; --json then writes a line a round.

    \b
    Examples:
      bedplate online refresh
      bedplate online refresh items --json
      bedplate online refresh --every 1m
    """
    from bedplate.project import Project
    from bedplate.types import parse_duration

    project = Project(directory)
    period = None if every is None else parse_duration(every, where="--every")
    chosen = _chosen(project, views)
    try:
        with project.open_store(create=False) as store:
            for begun in _rounds(period):
                done = _round(project, store, chosen, fails=period is None)
                seconds = time.perf_counter() - begun
                if as_json and period is not None:
                    click.echo(msgspec.json.encode({"views": done, "seconds": seconds}).decode())
                elif as_json:
                    echo_json({"views": done, "seconds": seconds})
                elif done:
                    click.echo(_table(done))
    except KeyboardInterrupt:
        click.echo("interrupted: the versions before are still read", err=True)
        click.get_current_context().exit(INTERRUPTED_EXIT)


def _chosen(project: Project, views: Sequence[str]) -> list[str]:
    from bedplate.errors import ConfigError

    chosen = list(dict.fromkeys(views)) or list(project.config.resident)
    if not chosen:
        raise ConfigError(
            "no view is resident",
            where="bedplate.toml",
            hint='name them: [online] resident = ["VIEW"]; or: refresh VIEW',
        )
    return [project.view(name).name for name in chosen]


def _rounds(period: int | None) -> Iterator[float]:
    """Gives when each round begins, of the performance counter; the first at once."""
    from bedplate.clock import system_clock
    from bedplate.types import SECOND

    yield time.perf_counter()
    while period is not None:
        time.sleep((period - system_clock() % period) / SECOND)
        yield time.perf_counter()


def _round(project: Project, store: OnlineStore, chosen: Sequence[str], *, fails: bool) -> list[Refreshed]:
    from bedplate.errors import StoreError
    from bedplate.online.refresh import refresh as refresh_view

    done: list[Refreshed] = []
    with ProgressLine(every=1.0) as progress:
        for name in chosen:
            try:
                with project.located():
                    done.append(
                        refresh_view(
                            store,
                            project.view(name),
                            project.config.resident_path,
                            progress=lambda rows, name=name: progress(f"{name}: {rows:,} rows"),
                        )
                    )
            except StoreError as error:
                if fails:
                    raise
                click.echo(f"warning: {error}", err=True)
    return done


def _table(done: Sequence[Refreshed]) -> str:
    rows = [
        [d.view, str(d.version), "kept" if d.kept else "new", f"{d.rows:,}", size(d.bytes), moment(d.watermark)]
        for d in done
    ]
    return table(["view", "version", "", "rows", "size", "exact from"], rows, [1, 3, 4])
