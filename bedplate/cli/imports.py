"""`bedplate import`: a project of another feature store as a project of Bedplate's."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.init import new_project
from bedplate.cli.main import PARTIAL_EXIT
from bedplate.cli.options import echo_json, json_option

if TYPE_CHECKING:
    from bedplate.migration.report import Report


@click.group(name="import")
def imports() -> None:
    """Turn a project of another feature store into a project of Bedplate's.

    \b
    Examples:
      bedplate import feast feature_repo --to shop
    """


@imports.command()
@click.option("--to", "target", metavar="DIR", type=click.Path(path_type=Path), help="The new project's folder.")
@click.option("--python", "interpreter", metavar="FILE", help="The Python that executes the repository's files.")
@json_option
@click.argument("repository", metavar="REPOSITORY", type=click.Path(path_type=Path))
def feast(repository: Path, target: Path | None, interpreter: str | None, as_json: bool) -> None:
    """Turn the Feast repository in REPOSITORY into a new project.

    REPOSITORY is the folder of feature_store.yaml. The new project's folder must be new or empty; by default it is
    called after Feast's project, with _bedplate, in the current folder. The repository's Python files are executed, as
    'feast apply' does; Feast itself is not needed. Data stays where it is.

    What could not be carried over is listed, each with the reason and what to do by hand, and stands in the new
    project's README.md. The exit code is then 8.

    \b
    Examples:
      bedplate import feast driver_ranking/feature_repo
      bedplate import feast feature_repo --to ranking --python ../feast/.venv/bin/python
      bedplate import feast feature_repo --json
    """
    from bedplate.migration.feast_config import find_repository, read_config
    from bedplate.migration.import_project import import_feast

    config = read_config(find_repository(repository))
    made_in = target or Path(f"{config.project}_bedplate")
    with new_project(made_in.absolute()) as folder:
        made = import_feast(config, made_in.absolute().resolve(), interpreter)
        for name, content in made.files.items():
            (folder / name).write_text(content)
    if as_json:
        report = made.report
        echo_json(
            {"directory": str(made_in.absolute()), "project": config.project, "files": sorted(made.files)}
            | {"carried": report.carried, "not_carried": report.not_carried, "notes": report.notes}
        )
    else:
        click.echo(f"made {made_in}: {', '.join(sorted(made.files))}")
        _echo_report(made.report)
        click.echo(f"next: cd {shlex.quote(str(made_in))} && bedplate plan")
    if made.report.not_carried:
        click.get_current_context().exit(PARTIAL_EXIT)


def _echo_report(report: Report) -> None:
    counts = Counter(c.kind for c in report.carried)
    click.echo(f"carried over: {', '.join(_counted(n, kind) for kind, n in counts.items())}")
    if report.not_carried:
        click.echo(f"not carried over: {len(report.not_carried)}")
    for left in report.not_carried:
        click.echo(f"  {left.kind} {left.name}" + (f" ({left.place})" if left.place else ""))
        click.echo(f"    {left.reason}\n    to do: {left.todo}")
    for note in report.notes:
        click.echo(f"note: {note.replace('`', '')}")


def _counted(number: int, kind: str) -> str:
    """A number of things.

    >>> _counted(1, "entity"), _counted(2, "entity"), _counted(2, "source")
    ('1 entity', '2 entities', '2 sources')
    """
    if number == 1:
        return f"1 {kind}"
    return f"{number} {kind.removesuffix('y')}ies" if kind.endswith("y") else f"{number} {kind}s"
