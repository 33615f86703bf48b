"""Brings the index up to what the folders say: after a kill between the two, and for a new or damaged index.

All functions work inside a transaction of the caller. The folders are the truth; what is missing here is read there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bedplate.errors import ArtifactError
from bedplate.files import remove_leftovers
from bedplate.process import process_alive
from bedplate.registry.aliases import LOG_NAME, AliasChange, holders, read_log
from bedplate.registry.manifest import Manifest, read_manifest
from bedplate.registry.run import RunRecord, read_record

MODELS = "models"
RUNS = "runs"
STUDIES = "studies"


def visible_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder that are not hidden."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())


def version_numbers(folder: Path) -> set[int]:
    """The versions in a model's folder."""
    return {int(name) for name in visible_folders(folder) if name.isascii() and name.isdigit()}


def index_behind(root: Path, db: sqlite3.Connection) -> bool:
    """Whether the index lacks something that a folder holds, or has a run that is gone; reads only names and sizes."""
    if _known_runs(db) != set(visible_folders(root / RUNS)):
        return True
    return any(_model_behind(root, db, model) for model in visible_folders(root / MODELS))


def _model_behind(root: Path, db: sqlite3.Connection, model: str) -> bool:
    folder = root / MODELS / model
    log = folder / LOG_NAME
    size = log.stat().st_size if log.exists() else 0
    return bool(version_numbers(folder) - indexed_versions(db, model)) or size != log_size(db, model)


def _known_runs(db: sqlite3.Connection) -> set[str]:
    return {run for (run,) in db.execute("SELECT id FROM runs")}


def catch_up(root: Path, db: sqlite3.Connection) -> None:
    """Takes over every run, version and alias change that the index lacks, and forgets the runs that are gone."""
    known, there = _known_runs(db), set(visible_folders(root / RUNS))
    for run in sorted(there - known):
        put_run(db, read_record(root / RUNS / run))
    for run in known - there:
        delete_run(db, run)
    for model in visible_folders(root / MODELS):
        catch_up_model(root, db, model)


def catch_up_model(root: Path, db: sqlite3.Connection, model: str) -> None:
    """Takes over what the index lacks of one model.

    Raises:
        StoreError: the alias history is damaged.
    """
    folder = root / MODELS / model
    for version in sorted(version_numbers(folder) - indexed_versions(db, model)):
        try:
            put_version(db, model, version, read_manifest(folder / str(version)))
        except ArtifactError:
            # It keeps its number and is listed; whoever asks for it gets the error itself.
            db.execute("INSERT INTO versions VALUES (?, ?, 0, NULL, NULL, NULL)", (model, version))
    log = folder / LOG_NAME
    if log_size(db, model) > (log.stat().st_size if log.exists() else 0):
        # An older history was put back by hand: it is the truth from now on.
        for table in ("changes", "aliases", "logs"):
            db.execute(f"DELETE FROM {table} WHERE model = ?", (model,))
    changes, end = read_log(log, log_size(db, model))
    for change in changes:
        put_change(db, model, change)
    if changes:
        put_log_size(db, model, end)


def refill(root: Path, db: sqlite3.Connection) -> None:
    """Empties the tables and fills them from the folders."""
    for table in ("runs", "versions", "aliases", "changes", "logs"):
        db.execute(f"DELETE FROM {table}")
    catch_up(root, db)


def cut_incomplete(root: Path, db: sqlite3.Connection) -> None:
    """Cuts off the line of an alias history that a killed process left incomplete; after `catch_up`."""
    for model in visible_folders(root / MODELS):
        log = root / MODELS / model / LOG_NAME
        if log.exists() and log.stat().st_size > log_size(db, model):
            os.truncate(log, log_size(db, model))


def sweep(root: Path, running: Iterable[RunRecord]) -> None:
    """Deletes what killed processes left aside; `running` are the runs that the index has as running."""
    for folder in (root, root / RUNS, *(root / MODELS / model for model in visible_folders(root / MODELS))):
        remove_leftovers(folder)
    for record in running:
        if not process_alive(record.process):
            remove_leftovers(root / RUNS / record.id)


def put_run(db: sqlite3.Connection, record: RunRecord) -> None:
    """Writes a run's row."""
    row = (record.id, record.status, msgspec.json.encode(record))
    db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", row)


def delete_run(db: sqlite3.Connection, run: str) -> None:
    """Deletes a run's row."""
    db.execute("DELETE FROM runs WHERE id = ?", (run,))


def run_records(db: sqlite3.Connection, status: str | None = None) -> list[RunRecord]:
    """The runs as the index has them, all or of one written status, newest first."""
    rows = db.execute("SELECT record FROM runs WHERE ?1 IS NULL OR status = ?1", (status,))
    records = [msgspec.json.decode(text, type=RunRecord) for (text,) in rows]
    return sorted(records, key=lambda r: (r.started, r.id), reverse=True)  # an id begins with a whole second


def put_version(db: sqlite3.Connection, model: str, version: int, manifest: Manifest) -> None:
    """Writes a version's row."""
    metrics = msgspec.json.encode(manifest.metrics)
    row = (model, version, manifest.created, manifest.run, manifest.content_id(), metrics)
    db.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?)", row)


def indexed_versions(db: sqlite3.Connection, model: str) -> set[int]:
    """The versions of a model that the index has."""
    return {version for (version,) in db.execute("SELECT version FROM versions WHERE model = ?", (model,))}


def changes_of(db: sqlite3.Connection, model: str) -> list[AliasChange]:
    """The alias history of a model, oldest first."""
    rows = db.execute("SELECT record FROM changes WHERE model = ? ORDER BY sequence", (model,))
    return [msgspec.json.decode(text, type=AliasChange) for (text,) in rows]


def put_change(db: sqlite3.Connection, model: str, change: AliasChange) -> None:
    """Writes a change of an alias and its present holder."""
    db.execute("INSERT INTO changes VALUES (?, ?, ?)", (model, change.sequence, msgspec.json.encode(change)))
    db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", (model, change.alias, change.version))


def held(db: sqlite3.Connection, model: str, alias: str) -> list[int]:
    """The versions that an alias went through and can be rolled back to, the present holder last."""
    return holders(change for change in changes_of(db, model) if change.alias == alias)


def log_size(db: sqlite3.Connection, model: str) -> int:
    """How many bytes of the alias history the index has taken over."""
    row = db.execute("SELECT bytes FROM logs WHERE model = ?", (model,)).fetchone()
    return 0 if row is None else row[0]


def put_log_size(db: sqlite3.Connection, model: str, size: int) -> None:
    """Notes how many bytes of the alias history the index has taken over."""
    db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?)", (model, size))
