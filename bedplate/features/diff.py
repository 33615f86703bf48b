"""The difference between two sets of features, for a person to read before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from bedplate.features.view import Feature


@final
@dataclass(frozen=True, slots=True)
class GraphDiff:
    """What became of features between an old and a new set of definitions.

    Attributes:
        added: features of new names.
        removed: features whose names are gone.
        changed: features of both under the same name with another id, old and new.
    """

    added: tuple[Feature, ...]
    removed: tuple[Feature, ...]
    changed: tuple[tuple[Feature, Feature], ...]

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.added or self.removed or self.changed)

    def lines(self) -> list[str]:
        """A line a feature: `+` added, `-` removed, `~` changed; by name."""
        marked = [
            *((f.name, f"+ {f.name}: {_definition(f)}") for f in self.added),
            *((f.name, f"- {f.name}: {_definition(f)}") for f in self.removed),
            *((new.name, f"~ {new.name}: {_change(old, new)}") for old, new in self.changed),
        ]
        return [line for _, line in sorted(marked)]

    def __str__(self) -> str:
        """The lines."""
        return "\n".join(self.lines())


def diff(old: Mapping[str, Feature], new: Mapping[str, Feature]) -> GraphDiff:
    """What differs between two sets of features by name, such as `FeatureGraph.features` before and after an edit.

    A feature whose name and id stay is the same, wherever it is defined. One that was renamed is a removed and an added
    one.

    >>> from bedplate.types import Type
    >>> week = Feature("user.spend_7d", Type.FLOAT, False, "a", "Sum(price) over 7d (hop 1h)")
    >>> hour = Feature("user.spend_7d", Type.FLOAT, False, "b", "Sum(price) over 7d (hop 5m)")
    >>> last = Feature("user.last", Type.STRING, True, "c", "LastN(item; n=5) over all history")
    >>> print(diff({week.name: week}, {hour.name: hour, last.name: last}))
    + user.last: list of string, LastN(item; n=5) over all history
    ~ user.spend_7d: Sum(price) over 7d (hop 1h) -> Sum(price) over 7d (hop 5m)
    """
    return GraphDiff(
        added=tuple(f for name, f in new.items() if name not in old),
        removed=tuple(f for name, f in old.items() if name not in new),
        changed=tuple((old[name], f) for name, f in new.items() if name in old and old[name].id != f.id),
    )


def _kind(feature: Feature) -> str:
    return f"list of {feature.type}" if feature.is_list else feature.type.value


def _definition(feature: Feature) -> str:
    return f"{_kind(feature)}, {feature.text}"


def _change(old: Feature, new: Feature) -> str:
    if _kind(old) != _kind(new):
        return f"{_definition(old)} -> {_definition(new)}"
    if old.text != new.text:
        return f"{old.text} -> {new.text}"
    return f"{new.text} (what it is computed from has changed: its source, the step prepare, its code, or its inputs)"
