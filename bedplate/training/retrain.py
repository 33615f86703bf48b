"""Retraining: fresh data, a new version, the comparison with the champion on the same rows, and the promotion.

Every step leaves what the next one needs in the run's folder, so that a call after a kill at any moment goes on where
the last one ended, and a call with nothing new does nothing. Which retraining a run is of is in its config: the id of
the job, definitions, source snapshots and the champion that it had. With other rules the same run is judged anew.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeAlias, final

import msgspec

from bedplate.canonical import digest
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import require_requests
from bedplate.datasets.split import SPLITS
from bedplate.errors import ConflictError, DataError, DefinitionError, NotFoundError, StoreError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import CANDIDATE
from bedplate.features.signature import Signature
from bedplate.features.view import Feature
from bedplate.files import write_record
from bedplate.metrics.intervals import Estimate
from bedplate.registry.lookup import CHAMPION
from bedplate.registry.manifest import QUANTIZED, plain_config
from bedplate.registry.registry import Registry
from bedplate.registry.run import StoredRun
from bedplate.registry.version import ModelVersion
from bedplate.training.champion import check_scores, score_test, with_requests
from bedplate.training.comparison import Comparison, compare, measure
from bedplate.training.continuing import Beginning, Continuation, Rows
from bedplate.training.evidence import RETRAINING, VERSION_ONLY, definitions_of
from bedplate.training.fitness import check_fitness
from bedplate.training.freshness import label_problems, problems
from bedplate.training.inheritance import run_folder
from bedplate.training.job import Job
from bedplate.training.own_metrics import directions_of, metrics_of_job, unjudgeable
from bedplate.training.predictions import read_predictions
from bedplate.training.promotion import PromotionRules, Verdict, judge, judge_first
from bedplate.training.report import Show
from bedplate.training.run import ENCODER, Progress, train
from bedplate.training.unlearnt import samples, unlearnt
from bedplate.types import Int64s, format_time

FILE = "retraining.json"
"""In a run's folder: what came of its retraining."""

Widen: TypeAlias = Callable[[Sequence[str]], LoadedDataset]
"""The job's dataset over its data, with these features beside its own."""

_Asked = ParamSpec("_Asked")

_RESUMED = ("interrupted", "failed")
"""The states of a run that is gone on with."""

Status: TypeAlias = Literal["nothing", "would train", "would compare", "would promote", "promoted", "refused"]


