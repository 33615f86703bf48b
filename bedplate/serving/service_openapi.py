"""The OpenAPI 3.1 description of a service, made from its definition, its entities and the context that it reads."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import msgspec

from bedplate.http.door import OPEN_PATHS, is_probe
from bedplate.serving.answers import Answer, Similar, Vectors
from bedplate.serving.arrow import (
    ANSWER_HEADER,
    ARROW,
    BEHIND_HEADER,
    DEGRADED_HEADER,
    REQUEST_HEADER,
    TIME_HEADER,
)
from bedplate.serving.openapi_parts import BEARER, NO_TOKEN, PARAMETERS, parameters
from bedplate.serving.pipeline import Pipeline
from bedplate.types import Type

_JSON, _ARROW = "application/json", ARROW.decode()
_SUMMARIES = {
    "recommend": "The best items for a request.",
    "rank": "The scores of candidates that the client brings, in their order.",
    "embed": "The vector of a request, or those of items.",
    "similar": "The items nearest to an item.",
}
_ANSWERS: dict[str, Any] = {"recommend": Answer, "rank": Answer, "embed": Vectors, "similar": Similar}
_PROBLEMS = {
    "400": "The request is wrong: `error` says what was expected, `where` the field.",
    "401": "No token, or one that is not known.",
    "403": "The token's role may not ask this.",
    "404": "The index has no such item.",
    "405": "Another method than the path's.",
    "408": "The request did not come whole in time.",
    "409": "The time asked for is before what the online store holds.",
    "413": "The body, or the table in it, is larger than the limit.",
    "415": "The body is compressed in another way than gzip or deflate.",
    "417": "`Expect` with anything but `100-continue`.",
    "429": "Too many requests of this client; `Retry-After` says when to ask again.",
    "431": "The headers are larger than the limit.",
    "500": "An error inside.",
    "501": "A `Transfer-Encoding` other than `chunked`.",
    "503": "Still loading, stopping, too busy, or the store can't be read; `Retry-After` says when to ask again.",
    "504": "No answer before the deadline of the request.",
}
_TIME = "2026-01-31T12:00:00"


def service_openapi(pipeline: Pipeline) -> dict[str, Any]:
    """The description, as JSON values.

    Whether a token is needed is up to who starts the server, so it is said of a path that one may be. Tensors are asked
    for by the Open Inference Protocol, version 2, which publishes a description of its own.
    """
    types = pipeline.wire.types
    answers = [_ANSWERS[name] for name in types if name in _ANSWERS]
    _, schemas = msgspec.json.schema_components(
        [*types.values(), *dict.fromkeys(answers)], ref_template="#/components/schemas/{name}"
    )
    problem = {name: {"type": "string"} for name in ("error", "where", "hint")}
    schemas = dict(schemas) | {"Problem": {"type": "object", "required": ["error"], "properties": problem}}
    paths: dict[str, Any] = {f"/{name}": {"post": _operation(name, pipeline)} for name in types if name in _ANSWERS}
    for path, name, summary, media in (
        ("/", "describe", "The service: its models, features and requests.", _JSON),
        ("/openapi.json", "openapi", "This description.", _JSON),
        ("/metrics", "metrics", "Counts and latencies for Prometheus.", "text/plain"),
        ("/v2/health/live", "live", "Whether the process answers.", _JSON),
        ("/v2/health/ready", "ready", "Whether the models are loaded.", _JSON),
    ):
        paths[path] = {"get": _look(path, name, summary, media)}
    responses = {code: _problem(text) for code, text in _PROBLEMS.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": pipeline.service.name,
            "summary": "Items for requests, by a service of Bedplate.",
            "version": importlib.metadata.version("bedplate"),
        },
        "paths": paths,
        "security": [{}, {"bearer": []}],
        "components": {
            "schemas": schemas, "responses": responses, "parameters": PARAMETERS, "securitySchemes": BEARER,
        },
    }  # fmt: skip


def _operation(name: str, pipeline: Pipeline) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": _body_schema(name), "examples": _examples(name, pipeline)}}
    operation: dict[str, Any] = {"operationId": name, "summary": _SUMMARIES[name], "parameters": parameters()}
    if name == "rank":
        content[_ARROW] = {
            "schema": {
                "type": "string",
                "contentMediaType": _ARROW,
                "description": "a table of the one column `candidates`",
            }
        }
        operation["parameters"].append(
            {
                "in": "header",
                "name": REQUEST_HEADER,
                "description": "of a request in Arrow: the other fields, as JSON",
                "schema": {"type": "string"},
            }
        )
    operation["requestBody"] = {"required": True, "content": content}
    text = {"schema": {"type": "string"}}
    answer = {"schema": _reference(_ANSWERS[name].__name__), "example": _answer_example(name, pipeline)}
    operation["responses"] = {
        "200": {
            "description": "The answer; with `Accept: application/vnd.apache.arrow.stream` as a table of its items.",
            "headers": {ANSWER_HEADER: text, TIME_HEADER: text, BEHIND_HEADER: text, DEGRADED_HEADER: text},
            "content": {_JSON: answer, _ARROW: {"schema": {"type": "string", "contentMediaType": _ARROW}}},
        }
    } | {code: {"$ref": f"#/components/responses/{code}"} for code in _PROBLEMS if code != "404" or name == "similar"}
    return operation


def _body_schema(name: str) -> dict[str, Any]:
    if name == "embed":
        return {"anyOf": [_reference("embed"), _reference("embed_items")]}
    return _reference(name)


def _look(path: str, name: str, summary: str, media: str) -> dict[str, Any]:
    kind = {"schema": {"type": "string" if media == "text/plain" else "object"}}
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {media: kind}}},
    }
    codes = ["400", "401", "403", "405", "408", "413", "415", "417", "429", "431", "500", "501", "504"]
    if is_probe("GET", path):
        codes = [code for code in codes if code not in ("429", "504")]
    else:
        found["parameters"] = parameters()
    if path in OPEN_PATHS:
        codes = [code for code in codes if code not in ("401", "403")]
        found["security"] = NO_TOKEN
    for code in codes:
        found["responses"][code] = {"$ref": f"#/components/responses/{code}"}
    found["responses"]["503"] = {"description": "Still loading, stopping, or too busy.", "content": {_JSON: kind}}
    return found


def _problem(text: str) -> dict[str, Any]:
    example = {"error": text, "hint": "what to do"}
    return {"description": text, "content": {_JSON: {"schema": _reference("Problem"), "example": example}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _examples(name: str, pipeline: Pipeline) -> dict[str, Any]:
    wire = pipeline.wire
    keys = {entity: _key(kind) for entity, kind in wire.entities.items()}
    items = [_key(wire.item), _key(wire.item, 1)]
    found: dict[str, dict[str, Any]] = {
        "recommend": {"now": keys, "more": keys | {"count": 1, "exclude": items[1:], "time": _TIME, "trace": True}},
        "rank": {"now": keys | {"candidates": items}},
        "embed": {"request": keys, "items": {"items": items}},
        "similar": {"item": {"item": items[0], "count": 5}},
    }
    return {example: {"value": value} for example, value in found[name].items()}


def _answer_example(name: str, pipeline: Pipeline) -> dict[str, Any]:
    item = _key(pipeline.wire.item)
    if name == "embed":
        return {"vectors": [[0.6, 0.8]], "models": {"retrieval": "towers:3"}, "time": 1769860800000000}
    if name == "similar":
        return {"ids": [item], "scores": [0.93], "models": {"retrieval": "towers:3"}}
    return {"ids": [item], "scores": [0.31], "models": {"ranking": "ranker:7"}, "time": 1769860800000000}


def _key(kind: Type, number: int = 0) -> int | str:
    return f"item-{number}" if kind is Type.STRING else 17850 + number
