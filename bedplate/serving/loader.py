"""Loaded model versions of one process: each is loaded once, whoever asks for it, and closed when nobody needs it."""

from __future__ import annotations

import threading
from typing import final

from bedplate.registry.registry import Registry
from bedplate.registry.version import ModelVersion
from bedplate.serving.artifact import Artifact, load_artifact


@final
class Loader:
    """Loads versions of a registry's models, each once. Any thread may ask.

    Several versions of one model may be loaded at once; a pipeline and a model repository that share a loader share
    what it has loaded.

    Args:
        registry: where the models are.
        threads: of a call of a model.

    Attributes:
        registry: as given.
    """

    __slots__ = ("_held", "_loaded", "_lock", "_threads", "registry")

    def __init__(self, registry: Registry, threads: int = 1) -> None:
        self.registry, self._threads = registry, threads
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
                self._loaded[key] = load_artifact(version, self._threads)
            self._held[key] = self._held.get(key, 0) + 1
            return self._loaded[key]

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

    @property
    def loaded(self) -> tuple[str, ...]:
        """What is loaded, as `name:version`, sorted."""
        return tuple(sorted(self._loaded))
