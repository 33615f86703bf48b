"""What a continued run takes over from its parent: encoder, weights and the optimiser's state, by what they mean."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, final

import msgspec

from bedplate.datasets.blocks import Batches
from bedplate.errors import NotFoundError, StoreError
from bedplate.features.artifact import compare, read_golden
from bedplate.features.encoder import Encoder
from bedplate.models.base import Model
from bedplate.registry.registry import Registry
from bedplate.registry.version import ModelVersion
from bedplate.training.calling import model_of
from bedplate.training.carried_encoder import Definitions, carried_encoder, kept_features
from bedplate.training.carried_optimizer import carried_optimizer
from bedplate.training.checkpoint import BEST, CHECKPOINT, load_state, save_state
from bedplate.training.config import TrainerConfig
from bedplate.training.continuing import Beginning
from bedplate.training.first_scores import check_first_scores
from bedplate.training.graph import served
from bedplate.training.job import Job
from bedplate.training.optimizer import Optimizer
from bedplate.training.tables import load_here
from bedplate.training.warm_start import Side, WarmStart

START = "start.pt"
"""In the run's checkpoints: what a continued run begins with, until it has a checkpoint of its own."""

_TRIED = 4
"""Batches on which the first scores are compared with the parent's, where ids have other rows."""

_AGAIN = "train from the beginning (without --continue), or continue from a version whose run is still there"


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
        self._folder = run_folder(registry, version)
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
        model = model_of(converted, self.encoder.layout)
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


def run_folder(registry: Registry, version: ModelVersion) -> Path:
    """The folder of the run that made a version, which holds its weights.

    Args:
        registry: where the run is.
        version: the version.

    Raises:
        NotFoundError: it was made by none, or the run, or what continuing needs of it, is no longer there.
    """
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
class Inheritance:
    """What a network begins with: nothing, or its parent's.

    Args:
        beginning: of the run.
        job: that is run.
    """

    def __init__(self, beginning: Beginning, job: Job) -> None:
        self._beginning, self._job = beginning, job
        self._loaded: Parent | None = None

    def encoder(self, fitted: Encoder) -> Encoder:
        """The run's encoder, of one that was fitted on the run's data.

        Raises:
            NotFoundError: the parent's run is no longer there.
        """
        if self._beginning.continued is None:
            return fitted
        return carried_encoder(self._parent.encoder, fitted, self._kept(fitted))

    def weights(self, model: Model, encoder: Encoder, training: Batches, folder: Path) -> dict[str, Any] | None:
        """Gives a model its first weights; the state that its optimiser begins with, None for none.

        Args:
            model: the model as it was drawn; changed.
            encoder: that of the run.
            training: what it learns from.
            folder: of the run's checkpoints; what the run begins with is kept there for a resumption.

        Raises:
            DefinitionError: the model can't take over the weights, or would not begin with its parent's scores though
                only ids are new (`first_scores`).
            NotFoundError, StoreError, ArtifactError: as `Parent` and `Parent.model` say.
        """
        if self._beginning.continued is None:
            return None
        if not (folder / CHECKPOINT).is_file() and not (folder / START).is_file():
            parent = self._parent
            was = Side(parent.model(), parent.encoder)
            start = WarmStart(was, Side(model, encoder), self._kept(encoder))
            model.load_state_dict(start.weights())
            if start.moves:
                check_first_scores(was, start.own, islice(training.epoch(self._job.trainer.seed, 0), _TRIED))
            optimizer = carried_optimizer(start, parent.optimizer(was.model), Optimizer(model, self._job.trainer))
            folder.mkdir(parents=True, exist_ok=True)
            save_state(folder / START, {"model": model.state_dict(), "optimizer": optimizer})
        return first_state(model, folder)

    @property
    def _parent(self) -> Parent:
        """The parent, read when it is needed: a run that is resumed may no longer need it."""
        if self._loaded is None:
            version = self._beginning.parent()
            assert version is not None
            self._loaded = Parent(self._beginning.registry, version, self._job)
        return self._loaded

    def _kept(self, encoder: Encoder) -> frozenset[str]:
        return kept_features(self._parent.encoder, encoder, self._parent.definitions, self._beginning.definitions)


def first_state(model: Model, folder: Path) -> dict[str, Any] | None:
    """Gives a model the weights that its continued run begins with, and the state of its optimiser; None for none.

    Args:
        model: the model as it was drawn; changed.
        folder: of the run's checkpoints, in which `Inheritance.weights` has kept both; nothing is done where there is a
            checkpoint already.
    """
    path = folder / START
    if (folder / CHECKPOINT).is_file() or not path.is_file():
        return None
    state = load_state(path, mapped=True)
    load_here(model, state["model"])
    return state["optimizer"]


def _other(what: str, version: ModelVersion) -> StoreError:
    return StoreError(what, where=f"model '{version}'", hint=_AGAIN)
