"""`bedplate online`: what the online store holds, whether history says the same, and deleting what nobody needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.refresh import refresh
from bedplate.cli.tables import elapsed, moment, size, table
from bedplate.cli.verify import verify

if TYPE_CHECKING:
    from bedplate.online.compact import Compacted
    from bedplate.online.listing import StoreFacts, ViewFacts


@click.group()
def online() -> None:
    """List, compact, verify and refresh the online store.

    \b
    Examples:
      bedplate online ls
      bedplate online compact --dry-run
      bedplate online drop old_view
      bedplate online refresh
      bedplate online verify
    """


@online.command("ls")
@project_option
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List the views that the store holds: versions, rows, sizes, and how far each of them is.

    Of a view that was changed, the store may hold several versions. Events before UNTIL are from history, and reads are
    exact from the time in EXACT FROM on; FRESH says how long ago the
    stream was last known to be taken in: a worker says now and then that nothing more was there. STATE names the
    project of a version that another project loaded into a store that it shares with this one. ROWS counts those of
    an old version too that a view goes on with ('bedplate materialize --adopt'); the old version is frozen.

    \b
    Examples:
      bedplate online ls
      bedplate online ls --json
    """
    from bedplate.online.listing import listing
    from bedplate.project import Project

    project = Project(directory)
    with project.open_store(create=False) as store:
        found, own = listing(store, {view.id for view in project.views.values()}), store.project
    if as_json:
        echo_json(found)
        return
    if not found.views:
        click.echo("the online store is empty; run: bedplate materialize")
        return
    click.echo(_table(found, own))
    rows = sum(v.rows - v.adopted_rows + v.left_rows for v in found.views)
    taken = sum(v.bytes + v.left_bytes for v in found.views)
    texts = f"{found.texts:,} texts, {size(found.text_bytes)}"
    click.echo(f"{len(found.views):,} versions of views, {rows:,} rows, {size(taken)}; {texts}")


def _table(found: StoreFacts, project: str) -> str:
    from bedplate.clock import system_clock

    now = system_clock()
    rows = [
        [
            v.state.name,
            v.state.id[:12],
            _status(v, project),
            "-" if v.generation < 0 else str(v.generation),
            f"{v.rows:,}",
            size(v.bytes),
            f"{v.state.events:,}",
            moment(v.state.until),
            moment(v.state.watermark),
            elapsed(max(0, now - v.state.fresh_until)),
        ]
        for v in found.views
    ]
    headers = ["view", "version", "state", "generation", "rows", "size", "events", "until", "exact from", "fresh"]
    return table(headers, rows, [3, 4, 5, 6])


def _status(view: ViewFacts, project: str) -> str:
    if view.state.is_of_another(project):
        return f"of {view.state.project}"
    if view.loading is not None:
        return "loading again" if view.generation >= 0 else "loading"
    if view.generation < 0:
        return "in part"
    if view.state.successor:
        return "frozen"
    return "current" if view.is_current else "not defined"


