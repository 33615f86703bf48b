"""Where the experiments of a bisection are made: today's project, and the code of the commits that it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from bedplate.cli.past import build_missing, project_at
from bedplate.cli.revision import find_revision
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import BedplateError, DataError, DefinitionError, NotFoundError
from bedplate.project import Project
from bedplate.registry.diff import changes, environment_changes
from bedplate.registry.environment import read_environment
from bedplate.registry.manifest import plain_config
from bedplate.registry.registry import Registry
from bedplate.registry.run import RunRecord, StoredRun
from bedplate.training.bisect import Experiment, Made
from bedplate.training.checks import check_job
from bedplate.training.evidence import code_of, definitions_of
from bedplate.training.factors import CODE, DATA, FACTORS, INPUTS, Factor, Side, config_factors, job_of, same_result
from bedplate.training.job import Job
from bedplate.training.own_metrics import metrics_of_run
from bedplate.training.predictions import PREDICTIONS, read_predictions
from bedplate.training.report import on_stderr
from bedplate.training.resampling import Metrics
from bedplate.training.run import train

SUFFIX = ".bisect"
"""Runs and models of experiments have the job's name with this behind it."""


@final
class Bench:
    """Finds or trains the runs of experiments between two runs.

    Args:
        project: today's.
        registry: where runs are found and made.
        a: the run A.
        b: the run B.
        folder: an empty one, for the code of commits.
        progress: told each step.

    Attributes:
        factors: what the two differ in.

    Raises:
        ConfigError: a run is not one that a job alone makes.
    """

    def __init__(
        self,
        project: Project,
        registry: Registry,
        a: StoredRun,
        b: StoredRun,
        folder: Path,
        progress: Callable[[str], None],
    ) -> None:
        self._now, self._registry, self._folder, self._progress = project, registry, folder, progress
        self._records: dict[Side, RunRecord] = {"a": a.record, "b": b.record}
        self._loaded: dict[tuple[int, str], LoadedDataset] = {}
        self.factors = config_factors(a.record, b.record)
        for job in project.jobs:
            _read_code(job)
        self._projects, self._missing = self._code()
        self._projects_over: dict[tuple[Side, Side], Project] = {}
        if a.record.sources != b.record.sources:
            self.factors.append(Factor(DATA, tuple(changes(a.record.sources, b.record.sources))))
        self.factors.sort(key=lambda factor: FACTORS.index(factor.name))

    @property
    def unswapped(self) -> list[str]:
        """What differs between the runs and is no factor: what is trained is trained with what is installed now."""
        a, b = (read_environment(self._registry.run(record.id).folder) for record in self._records.values())
        found = environment_changes(a, b)
        if found is None:
            return ["environment: it is not known of both runs"]
        return [f"environment: {change.name} {change.a or 'none'} and {change.b or 'none'}" for change in found]

    def metrics(self) -> Metrics:
        """Those of the model of B, or of A where the code of B can't be had.

        Raises:
            BedplateError: they can't be had either.
        """
        side: Side = "a" if "a" in self._projects and "b" not in self._projects else "b"
        project = self._projects.get(side, self._now)
        return metrics_of_run(self._registry.run(self._records[side].id), project.jobs)

    def _code(self) -> tuple[dict[Side, Project], dict[Side, str]]:
        """The project that has the code of each run, or why there is none."""
        projects: dict[Side, Project] = {}
        missing: dict[Side, str] = {}
        for side, record in self._records.items():
            if self._makes(self._now, record) is None:
                projects[side] = self._now
        if len(projects) == 2:
            return projects, missing
        one, other = self._records.values()
        self.factors.append(Factor(CODE, tuple(changes(one.definitions, other.definitions))))
        for side in self._records:
            if side not in projects:
                try:
                    projects[side] = self._past(side)
                except BedplateError as error:
                    missing[side] = f"the code of {side.upper()} can't be had: {error.message}"
        return projects, missing

    def _past(self, side: Side) -> Project:
        record = self._records[side]
        if record.git.commit is None:
            raise NotFoundError(f"its commit is not known ({record.git.reason})")
        revision = find_revision(self._now.root, record.git.commit)
        self._progress(f"the code of {side.upper()} from commit {revision.commit[:10]}")
        project = project_at(self._now.root, revision, self._folder / side, self._progress)
        for job in project.jobs:
            _read_code(job)
        problem = self._makes(project, record)
        if problem is not None:
            dirty = ", and the run had changes that were not committed" if record.git.dirty else ""
            raise NotFoundError(f"commit {revision.commit[:10]} makes something else: {problem}{dirty}")
        return project

    def _makes(self, project: Project, record: RunRecord) -> str | None:
        """Why a project does not make the definitions of a run; None: it does."""
        sides: dict[str, Side] = dict.fromkeys(FACTORS, "a")
        try:
            job = job_of(record.name, {"a": record.config}, sides, _kinds(project), 0)
            found = definitions_of(job, self._load(project, job.dataset), project.graph.features)
        except (BedplateError, KeyError) as error:
            return str(error)
        different = [
            n for n in dict.fromkeys((*record.definitions, *found)) if record.definitions.get(n) != found.get(n)
        ]
        return f"{', '.join(different[:4])}" if different else None

    def _load(self, project: Project, dataset: str) -> LoadedDataset:
        key = id(project), dataset
        if key not in self._loaded:
            self._loaded[key] = project.load(dataset)
        return self._loaded[key]

    def make(self, experiment: Experiment) -> Made:
        """The run of an experiment, found or trained.

        Raises:
            BedplateError: it can't be made: its code or its data are not there, or its parts don't fit each other.
            TrainingInterruptedError: it was interrupted; its run is gone on with the next time.
        """
        text = experiment.text(self.factors)
        project, job, dataset = self._parts(experiment)
        done, begun = self.find(experiment)
        if done is None:
            self._progress(f"{text}: train")
            trained = train(
                job,
                dataset,
                project.graph.features,
                self._registry,
                project.root,
                resume=begun and begun.id,
                show=on_stderr(),
                progress=self._progress,
            )
            done = self._registry.run(trained.run_id)
        else:
            self._progress(f"{text}: is run {done.id}")
        return Made(done.id, read_predictions(done.folder))

    def find(self, experiment: Experiment) -> tuple[StoredRun | None, StoredRun | None]:
        """The finished run of an experiment, and one that was interrupted and can be gone on with.

        Raises:
            BedplateError: it can't be made.
        """
        project, job, dataset = self._parts(experiment)
        config = plain_config(job.form(), job.place)
        definitions = definitions_of(job, dataset, project.graph.features)
        same = [
            run
            for run in self._registry.runs()
            if run.record.definitions == definitions
            and run.record.sources == dict(dataset.snapshots)
            and same_result(run.record.config, config)
        ]
        done = next((r for r in same if r.status == "finished" and (r.folder / PREDICTIONS).is_file()), None)
        begun = next((r for r in same if r.record.name == job.name and r.status in ("interrupted", "failed")), None)
        return done, begun

    def _parts(self, experiment: Experiment) -> tuple[Project, Job, LoadedDataset]:
        sides = experiment.sides()
        if sides[CODE] in self._missing:
            raise NotFoundError(self._missing[sides[CODE]])
        project = self._over(sides[CODE], sides[DATA])
        configs: Mapping[Side, Mapping[str, Any]] = {side: record.config for side, record in self._records.items()}
        name = self._records["a"].name.removesuffix(SUFFIX) + SUFFIX
        job = job_of(name, configs, sides, _kinds(project), experiment.shift)
        try:
            check_job(job, project.datasets)
        except DefinitionError as error:
            if sides[CODE] != sides[INPUTS]:
                code, inputs = sides[CODE].upper(), sides[INPUTS].upper()
                error.message = f"the code of {code} does not have the inputs of {inputs}: {error.message}"
            raise
        return project, job, self._load(project, job.dataset)

    def _over(self, code: Side, data: Side) -> Project:
        """The project with the code of one run, over the data of one.

        Raises:
            DataError: a table can no longer be read as that run has read it.
        """
        if (code, data) not in self._projects_over:
            sources = self._records[data].sources
            try:
                project = Project(self._projects[code].root, sources)
                build_missing(project, self._progress)
            except DataError as error:
                raise DataError(f"the data of {data.upper()} are no longer there: {error.message}") from error
            for job in project.jobs:
                _read_code(job)
            self._projects_over[code, data] = project
        return self._projects_over[code, data]


def _kinds(project: Project) -> dict[str, type]:
    """The configs of models that a project's jobs have, by title."""
    return {job.model.title(): type(job.model) for job in project.jobs}


def _read_code(job: Job) -> None:
    """Has the source of a model's code read while its module is the one that is loaded under its name."""
    with contextlib.suppress(BedplateError):
        code_of(job)
