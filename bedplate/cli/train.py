"""`bedplate train`: run a training job of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.options import echo_json, json_option, project_option

if TYPE_CHECKING:
    from bedplate.registry.registry import Registry
    from bedplate.training.continuing import Rows
    from bedplate.training.run import Trained


@click.command()
@project_option
@json_option
@click.option("--resume", metavar="RUN", help="Go on with an interrupted run; its id or the beginning of it.")
@click.option(
    "--continue",
    "parent",
    metavar="MODEL",
    help="Go on from a model version: NAME (its champion), NAME:VERSION or NAME@ALIAS.",
)
@click.option(
    "--rows",
    type=click.Choice(["since", "all"]),
    help="With --continue: learn from the rows that the version did not learn from (the default), or from all.",
)
@click.option(
    "--from",
    "files",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Read batches from files that 'bedplate datasets write' wrote; the model is the same.",
)
@click.option("--promote", is_flag=True, help="Give the new version the alias 'champion'.")
@click.argument("job")
@click.argument("settings", nargs=-1)
def train(
    job: str,
    settings: tuple[str, ...],
    resume: str | None,
    parent: str | None,
    rows: Rows | None,
    files: Path | None,
    promote: bool,
    directory: Path,
    as_json: bool,
) -> None:
    """Train the model of JOB, a Job of the project, and register the version.

    JOB is the job's name, FILE.py:NAME, or FILE.py where that file has only one. SETTINGS replace the job's own:
    model.NAME=VALUE or trainer.NAME=VALUE. Ctrl-C leaves a checkpoint; '--resume RUN'
    goes on from it with the run's settings and ends with the same weights as if nothing had happened. Settings given
    with --resume may only say how long and at what pace it goes on. --continue begins with the weights of a version.

    \b
    Examples:
      bedplate train retail_ranker --promote
      bedplate train retail_ranker trainer.epochs=1 model.rank=64
      bedplate train train.py:retail_ranker model.layers=[64,32]
      bedplate train retail_ranker --resume 20261122-1015
      bedplate train retail_ranker --continue retail_ranker@champion
      bedplate train retail_ranker --from baskets-2011
      bedplate train retail_ranker --json
    """
    from bedplate.datasets.written import WrittenDataset
    from bedplate.project import Project
    from bedplate.registry.registry import Registry
    from bedplate.training.continuing import Continuation
    from bedplate.training.evidence import settings_of
    from bedplate.training.interrupt import TrainingInterruptedError
    from bedplate.training.job import Job
    from bedplate.training.report import on_stderr
    from bedplate.training.run import train as run_job

    _check(resume, parent, rows)
    project = Project(directory)
    registry = Registry(project.config.registry_path)
    run = None if resume is None else registry.run(resume)
    definition = project.find(Job, job).with_settings([*(settings_of(run.record) if run else ()), *settings])
    try:
        trained = run_job(
            definition,
            project.load(definition.dataset),
            project.graph.features,
            registry,
            project.root,
            resume=run and run.id,
            continued=None if parent is None else Continuation.of(registry.get(parent), rows or "since"),
            files=None if files is None else WrittenDataset(files),
            show=on_stderr(),
            progress=lambda step: click.echo(step, err=True),
        )
    except TrainingInterruptedError as error:
        error.hint = f"go on with: bedplate train {job} --resume {error.run}"
        raise
    _echo(trained, registry, as_json=as_json, promote=promote)


def _check(resume: str | None, parent: str | None, rows: Rows | None) -> None:
    if resume is not None and parent is not None:
        raise click.UsageError("--resume goes on with a run as it began; leave --continue out")
    if rows is not None and parent is None:
        raise click.UsageError("--rows says from which rows a continued model learns; give --continue too")


def _echo(trained: Trained, registry: Registry, *, as_json: bool, promote: bool) -> None:
    version = trained.version
    if promote:
        registry.promote(version.name, version.version, reason="bedplate train --promote")
    # A run whose model is equal to that of an earlier one, to the last byte, makes no version of its own.
    is_new = version.manifest.run == trained.run_id
    if as_json:
        facts = {"model": version.name, "version": version.version, "new": is_new, "run": trained.run_id}
        echo_json(facts | {"metrics": trained.metrics, "warnings": trained.warnings})
        return
    champion = " as champion" if promote else ""
    if is_new:
        click.echo(f"registered {version.name}:{version.version}{champion}, run {trained.run_id}")
    else:
        click.echo(
            f"{version.name}:{version.version} is already there{champion}, equal to the last byte: run "
            f"{version.manifest.run} registered it, run {trained.run_id} made it again"
        )
    for name, value in trained.metrics.items():
        click.echo(f"  {name:32} {value:.5f}")
    for warning in trained.warnings:
        click.echo(f"warning: {warning}", err=True)
