"""Checking a service against the project's features, before its models are loaded and with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bedplate.errors import DefinitionError, suggest
from bedplate.features.assemble import Join
from bedplate.features.graph import FeatureGraph
from bedplate.features.view import Feature
from bedplate.inference.artifact import Artifact
from bedplate.serving.filters import Filters
from bedplate.serving.service import Service
from bedplate.serving.steps import Popular, Recent, Retrieval
from bedplate.types import Type

_KEYS = (Type.INT, Type.STRING)
_NUMBERS = (Type.INT, Type.FLOAT, Type.BOOL)
_CATEGORIES = (Type.INT, Type.STRING, Type.BOOL)


def check_service(service: Service, graph: FeatureGraph) -> None:
    """Checks that a service uses what the project defines; its models are checked when it is served.

    Raises:
        DefinitionError: no view is about the item, a filter reads an unknown feature or is not boolean, or what a step
            reads is not a feature of the kind that it needs.
    """
    kinds = graph.key_types()
    if service.item not in kinds:
        raise DefinitionError(
            f"no view is about the item '{service.item}'",
            where=service.place,
            hint=suggest(service.item, kinds, "entities"),
        )
    Filters(service.filters, graph, service.place)
    names = check_features(service, graph)
    check_levels(Join(graph.select(names, service.place), service.item).levels, {}, service)
    check_keys(service, graph)


def check_features(service: Service, graph: FeatureGraph) -> list[str]:
    """The features that the steps read beside those of filters and models.

    Raises:
        DefinitionError: one is not there, or of a type that the step can't use.
    """
    found: list[str] = []
    for part, names in _of_request(service).items():
        for feature in graph.select(names, f"{service.place}, {part}").features:
            _check(feature, _KEYS, "keys", f"{service.place}, {part}")
        found += names
    for quota in service.quotas:
        _check_one(graph, quota.feature, _CATEGORIES, "a key, a text, an integer or a boolean", service, "quota")
        found.append(quota.feature)
    by = None if service.diversity is None else service.diversity.by
    if by is not None:
        [feature] = graph.select([by], f"{service.place}, diversity").features
        if not feature.type.width:
            _check_one(graph, by, _CATEGORIES, "a category or a vector", service, "diversity")
        found.append(by)
    if service.fallback is not None:
        _check_one(graph, service.fallback, _NUMBERS, "a number", service, "fallback")
        found.append(service.fallback)
    for source in service.sources:
        if isinstance(source, Popular):
            place = f"popular '{source.feature}'"
            _check_one(graph, source.feature, _NUMBERS, "a number", service, place)
            about = graph.select([source.feature], place).about[source.feature]
            if tuple(about) != (service.item,):
                raise DefinitionError(
                    f"'{source.feature}' is about {list(about)}, expected a feature of '{service.item}' alone",
                    where=f"{service.place}, {place}",
                )
    return found


def check_levels(levels: Mapping[str, bool], models: Mapping[str, Artifact], service: Service) -> None:
    """Checks that features are of the request or of the candidate as the models and steps need them.

    Args:
        levels: whether a feature is one of the request, by name.
        models: the models, by part.
        service: the definition.

    Raises:
        DefinitionError: one is not.
    """
    for artifact in models.values():
        for wanted in artifact.signature.inputs:
            if wanted.feature in levels and levels[wanted.feature] != (wanted.level == "request"):
                raise DefinitionError(
                    f"{artifact.model.place} reads '{wanted.feature}' of the {wanted.level}, "
                    f"with candidates of '{service.item}' it is not",
                    where=service.place,
                    hint="is `item` the entity of the candidates that the model was trained with?",
                )
    for part, names in _of_request(service).items():
        for name in names:
            if not levels[name]:
                raise DefinitionError(
                    f"'{name}' is a feature of the candidate, expected one of the request",
                    where=f"{service.place}, {part}",
                )
    for part, name in _of_item(service):
        if levels[name]:
            raise DefinitionError(
                f"'{name}' is a feature of the request, expected one of the candidate", where=f"{service.place}, {part}"
            )


def check_keys(service: Service, graph: FeatureGraph) -> None:
    """Checks that features of the request whose values are looked for among the items may hold their keys.

    Whether an integer is the key of an item or a count can't be known: only the type is looked at.

    Raises:
        DefinitionError: one holds texts where the item's keys are integers, or the other way round.
    """
    kind = graph.key_types()[service.item]
    for part, names in _of_request(service).items():
        for feature in graph.select(names, f"{service.place}, {part}").features:
            _check(feature, [kind], f"keys of '{service.item}', which are of type {kind}", f"{service.place}, {part}")


def pinned_versions(models: Mapping[str, Artifact], place: str) -> dict[str, str]:
    """The version of the model behind each feature that the service's models were trained with.

    Raises:
        DefinitionError: two of them were trained with different ones.
    """
    found: dict[str, tuple[str, Artifact]] = {}
    for artifact in models.values():
        for feature, version in artifact.signature.models.items():
            first, other = found.setdefault(feature, (version, artifact))
            if first != version:
                raise DefinitionError(
                    f"{other.model.place} was trained with '{feature}' made by {first}, {artifact.model.place} with "
                    f"the one made by {version}",
                    where=place,
                    hint="train one of them again, so that both read the feature of one version",
                )
    return {feature: version for feature, (version, _) in found.items()}


def _of_request(service: Service) -> dict[str, list[str]]:
    """The features of the request that hold keys, by the part that reads them."""
    always = [name for s in service.sources if isinstance(s, Retrieval) for name in s.always]
    recent = [source.feature for source in service.sources if isinstance(source, Recent)]
    return {"exclude": list(service.exclude), "always": always, "recent": recent}


def _of_item(service: Service) -> list[tuple[str, str]]:
    """The features of the candidate, each with the part that reads it."""
    found = [("quota", quota.feature) for quota in service.quotas]
    if service.diversity is not None and service.diversity.by is not None:
        found.append(("diversity", service.diversity.by))
    return found if service.fallback is None else [*found, ("fallback", service.fallback)]


def _check_one(
    graph: FeatureGraph, name: str, kinds: Sequence[Type], expected: str, service: Service, part: str
) -> None:
    place = f"{service.place}, {part}"
    [feature] = graph.select([name], place).features
    if feature.is_list:
        raise DefinitionError(f"'{name}' is a list, expected {expected}", where=place)
    _check(feature, kinds, expected, place)


def _check(feature: Feature, kinds: Sequence[Type], expected: str, place: str) -> None:
    if feature.type not in kinds:
        raise DefinitionError(f"'{feature.name}' holds values of type {feature.type}, expected {expected}", where=place)
