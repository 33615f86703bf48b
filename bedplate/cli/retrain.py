"""`bedplate retrain`: fresh data, a new version, the comparison with the champion, and the promotion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.main import REFUSED_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.tables import interval, table

if TYPE_CHECKING:
    from bedplate.metrics.intervals import Estimate
    from bedplate.registry.registry import Registry
    from bedplate.training.continuing import Rows
    from bedplate.training.job import Job
    from bedplate.training.retrain import Outcome


@click.command()
@project_option
@json_option
@click.option("--continue", "continues", is_flag=True, help="Go on from the champion instead of from the beginning.")
@click.option(
    "--rows",
    type=click.Choice(["since", "all"]),
    help="With --continue: learn from the rows that the champion did not learn from (the default), or from all.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, after building what is new of the history.")
@click.argument("job")
@click.argument("settings", nargs=-1)
def retrain(
    job: str,
    settings: tuple[str, ...],
    continues: bool,
    rows: Rows | None,
    dry_run: bool,
    directory: Path,
    as_json: bool,
) -> None:
    """Train JOB on fresh data, and make the new version the champion where it is no worse than the one before.

    Made to be run again and again, by cron or Airflow: with nothing new it does nothing, after a kill it goes on, and
    two at once are refused. Both models are judged on the same test requests, which neither knows, by the job's
    promotion rules; where they refuse, the version is kept without the alias and the exit code is 9. SETTINGS replace
    the job's own: model.NAME=VALUE, trainer.NAME=VALUE or promotion.NAME=VALUE.

    \b
    Examples:
      bedplate retrain retail_ranker
      bedplate retrain retail_ranker --continue
      bedplate retrain retail_ranker promotion.margin=0.002 --dry-run
      bedplate retrain retail_ranker --json
    """
    from bedplate.cli.runs_mirror import mirror_own
    from bedplate.project import Project
    from bedplate.training.interrupt import TrainingInterruptedError
    from bedplate.training.job import Job
    from bedplate.training.report import on_stderr
    from bedplate.training.retrain import Retraining, locked

    if rows is not None and not continues:
        raise click.UsageError("--rows says from which rows a continued model learns; give --continue too")
    project = Project(directory)
    registry = project.registry
    definition = project.find(Job, job).with_settings(settings)
    _check(definition, registry, continues=continues)
    with locked(registry, definition.name):
        project.apply(_told)
        retraining = Retraining(
            definition,
            project.load(definition.dataset),
            project.graph.features,
            registry,
            project.root,
            widen=lambda names: project.load(definition.dataset, names),
            rows=(rows or "since") if continues else None,
        )
        try:
            outcome = retraining.plan() if dry_run else retraining.run(on_stderr(), _told)
        except TrainingInterruptedError as error:
            error.hint = "run the same again to go on from there"
            raise
        finally:
            mirror_own(project.config, registry)
    _echo(outcome, as_json=as_json)
    if outcome.status == "refused":
        click.get_current_context().exit(REFUSED_EXIT)


def _check(job: Job, registry: Registry, *, continues: bool) -> None:
    """Refuses what can't be trained, before any data is read."""
    from bedplate.training.choices import check_choices, check_continues
    from bedplate.training.retrain import champion_of

    check_choices(job)
    if continues:
        check_continues(job, champion_of(registry, job.name))


def _told(step: str) -> None:
    click.echo(step, err=True)


def _echo(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        echo_json(outcome)
        return
    named = outcome.version and outcome.status in ("promoted", "refused", "would promote")
    version = f" {outcome.version}" if named else ""
    what = "nothing to do" if outcome.status == "nothing" else outcome.status
    click.echo(f"{what}{version}: {outcome.reasons[0]}")
    for reason in outcome.reasons[1:]:
        click.echo(f"  {reason}")
    rows = [[name, _number(c.a), _number(c.b), interval(c.difference)] for name, c in outcome.compared.items()]
    if rows:
        click.echo(table(["metric", str(outcome.champion), str(outcome.version), "difference"], rows, [1, 2]))
    measured = [[name, str(estimate)] for name, estimate in outcome.measured.items()]
    if measured:
        click.echo(table(["metric", str(outcome.version)], measured, []))


def _number(estimate: Estimate) -> str:
    return f"{estimate.mean:.5f}"
