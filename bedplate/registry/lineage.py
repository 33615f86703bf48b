"""Where a model version comes from: its run, definitions, source snapshots, and the models it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bedplate.registry.manifest import Git
from bedplate.types import format_time

_FEATURE = "feature "


class RunFacts(msgspec.Struct, frozen=True):
    """The run that made a model version; the status is None where the run's folder is no longer there."""

    id: str
    name: str | None = None
    status: str | None = None


class Lineage(msgspec.Struct, frozen=True):
    """What a model version was made from, down to the sources.

    Attributes:
        model: the model's name.
        version: the version.
        created: microseconds since the epoch.
        run: the run that made it, or None where it was registered without one.
        git: the state of the code.
        definitions: the id of each definition, by kind and name.
        sources: the snapshot of each source.
        parents: the lineage of each model version it depends on.
    """

    model: str
    version: int
    created: int
    run: RunFacts | None
    git: Git
    definitions: dict[str, str]
    sources: dict[str, str]
    parents: tuple[Lineage, ...] = ()

    def all_sources(self) -> dict[str, set[str]]:
        """Every source behind this version and its parents, with the snapshots that were read."""
        found = {name: {snapshot} for name, snapshot in self.sources.items()}
        for parent in self.parents:
            for name, snapshots in parent.all_sources().items():
                found.setdefault(name, set()).update(snapshots)
        return found

    def tree(self) -> str:
        """The lineage as indented text.

        >>> definitions = {"dataset orders": "c4", "view sales": "9f", "feature sales.spend_7d": "5e"}
        >>> print(Lineage("ranker", 2, 0, None, Git("ab12cd", False), definitions, {"events": "77"}).tree())
        ranker:2  registered 1970-01-01T00:00:00Z
        ├─ run: none
        ├─ code: ab12cd
        ├─ dataset orders: c4
        ├─ view sales: 9f
        ├─ features: 1
        │  └─ sales.spend_7d: 5e
        └─ source events: snapshot 77
        """
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        branches = [[f"run: {_run_text(self.run)}"], [f"code: {code_text(self.git)}"]]
        branches += made_of(self.definitions, self.sources)
        branches += [_prefixed_parent(p) for p in self.parents]
        return [f"{self.model}:{self.version}  registered {format_time(self.created)}", *branched(branches)]


def branched(branches: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a tree's branches, each a line with the lines below it.

    >>> branched([["a", "below a"], ["b"]])
    ['├─ a', '│  below a', '└─ b']
    """
    lines: list[str] = []
    for i, branch in enumerate(branches):
        last = i == len(branches) - 1
        lines.append(("└─ " if last else "├─ ") + branch[0])
        lines += [("   " if last else "│  ") + line for line in branch[1:]]
    return lines


def made_of(definitions: Mapping[str, str], sources: Mapping[str, str]) -> list[list[str]]:
    """The branches for definitions, in their order and the features together, and for source snapshots.

    >>> made_of({"spine": "4e"}, {"events": "77"})
    [['spine: 4e'], ['source events: snapshot 77']]
    """
    features = [n for n in definitions if n.startswith(_FEATURE)]
    branches = [[f"{name}: {value}"] for name, value in definitions.items() if name not in features]
    if features:
        below = [[f"{name.removeprefix(_FEATURE)}: {definitions[name]}"] for name in features]
        branches.append([f"features: {len(features)}", *branched(below)])
    return branches + [[f"source {name}: snapshot {value}"] for name, value in sorted(sources.items())]


def code_text(git: Git) -> str:
    """The commit, with a note where files differed from it, or why it isn't known.

    >>> code_text(Git("ab12cd", True)), code_text(Git(reason="git is not installed"))
    ('ab12cd with changes not committed', 'unknown (git is not installed)')
    """
    if git.commit is None:
        return f"unknown ({git.reason})"
    return f"{git.commit} with changes not committed" if git.dirty else git.commit


def _run_text(run: RunFacts | None) -> str:
    if run is None:
        return "none"
    return f"{run.id} ({run.name}, {run.status})" if run.status else f"{run.id} (no longer there)"


def _prefixed_parent(parent: Lineage) -> list[str]:
    lines = parent._lines()  # pyright: ignore[reportPrivateUsage]
    return [f"model {lines[0]}", *lines[1:]]
