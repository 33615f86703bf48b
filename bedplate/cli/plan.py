"""`bedplate plan`: what a project defines, what exists in the offline store, and what would be built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click

from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.tables import counted, size, table

if TYPE_CHECKING:
    from bedplate.datasets.drift import Drift
    from bedplate.features.diff import GraphDiff
    from bedplate.features.view import Feature
    from bedplate.offline.extend import Build
    from bedplate.offline.parts import Missing
    from bedplate.project import Project


@final
@dataclass(frozen=True, slots=True)
class Planned:
    """What `apply` will do for one view or label.

    Attributes:
        build: the build.
        labels: the names of the datasets' labels that it is of; none for a feature view.
        missing: the parts that it builds, without those that a view before it builds.
    """

    build: Build
    labels: tuple[str, ...]
    missing: tuple[Missing, ...]

    @property
    def name(self) -> str:
        """The view's name, or that of the labels; labels that differ in horizon or threshold alone are one."""
        return ", ".join(f"label.{name}" for name in self.labels) or self.build.view.name

    @property
    def bytes(self) -> int:
        """About how many bytes will be built."""
        return sum(m.bytes for m in self.missing)

    def texts(self, kind: str) -> list[str]:
        """The different parts of a kind ("timeline", "column" or "reduction") as text."""
        found = {m.text if kind == "timeline" else m.folder.name: m.text for m in self.missing if m.kind == kind}
        return list(found.values())

    @property
    def counts(self) -> list[tuple[int, str]]:
        """How many parts of each kind are to be built; those of several segments are counted once."""
        return [(len(self.texts(kind)), kind) for kind in ("timeline", "column", "reduction")]

    @property
    def parts(self) -> int:
        """How many parts are to be built."""
        return sum(n for n, _ in self.counts)

    @property
    def steps(self) -> int:
        """How many steps the build of segments of one bucket tells of: their parts, and the reading of the rows."""
        return len(self.missing) + len({m.segment for m in self.missing if m.kind != "reduction"})

    @property
    def rows(self) -> int:
        """How many rows of the table are to be sorted."""
        return sum(m.rows for m in self.missing if m.kind == "timeline")

    @property
    def seconds(self) -> float:
        """A rough estimate."""
        return sum(m.seconds for m in self.missing)

    @property
    def text(self) -> str:
        """What is to be built, for a person."""
        new = f"{self.rows:,} new rows: " if self.rows and self.build.extends else ""
        return new + counted(self.counts) if self.missing else "-"


def planned(project: Project) -> list[Planned]:
    """What each view and label misses, a part that several of them miss counted for the first."""
    seen: set[Path] = set()
    plans: list[Planned] = []
    labels: dict[str, dict[str, None]] = {}
    for label in (one for dataset in project.datasets.values() for one in dataset.labels):
        labels.setdefault(label.view.id, {})[label.label.name] = None
    for build in project.builds():
        missing = tuple(m for m in build.missing() if m.folder not in seen)
        seen.update(m.folder for m in missing)
        plans.append(Planned(build, tuple(labels.get(build.view.id, ())), missing))
    return plans


@click.command()
@click.option("--features", "with_features", is_flag=True, help="List each feature: type, window, hop, definition.")
@project_option
@json_option
def plan(directory: Path, with_features: bool, as_json: bool) -> None:
    """Check all definitions and show what exists and what 'bedplate apply' will build.

    Features, datasets, training jobs and services are checked against each other and against the columns of the
    sources. Nothing is built. A row of the table is a feature view or a label of a dataset; what two of them share is
    counted for the first. The seconds and bytes are rough estimates; the first build on a machine compiles its loops
    too, which takes some seconds more. Features that were added (+), removed (-) or changed (~) since the last
    'bedplate apply' are listed with their definitions; in JSON these are 'changes', null before it. So
    are columns of the sources that were added, removed or got another type since, with the definitions that use them;
    in JSON these are 'drift'.

    \b
    Examples:
      bedplate plan
      bedplate plan --features
      bedplate plan --project retail --json
    """
    from bedplate.project import Project

    project = Project(directory)
    plans, changes, moved = planned(project), project.changes(), _drift(project)
    if as_json:
        echo_json(_document(project, plans, changes) | {"drift": [asdict(d) for d in moved]})
        return
    built = _built(plans)
    click.echo(f"project {project.config.name} in {project.root}" + (f", {size(built)} built" if built else ""))
    if plans:
        click.echo(f"\n{_views_table(plans)}")
    if with_features and project.graph.features:
        click.echo(f"\n{_features_table(list(project.graph.features.values()))}")
    if changes:
        click.echo(f"\nchanged since the last apply\n{_indented(changes)}")
    for line in moved:
        click.echo(f"\n{line}" if line is moved[0] else str(line))
    click.echo(f"\n{_totals(project)}")
    for line in dict.fromkeys(p.build.changed for p in plans):
        if line:
            click.echo(line)
    click.echo(to_build(plans))


