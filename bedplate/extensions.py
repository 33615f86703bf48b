"""Members of a family that other packages bring, found by the name with which a URL begins.

A package names a member in its metadata, for a table that is opened as `bigquery:shop.orders`:

    [project.entry-points."bedplate.sources"]
    bigquery = "bedplate_bigquery:open_table"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bedplate.errors import DefinitionError, missing_extra


def names(family: str) -> list[str]:
    """The names of the members that installed packages bring, sorted.

    >>> names("no such family")
    []
    """
    return sorted({point.name for point in _points(family)})


def load(family: str, name: str) -> Any:
    """A member that an installed package brings.

    Args:
        family: the family, such as "sources".
        name: the member's name.

    Raises:
        DefinitionError: no package brings it, several do, or it can't be loaded.
        MissingExtraError: it needs a library that an extra of Bedplate installs.
    """
    found = {point.value: point for point in _points(family) if point.name == name}
    if len(found) != 1:
        raise DefinitionError(
            f"{len(found)} installed packages bring it, expected one: {', '.join(sorted(found)) or 'none'}",
            where=f"bedplate.{family}: {name}",
        )
    point = next(iter(found.values()))
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        extra = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
        raise extra or DefinitionError(
            f"can't load {point.value}: {error}", where=f"bedplate.{family}: {name}"
        ) from error


def _points(family: str) -> list[EntryPoint]:
    return list(entry_points(group=f"bedplate.{family}"))
