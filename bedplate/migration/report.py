"""What a migration carried over, and what is left to be done by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Carried:
    """Something that has a definition in the new project.

    Attributes:
        kind: what it was, such as `feature view`.
        name: its name there.
        place: the file and line that defines it.
        became: what it is now.
    """

    kind: str
    name: str
    place: str
    became: str


@final
@dataclass(frozen=True, slots=True)
class NotCarried:
    """Something that has none.

    Attributes:
        kind: what it is, such as `on demand feature view`.
        name: its name there.
        place: the file and line that defines it.
        reason: why it was not carried over.
        todo: what to do by hand.
    """

    kind: str
    name: str
    place: str
    reason: str
    todo: str


@final
@dataclass(slots=True)
class Report:
    """What became of the parts of a project.

    Attributes:
        carried: what was carried over.
        not_carried: what was not.
        notes: what else is to be known.
    """

    carried: list[Carried] = field(default_factory=list[Carried])
    not_carried: list[NotCarried] = field(default_factory=list[NotCarried])
    notes: list[str] = field(default_factory=list[str])

    def carry(self, kind: str, name: str, place: str, became: str) -> None:
        """Puts down what was carried over."""
        self.carried.append(Carried(kind, name, place, became))

    def leave(self, kind: str, name: str, place: str, reason: str, todo: str) -> None:
        """Puts down what was not carried over."""
        self.not_carried.append(NotCarried(kind, name, place, reason, todo))

    def note(self, text: str) -> None:
        """Puts down a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def markdown(self, title: str) -> str:
        """The report as a page."""
        lines = [f"# {title}", "", "## Not carried over", ""]
        lines += [f"- {_place(n)}**{n.kind} `{n.name}`**: {n.reason}. To do: {n.todo}." for n in self.not_carried]
        lines += ["Nothing: all of it was carried over."] if not self.not_carried else []
        lines += ["", "## Carried over", "", "| what | name | defined in | now |", "|---|---|---|---|"]
        lines += [f"| {c.kind} | `{c.name}` | {c.place or '-'} | {c.became} |" for c in self.carried]
        lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"


def _place(left: NotCarried) -> str:
    return f"{left.place} " if left.place else ""
