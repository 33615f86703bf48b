"""From a definition to a pipeline that has proven itself: models from the registry, features from the online store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from bedplate.batch import Columns
from bedplate.clock import Clock, system_clock
from bedplate.errors import BedplateError, NotFoundError, StoreError
from bedplate.features.graph import FeatureGraph
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView
from bedplate.inference.artifact import Artifact
from bedplate.inference.loader import Loader
from bedplate.registry.registry import Registry
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service import Service
from bedplate.serving.service_openapi import service_openapi
from bedplate.types import Int64s


def load_pipeline(
    service: Service,
    graph: FeatureGraph,
    reader: Reader,
    registry: Registry,
    *,
    clock: Clock = system_clock,
    threads: int = 1,
    loader: Loader | None = None,
) -> Pipeline:
    """Loads a service: checks it, verifies the models, reproduces their golden scores, and answers a first request.

    Args:
        service: the definition.
        graph: the project's features.
        reader: the online store.
        registry: where the models are.
        clock: gives the time of a request that says none.
        threads: of a call of a model, where no loader is given.
        loader: shares what it has loaded with whoever else has it; by default one of the registry for this pipeline.

    Raises:
        ConfigError: there are too many threads, more than 8 for each core.
        DefinitionError: the service names an unknown feature, or a model reads one that has changed.
        NotFoundError: a model is not there.
        ArtifactError: a model's folder was changed, or doesn't reproduce its golden scores.
        StoreError: the store can't be read or does not hold a view.
    """
    models = loader or Loader(registry, threads)
    load = _loaded_by(service, models)

    def kept(reference: str) -> Artifact:
        artifact = load(reference)
        return models.with_item_side(artifact) if reference == service.ranking else artifact

    pipeline = Pipeline(service, graph, reader, kept, clock)
    try:
        pipeline.warm_up()
    except BedplateError as error:
        error.where = f"{service.place}, first request: {error.where}" if error.where else service.place
        raise
    return pipeline


def describe_service(service: Service, graph: FeatureGraph, registry: Registry) -> dict[str, Any]:
    """The OpenAPI description of a service, without its store.

    Args:
        service: the definition.
        graph: the project's features.
        registry: where the models are.

    Raises:
        DefinitionError: as `load_pipeline`.
        NotFoundError: a model is not there.
        ArtifactError: as `load_pipeline`.
    """
    return service_openapi(Pipeline(service, graph, _Closed(), _loaded_by(service, Loader(registry))))


@final
class _Closed(Reader):
    """Reads nothing."""

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Columns:
        raise StoreError("the store is not open", where=view.place)


def _loaded_by(service: Service, models: Loader) -> Callable[[str], Artifact]:
    def load(reference: str) -> Artifact:
        try:
            version = models.registry.get(reference)
        except NotFoundError as error:
            name = reference.partition("@")[0].partition(":")[0]
            known = {v.name for v in models.registry.models()}
            hint = error.hint if name in known else f"{error.hint}; or train it: bedplate train {name} --promote"
            raise NotFoundError(error.message, where=f"{service.place}, model '{reference}'", hint=hint) from error
        return models.hold(version)

    return load
