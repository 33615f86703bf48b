"""Loaded model versions of one process: each is loaded once, whoever asks for it, and closed when nobody needs it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import final

from bedplate.inference.artifact import Artifact, load_artifact
from bedplate.inference.batch_plan import measure
from bedplate.inference.batcher import Batcher
from bedplate.inference.item_side import open_item_side
from bedplate.inference.joining import Joiner
from bedplate.process import check_per_core
from bedplate.registry.registry import Registry
from bedplate.registry.version import ModelVersion
from bedplate.types import Array

log = logging.getLogger("bedplate.serving")


@final
class Loader:
    """Loads versions of a registry's models, each once. Any thread may ask.

    Several versions of one model may be loaded at once; a pipeline and a model repository that share a loader share
    what it has loaded.

    Args:
        registry: where the models are.
        threads: of a call of a model, at most 8 for each core.
        delay: how long a request may wait for others to share a call of a model with, seconds, where a measurement at
            loading shows that it pays; 0: calls are not shared, and nothing is measured.
        item_bytes: what the candidates' side of a model, kept for later requests, may take; 0: it is not kept.
        say: told how calls are shared, of each model where they are, and where a side is kept.

    Attributes:
        registry: as given.

    Raises:
        ConfigError: there are too many threads.
    """

    __slots__ = ("_delay", "_held", "_item_bytes", "_loaded", "_lock", "_say", "_threads", "registry")

    def __init__(
        self,
        registry: Registry,
        threads: int = 1,
        *,
        delay: float = 0.0,
        item_bytes: int = 0,
        say: Callable[[str], None] = log.info,
    ) -> None:
        check_per_core(threads, "the number of threads", "loader of models")
        self.registry, self._threads, self._delay, self._say = registry, threads, delay, say
        self._item_bytes = item_bytes
        self._loaded: dict[str, Artifact] = {}
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def load(self, reference: str) -> Artifact:
        """The artifact of `name`, `name:3` or `name@champion`, held once more: `release` it as often.

        Raises:
            NotFoundError: there is no such version.
            ArtifactError: as `load_artifact`.
        """
        return self.hold(self.registry.get(reference))

    def hold(self, version: ModelVersion) -> Artifact:
        """As `load`, of a version that was looked up before."""
        key = str(version)
        with self._lock:
            if key not in self._loaded:
                artifact = load_artifact(version, self._threads)
                if self._delay:
                    self._share(artifact)
                self._loaded[key] = artifact
            self._held[key] = self._held.get(key, 0) + 1
            return self._loaded[key]

    def with_item_side(self, artifact: Artifact) -> Artifact:
        """A loaded artifact that keeps its candidates' side, where that is to be had and pays; see `item_side`.

        Raises:
            ArtifactError: the model's file can't be read.
        """
        side = open_item_side(artifact, self._threads, self._item_bytes)
        if side is None:
            return artifact
        artifact.model.runtime.trim(min((g.inputs for g in artifact.golden()), key=_size))  # few calls are whole now
        place, most = artifact.model.place, self._item_bytes >> 20
        self._say(f"{place}: what it computes of candidates alone is kept, in {most} MB at most")
        return replace(artifact, item_side=side)

    def release(self, artifact: Artifact) -> None:
        """Says that an artifact is needed once less; the last closes its runtime."""
        key = f"{artifact.model.name}:{artifact.model.version}"
        with self._lock:
            left = self._held.get(key, 0) - 1
            if left > 0:
                self._held[key] = left
            elif left == 0:
                del self._held[key]
                self._loaded.pop(key).model.runtime.close()

    def _share(self, artifact: Artifact) -> None:
        """Measures whether calls of the model are shared by requests, and if so how."""
        model, signature = artifact.model, artifact.signature
        joiner = Joiner(signature.tensors, signature.outputs)
        calls = [golden.inputs for golden in artifact.golden()]
        plan = measure(model, joiner, calls, self._delay)
        if calls:
            model.runtime.trim(min(calls, key=_size))  # measuring took larger calls than most that will come
        model.calls, text = str(plan), f"{model.place}: {plan}"
        if plan.most > 1:
            model.batcher = Batcher(model, joiner, plan)
            self._say(text)
        else:
            log.info(text)

    @property
    def loaded(self) -> tuple[str, ...]:
        """What is loaded, as `name:version`, sorted."""
        return tuple(sorted(self._loaded))


def _size(tensors: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in tensors.values())
