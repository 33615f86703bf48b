"""`bedplate lookup`: the values of features for given keys at given times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.tables import number, table
from bedplate.errors import ConfigError, suggest
from bedplate.types import Type, format_time, parse_time

if TYPE_CHECKING:
    import polars as pl

    from bedplate.features.graph import FeatureGraph

_SHOWN = 5
"""How many elements of a list a table shows: the newest, which are last."""


@click.command()
@click.option(
    "--key", "keys", metavar="ENTITY=KEY", multiple=True, required=True, help="A key; several times for several rows."
)
@click.option(
    "--time", "times", metavar="TIME", multiple=True, help="ISO 8601, UTC; one for all rows or one each. Default: now."
)
@click.option(
    "--context",
    "context",
    metavar="NAME=VALUE",
    multiple=True,
    help="Context of the request that a FEATURE reads, such as query='red mug'. A vector is JSON: taste=[1,2].",
)
@click.option("--online", is_flag=True, help="Read the online store instead of history.")
@project_option
@json_option
@click.argument("features", nargs=-1, required=True, metavar="FEATURE...")
def lookup(
    features: tuple[str, ...],
    keys: tuple[str, ...],
    times: tuple[str, ...],
    context: tuple[str, ...],
    online: bool,
    directory: Path,
    as_json: bool,
) -> None:
    """Show the values of FEATUREs for keys, as they were known at a time.

    FEATURE is the name of a feature, or VIEW.* for all of a view. Events at the time itself don't count. An entity with
    one key has it in every row.

    \b
    Examples:
      bedplate lookup 'customer_lines.*' --key customer=17850 --time 2011-11-01
      bedplate lookup product_lines.price price_ratio --key customer=17850 --key product=22386 --key product=85123A
      bedplate lookup customer_lines.spend_28d --key customer=17850 --online --json
      bedplate lookup query_overlap --key product=85123A --context query='red mug'
    """
    from bedplate.clock import system_clock
    from bedplate.online.fetch import OnlineReader
    from bedplate.project import Project

    project = Project(directory)
    given = _keys(keys, project.graph.key_types())
    micros = [parse_time(t, "--time") for t in times] or [system_clock()]
    count = max(len(micros), *map(len, given.values()))
    by_entity = {entity: of_entity * count if len(of_entity) == 1 else of_entity for entity, of_entity in given.items()}
    asked = micros * count if len(micros) == 1 else micros
    brought = {name: [value] * count for name, value in _context(context, project.graph).items()}
    if online:
        with project.open_store(create=False) as store:
            found = project.lookup(features, by_entity, asked, OnlineReader(store), context=brought)
    else:
        found = project.lookup(features, by_entity, asked, context=brought)
    entities = [name for name in by_entity if name in found.columns]
    names = [name for name in found.columns if name not in (*entities, "time")]
    if as_json:
        echo_json(_rows(found, entities, names, asked))
        return
    click.echo(_table(found, entities, names, asked))


def _keys(texts: Sequence[str], kinds: Mapping[str, Type]) -> dict[str, list[int] | list[str]]:
    """The keys of each entity, integers or strings as the entity's are."""
    given: dict[str, list[Any]] = {}
    for text in texts:
        entity, equals, key = text.partition("=")
        where = f"--key {text}"
        if not equals:
            raise ConfigError(f"got '{text}', expected ENTITY=KEY", where=where, hint="for example customer=17850")
        if entity not in kinds:
            raise ConfigError(f"unknown entity '{entity}'", where=where, hint=suggest(entity, kinds, "entities"))
        given.setdefault(entity, []).append(_integer(key, where) if kinds[entity] is Type.INT else key)
    return given


def _context(texts: Sequence[str], graph: FeatureGraph) -> dict[str, Any]:
    """The value of each context: a text as it is, anything else as JSON."""
    kinds = {c.name: c.type for c in graph.contexts.values()}
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        where = f"--context {text}"
        if not equals:
            raise ConfigError(f"got '{text}', expected NAME=VALUE", where=where, hint="for example query='red mug'")
        if name not in kinds:
            raise ConfigError(f"unknown context '{name}'", where=where, hint=suggest(name, kinds, "context"))
        given[name] = value if kinds[name] in (Type.STRING, Type.TIME) else _json(value, where)
    return given


def _json(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise ConfigError(
            f"got '{text}', expected a number, true or false, or a list of numbers", where=where
        ) from None


def _integer(text: str, where: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise ConfigError(f"got '{text}', expected a 64-bit integer", where=where)
    return value


def _rows(found: pl.DataFrame, entities: Sequence[str], names: Sequence[str], times: Sequence[int]) -> list[Any]:
    return [
        {"keys": {e: row[e] for e in entities}, "time": time, "values": {n: row[n] for n in names}}
        for time, row in zip(times, found.iter_rows(named=True), strict=True)
    ]


def _table(found: pl.DataFrame, entities: Sequence[str], names: Sequence[str], times: Sequence[int]) -> str:
    """One line a feature with a column for each row; one line a row when there are more rows than features."""
    rows = list(found.iter_rows(named=True))
    keys = [[str(row[e]) for e in entities] for row in rows]
    moments = [format_time(time) for time in times]
    if len(rows) > len(names):
        lines = [
            [*key, moment, *(_shown(row[n]) for n in names)]
            for key, moment, row in zip(keys, moments, rows, strict=True)
        ]
        return table([*entities, "time", *names], lines)
    heads = [" ".join([*key, moment]) for key, moment in zip(keys, moments, strict=True)]
    return table(["feature", *heads], [[n, *(_shown(row[n]) for row in rows)] for n in names])


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        more = f"... {len(elements) - _SHOWN} before, " if len(elements) > _SHOWN else ""
        return f"[{more}{', '.join(_shown(v) for v in elements[-_SHOWN:])}]"
    return number(value) if isinstance(value, float) else str(value)
