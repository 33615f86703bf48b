"""Continuing from a model version: which rows are learnt, and the encoder, weights and optimiser to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, final

import msgspec

from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.split import TimeSplit
from bedplate.errors import ConfigError, DataError, NotFoundError, StoreError
from bedplate.features.artifact import compare, read_golden
from bedplate.features.encoder import Encoder
from bedplate.models.base import Model
from bedplate.registry.registry import Registry
from bedplate.registry.run import RunRecord
from bedplate.registry.version import ModelVersion
from bedplate.training.carried_encoder import Definitions, carried_encoder, kept_features
from bedplate.training.carried_optimizer import carried_optimizer
from bedplate.training.checkpoint import BEST, CHECKPOINT, load_state, save_state
from bedplate.training.config import TrainerConfig
from bedplate.training.evidence import CONTINUED
from bedplate.training.graph import served
from bedplate.training.job import Job
from bedplate.training.optimizer import Optimizer
from bedplate.training.warm_start import Side, WarmStart
from bedplate.types import format_time

START = "start.pt"
"""In the run's checkpoints: what a continued run begins with, until it has a checkpoint of its own."""

_AGAIN = "train from the beginning (without --continue), or continue from a version whose run is still there"

Rows: TypeAlias = Literal["since", "all"]
"""Which training rows a continued run learns from: those that its parent did not learn from, or all."""


