"""The features that were applied last, on record so that a plan can say what has changed since.

The record is a JSON file: `{"format": 1, "features": [{"name", "type", "is_list", "id", "text"}], "sources": {NAME:
{COLUMN: TYPE}}}`; the sources are those that the features and datasets read, with the columns that their tables had.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

import msgspec

from bedplate.canonical import digest
from bedplate.errors import StoreError
from bedplate.features.view import Feature
from bedplate.files import write_record

FORMAT = 1


@final
class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    features: list[Feature]
    sources: dict[str, dict[str, str]] = {}


def applied_path(offline: Path, root: Path) -> Path:
    """Where a project's record is: beside the indexes, which apply can write; several projects may share them.

    Args:
        offline: the folder of the offline store.
        root: the project's folder.
    """
    return offline / "applied" / f"{digest(str(root))[:16]}.json"


def write_applied(
    path: Path, features: Mapping[str, Feature], sources: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """Puts features on record, in place of those before; nothing is written where they are the same.

    Args:
        path: the file; its folder is made where it is missing.
        features: by name, such as `FeatureGraph.features`.
        sources: for each source that is read, by its name, the types of its table's columns.

    Raises:
        StoreError: the file can't be written; the old record is untouched.
    """
    columns = {name: dict(of) for name, of in (sources or {}).items()}
    record = msgspec.json.encode(_Record(FORMAT, list(features.values()), columns))
    write_record(path, record, "what was applied")


def read_applied(path: Path) -> dict[str, Feature] | None:
    """The features on record by name, or None: nothing was applied yet.

    Raises:
        StoreError: the record can't be read, or is of another version.
    """
    record = _read(path)
    return None if record is None else {feature.name: feature for feature in record.features}


def read_columns(path: Path) -> dict[str, dict[str, str]]:
    """The columns on record of each source, by its name; empty: nothing was applied yet.

    Raises:
        StoreError: as `read_applied`.
    """
    record = _read(path)
    return {} if record is None else record.sources


def _read(path: Path) -> _Record | None:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    if record.format != FORMAT:
        raise _unreadable(path, f"it has format {record.format}, expected {FORMAT}")
    return record


def _unreadable(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"can't read what was applied last: {reason}",
        where=str(path),
        hint="delete the file; 'bedplate apply' writes it anew",
    )
