"""`bedplate offline`: what the offline store holds, merging segments, deleting what nobody needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import size, table

if TYPE_CHECKING:
    from bedplate.offline.collect import Garbage
    from bedplate.offline.listing import TimelineFacts
    from bedplate.offline.needs import Claim


@click.group()
def offline() -> None:
    """List, merge and clean up the as-of indexes.

    \b
    Examples:
      bedplate offline ls
      bedplate offline gc --dry-run
      bedplate offline compact
    """


@offline.command("ls")
@project_option
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List timelines and their segments: who reads them, rows, buckets, size, and what they took to build.

    A timeline is the order of a source's events by key and time; new data becomes a segment of it. The views are those
    of this project that read a segment now: of segments that none reads, 'bedplate offline gc' deletes those that no
    other project needs.

    \b
    Examples:
      bedplate offline ls
      bedplate offline ls --json
    """
    from bedplate.offline.listing import listing
    from bedplate.project import Project

    project = Project(directory)
    found = listing(project.config.offline_path, project.builds())
    if as_json:
        echo_json({"path": str(project.config.offline_path), "timelines": found})
        return
    if not found:
        click.echo("the offline store is empty; run: bedplate apply")
        return
    click.echo(_table(found))
    segments, taken = sum(len(t.segments) for t in found), size(sum(t.bytes for t in found))
    seconds = sum(t.seconds for t in found)
    click.echo(f"{len(found):,} timelines, {segments:,} segments, {taken}, built in {seconds:.1f} s")


def _table(found: Sequence[TimelineFacts]) -> str:
    from bedplate.offline.listing import span_text
    from bedplate.offline.segment import Span

    rows = [
        [
            t.source,
            ", ".join(t.entities),
            s.id[:12],
            span_text(Span(s.begin, s.until)),
            f"{s.pieces:,}",
            f"{s.rows:,}",
            f"{s.keys:,}",
            f"{s.buckets:,}",
            f"{s.columns}+{s.reductions}",
            size(s.bytes),
            f"{s.seconds:.1f}",
            ", ".join(s.views) or "-",
        ]
        for t in found
        for s in t.segments
    ]
    headers = ["source", "entities", "segment", "times", "pieces", "rows", "keys", "buckets", "columns", "size"]
    return table([*headers, "seconds", "views"], rows, [4, 5, 6, 7, 8, 9, 10])


@offline.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option(
    "--forget",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Give up what the project in this folder needs, on all its branches; may be repeated.",
)
@project_option
@json_option
def gc(directory: Path, dry_run: bool, forget: tuple[Path, ...], as_json: bool) -> None:
    """Delete what no definition needs.

    Needed is what the definitions read of the sources as they are now, and what other projects that share the store,
    and the other git branches of this one, needed at their last 'bedplate apply' and built by 'bedplate backfill'
    since; a branch that was deleted needs nothing. Segments that were merged, indexes of earlier data, and columns of
    removed features are not. What a running process reads, or a build is at work on, stays: it is listed as in use.
    All of it can be built again.

    What can't be seen from here (a project on another host, or on a disk that is not mounted) is not taken for gone:
    its needs are kept, and listed, until --forget names it. Where git can't tell which branches there are, nothing is
    deleted, and the exit code is 5.

    \b
    Examples:
      bedplate offline gc --dry-run
      bedplate offline gc
      bedplate offline gc --dry-run --json
      bedplate offline gc --forget /mnt/old/checkout
    """
    from bedplate.offline.collect import collect
    from bedplate.offline.needs import claims_of_others, forgettable
    from bedplate.project import Project

    project = Project(directory)
    path = project.config.offline_path
    forgotten = [forgettable(path, folder) for folder in forget]
    found = collect(path, project.root, project.builds(), dry_run=dry_run, forgotten=forgotten)
    kept = [_kept(claim, path) for claim in claims_of_others(path, project.root, forgotten)]
    gone = [g for g in found if not g.in_use]
    if as_json:
        parts = [
            {"path": str(g.path.relative_to(path)), "kind": g.kind, "bytes": g.bytes, "in_use": g.in_use} for g in found
        ]
        echo_json({"dry_run": dry_run, "garbage": parts, "bytes": sum(g.bytes for g in gone), "kept": kept})
        return
    for line in map(_kept_text, kept):
        click.echo(line)
    if any(k["unseen"] for k in kept):
        click.echo("what can't be seen is kept until it is named: bedplate offline gc --forget DIR")
    if found:
        click.echo(_garbage(found, path))
    used = len(found) - len(gone)
    kinds = ", ".join(f"{n:,} {kind}{'' if n == 1 else 's'}" for kind, n in Counter(g.kind for g in gone).items())
    what = f"{kinds}, {size(sum(g.bytes for g in gone))}" if gone else "nothing"
    click.echo(f"{'would delete' if dry_run else 'deleted'} {what}{f'; {used} in use' if used else ''}")


def _kept(claim: Claim, path: Path) -> dict[str, Any]:
    """What a project or branch keeps, for a program."""
    from bedplate.offline.segment import FOLDER, bytes_of

    places = [path / name / FOLDER / s for name, needs in claim.timelines.items() for s in needs.segments]
    there = [place for place in places if place.is_dir()]
    return {
        "root": claim.root,
        "branch": claim.branch,
        "commit": claim.commit,
        "segments": len(there),
        "bytes": sum(map(bytes_of, there)),
        "unseen": claim.unseen,
    }


def _kept_text(kept: dict[str, Any]) -> str:
    commit = f", commit {kept['commit'][:12]}" if kept["commit"] else ""
    branch = f", branch '{kept['branch']}'" if kept["branch"] else commit
    unseen = f" ({kept['unseen']})" if kept["unseen"] else ""
    return f"kept for {kept['root']}{branch}: {kept['segments']:,} segments, {size(kept['bytes'])}{unseen}"


def _garbage(found: Sequence[Garbage], path: Path) -> str:
    rows = [[str(g.path.relative_to(path)), g.kind, size(g.bytes), "in use" if g.in_use else ""] for g in found]
    return table(["path", "kind", "size", ""], rows, [2])


@offline.command()
@project_option
@json_option
def compact(directory: Path, as_json: bool) -> None:
    """Merge the segments of each index into one, so that lookups are as fast as if all was built at once.

    'bedplate apply' merges four segments of about the same size by itself. The old segments stay for those who read
    them, until 'bedplate offline gc'. After Ctrl-C or a crash nothing is lost; the same command goes on.

    \b
    Examples:
      bedplate offline compact
      bedplate offline compact --json
    """
    from bedplate.project import Project

    project = Project(directory)
    builds = project.builds()
    with ProgressLine() as progress:
        merged = project.history.compact(builds, whole=True, progress=progress)
        if merged:
            project.history.finish(project.root, project.builds())
    if as_json:
        echo_json({"merged": [s.facts() for s in merged]})
        return
    rows = sum(s.manifest.rows for s in merged)
    click.echo(
        f"merged into {len(merged):,} segments, {rows:,} events; 'bedplate offline gc' deletes the old ones"
        if merged
        else "nothing to merge"
    )