@final
class Continuation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which model version a run goes on, and on which rows.

    Attributes:
        parent: the version, as `name:version`.
        rows: which training rows are learnt.
        since: where `rows` is "since", the time of the first request that is learnt, microseconds.
    """

    parent: str
    rows: Rows = "since"
    since: int | None = None

    @classmethod
    def of(cls, version: ModelVersion, rows: Rows = "since") -> Self:
        """The continuation of a version.

        Raises:
            StoreError: which rows it learnt from is not known.
        """
        manifest = version.manifest
        since = manifest.trained_until if manifest.learnt_until is None else manifest.learnt_until
        if rows == "since" and since is None:
            raise StoreError(
                "it is not known until when the version was trained",
                where=f"model '{version}'",
                hint="continue on all rows: --rows all",
            )
        return cls(str(version), rows, None if since is None or rows == "all" else since + 1)

    @classmethod
    def began(cls, record: RunRecord) -> Self | None:
        """That of a run; None where it began from nothing."""
        found = record.config.get(CONTINUED)
        return None if found is None else msgspec.convert(found, cls)

    def dataset(self, dataset: LoadedDataset, *, files: bool = False) -> LoadedDataset:
        """The dataset whose training split has only the rows that are learnt.

        Args:
            dataset: with all rows.
            files: whether batches will be read from files, which hold all of them.

        Raises:
            DataError: there is none.
            ConfigError: they are not those of the files.
        """
        if self.since is None:
            return dataset
        if files:
            raise ConfigError(
                "the files hold rows that the parent has learnt from",
                where=f"continuing from '{self.parent}'",
                hint="leave --from out, or continue on all rows: --rows all",
            )
        found = dataset.since(self.since)
        first, last = found.positions("train")
        if first == last:
            _, ends = dataset.split.bounds()["train"]
            raise DataError(
                f"no training request is at {format_time(self.since)} or later, from when on '{self.parent}' has "
                f"learnt nothing; the split's training ends at {format_time(ends)}",
                where=dataset.compiled.dataset.place,
                hint="wait for newer data; move the split, or have it move with the data (RollingSplit); or continue "
                "on all rows: --rows all",
            )
        return found


@final
class Parent:
    """A model version with what its run holds: encoder, weights and the optimiser's state.

    Args:
        registry: where the run is.
        version: the version.
        job: that goes on with it.

    Raises:
        NotFoundError: the run, or the weights in it, are no longer there.
        DefinitionError: it is of another class of models.
        StoreError: its weights can't be read, or are not those of the version.
    """

    def __init__(self, registry: Registry, version: ModelVersion, job: Job) -> None:
        self.version, self._job = version, job
        self._folder = _run_folder(registry, version)
        self.encoder = Encoder.load(self._folder / "encoder")
        self._trainer = msgspec.convert(version.manifest.config["trainer"], TrainerConfig)

    @property
    def definitions(self) -> Definitions:
        """The definitions behind it."""
        return self.version.manifest.definitions

    def model(self) -> Model:
        """The model with the version's weights.

        Raises:
            StoreError: they can't be read, or do not reproduce the version's golden requests.
            DefinitionError: it is of another class of models, or its config has other fields.
        """
        config = dict(self.version.manifest.config["model"])
        kind = config.pop("class")
        if kind != self._job.model.title():
            raise _other(f"it has a model of {kind}, the job one of {self._job.model.title()}", self.version)
        try:
            converted = msgspec.convert(config, type(self._job.model))
        except msgspec.ValidationError as error:
            raise _other(f"its config is not one of {kind}: {error}", self.version) from None
        model = self._job.model_class(converted, self.encoder.layout)
        try:
            model.load_state_dict(load_state(self._folder / "checkpoints" / BEST)["model"])
        except RuntimeError as error:
            raise _other(
                f"its weights are of another model: {str(error).splitlines()[-1].strip()}", self.version
            ) from None
        model.eval()
        self._check(model)
        return model

    def _check(self, model: Model) -> None:
        """Raises `ArtifactError` unless the weights give the golden outputs of the version."""
        for i, golden in enumerate(read_golden(self.version.path)):
            if set(golden.inputs) >= {t.name for t in self.encoder.layout.tensors()}:
                place = f"run '{self.version.manifest.run}', golden request {i} of model '{self.version}'"
                compare(golden.outputs, served(model, golden.inputs), place)

    def optimizer(self, model: Model) -> Optimizer:
        """The optimiser of the model, with the state at the end of its training."""
        found = Optimizer(model, self._trainer)
        path = self._folder / "checkpoints" / CHECKPOINT
        if path.is_file():
            found.load_state_dict(load_state(path)["optimizer"])
        return found


def _run_folder(registry: Registry, version: ModelVersion) -> Path:
    """The folder of the run that made a version, which holds its weights."""
    run, where = version.manifest.run, f"model '{version}'"
    if run is None:
        raise NotFoundError("it was registered without a run, which would hold its weights", where=where, hint=_AGAIN)
    try:
        folder = registry.run(run).folder
    except NotFoundError:
        raise NotFoundError(
            f"the run '{run}' that made it, and holds its weights, is no longer there", where=where, hint=_AGAIN
        ) from None
    for part in ("encoder/encoder.json", f"checkpoints/{BEST}"):
        if not (folder / part).is_file():
            raise NotFoundError(
                f"the run '{run}' that made it no longer holds '{part}', which continuing needs",
                where=where,
                hint=_AGAIN,
            )
    return folder


@final
class Beginning:
    """What a run begins with: nothing, or a parent's encoder, weights and optimiser.

    Args:
        continued: from what it goes on; None: it begins from nothing.
        registry: where the parent is.
        job: that is run.
        definitions: behind the run.
    """

    def __init__(self, continued: Continuation | None, registry: Registry, job: Job, definitions: Definitions) -> None:
        self._continued, self._registry, self._job, self._definitions = continued, registry, job, definitions
        self._loaded: Parent | None = None

    @property
    def parents(self) -> list[str]:
        """The version that the run goes on from, if there is one."""
        return [] if self._continued is None else [self._continued.parent]

    @property
    def form(self) -> dict[str, Any]:
        """What the config of the run and of its version says of it."""
        return {} if self._continued is None else {CONTINUED: msgspec.to_builtins(self._continued)}

    def check(self, split: TimeSplit) -> None:
        """Checks that the parent has learnt from no request that the run is judged on.

        Raises:
            DataError: it has.
        """
        if self._continued is None:
            return
        manifest = self._registry.get(self._continued.parent).manifest
        known = {"validation": manifest.learnt_until, "test": manifest.trained_until}
        for name, until in known.items():
            begins, _ = split.bounds()[name]
            if until is not None and until >= begins:
                raise DataError(
                    f"'{self._continued.parent}' knows what happened until {format_time(until)}, later than "
                    f"{format_time(begins)}, when {name} begins: it would be judged on what it has seen",
                    where="the split",
                    hint="move it later, have it move with the data (RollingSplit), or train from the beginning",
                )

    def until(self, learnt: int, trained: int) -> tuple[int, int]:
        """`Manifest.learnt_until` and `trained_until` of the run's version: what the parent knows counts too."""
        if self._continued is None:
            return learnt, trained
        manifest = self._registry.get(self._continued.parent).manifest
        return max(learnt, manifest.learnt_until or 0), max(trained, manifest.trained_until or 0)

    def encoder(self, fitted: Encoder) -> Encoder:
        """The run's encoder, of one that was fitted on the run's data.

        Raises:
            NotFoundError: the parent's run is no longer there.
        """
        if self._continued is None:
            return fitted
        return carried_encoder(self._parent.encoder, fitted, self._kept(fitted))

    def weights(self, model: Model, encoder: Encoder, folder: Path) -> dict[str, Any] | None:
        """Gives a model its first weights; the state that its optimiser begins with, None for none.

        Args:
            model: the model as it was drawn; changed.
            encoder: that of the run.
            folder: of the run's checkpoints; what the run begins with is kept there for a resumption.

        Raises:
            DefinitionError: the model can't take over the weights.
            NotFoundError, StoreError, ArtifactError: as `Parent` and `Parent.model` say.
        """
        path = folder / START
        if self._continued is None or (folder / CHECKPOINT).is_file():
            return None
        if not path.is_file():
            parent = self._parent
            was = Side(parent.model(), parent.encoder)
            start = WarmStart(was, Side(model, encoder), self._kept(encoder))
            model.load_state_dict(start.weights())
            optimizer = carried_optimizer(start, parent.optimizer(was.model), Optimizer(model, self._job.trainer))
            folder.mkdir(parents=True, exist_ok=True)
            save_state(path, {"model": model.state_dict(), "optimizer": optimizer})
        state = load_state(path)
        model.load_state_dict(state["model"])
        return state["optimizer"]

    @property
    def _parent(self) -> Parent:
        """The parent, read when it is needed: a run that is resumed may no longer need it."""
        if self._loaded is None:
            assert self._continued is not None
            self._loaded = Parent(self._registry, self._registry.get(self._continued.parent), self._job)
        return self._loaded

    def _kept(self, encoder: Encoder) -> frozenset[str]:
        return kept_features(self._parent.encoder, encoder, self._parent.definitions, self._definitions)


def _other(what: str, version: ModelVersion) -> StoreError:
    return StoreError(what, where=f"model '{version}'", hint=_AGAIN)