@online.command()
@click.option("--removed", is_flag=True, help="Delete views that the project does not have any more too.")
@click.option("--newer", is_flag=True, help="Delete versions that are newer than the project's own too.")
@click.option("--in-use", is_flag=True, help="Delete old versions that a server or a promoted model reads too.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@project_option
@json_option
def compact(removed: bool, newer: bool, in_use: bool, dry_run: bool, directory: Path, as_json: bool) -> None:
    """Take out of the store what no read can see any more, while it is read and written.

    Rows are folded anew at the watermark: tiles, values and events that are too old for every window go, and rows of
    which nothing counts any more. An old version of a view goes once the store holds the one that is defined, and
    neither a server at work nor a promoted model reads it; --in-use deletes it all the same. A version
    that came to the store after that one stays: another branch may have loaded it. --newer deletes it, and --removed
    views of other names. What another project loaded stays in any case; so does an old version of which it is not known
    who loaded it, in a store outside the project's folder: see 'bedplate online claim'. Texts that nothing names go at
    the end.

    \b
    Examples:
      bedplate online compact --dry-run
      bedplate online compact
      bedplate online compact --removed --json
    """
    from bedplate.errors import StoreError
    from bedplate.online import compact as compaction
    from bedplate.online.texts import drop_texts
    from bedplate.project import Project

    project = Project(directory)
    try:
        with project.open_store(create=False) as store, ProgressLine(every=1.0) as progress:
            every = list(project.views.values())
            views = compaction.compact(
                store,
                every,
                removed=removed,
                newer=newer,
                in_use=in_use,
                needed={} if in_use else _needed(project.config.registry_path),
                dry_run=dry_run,
                progress=progress,
            )
            try:
                texts: int | None = drop_texts(store, dry_run=dry_run)
            except StoreError as error:
                texts = None
                click.echo(f"warning: texts are left as they are: {error.message}", err=True)
    except KeyboardInterrupt:
        click.echo("interrupted: what is done is done; 'bedplate online compact' does the rest", err=True)
        click.get_current_context().exit(INTERRUPTED_EXIT)
    if as_json:
        echo_json({"dry_run": dry_run, "views": views, "texts": texts})
        return
    if views:
        click.echo(_changes(views))
    click.echo(f"{'would drop' if dry_run else 'dropped'} {texts or 0:,} texts")


def _needed(registry: Path) -> dict[str, str]:
    """The versions of views that promoted models read, each with one of them; of a registry that is there."""
    from bedplate.registry.dependents import views_of_promoted
    from bedplate.registry.registry import Registry

    if not registry.is_dir():
        return {}
    return {view: f"the model {model}" for view, model in views_of_promoted(Registry(registry)).items()}


def _changes(views: list[Compacted]) -> str:
    rows = [
        [v.view, v.id[:12], f"{v.rows:,}", f"{v.shrunk:,}", f"{v.deleted:,}", size(v.bytes), _what(v)] for v in views
    ]
    return table(["view", "version", "rows", "smaller", "deleted", "freed", ""], rows, [2, 3, 4, 5])


def _what(done: Compacted) -> str:
    return "all" if done.dropped else f"kept: {done.kept}" if done.kept else ""


@online.command()
@click.option("--in-use", is_flag=True, help="Delete versions that a server or a promoted model reads too.")
@project_option
@json_option
@click.argument("view", metavar="VIEW")
def drop(in_use: bool, view: str, directory: Path, as_json: bool) -> None:
    """Delete all versions of VIEW from the store, but those that another project loaded.

    It can't be read after that until 'bedplate materialize' loads it again; a stream then begins anew. Where a server
    at work or a promoted model reads one of them nothing is deleted, and the error names who does; --in-use deletes
    them all the same.

    \b
    Examples:
      bedplate online drop old_view
      bedplate online drop old_view --json
      bedplate online drop old_view --in-use
    """
    from bedplate.config import load_config
    from bedplate.online import compact as compaction
    from bedplate.online.base import open_own

    config = load_config(directory)
    with open_own(config, create=False) as store:
        gone = compaction.drop(store, view, in_use=in_use, needed={} if in_use else _needed(config.registry_path))
    if as_json:
        echo_json({"views": gone})
        return
    rows, freed = sum(v.rows for v in gone), size(sum(v.bytes for v in gone))
    click.echo(f"deleted {len(gone):,} versions of '{view}': {rows:,} rows, {freed}")


@online.command()
@project_option
@json_option
@click.argument("former", metavar="[PROJECT]", default="")
def claim(former: str, directory: Path, as_json: bool) -> None:
    """Put views in the store on record as this project's: those that PROJECT loaded, its former name.

    A store outside the project's folder has on record by which project each view was loaded, under the name in
    bedplate.toml (by default the folder's). Another one can read it, and can't load it, take in its stream or delete
    it. Without PROJECT it is what no project is on record for: the versions of this project's views that were loaded
    before there were such records.

    \b
    Examples:
      bedplate online claim
      bedplate online claim shop_2025 --json
    """
    from bedplate.online.owners import claim as claimed
    from bedplate.project import Project

    project = Project(directory)
    with project.open_store(create=False) as store:
        found = claimed(store, list(project.views), former)
        owner = store.project
    if as_json:
        echo_json({"project": owner, "views": [{"view": s.name, "id": s.id} for s in found]})
    elif not owner:
        click.echo("the store is in the project's own folder: all of it is the project's")
    else:
        click.echo(f"{len(found):,} versions of views are on record as those of '{owner}' now")


online.add_command(refresh)
online.add_command(verify)