def _drift(project: Project) -> list[Drift]:
    """What became of the columns of the sources since the last apply."""
    from bedplate.datasets.drift import drift
    from bedplate.features.applied import applied_path

    path = applied_path(project.config.offline_path, project.root)
    with project.located():
        return drift(path, project.views.values(), project.datasets.values(), project.root)


def _indented(changes: GraphDiff) -> str:
    return "\n".join(f"  {line}" for line in changes.lines())


def to_build(plans: Sequence[Planned]) -> str:
    """One line: what there is to build, in how many seconds, and how."""
    kinds = zip(*(p.counts for p in plans), strict=True)
    counts = counted([(sum(n for n, _ in of_kind), of_kind[0][1]) for of_kind in kinds])
    seconds, written = sum(p.seconds for p in plans), sum(p.bytes for p in plans)
    return (
        f"to build: {counts}, about {_rounded(seconds)} s and {size(written)}; run: bedplate apply"
        if counts
        else "nothing to build"
    )


def _built(plans: Sequence[Planned]) -> int:
    """How many bytes the segments take that the views and labels read, each counted once."""
    from bedplate.offline.segment import bytes_of

    return sum(bytes_of(folder) for folder in {s.folder for p in plans for s in p.build.segments})


def _rounded(seconds: float) -> str:
    return f"{max(seconds, 0.1):.1f}" if seconds < 10 else f"{seconds:,.0f}"


def _views_table(plans: Sequence[Planned]) -> str:
    rows = [
        [
            p.name,
            p.build.view.view.source.name,
            p.build.snapshot.text,
            ", ".join(e.name for e in p.build.view.view.entities),
            "label" if p.labels else str(len(p.build.view.features)),
            p.text,
            _rounded(p.seconds) if p.parts else "-",
        ]
        for p in plans
    ]
    return table(["view", "source", "snapshot", "entities", "features", "to build", "seconds"], rows, [4, 6])


def _features_table(features: Sequence[Feature]) -> str:
    rows = [[f.name, f"list of {f.type}" if f.is_list else f.type.value, f.text] for f in features]
    return table(["feature", "type", "definition"], rows)


def _totals(project: Project) -> str:
    derived, linked, context = len(project.graph.derived), len(project.graph.chained), len(project.graph.contexts)
    counts = [
        (len(project.views), "view"),
        (len(project.graph.features) - derived - linked - context, "feature"),
        (linked, "linked feature"),
        (context, "context"),
        (derived, "derived feature"),
        (len(project.datasets), "dataset"),
        (len(project.jobs), "job"),
        (len(project.services), "service"),
    ]
    return counted(counts) or "the project defines nothing: see its features.py"


def _document(project: Project, plans: Sequence[Planned], changes: GraphDiff | None) -> dict[str, Any]:
    return {
        "project": project.config.name,
        "directory": str(project.root),
        "views": [
            {
                "name": p.name,
                "kind": "label" if p.labels else "view",
                "id": p.build.view.id,
                "source": p.build.view.view.source.name,
                "snapshot": {"id": p.build.snapshot.id, "rows": p.build.snapshot.rows, "text": p.build.snapshot.text},
                "entities": [e.name for e in p.build.view.view.entities],
                "features": [] if p.labels else [feature_facts(f) for f in p.build.view.features.values()],
                "build": {
                    "timeline": bool(p.texts("timeline")),
                    "columns": p.texts("column"),
                    "reductions": p.texts("reduction"),
                    "rows": p.rows,
                    "extends": bool(p.rows) and p.build.extends,
                },
                "seconds": p.seconds,
                "bytes": p.bytes,
            }
            for p in plans
        ],
        "contexts": [feature_facts(project.graph.features[name]) for name in project.graph.contexts],
        "linked": [feature_facts(project.graph.features[name]) for name in project.graph.chained],
        "derived": [feature_facts(project.graph.features[name]) for name in project.graph.derived],
        "datasets": list(project.datasets),
        "jobs": [job.name for job in project.jobs],
        "services": [service.name for service in project.services],
        "changes": None
        if changes is None
        else {
            "added": [feature_facts(f) for f in changes.added],
            "removed": [feature_facts(f) for f in changes.removed],
            "changed": [{"old": feature_facts(old), "new": feature_facts(new)} for old, new in changes.changed],
        },
        "parts": sum(p.parts for p in plans),
        "seconds": sum(p.seconds for p in plans),
        "bytes": sum(p.bytes for p in plans),
        "bytes_built": _built(plans),
    }


def feature_facts(feature: Feature) -> dict[str, Any]:
    """A feature for programs."""
    return {
        "name": feature.name,
        "type": feature.type,
        "list": feature.is_list,
        "id": feature.id,
        "definition": feature.text,
    }
