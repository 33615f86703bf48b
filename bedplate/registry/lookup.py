"""Look-ups in the index: what a reference to a model or a run stands for, and what there is when it is nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import final

import msgspec

from bedplate.errors import ConfigError, NotFoundError, suggest
from bedplate.registry.recovery import indexed_versions
from bedplate.registry.version import ALIAS_PATTERN, NAME_PATTERN, check_name

CHAMPION = "champion"
"""The alias of the version that serves."""


@final
@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model in a list.

    Attributes:
        name: the model.
        versions: how many versions it has.
        latest: the highest version.
        created: when that was registered, microseconds since the epoch.
        aliases: the version that each alias points to.
        metrics: the latest version's final metrics; null is not a number.
    """

    name: str
    versions: int
    latest: int
    created: int
    aliases: dict[str, int]
    metrics: dict[str, float | None]


def model_names(db: sqlite3.Connection) -> list[str]:
    """Every model that has a version."""
    return [name for (name,) in db.execute("SELECT DISTINCT model FROM versions ORDER BY model")]


def aliases_of(db: sqlite3.Connection, model: str) -> dict[str, int]:
    """The version that each alias of a model points to."""
    return dict(db.execute("SELECT alias, version FROM aliases WHERE model = ? ORDER BY alias", (model,)).fetchall())


def summaries(db: sqlite3.Connection) -> list[ModelSummary]:
    """Every model, by name."""
    found: list[ModelSummary] = []
    # With one max(), SQLite takes the other columns from the row that holds it.
    query = "SELECT count(*), max(version), created, metrics FROM versions WHERE model = ?"
    for name in model_names(db):
        count, latest, created, text = db.execute(query, (name,)).fetchone()
        metrics = msgspec.json.decode(text, type=dict[str, float | None]) if text else {}
        found.append(ModelSummary(name, count, latest, created, aliases_of(db, name), metrics))
    return found


def resolve_version(db: sqlite3.Connection, model: str, which: int | str) -> int:
    """The version that a number or an alias stands for.

    Raises:
        NotFoundError: there is no such model, version or alias; the hint names what there is.
        ConfigError: an alias that can't be one.
    """
    versions = require_model(db, model)
    if isinstance(which, str) and not (which.isascii() and which.isdigit()):
        check_name(which, "an alias", ALIAS_PATTERN)
        aliases = aliases_of(db, model)
        if which in aliases:
            return aliases[which]
        hint = suggest(which, aliases, "aliases") if aliases else f"set it: {promote_command(model, versions, which)}"
        raise NotFoundError(f"no version has the alias '{which}'", where=f"model '{model}'", hint=hint)
    version = int(which)
    if version not in versions:
        known = ", ".join(map(str, sorted(versions)[-12:]))
        raise NotFoundError(f"there is no version {version}", where=f"model '{model}'", hint=f"versions: {known}")
    return version


def require_model(db: sqlite3.Connection, model: str) -> set[int]:
    """The versions of a model.

    Raises:
        NotFoundError: there is no such model.
        ConfigError: a name that can't be one.
    """
    check_name(model, "a model", NAME_PATTERN)
    versions = indexed_versions(db, model)
    if not versions:
        raise NotFoundError(f"there is no model '{model}'", hint=suggest(model, model_names(db), "models"))
    return versions


def promote_command(model: str, versions: set[int], alias: str) -> str:
    """The command that gives the alias to the latest version."""
    option = "" if alias == CHAMPION else f" --alias {alias}"
    return f"bedplate models promote {model} {max(versions)}{option}"


def resolve_run(db: sqlite3.Connection, run: str) -> str:
    """The id of the run that a whole id, or the unambiguous beginning of one, stands for.

    Raises:
        NotFoundError: no run begins so.
        ConfigError: several do.
    """
    ids = [found for (found,) in db.execute("SELECT id FROM runs ORDER BY id DESC")]
    if run in ids:
        return run
    near = [found for found in ids if run and found.startswith(run)]
    if not near:
        raise NotFoundError(f"there is no run '{run}'", hint=suggest(run, ids[:100], "runs"))
    if len(near) > 1:
        raise ConfigError(f"{len(near)} runs begin with '{run}'", hint="runs: " + ", ".join(near[:12]))
    return near[0]
