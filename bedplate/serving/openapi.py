"""The OpenAPI 3.1 description of the feature server, made from the project's features."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from bedplate.features.graph import FeatureGraph
from bedplate.features.view import Feature
from bedplate.serving.arrow import ARROW, BEHIND_HEADER, DEGRADED_HEADER, TIME_HEADER
from bedplate.serving.feature_plan import FeatureLookup
from bedplate.serving.feature_wire import FEATURES_HEADER
from bedplate.serving.openapi_parts import BEARER, NO_TOKEN, PARAMETERS, parameters
from bedplate.types import Type

_KINDS: dict[Type, dict[str, Any]] = {
    Type.INT: {"type": "integer", "format": "int64"},
    Type.FLOAT: {"type": "number"},
    Type.BOOL: {"type": "boolean"},
    Type.STRING: {"type": "string"},
    Type.TIME: {"type": "integer", "format": "int64", "description": "microseconds since the epoch, UTC"},
}
_PROBLEMS = {
    "400": "the request is wrong; `error` says what was expected, `where` the place",
    "401": "no token, or one that is not known",
    "403": "the token's role may not ask this",
    "405": "another method than the path's",
    "408": "the request did not come whole in time",
    "409": "the time asked for is before what the online store holds",
    "413": "too many keys, or too large a body",
    "415": "the body is compressed in another way than gzip or deflate",
    "417": "`Expect` with anything but `100-continue`",
    "429": "too many requests wait; `Retry-After` says when to ask again",
    "431": "the headers are larger than the limit",
    "500": "an error inside",
    "501": "a `Transfer-Encoding` other than `chunked`",
    "503": "still loading, too busy, or no view asked for is in the store; `Retry-After` says when to ask again",
    "504": "no answer before the deadline of the request",
}

_OF_ANY = ("400", "405", "408", "413", "415", "417", "431", "500", "501")
"""What a probe may be answered too."""


def openapi(features: FeatureLookup, *, has_tokens: bool) -> dict[str, Any]:
    """The description, as JSON values.

    Args:
        features: what is served.
        has_tokens: whether requests need a bearer token.
    """
    security: list[dict[str, list[str]]] = [{"bearer": []}] if has_tokens else []
    problems = {code: _problem(text) for code, text in _PROBLEMS.items() if has_tokens or code not in ("401", "403")}
    paths: dict[str, dict[str, Any]] = {
        "/v1/features": {"post": _features_operation(problems) | {"security": security}},
        "/openapi.json": {"get": _look("openapi", "This description.", "application/json", problems)},
        "/healthz": {
            "get": _operation("health", "Whether it answers.", "application/json") | {"security": NO_TOKEN},
        },
        "/metrics": {"get": _look("metrics", "For Prometheus.", "text/plain", problems) | {"security": security}},
    }
    paths["/healthz"]["get"]["responses"] |= {code: problems[code] for code in _OF_ANY} | {
        "503": {"description": "still loading, stopping, or without any of its views"}
    }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Bedplate features", "version": importlib.metadata.version("bedplate")},
        "paths": paths,
        "components": {"schemas": _schemas(features), "parameters": PARAMETERS},
    }
    if has_tokens:
        found["components"]["securitySchemes"] = BEARER
    return found


def _features_operation(problems: dict[str, Any]) -> dict[str, Any]:
    binary = {ARROW.decode(): {"schema": {"type": "string", "contentMediaType": ARROW.decode()}}}
    text = {"schema": {"type": "string"}}
    return {
        "operationId": "features",
        "summary": "Features for keys, as of now.",
        "parameters": [
            *parameters(),
            {"in": "header", "name": FEATURES_HEADER, "description": "of a request in Arrow; by commas", **text},
            {"in": "header", "name": TIME_HEADER, "description": "of a request in Arrow: as of when", **text},
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _reference("FeaturesRequest")}} | binary,
        },
        "responses": {
            "200": {
                "description": "the values",
                "headers": {TIME_HEADER: text, BEHIND_HEADER: text, DEGRADED_HEADER: text},
                "content": {"application/json": {"schema": _reference("FeaturesAnswer")}} | binary,
            }
        }
        | problems,
    }


def _operation(name: str, summary: str, media: str) -> dict[str, Any]:
    content = {media: {"schema": {"type": "string" if media == "text/plain" else "object"}}}
    return {"operationId": name, "summary": summary, "responses": {"200": {"description": "ok", "content": content}}}


def _look(name: str, summary: str, media: str, problems: dict[str, Any]) -> dict[str, Any]:
    """An operation that waits for its turn as others do."""
    found: dict[str, Any] = _operation(name, summary, media) | {"parameters": parameters()}
    without = {"409"}
    if name == "openapi":
        found["security"] = NO_TOKEN
        without |= {"401", "403"}
    found["responses"] |= {code: problem for code, problem in problems.items() if code not in without}
    return found


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _reference("Problem")}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(features: FeatureLookup) -> dict[str, Any]:
    graph = features.graph
    keys = {entity: _several(_KINDS[kind]) for entity, kind in graph.key_types().items()}
    context = {c.name: _several(_value(c.feature)) for c in graph.contexts.values()}
    count = {"type": "integer"}
    degraded = {"cached": count, "default": count, "missing": count, "stale": count, "texts": count}
    degraded |= {"age_seconds": {"type": "number"}, "behind_seconds": {"type": "number"}}
    return {
        "FeaturesRequest": {
            "type": "object",
            "required": ["features"],
            "additionalProperties": False,
            "properties": {
                "features": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": _names(graph)}},
                "keys": {"type": "object", "additionalProperties": False, "properties": keys},
                "context": {"type": "object", "additionalProperties": False, "properties": context},
                "time": {"type": ["integer", "string", "null"]},
            },
        },
        "FeaturesAnswer": {
            "type": "object",
            "required": ["time", "rows", "values", "behind_seconds"],
            "properties": {
                "time": {"type": "integer", "format": "int64"},
                "rows": {"type": "integer", "maximum": features.most_keys},
                "values": {
                    "type": "object",
                    "properties": {
                        name: {"type": "array", "description": f.text, "items": _value(f)}
                        for name, f in graph.features.items()
                    },
                },
                "behind_seconds": {
                    "type": "object",
                    "description": "how long before `time` each view's stream was last known to be taken in",
                    "additionalProperties": {"type": "number"},
                },
                "degraded": {
                    "type": "object",
                    "additionalProperties": {"type": "object", "properties": degraded},
                },
            },
        },
        "Problem": {
            "type": "object",
            "required": ["error"],
            "properties": {name: {"type": "string"} for name in ("error", "where", "hint")},
        },
    }


def _names(graph: FeatureGraph) -> list[str]:
    return [*graph.features, *(f"{view}.*" for view in graph.groups)]


def _several(one: dict[str, Any]) -> dict[str, Any]:
    """One value for all rows, or a list of them."""
    return {"anyOf": [one, {"type": "array", "items": one}]}


def _value(feature: Feature) -> dict[str, Any]:
    """A value of a feature, or none."""
    if feature.type.width:
        vector = {"type": "number"}
        return {
            "type": ["array", "null"],
            "items": vector,
            "minItems": feature.type.width,
            "maxItems": feature.type.width,
        }
    kind = _KINDS[feature.type]
    return {"type": "array", "items": kind} if feature.is_list else kind | {"type": [kind["type"], "null"]}
