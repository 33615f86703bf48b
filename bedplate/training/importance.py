"""How much each column of an estimator's matrix counts, kept in its run's folder.

RUN/importance.json   {measure: {column: value}}, the most important first
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from bedplate.errors import StoreError
from bedplate.files import write_atomic

IMPORTANCE = "importance.json"


def write_importance(folder: Path, importance: Mapping[str, Mapping[str, float]]) -> None:
    """Writes it into a run's folder, by measure and column."""
    content = msgspec.json.encode(importance)
    write_atomic(folder / IMPORTANCE, msgspec.json.format(content) + b"\n")


def read_importance(folder: Path) -> dict[str, dict[str, float]]:
    """What a run kept, by measure and column; empty where its model has none.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / IMPORTANCE
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"the importance can't be read: {error}", where=str(path), hint="delete the file") from error
