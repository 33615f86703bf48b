"""`bedplate train`: run a training job of the project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, final

import click
import msgspec

from bedplate.cli.options import echo_json, json_option, project_option

if TYPE_CHECKING:
    from bedplate.registry.registry import Registry
    from bedplate.training.continuing import Rows
    from bedplate.training.joining import Connect
    from bedplate.training.profile import Profile
    from bedplate.training.profile_report import ProfileReport
    from bedplate.training.run import Trained
    from bedplate.training.tables import Sharding


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
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Train by so many processes of this machine, at most 8 for each core; the model is the same, up to rounding.",
)
@click.option(
    "--sharding",
    type=click.Choice(["torchrec"]),
    help="With --processes: each has some rows of every embedding table, by this library; the model is the same.",
)
@click.option("--profile", is_flag=True, help="Say where the time of the training goes, and what to change.")
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
    processes: int,
    sharding: str | None,
    profile: bool,
    promote: bool,
    directory: Path,
    as_json: bool,
) -> None:
    """Train the model of JOB, a Job of the project, and register the version.

    JOB is the job's name, FILE.py:NAME, or FILE.py where that file has only one. SETTINGS replace the job's own:
    model.NAME=VALUE or trainer.NAME=VALUE. Ctrl-C leaves a checkpoint; '--resume RUN'
    goes on from it with the run's settings and ends with the same weights as if nothing had happened. Settings given
    with --resume may only say how long and at what pace it goes on. --continue begins with the weights of a version:
    known ids and features keep theirs, and the first scores are that version's. --profile writes profile.json and
    profile.txt into the run's folder; the model is the same.

    \b
    Examples:
      bedplate train retail_ranker --promote
      bedplate train retail_ranker trainer.epochs=1 model.rank=64
      bedplate train train.py:retail_ranker model.layers=[64,32]
      bedplate train retail_ranker --resume 20261122-1015
      bedplate train retail_ranker --continue retail_ranker@champion
      bedplate train retail_ranker --from baskets-2011
      bedplate train retail_ranker --processes 4
      bedplate train retail_ranker --processes 4 --sharding torchrec
      bedplate train retail_ranker --profile trainer.epochs=1
      bedplate train retail_ranker --json
    """
    from bedplate.training.processes import own_place, started
    from bedplate.training.profile import Profile

    place = own_place()
    if place is not None and place.rank > 0:
        place.end_with_parent()
    _check(resume, parent, rows, sharding, processes if place is None else place.count)
    shard = None if sharding is None else _sharded()
    work = _Work(directory, job, settings, resume, files)
    if parent is not None:
        work.go_on(parent, rows or "since")
    work.check(together=processes > 1 or place is not None, sharded=shard is not None)
    if place is not None and place.rank > 0:
        work.help(partial(place.connect, shard, work.job.trainer.process_timeout))
        return
    with ExitStack() as stack:
        timeout = work.job.trainer.process_timeout
        connect: Connect | None = None if place is None else partial(place.connect, shard, timeout)
        if connect is None and processes > 1:
            command = work.command(directory, settings, sharding)
            connect = partial(stack.enter_context(started(command, processes, timeout)).connect, shard)
        watching = Profile("join" if files is None else "read") if profile else None
        trained = work.train(connect, watching)
    _echo(trained, work.registry, None if watching is None else watching.report, as_json=as_json, promote=promote)


def _check(resume: str | None, parent: str | None, rows: Rows | None, sharding: str | None, processes: int) -> None:
    if sharding is not None and processes == 1:
        raise click.UsageError("--sharding spreads tables over several processes; give --processes too")
    if resume is not None and parent is not None:
        raise click.UsageError("--resume goes on with a run as it began; leave --continue out")
    if rows is not None and parent is None:
        raise click.UsageError("--rows says from which rows a continued model learns; give --continue too")


def _sharded() -> Sharding:
    """What spreads tables over processes; a missing library is an error here, before anything is read."""
    from bedplate.errors import missing_extra

    try:
        from bedplate.training.sharding import ShardedTables, require_torchrec
    except ModuleNotFoundError as error:  # torch
        raise missing_extra(error) or error from error
    require_torchrec()
    return ShardedTables


@final
class _Work:
    """A job of a project, found by the words of the command line."""

    def __init__(
        self, directory: Path, job: str, settings: Sequence[str], resume: str | None, files: Path | None
    ) -> None:
        from bedplate.datasets.written import WrittenDataset
        from bedplate.project import Project
        from bedplate.training.continuing import Continuation
        from bedplate.training.evidence import settings_of
        from bedplate.training.job import Job

        self.name, self.project = job, Project(directory)
        self.registry = self.project.registry
        run = None if resume is None else self.registry.run(resume)
        self.resume = None if run is None else run.id
        self.continued = None if run is None else Continuation.began(run.record)
        began_with = [] if run is None else settings_of(run.record)
        self.job = self.project.find(Job, job).with_settings([*began_with, *settings])
        self.files = None if files is None else WrittenDataset(files)

    def go_on(self, parent: str, rows: Rows) -> None:
        """Lets it begin with what a model version has learnt."""
        from bedplate.training.continuing import Continuation

        self.continued = Continuation.of(self.registry.get(parent), rows)

    def check(self, *, together: bool, sharded: bool) -> None:
        """Checks what can be checked before any data is read."""
        from bedplate.training.choices import check_choices

        check_choices(self.job, self.continued, self.registry, together=together, sharded=sharded)

    def train(self, connect: Connect | None, profile: Profile | None = None) -> Trained:
        """Trains it, with other processes or alone."""
        from bedplate.cli.runs_mirror import mirror_own
        from bedplate.training.interrupt import TrainingInterruptedError
        from bedplate.training.joining import WorkerError
        from bedplate.training.report import on_stderr
        from bedplate.training.run import train as run_job

        try:
            return run_job(
                self.job,
                self.project.load(self.job.dataset),
                self.project.graph.features,
                self.registry,
                self.project.root,
                resume=self.resume,
                continued=self.continued,
                files=self.files,
                show=on_stderr(),
                progress=lambda step: click.echo(step, err=True),
                connect=connect,
                profile=profile,
            )
        except (TrainingInterruptedError, WorkerError) as error:
            if error.run is not None:
                error.hint = f"go on with: bedplate train {self.name} --resume {error.run}"
            raise
        finally:
            mirror_own(self.project.config, self.registry)

    def help(self, connect: Connect) -> None:
        """Trains it with the process that shows and registers."""
        from bedplate.training.helping import help_train

        dataset = self.project.load(self.job.dataset)
        features = self.project.graph.features
        help_train(self.job, dataset, features, connect, continued=self.continued, files=self.files)

    def command(self, directory: Path, settings: Sequence[str], sharding: str | None) -> list[str]:
        """What another process runs to find the same job."""
        options = ["--project", str(directory)]
        if self.resume is not None:
            options += ["--resume", self.resume]
        elif self.continued is not None:
            options += ["--continue", self.continued.parent, "--rows", self.continued.rows]
        options += [] if self.files is None else ["--from", str(self.files.folder)]
        options += [] if sharding is None else ["--sharding", sharding]
        return [sys.executable, "-m", "bedplate", "train", *options, "--", self.name, *settings]


def _echo(trained: Trained, registry: Registry, profile: ProfileReport | None, *, as_json: bool, promote: bool) -> None:
    from bedplate.training.profile_report import text_of

    version = trained.version
    if promote:
        registry.promote(version.name, version.version, reason="bedplate train --promote")
    # A run whose model is equal to that of an earlier one, to the last byte, makes no version of its own.
    is_new = version.manifest.run == trained.run_id
    if as_json:
        facts = {"model": version.name, "version": version.version, "new": is_new, "run": trained.run_id}
        facts |= {"metrics": trained.metrics, "warnings": trained.warnings}
        echo_json(facts if profile is None else facts | {"profile": msgspec.to_builtins(profile)})
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
    if profile is not None:
        click.echo(text_of(profile))
    for warning in trained.warnings:
        click.echo(f"warning: {warning}", err=True)
