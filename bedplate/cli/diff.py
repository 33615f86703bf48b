"""`bedplate diff`: what the definitions change against a git revision, what that costs, and which models read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click

from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.plan import Planned, feature_facts, planned, to_build
from bedplate.cli.tables import table
from bedplate.errors import ProofError

if TYPE_CHECKING:
    from bedplate.features.diff import GraphDiff
    from bedplate.project import Project


@final
@dataclass(frozen=True, slots=True)
class Reads:
    """A model version that reads a feature which is another now, or gone.

    Attributes:
        model: `name:version`.
        aliases: those that it has.
        feature: the feature's name.
        now: "changed" or "removed".
    """

    model: str
    aliases: tuple[str, ...]
    feature: str
    now: str


@click.command()
@click.option("--check", is_flag=True, help="End with 7 where a model that has an alias reads what changed.")
@project_option
@json_option
@click.argument("revision", metavar="REV")
def diff(revision: str, check: bool, directory: Path, as_json: bool) -> None:
    """Show what the project's features are against those of a git revision REV: a branch, a tag or a commit.

    Features are added (+), removed (-) or changed (~). The definitions of REV are loaded in a process of their own,
    from a temporary folder, on the tables that are there now; a feature is changed where anything is that decides its
    value. Below is what their building costs, as 'bedplate plan' estimates it: the indexes of all that did not change
    are there already. The last table has the model versions that read a feature which is changed or removed: a service
    refuses to feed them the new one.

    \b
    Examples:
      bedplate diff main
      bedplate diff HEAD~1 --json
      bedplate diff main --check
    """
    from bedplate.cli.revision import features_at, find_revision
    from bedplate.features.diff import diff as difference
    from bedplate.project import Project

    found = find_revision(directory.resolve(), revision)
    project = Project(directory)
    changes = difference(features_at(project.root, found), project.graph.features)
    plans, reads = _builds(project, changes), _readers(project, changes)
    if as_json:
        echo_json(_document(found.name, found.commit, changes, plans, reads))
    else:
        _show(found.text, changes, plans, reads)
    held = [r for r in reads if r.aliases]
    if check and held:
        raise ProofError(
            f"{held[0].model} ({', '.join(held[0].aliases)}) reads '{held[0].feature}', which is {held[0].now}",
            where=f"diff {revision}",
            hint="give the new definition a name of its own, or train and promote a version with it first",
        )


def _builds(project: Project, changes: GraphDiff) -> list[Planned]:
    """What the added and changed features need of the offline store."""
    names = [f.name for f in (*changes.added, *(new for _, new in changes.changed))]
    if not names:
        return []
    wanted = {view.id for view in project.graph.select(names, "diff").every_view}
    return [p for p in planned(project) if p.build.view.id in wanted]


def _readers(project: Project, changes: GraphDiff) -> list[Reads]:
    """The model versions whose signature has a feature that is changed or removed."""
    from bedplate.features.signature import Signature

    touched = {f.name for f in changes.removed} | {new.name for _, new in changes.changed}
    if not touched or not project.config.registry_path.is_dir():
        return []
    registry = project.registry
    found: list[Reads] = []
    for model in registry.models():
        for number in registry.versions(model.name):
            version = registry.get(model.name, number)
            for read in Signature.load(version.path).inputs:
                now = project.graph.features.get(read.feature)
                # A version of before may read what the branch restores.
                if read.feature in touched and (now is None or now.id != read.id):
                    state = "removed" if now is None else "changed"
                    found.append(Reads(str(version), tuple(version.aliases), read.feature, state))
    return found


def _show(revision: str, changes: GraphDiff, plans: Sequence[Planned], reads: Sequence[Reads]) -> None:
    if not changes:
        click.echo(f"no feature differs from {revision}")
        return
    click.echo(f"features against {revision}")
    for line in changes.lines():
        click.echo(f"  {line}")
    missing = [p for p in plans if p.parts]
    if missing:
        click.echo("")
        rows = [[p.build.view.name, f"{p.build.snapshot.rows:,}", p.text, f"{p.seconds:.1f}"] for p in missing]
        click.echo(table(["view", "rows", "to build", "seconds"], rows, [1, 3]))
    click.echo(f"\n{to_build(missing)}")
    if reads:
        click.echo("\nmodels that read what is changed or removed")
        lines = [[r.model, ", ".join(r.aliases) or "-", r.feature, r.now] for r in reads]
        click.echo(table(["model", "aliases", "feature", "now"], lines))


def _document(
    revision: str, commit: str, changes: GraphDiff, plans: Sequence[Planned], reads: Sequence[Reads]
) -> dict[str, Any]:
    return {
        "revision": revision,
        "commit": commit,
        "added": [feature_facts(f) for f in changes.added],
        "removed": [feature_facts(f) for f in changes.removed],
        "changed": [{"old": feature_facts(old), "new": feature_facts(new)} for old, new in changes.changed],
        "build": [
            {
                "view": p.build.view.name,
                "rows": p.build.snapshot.rows,
                "timeline": bool(p.texts("timeline")),
                "columns": p.texts("column"),
                "reductions": p.texts("reduction"),
                "seconds": p.seconds,
            }
            for p in plans
        ],
        "seconds": sum(p.seconds for p in plans),
        "models": [{"model": r.model, "aliases": r.aliases, "feature": r.feature, "now": r.now} for r in reads],
    }
