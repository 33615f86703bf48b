"""Where a model repository finds its models: what there is, which version is meant, and loading one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, final

from bedplate.errors import NotFoundError, NotServedError
from bedplate.inference.artifact import Artifact
from bedplate.inference.loader import Loader
from bedplate.inference.model import Model
from bedplate.registry.registry import Registry


class ModelSource(Protocol):
    """Models that may be loaded. Its methods take a while, and are called on a thread of their own."""

    def versions(self) -> Mapping[str, Sequence[str]]:
        """Every model, with its versions, oldest first."""
        ...

    def default(self, name: str) -> str:
        """The version that is meant where none is named.

        Raises:
            NotFoundError: there is no such model.
        """
        ...

    def load(self, name: str, version: str) -> Model:
        """A model that has proven itself.

        Raises:
            NotFoundError: there is no such model or version.
            ArtifactError: its files were changed, or its golden scores are not reproduced.
        """
        ...

    def release(self, model: Model) -> None:
        """Gives a loaded model back; it is not run again."""
        ...


@final
class RegistryModels:
    """The models of a registry. The version that is meant is the champion, or else the newest.

    Args:
        loader: loads them, each version once.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._held: dict[tuple[str, str], Artifact] = {}

    @property
    def _registry(self) -> Registry:
        return self._loader.registry

    def versions(self) -> Mapping[str, Sequence[str]]:
        """Every model, with its versions, oldest first."""
        return {m.name: [str(v) for v in self._registry.versions(m.name)] for m in self._registry.models()}

    def default(self, name: str) -> str:
        """The champion's version, or else the newest."""
        versions = self._registry.versions(name)
        try:
            return str(self._registry.get(name).version)
        except NotFoundError:
            return str(versions[-1])

    def load(self, name: str, version: str) -> Model:
        """The version, its files unchanged and its golden scores reproduced."""
        if not version.isdecimal():
            raise NotServedError(f"model '{name}' has no version '{version}'", hint="a version is a number")
        held = self._held[name, version] = self._loader.hold(self._registry.get(name, int(version)))
        return held.model

    def release(self, model: Model) -> None:
        """Gives the artifact back to the loader."""
        self._loader.release(self._held.pop((model.name, model.version)))
