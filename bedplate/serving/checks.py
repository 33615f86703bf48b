"""Checking a service against the project's features, before a model is loaded."""

from __future__ import annotations

from bedplate.errors import DefinitionError, suggest
from bedplate.features.assemble import Join
from bedplate.features.graph import FeatureGraph
from bedplate.serving.filters import Filters
from bedplate.serving.service import Service
from bedplate.types import Type


def check_service(service: Service, graph: FeatureGraph) -> None:
    """Checks that a service uses what the project defines; its models are checked when it is served.

    Raises:
        DefinitionError: no view is about the item, a filter reads an unknown feature or is not boolean, or what is
            excluded or always a candidate is not a feature of the request that holds keys.
    """
    kinds = graph.key_types()
    if service.item not in kinds:
        raise DefinitionError(
            f"no view is about the item '{service.item}'",
            where=service.place,
            hint=suggest(service.item, kinds, "entities"),
        )
    Filters(service.filters, graph, service.place)
    always = () if service.retrieval is None else service.retrieval.always
    for part, names in (("exclude", service.exclude), ("always", always)):
        place = f"{service.place}, {part}"
        selected = graph.select(names, place)
        levels = Join(selected, service.item).levels
        for feature in selected.features:
            if feature.type not in (Type.INT, Type.STRING):
                raise DefinitionError(
                    f"'{feature.name}' holds values of type {feature.type}, expected keys", where=place
                )
            if not levels[feature.name]:
                raise DefinitionError(
                    f"'{feature.name}' is a feature of the candidate, expected one of the request", where=place
                )