@final
class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What came of a retraining.

    Attributes:
        job: the job's name, which is the model's.
        status: "nothing": there was nothing new, or all of it was done before. Of a dry run: "would train"; "would
            compare" a version that an earlier call trained, "would promote" one for which that was decided.
        reasons: why.
        champion: the version that was the champion before, as `name:version`.
        version: the new version; None where none was trained.
        run: the run that made it.
        rules: by which it was judged.
        requests: of the test split that the two were compared on: those that have the label.
        compared: each metric of both on these requests, `a` the champion's.
        measured: each metric of the new version on them where there was no champion.
    """

    job: str
    status: Status
    reasons: list[str]
    champion: str | None = None
    version: str | None = None
    run: str | None = None
    rules: PromotionRules
    requests: int = 0
    compared: dict[str, Comparison] = {}
    measured: dict[str, Estimate] = {}


@contextlib.contextmanager
def locked(registry: Registry, name: str) -> Generator[None]:
    """Holds the lock of a model's retraining; the system frees it when the process ends, however it ends.

    Raises:
        ConflictError: another process is retraining the model.
        StoreError: the lock can't be written.
    """
    path = registry.root / "models" / f".{name}.retrain.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(
                    "another process is retraining it", where=f"model '{name}'", hint="wait until that one is done"
                ) from None
            yield
    except PermissionError as error:
        raise StoreError(f"the lock can't be written: {error.strerror}", where=str(path)) from error


@final
class Retraining:
    """One retraining of a job; `locked` must be held while it goes on.

    Args:
        job: the job.
        dataset: its dataset over fresh data.
        features: the project's definitions by full name.
        registry: where runs and versions go.
        root: the project's folder.
        widen: reads the features of a champion that the dataset does not have.
        rows: which rows a model that is continued from the champion learns; None: train from the beginning.
    """

    def __init__(
        self,
        job: Job,
        dataset: LoadedDataset,
        features: Mapping[str, Feature],
        registry: Registry,
        root: Path,
        *,
        widen: Widen,
        rows: Rows | None = None,
    ) -> None:
        self._job, self._dataset, self._features = job, dataset, features
        self._registry, self._root, self._widen = registry, root, widen
        self._definitions = definitions_of(job, dataset, features)
        self._champion = champion_of(registry, job.name)
        goes_on = rows is not None and self._champion is not None
        self._continued = Continuation.of(self._champion, rows) if goes_on and self._champion and rows else None
        self._noticed: list[str] = []  # what was found out of the inputs, and is no reason to refuse
        self._id = digest([job.form(), self._definitions, dict(dataset.snapshots), str(self._champion), str(rows)])

    def plan(self) -> Outcome:
        """What `run` would do, of which nothing is done.

        Raises:
            ArtifactError: the champion can't be compared with, see `champion.check_scores`.
            NotFoundError: the run of the champion, from which the new model is to go on, is no longer there.
        """
        nothing = self._nothing_new() or self._unfit()
        if nothing is not None:
            return nothing
        run = self._begun()
        decided, made = self._decided(run), self._made(run)
        if decided is not None:
            done = decided if decided.status != "promoted" else self._held(decided)
            return done or msgspec.structs.replace(decided, status="would promote")
        if made is not None and run is not None:
            what = f"{made}, which run {run.id} has made, {_against(self._judgeable(), self._champion)}"
            return self._outcome("would compare", [what], version=str(made), run=run.id)
        resumed = None if run is None or run.status not in _RESUMED else run.id
        if self._continued is not None and self._champion is not None and resumed is None:
            run_folder(self._registry, self._champion)
        begun = f"{self._what()}: on with run {resumed}" if resumed else self._what()
        return self._outcome("would train", [begun, *self._noticed], run=resumed)

    def run(self, show: Show | None = None, progress: Progress = lambda _: None) -> Outcome:
        """Trains, compares and promotes, or goes on with what an earlier call began.

        Args:
            show: takes the trainer's status after each step.
            progress: told each step that begins.

        Raises:
            BedplateError: as `plan` and `run.train` say; what is done is kept for the next call.
        """
        nothing = self._nothing_new() or self._unfit()
        if nothing is not None:
            return nothing
        run = self._begun()
        outcome = self._decided(run)
        if outcome is None:
            version, run = self._trained(run, show, progress)
            progress("compare with the champion on the same requests")
            outcome = self._judged(version, run)
            _write(run, outcome)
        return self._promoted(outcome)

    def _outcome(self, status: Status, reasons: list[str], **facts: Any) -> Outcome:
        champion = None if self._champion is None else str(self._champion)
        rules = self._job.promotion
        return Outcome(job=self._job.name, status=status, reasons=reasons, champion=champion, rules=rules, **facts)

    def _nothing_new(self) -> Outcome | None:
        """The outcome where the champion is of this very data, or there is no row to go on with.

        The int8 variant of a version is of what that is of.
        """
        if self._champion is None:
            return None
        manifest = self._champion.manifest
        own = {name: value for name, value in manifest.config.items() if name not in VERSION_ONLY}
        same = manifest.sources == dict(self._dataset.snapshots) and manifest.definitions == self._definitions
        if same and own == plain_config(self._job.form(), self._job.place):
            return self._outcome("nothing", [f"{self._champion} is of the same data, definitions and config"])
        if self._continued is not None and self._continued.since is not None:
            first, last = self._dataset.since(self._continued.since).positions("train")
            if first == last:
                since = format_time(self._continued.since)
                return self._outcome("nothing", [f"no training request is at {since} or later, since {self._champion}"])
        return None

    def _unfit(self) -> Outcome | None:
        """The refusal of data that no model should be trained or judged on, or of a champion that can't be compared."""
        empty = [said for split in SPLITS for said in _wrong(require_requests, self._dataset, split)]
        if empty:  # nothing else can be asked of it
            return self._outcome("refused", empty)
        batches, rules = samples(self._dataset), self._job.promotion
        wrong = problems(batches, self._job.inputs, rules)
        for one in unlearnt(batches, self._job.inputs):
            if one.differs > rules.largest_missing:
                wrong.append(f"{one} (largest_missing is {rules.largest_missing:g})")
            else:
                self._noticed.append(str(one))
        wrong += label_problems(self._dataset, self._job.model.label, self._champion, rules)
        wrong += _wrong(check_fitness, self._job, self._learnt())
        wrong += _wrong(Beginning(self._continued, self._registry, self._definitions).check, self._dataset.split)
        wrong += unjudgeable(self._job, self._dataset.compiled)
        judged = self._judgeable()
        if judged < self._job.promotion.minimum_requests:
            wrong.append(
                f"only {judged:,} test requests have the label '{self._job.model.label}'{self._later()}, "
                f"expected at least {self._job.promotion.minimum_requests:,} (minimum_requests)"
            )
        if self._champion is not None:
            check_scores(self._champion)
            try:
                Signature.load(self._champion.path).check_features(self._features, f"champion {self._champion}")
            except DefinitionError as error:
                wrong.append(f"the champion can't be compared on this data: {error.message}")
        return self._outcome("refused", wrong, requests=judged) if wrong else None

    def _learnt(self) -> LoadedDataset:
        """The dataset with the training rows that are to be learnt."""
        return self._dataset if self._continued is None else self._continued.dataset(self._dataset)

    def _fresh(self) -> Int64s:
        """The ids of the test requests that neither model knows anything of."""
        rows, (first, last) = self._dataset.spine.rows, self._dataset.positions("test")
        known = None if self._champion is None else self._champion.manifest.trained_until
        ids, times = rows.request_ids[first:last], rows.times[first:last]
        return ids if known is None else ids[times > known]

    def _judgeable(self) -> int:
        """How many of these have the label, without which a request tells nothing of a model."""
        known = None if self._champion is None else self._champion.manifest.trained_until
        return self._dataset.labelled(self._job.model.label, "test", known)

    def _later(self) -> str:
        known = None if self._champion is None else self._champion.manifest.trained_until
        return "" if known is None else f" and are later than {format_time(known)}, which {self._champion} knows"

    def _what(self) -> str:
        first, last = self._learnt().positions("train")
        how = "from the beginning" if self._continued is None else f"from {self._champion} on"
        return f"{last - first:,} training requests {how}, {_against(self._judgeable(), self._champion)}"

    def _begun(self) -> StoredRun | None:
        """The run of this retraining that an earlier call began."""
        for run in self._registry.runs(self._job.name):
            if run.record.config.get(RETRAINING) == self._id:
                if run.status == "running":
                    raise ConflictError(
                        f"its run {run.id} is still running (process {run.record.pid} on {run.record.host})",
                        where=f"model '{self._job.name}'",
                        hint="wait until that one is done",
                    )
                return run
        return None

    def _decided(self, run: StoredRun | None) -> Outcome | None:
        """What an earlier call has decided of its run by the same rules, or where its version has been the champion."""
        outcome = None if run is None else _read(run)
        if outcome is not None and outcome.rules == self._job.promotion:
            return outcome
        made = self._made(run)
        if made is None or run is None:
            return None
        return self._held(self._outcome("promoted", [], version=str(made), run=run.id))

    def _made(self, run: StoredRun | None) -> ModelVersion | None:
        """The version that an earlier call's run, which is finished, has made."""
        return self._version_of(run) if run is not None and run.status == "finished" else None

    def _trained(
        self, begun: StoredRun | None, show: Show | None, progress: Progress
    ) -> tuple[ModelVersion, StoredRun]:
        """The version that was trained, now or by an earlier call, and its run."""
        made = self._made(begun)
        if begun is not None and made is not None:
            return made, begun
        resume = begun.id if begun is not None and begun.status in _RESUMED else None
        trained = train(
            self._job, self._dataset, self._features, self._registry, self._root,
            resume=resume, continued=self._continued, retraining=self._id, show=show, progress=progress,
        )  # fmt: skip
        return trained.version, self._registry.run(trained.run_id)

    def _version_of(self, run: StoredRun) -> ModelVersion | None:
        try:
            numbers = self._registry.versions(self._job.name)
        except NotFoundError:
            return None
        versions = (self._registry.get(self._job.name, number) for number in reversed(numbers))
        made = (version for version in versions if version.manifest.run == run.id)
        return next((version for version in made if QUANTIZED not in version.manifest.config), None)

    def _judged(self, version: ModelVersion, run: StoredRun) -> Outcome:
        """The comparison with the champion, and what the rules say of it."""
        job, fresh = self._job, self._fresh()
        own, label, rules = with_requests(read_predictions(run.folder), fresh), job.model.label, job.promotion
        judged = len(own.requests_with(label))
        facts: dict[str, Any] = {"version": str(version), "run": run.id, "requests": judged}
        metric = job.trainer.metric
        own_metrics = metrics_of_job(job, self._dataset.compiled, lambda: Encoder.load(run.folder / ENCODER))
        if self._champion is None:
            measured = measure(own, label, rules.confidence, metrics=own_metrics)
            verdict = judge_first(rules, metric, measured, judged)
            return self._concluded(verdict, facts | {"measured": measured})
        missing = set(Signature.load(self._champion.path).features()) - set(self._dataset.compiled.selected.names)
        missing -= {CANDIDATE}
        dataset = self._widen(sorted(missing)) if missing else self._dataset
        champion = with_requests(score_test(self._champion, dataset), fresh)
        compared = compare(champion, own, label, rules.confidence, metrics=own_metrics)
        verdict = judge(rules, metric, compared, judged, directions_of(job))
        return self._concluded(verdict, facts | {"compared": compared})

    def _concluded(self, verdict: Verdict, facts: Mapping[str, Any]) -> Outcome:
        return self._outcome(
            "promoted" if verdict.decision == "promote" else "refused", [*verdict.reasons, *self._noticed], **facts
        )

    def _promoted(self, outcome: Outcome) -> Outcome:
        """Does what was decided, once, and only where the champion is still the one that was compared with.

        What a person did meanwhile stays: a champion that was taken back is not made one again, nor is another one
        replaced by what was never compared with it.
        """
        if outcome.status != "promoted" or outcome.version is None:
            return outcome
        held = self._held(outcome)
        if held is not None:
            return held
        number = _number_of(outcome)
        previous = None if self._champion is None else self._champion.version
        reason = f"bedplate retrain: {'; '.join(outcome.reasons)}"
        try:
            self._registry.promote(self._job.name, number, reason=reason, previous=previous)
        except ConflictError as error:
            reasons = [f"it was compared with {self._champion or 'no champion'}, and {error.message}: run it again"]
            return msgspec.structs.replace(outcome, status="refused", reasons=reasons)
        return outcome

    def _held(self, outcome: Outcome) -> Outcome | None:
        """What becomes of a promotion that was decided where its version has been the champion already: nothing."""
        number = _number_of(outcome)
        held = [c for c in self._registry.history(self._job.name) if c.alias == CHAMPION and c.version == number]
        if not held:
            return None
        when, now = format_time(held[0].time), champion_of(self._registry, self._job.name)
        since = "still is" if now is not None and now.version == number else "was taken back"
        reason = f"{outcome.version} was made champion at {when}, and {since}"
        return msgspec.structs.replace(outcome, status="nothing", reasons=[reason])


def _against(requests: int, champion: ModelVersion | None) -> str:
    return f"judged on {requests:,} against {champion or 'no champion'}"


def champion_of(registry: Registry, name: str) -> ModelVersion | None:
    """The champion of a model; None: it has none, or is not there."""
    try:
        return registry.get(name, CHAMPION)
    except NotFoundError:
        return None


def _wrong(check: Callable[_Asked, object], *asked: _Asked.args, **named: _Asked.kwargs) -> list[str]:
    """What a check finds wrong with the data."""
    try:
        check(*asked, **named)
    except DataError as error:
        return [error.message]
    return []


def _number_of(outcome: Outcome) -> int:
    return int((outcome.version or "").rpartition(":")[2])


def _read(run: StoredRun) -> Outcome | None:
    """What was decided of a run; None where its call did not come so far."""
    path = run.folder / FILE
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Outcome)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"what was decided can't be read: {error}",
            where=str(path),
            hint="delete the file: the comparison is made again",
        ) from error


def _write(run: StoredRun, outcome: Outcome) -> None:
    write_record(run.folder / FILE, msgspec.json.encode(outcome), "what was decided")
