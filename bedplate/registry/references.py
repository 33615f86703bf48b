"""What refers to runs, so that they have to stay: versions, studies, other runs, and the processes that are at work."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import msgspec

from bedplate.errors import NotFoundError, StoreError
from bedplate.registry import recovery
from bedplate.registry.recovery import RUNS, STUDIES
from bedplate.registry.run import SEARCHED, RunRecord, StoredRun, read_record


@final
class Removal(msgspec.Struct, frozen=True):
    """What a removal of runs came to.

    Attributes:
        removed: the ids of those that are gone, or would be.
        kept: why each of the others has to stay, by its id.
        bytes: that the files of `removed` took.
    """

    removed: tuple[str, ...]
    kept: dict[str, list[str]] = {}
    bytes: int = 0

    def folders(self, root: Path) -> list[Path]:
        """The folders of `removed` in a registry."""
        return [root / RUNS / run for run in self.removed]


def examine(root: Path, db: sqlite3.Connection, ids: Sequence[str], *, skip_kept: bool) -> Removal:
    """Which of some runs may be removed.

    Args:
        root: the registry's folder.
        db: its index.
        ids: of the runs.
        skip_kept: see `Registry.remove_runs`.

    Raises:
        NotFoundError: one is no longer there.
        StoreError: one has to stay, and none may be skipped.
    """
    records = {record.id: record for record in recovery.run_records(db)}
    gone = [run for run in ids if not (root / RUNS / run).is_dir()]
    if gone:
        raise NotFoundError("the run's folder is no longer there", where=str(root / RUNS / gone[0]))
    kept = {run: _reasons(root, db, _stored(root, run, records)) for run in ids}
    naming = _naming(records, set(ids))
    # Where a run stays, so do those that its config names: again until no more are found.
    while True:
        going = {run for run in ids if not kept[run]}
        found = {run: sorted(naming.get(run, set()) - going) for run in going}
        if not any(found.values()):
            break
        for run, others in found.items():
            kept[run] += [f"the config of run '{other}' names it" for other in others]
    kept = {run: reasons for run, reasons in kept.items() if reasons}
    if kept and not skip_kept:
        raise _refusal(kept, len(ids))
    return Removal(tuple(run for run in ids if run not in kept), kept)


def _stored(root: Path, run: str, records: Mapping[str, RunRecord]) -> StoredRun:
    """A run by its `run.json`; by the index where that can't be read."""
    folder = root / RUNS / run
    record = read_record(folder)
    return StoredRun(folder, records.get(run, record) if record.status == "damaged" else record)


def _reasons(root: Path, db: sqlite3.Connection, run: StoredRun) -> list[str]:
    """Why a run has to stay, whatever else is removed."""
    found: list[str] = []
    if run.status == "running":
        found.append(f"it is running (process {run.record.pid} on {run.record.host})")
    # Of a version whose manifest is damaged nobody knows which run made it: most likely one of its own name.
    query = "SELECT model, version, run FROM versions WHERE run = ?1 OR (content IS NULL AND model = ?2)"
    for model, version, made_by in db.execute(query + " ORDER BY model, version", (run.id, run.record.name)):
        made = "made model" if made_by == run.id else "may have made model"
        found.append(f"it {made} '{model}:{version}'{'' if made_by == run.id else ', whose manifest is damaged'}")
    mark = run.record.config.get(SEARCHED)
    if isinstance(mark, Mapping):
        study: Mapping[str, Any] = mark  # pyright: ignore[reportUnknownVariableType]
        folders = (root / STUDIES / name / str(study.get("study")) for name in recovery.visible_folders(root / STUDIES))
        found += [f"it is trial '{study.get('trial')}' of the study {path}" for path in folders if path.is_dir()]
    return found


def _naming(records: Mapping[str, RunRecord], ids: set[str]) -> dict[str, set[str]]:
    """The runs whose config names each of some runs."""
    found: dict[str, set[str]] = {}
    for record in records.values():
        for text in _texts(record.config):
            if text in ids and text != record.id:
                found.setdefault(text, set()).add(record.id)
    return found


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():  # pyright: ignore[reportUnknownVariableType]
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _texts(part)


def _refusal(kept: Mapping[str, Sequence[str]], count: int) -> StoreError:
    reasons = "; ".join(f"run '{run}': {', and '.join(why)}" for run, why in kept.items())
    which = f"{len(kept)} of {count} runs have to stay" if count > 1 else "the run has to stay"
    return StoreError(
        f"{which}, and nothing was removed: {reasons}",
        hint="leave them out; a run at work can go once it has ended, the trials of a study once its folder is deleted",
    )
