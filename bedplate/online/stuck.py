"""Partitions that can't go on: why, and when each is tried again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import monotonic
from typing import final

from bedplate.online.streams import StuckError

SECONDS = 1.0
"""Between two attempts at a partition that can't go on."""


@final
class StuckPartitions:
    """The partitions of a worker that can't go on."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, tuple[StuckError, float]] = {}

    def add(self, partition: str, error: StuckError) -> None:
        """A partition was tried and can't go on."""
        self._found[partition] = error, monotonic() + SECONDS

    def went_on(self, partition: str) -> None:
        """A partition was tried and goes on."""
        self._found.pop(partition, None)

    def rests(self, partition: str) -> bool:
        """Whether it is too early to try a partition again."""
        return partition in self._found and monotonic() < self._found[partition][1]

    def keep(self, partitions: Collection[str]) -> None:
        """Forgets those that are not there any more."""
        self._found = {name: found for name, found in self._found.items() if name in partitions}

    @property
    def errors(self) -> tuple[StuckError, ...]:
        """Why each can't go on, by the partitions' names."""
        return tuple(self._found[name][0] for name in sorted(self._found))

    @property
    def reasons(self) -> dict[str, str]:
        """Why each can't go on, in a line."""
        return {name: str(error).partition("\n")[0] for name, (error, _) in self._found.items()}


def all_in_one(errors: Sequence[StuckError]) -> StuckError:
    """One error that says the first in full and names the places of the others.

    >>> print(all_in_one([StuckError("no", where="a", hint="mend it"), StuckError("no", where="b")]))
    a: no
      mend it; the others went on, but for 1 more that can't: b
    """
    first, *others = errors
    if not others:
        return first
    places = ", ".join(error.where or error.message for error in others[:10])
    more = f"the others went on, but for {len(others):,} more that can't: {places}"
    return StuckError(first.message, where=first.where, hint=f"{first.hint}; {more}" if first.hint else more)
