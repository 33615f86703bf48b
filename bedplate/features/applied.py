"""The features that were applied last, on record so that a plan can say what has changed since.

The record is a JSON file: `{"format": 1, "features": [{"name", "type", "is_list", "id", "text"}]}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

import msgspec

from bedplate.errors import StoreError
from bedplate.features.view import Feature
from bedplate.files import write_atomic

FORMAT = 1


@final
class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    features: list[Feature]


def write_applied(path: Path, features: Mapping[str, Feature]) -> None:
    """Puts features on record, in place of those before; nothing is written where they are the same.

    Args:
        path: the file; its folder is made where it is missing.
        features: by name, such as `FeatureGraph.features`.

    Raises:
        StoreError: the file can't be written; the old record is untouched.
    """
    content = msgspec.json.format(msgspec.json.encode(_Record(FORMAT, list(features.values())))) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    except OSError as error:
        raise StoreError(
            f"can't record what was applied: {error.strerror or error}",
            where=str(path),
            hint="check free space and permissions; what was built is kept",
        ) from error


def read_applied(path: Path) -> dict[str, Feature] | None:
    """The features on record by name, or None: nothing was applied yet.

    Raises:
        StoreError: the record can't be read, or is of another version.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    if record.format != FORMAT:
        raise _unreadable(path, f"it has format {record.format}, expected {FORMAT}")
    return {feature.name: feature for feature in record.features}


def _unreadable(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"can't read what was applied last: {reason}",
        where=str(path),
        hint="delete the file; 'bedplate apply' writes it anew",
    )
