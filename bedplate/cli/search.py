"""`bedplate search`: better choices of a job, by Optuna."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.tables import interval, number, table

if TYPE_CHECKING:
    from bedplate.project import Project
    from bedplate.training.search import Search
    from bedplate.training.study import Found, Trial


@click.command()
@project_option
@json_option
@click.option("--trials", type=click.IntRange(1), help="How many the study has in all; the search's own by default.")
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="How many processes run trials at once, at most 8 for each core.",
)
@click.argument("name")
def search(name: str, trials: int | None, processes: int, directory: Path, as_json: bool) -> None:
    """Try other choices of a job: NAME is a Search of the project, or a job, of which the usual choices are tried then.

    Each trial is a run that is judged on the validation split; the test split is not looked at. Trials that fall behind
    are ended early. Run again, the search goes on where it ended or was killed; any number of processes may work on it
    at once. What was found is in study.json in the registry's folder 'studies'.

    \b
    Examples:
      bedplate search retail_ranker --trials 20
      bedplate search wider --processes 2
      bedplate search wider --trials 100 --json
    """
    from bedplate.cli.runs_mirror import mirror_own
    from bedplate.process import check_per_core
    from bedplate.project import Project
    from bedplate.training.choices import check_choices
    from bedplate.training.interrupt import TrainingInterruptedError
    from bedplate.training.job import Job
    from bedplate.training.report import on_stderr
    from bedplate.training.searching import open_study

    check_per_core(processes, "--processes", "bedplate search")
    project = Project(directory)
    definition = _search(project, name)
    job = project.find(Job, definition.job)
    check_choices(job)
    dataset, registry = project.load(job.dataset), project.registry
    study = open_study(definition, job, dataset, project.graph.features, registry, project.root)
    total = trials or definition.trials
    others = [_another(name, total, directory) for _ in range(processes - 1)]
    try:
        found = study.run(total, on_stderr(), lambda step: click.echo(step, err=True))
        failed = [process.returncode for process in others if process.wait()]
    except TrainingInterruptedError as error:
        error.hint = "run the same again to go on from there"
        raise
    finally:
        for process in others:
            if process.poll() is None:
                process.terminate()
                process.wait()
        mirror_own(project.config, registry)  # each process has its own runs copied
    if failed:
        click.echo(f"warning: {len(failed)} of the other processes failed, with {failed}", err=True)
    _echo(study.run(total) if others else found, as_json=as_json)  # with what the other processes found


def _search(project: Project, name: str) -> Search:
    """The search of this name, or the usual one of a job."""
    from bedplate.errors import NotFoundError, suggest
    from bedplate.training.job import Job
    from bedplate.training.search import Search, usual_search

    searches, jobs = project.definitions.of(Search), project.jobs
    if name not in [search.name for search in searches]:
        try:
            return usual_search(project.find(Job, name))
        except NotFoundError:
            known = [one.name for one in (*searches, *jobs)]
            hint = suggest(name, known, "searches and jobs")
            raise NotFoundError(f"no search or job is named '{name}'", hint=hint) from None
    return project.find(Search, name)


def _another(name: str, trials: int, directory: Path) -> subprocess.Popen[bytes]:
    words = ["search", name, "--trials", str(trials), "--project", str(directory)]
    return subprocess.Popen(
        [sys.executable, "-m", "bedplate", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _echo(found: Found, *, as_json: bool) -> None:
    if as_json:
        echo_json(found)
        return
    states = [t.state for t in found.trials]
    counted = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    click.echo(f"study '{found.name}' {found.id}: {len(found.trials)} trials ({counted})")
    if found.importance:
        click.echo(table(["choice", "importance"], [[n, f"{v:.3f}"] for n, v in found.importance.items()], [1]))
    if found.running:
        click.echo(f"{found.running} still running in other processes: what follows is of those that have ended")
    if found.best is None:
        return
    rows = [[n, f"{c.a.mean:.5f}", f"{c.b.mean:.5f}", interval(c.difference)] for n, c in found.difference.items()]
    if rows:
        click.echo(table(["validation", "default", "best", "difference"], rows, [1, 2]))
    click.echo(_advice(found, found.best))


def _advice(found: Found, best: Trial) -> str:
    """What to do with the best trial."""
    default = found.default
    if default is None:
        value = _value(found, best)
        return f"the best, trial {best.number}: {value}; the job's own choices have not been tried to the end"
    if not found.improves:
        return (
            f"no trial is better than the job's own choices: {_value(found, default)}, the best trial {best.number} "
            f"has {_value(found, best)}"
        )
    command = f"bedplate train {found.job} {' '.join(best.settings)}"
    said = "the best was chosen on these requests and looks better there than it is; test was not looked at"
    return f"{said}\nthe best, trial {best.number}: {command}"


def _value(found: Found, trial: Trial) -> str:
    return f"{found.metric} {number(trial.value or 0.0)}"
