"""`bedplate online verify`: whether the online store answers what history says, and if not, why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bedplate.cli.main import PARTIAL_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import number, table
from bedplate.config import without_password
from bedplate.errors import ProofError
from bedplate.types import format_time, parse_time

if TYPE_CHECKING:
    from bedplate.health.comparison import Difference
    from bedplate.health.verify import Verification, ViewVerified

_SHOWN = 40
"""How many differences the text for people lists."""


@click.command()
@click.option("--keys", "count", metavar="N", default=1000, type=click.IntRange(1), help="About so many keys a view.")
@click.option("--at", metavar="TIME", help="Compare at this time, ISO 8601, UTC. Default: when both sides are exact.")
@click.option("--seed", metavar="N", default=0, help="Another seed samples other keys.")
@project_option
@json_option
@click.argument("views", nargs=-1, metavar="[VIEW]...")
def verify(views: tuple[str, ...], count: int, at: str | None, seed: int, directory: Path, as_json: bool) -> None:
    """Compare the online store's answers with history for a sample of the keys of VIEWs, by default of all.

    Both are asked at one time: the view's watermark, from which on the store is exact, or just after the last event of
    history, if that is earlier. A key of which the store holds later events is left out and counted. For each value
    that differs the command says the likely cause and what shows it: a late event, an event that was corrected in
    history or deleted from it, that the stream left out or took in twice, a delay, a worker that is behind, a changed
    definition, a row that is missing, damaged, of an old version or of another project, a missing text. Where the
    evidence is the same for several causes it names them all.

    It exits with 7 where a value differs, a definition has changed or a version was deleted, and with 8 where all that
    was compared is equal, but a view could not be compared.

    \b
    Examples:
      bedplate online verify
      bedplate online verify customer_lines --keys 10000
      bedplate online verify --at 2011-11-25 --json
    """
    from bedplate.health.verify import verify as compare
    from bedplate.project import Project

    project, began = Project(directory), time.perf_counter()
    chosen = [project.view(name) for name in dict.fromkeys(views)] or list(project.views.values())
    instant = None if at is None else parse_time(at, "--at")
    with project.open_store(create=False) as store, ProgressLine(every=1.0) as progress, project.located():
        found = compare(store, project.history, chosen, keys=count, at=instant, seed=seed, progress=progress)
    if as_json:
        echo_json(_document(found, without_password(project.config.online_url), time.perf_counter() - began))
    else:
        click.echo(_text(found))
    if found.is_wrong:
        raise ProofError(
            f"{found.differ:,} of {found.compared:,} values differ between the store and history"
            if found.differ
            else "the store holds another version of a view",
            where=without_password(project.config.online_url),
        )
    if any(v.cause for v in found.views):
        click.get_current_context().exit(PARTIAL_EXIT)


def _document(found: Verification, url: str, seconds: float) -> Any:
    return {
        "store": url,
        "views": found.views,
        "values": found.compared,
        "differ": found.differ,
        "causes": found.causes,
        "differences": found.differences,
        "seconds": seconds,
    }


def _text(found: Verification) -> str:
    lines = [_views(found.views)]
    lines += [f"{v.view}: {v.cause}: {v.evidence}" for v in found.views if v.cause]
    lines += _differences(found.differences)
    counted = f"{found.compared:,} values compared, {found.differ:,} differ"
    causes = ", ".join(f"{cause}: {count:,}" for cause, count in found.causes.items())
    return "\n".join([*lines, f"{counted} ({causes})" if causes else counted])


def _views(views: Sequence[ViewVerified]) -> str:
    rows = [
        [
            v.view,
            "-" if v.at < 0 else format_time(v.at),
            f"{v.keys:,}",
            f"{v.ahead:,}",
            f"{v.values:,}",
            f"{v.differ:,}",
            f"{v.later:,}",
        ]
        for v in views
    ]
    return table(["view", "at", "keys", "ahead", "values", "differ", "later in history"], rows, [2, 3, 4, 5, 6])


def _differences(differences: Sequence[Difference]) -> list[str]:
    """Lines for the first differences: the values in a table, and under it what shows the cause of each key."""
    if not differences:
        return []
    shown = differences[:_SHOWN]
    rows = [[d.feature, _key(d), _value(d.online), _value(d.history), d.cause] for d in shown]
    lines = [table(["feature", "key", "online", "history", "likely cause"], rows)]
    reasons = dict.fromkeys(f"{_key(d)}: {d.evidence}" for d in shown)
    more = len(differences) - len(shown)
    return [*lines, *reasons, *([f"... and {more:,} more; --json has all"] if more else [])]


def _key(difference: Difference) -> str:
    return " ".join(f"{entity}={key}" for entity, key in difference.keys.items())


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return number(value) if isinstance(value, float) else str(value)
