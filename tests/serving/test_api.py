"""Vectors, nearest items, and answers as tables; the description of all of it, tried out with requests made from it."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import schemathesis
import shop
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request, Response
from bedplate.registry.registry import Registry
from bedplate.serving.answers import Similar
from bedplate.serving.arrow import ANSWER_HEADER, ARROW, REQUEST_HEADER, answer_stream
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App
from bedplate.serving.steps import Diversity, Given, Popular, Quota, Recent, Retrieval, Softmax
from bedplate.types import Type


@pytest.fixture(scope="module")
def full(registry: Registry, features: FeatureGraph) -> Pipeline:
    """A service with every step."""
    sources = [Given(4), Recent("customers.bought", 3), Popular("products.sold", 6), Retrieval("towers@champion", 8)]
    return shop.pipeline(
        registry,
        features,
        retrieval=None,
        candidates=sources,
        diversity=Diversity(0.3),
        quotas=[Quota("pairs.times", 4)],
        exploration=Softmax(1.0),
        budgets={"filter": "1s", "select": "1s"},
    )


@pytest.fixture(scope="module")
def ask(full: Pipeline) -> Any:
    app = App()
    app.open(full)

    def asked(path: str, body: Any = b"", method: str = "POST", **headers: str) -> Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-").lower().encode(): value.encode() for name, value in headers.items()}
        return app.handle(Request(method, path, named, content))

    return asked


def test_embed_gives_the_vector_of_a_request_and_those_of_items(ask: Any, full: Pipeline) -> None:
    catalogue, tower = full.catalogue, full.models["retrieval"]
    assert catalogue is not None
    found = msgspec.json.decode(ask("/embed", {"customer": 3, "trace": True}).body)
    assert found["models"] == {"retrieval": "towers:1"}
    assert list(found["trace"]) == ["request_features", "embed"]
    [vector] = found["vectors"]
    assert len(vector) == tower.model.outputs["query"].shape[1]
    # The nearest to it are what retrieval finds.
    best = int(np.argmax(catalogue.vectors @ np.array(vector, np.float32)))
    asked = full.wire.recommend(b'{"customer": 3}')
    request = full._hydrator.request(asked.keys, asked.time)
    retrieval = next(f for f in full._candidates.finders if f.name == "retrieval")  # type: ignore[union-attr]
    assert int(retrieval.find(request, asked, np.zeros(0, np.int64))[0]) == int(catalogue.keys[best])
    items = msgspec.json.decode(ask("/embed", {"items": ["P03", "NOWHERE"]}).body)
    position = list(catalogue.wire).index("P03")
    assert items["vectors"] == [pytest.approx(catalogue.vectors[position].tolist()), None]
    assert "time" not in items
    assert msgspec.json.decode(ask("/embed", {"customer": 99}).body)["unknown"] == {"customer": [99]}


def test_similar_gives_the_items_with_the_smallest_angle(ask: Any, full: Pipeline) -> None:
    catalogue = full.catalogue
    assert catalogue is not None
    wire = list(catalogue.wire)
    unit = catalogue.vectors / np.linalg.norm(catalogue.vectors, axis=1, keepdims=True)
    cosines = unit @ unit[wire.index("P03")]
    expected = [wire[i] for i in np.argsort(-cosines) if wire[i] not in ("P03", "P05")][:7]
    found = msgspec.json.decode(ask("/similar", {"item": "P03", "count": 7, "exclude": ["P05"]}).body)
    assert found["ids"] == expected
    assert found["scores"] == pytest.approx([float(cosines[wire.index(p)]) for p in expected], abs=1e-6)
    missing = ask("/similar", {"item": "NOWHERE"})
    assert (missing.status, msgspec.json.decode(missing.body)["where"]) == (404, "$.item")


def test_a_service_without_an_index_has_no_vectors(registry: Registry, features: FeatureGraph) -> None:
    app = App()
    app.open(shop.pipeline(registry, features, retrieval=None, filters=[], exclude=[]))
    for path in ("/embed", "/similar", "/recommend"):
        response = app.handle(Request("POST", path, {}, b'{"customer": 3}'))
        assert response.status == 400
        assert b"no retrieval" in response.body
    paths = msgspec.json.decode(app.handle(Request("GET", "/openapi.json", {}, b"")).body)["paths"]
    assert "/rank" in paths
    assert "/recommend" not in paths


def table(response: Response) -> tuple[pl.DataFrame, dict[str, Any]]:
    assert (response.status, response.content_type) == (200, ARROW)
    headers = {name.decode(): value for name, value in response.headers}
    return pl.read_ipc_stream(io.BytesIO(response.body)), json.loads(headers[ANSWER_HEADER])


def test_answers_as_tables_are_those_in_json(ask: Any) -> None:
    accept = {"Accept": ARROW.decode()}
    asked = {"customer": 3, "seed": 7, "count": 9}
    shown = msgspec.json.decode(ask("/recommend", asked).body)
    frame, rest = table(ask("/recommend", asked, **accept))
    assert frame.columns == ["id", "score", "source", "propensity"]
    assert frame["id"].to_list() == shown["ids"]
    assert frame["score"].to_list() == pytest.approx(shown["scores"])
    assert frame["source"].to_list() == shown["sources"]
    assert frame["propensity"].to_list() == shown["propensities"]
    assert rest == {name: shown[name] for name in ("models", "time", "seed")}
    assert table(ask("/recommend", asked | {"customer": 99, "exclude": ["P01"]}, **accept))[1]["unknown"]
    frame, _ = table(ask("/similar", {"item": "P03"}, **accept))
    assert frame["id"].to_list() == msgspec.json.decode(ask("/similar", {"item": "P03"}).body)["ids"]
    frame, _ = table(ask("/embed", {"items": ["P03", "NOWHERE"]}, **accept))
    assert frame["vector"].is_null().to_list() == [False, True]


def test_a_table_without_rows_has_the_columns_of_one_with_some(ask: Any, full: Pipeline) -> None:
    accept, everything = {"Accept": ARROW.decode()}, [f"P{i:02}" for i in range(100)]
    frame, _ = table(ask("/recommend", {"customer": 3}, **accept))
    empty, rest = table(ask("/recommend", {"customer": 3, "exclude": [*everything, "FREE"]}, **accept))
    assert (len(frame) > 0, len(empty), "reason" in rest) == (True, 0, True)
    assert empty.schema == frame.schema
    ranked, _ = table(ask("/rank", {"customer": 3, "candidates": []}, **accept))
    assert ranked.schema == table(ask("/rank", {"customer": 3, "candidates": ["P01"]}, **accept))[0].schema
    for kind, ids, expected in ((Type.INT, [7], pl.Int64), (Type.STRING, ["P01"], pl.String)):
        for shown in (ids, []):
            answer = Similar(ids=shown, scores=[0.5] * len(shown), models={})
            assert table(answer_stream(answer, full.service, kind))[0].schema["id"] == expected


def stream(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_ipc_stream(out, compat_level=pl.CompatLevel.oldest())
    return out.getvalue()


def test_rank_takes_its_candidates_as_a_table(ask: Any) -> None:
    named = ["P07", "P01", "FREE", "nobody"]
    shown = msgspec.json.decode(ask("/rank", {"customer": 3, "candidates": named}).body)
    headers = {"Content_Type": ARROW.decode(), "Accept": ARROW.decode(), "Bedplate_Request": '{"customer": 3}'}
    assert REQUEST_HEADER == "Bedplate-Request"
    for series in (pl.Series("candidates", named), pl.Series("candidates", named, dtype=pl.Categorical)):
        frame, rest = table(ask("/rank", stream(series.to_frame()), **headers))
        assert frame["id"].to_list() == named
        assert frame["score"].to_list() == pytest.approx(shown["scores"])
        assert frame["unknown"].to_list() == [False, False, False, True]
        assert "unknown" not in rest
    for key, unknown in ((3, None), (99, {"customer": [99]})):
        body = {"customer": key, "candidates": [f"{i:0>500}" for i in range(900)]}  # more than a header holds
        frame, rest = table(ask("/rank", body, Accept=ARROW.decode()))
        assert frame["unknown"].all()
        assert rest.get("unknown") == unknown
    wrong = [
        (stream(pl.DataFrame({"x": named})), headers, "expected ['candidates']"),
        (stream(pl.DataFrame({"candidates": [1, 2]})), headers, ""),
        (stream(pl.DataFrame({"candidates": ["P01", None]})), headers, ""),
        (stream(pl.DataFrame({"candidates": named})), headers | {"Bedplate_Request": "{}"}, "customer"),
        (stream(pl.DataFrame({"candidates": named})), headers | {"Bedplate_Request": '{"candidates": []}'}, "unknown"),
        (b"no table", headers, "not an Arrow"),
        (b"", headers, "not an Arrow"),
    ]
    for body, sent, message in wrong:
        response = ask("/rank", body, **sent)
        assert response.status == 400
        assert message in msgspec.json.decode(response.body)["error"]
    too_many = ask("/rank", stream(pl.DataFrame({"candidates": ["P"] * 1001})), **headers)
    in_json = ask("/rank", {"customer": 3, "candidates": ["P"] * 1001})
    assert (too_many.status, in_json.status) == (400, 400)
    said = msgspec.json.decode(too_many.body)
    assert said == {"error": "got 1,001 rows, expected at most 1,000", "where": "column 'candidates'"}
    assert ask("/recommend", stream(pl.DataFrame({"candidates": named})), **headers).status == 400


def test_the_description_says_every_field_and_has_examples_that_work(ask: Any, full: Pipeline) -> None:
    described = msgspec.json.decode(ask("/openapi.json", method="GET").body)
    assert described["openapi"] == "3.1.0"
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                for example in content.get("examples", {}).values():
                    assert media == "application/json"
                    status = ask(path, example["value"], method=method.upper()).status
                    assert status == (404 if path == "/similar" else 200), path
            assert operation["responses"]["200"]["content"]
    # What the door, the connection and the steps may answer: see `door`, `connection` and `routes`.
    of_any = {"200", "400", "405", "408", "413", "415", "417", "431", "500", "501", "503"}
    others = of_any | {"429", "504"}
    for path, method, statuses in (
        ("/recommend", "post", others | {"401", "403", "409"}),
        ("/similar", "post", others | {"401", "403", "404", "409"}),
        ("/metrics", "get", others | {"401", "403"}),
        ("/openapi.json", "get", others),
        ("/v2/health/ready", "get", of_any),
    ):
        operation = described["paths"][path][method]
        assert set(operation["responses"]) == statuses, path
        assert operation.get("security", described["security"]) == ([{}, {"bearer": []}] if "401" in statuses else [])
        asked = [parameter.get("$ref", "").rpartition("/")[2] for parameter in operation.get("parameters", [])]
        assert asked == (["timeout", "priority"] if "429" in statuses else [])
    parameters = described["components"]["parameters"]
    assert [p["name"] for p in parameters.values()] == ["X-Request-Timeout-Ms", "X-Request-Priority"]
    assert described["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    shown = described["paths"]["/rank"]["post"]["responses"]["200"]["headers"]
    assert set(shown) == {"Bedplate-Answer", "Bedplate-Time", "Bedplate-Behind", "Bedplate-Degraded"}
    assert "gzip" in described["components"]["responses"]["415"]["description"]
    schemas = described["components"]["schemas"]
    assert set(schemas["recommend"]["properties"]) >= {"customer", "count", "exclude", "candidates", "seed", "time"}
    assert set(schemas["Answer"]["properties"]) >= {"ids", "scores", "sources", "propensities", "degraded"}
    assert set(full.wire.types) <= set(schemas)


def test_requests_made_from_the_description_are_answered_as_it_says(ask: Any, server_url: str) -> None:
    described = msgspec.json.decode(ask("/openapi.json", method="GET").body)
    described["servers"] = [{"url": server_url}]
    for operations in described["paths"].values():  # or most would be answered that they come too late
        for operation in operations.values():
            named = operation.get("parameters", [])
            operation["parameters"] = [p for p in named if not p.get("$ref", "").endswith("/timeout")]
    schema = schemathesis.openapi.from_dict(described)
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    seen: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.method.upper() != "POST":
            continue
        strategy = operation.as_strategy()
        positive_and_negative = [strategy, operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)]
        for of_mode in positive_and_negative:

            @settings(
                max_examples=15,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=of_mode)
            def one(case: Any) -> None:
                seen[case.call_and_validate(base_url=server_url, checks=checks).status_code] += 1

            one()
    assert seen[200] > 10
    assert seen[400] > 10


@pytest.fixture(scope="module")
def server_url(full: Pipeline) -> Any:
    app = App()
    app.open(full)
    with shop.running(app.handle) as server:
        yield server.url


ARROW_NAME = ARROW.decode()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/*", "json"),
        ("text/html", "json"),
        (ARROW_NAME.upper(), "arrow"),
        (f"{ARROW_NAME};q=0", "json"),
        (f"{ARROW_NAME};q=0.000, */*", "json"),
        (f"{ARROW_NAME}, */*;q=0.8", "arrow"),
        (f"{ARROW_NAME}, */*", "arrow"),
        (f"{ARROW_NAME}, application/json", "arrow"),
        (f"application/json, {ARROW_NAME} ; Q=0.9", "json"),
        (f"application/json;q=0.5,{ARROW_NAME};q=0.51", "arrow"),
        (f"*/*;q=0.1, {ARROW_NAME};q=0.05", "json"),
        (f"application/*;q=0.2, */*, {ARROW_NAME};q=0.3", "arrow"),
        ("application/json;q=0, */*", "arrow"),
        (f"{ARROW_NAME};q=2", "json"),
    ],
)
def test_the_answer_is_what_the_client_prefers(ask: Any, accept: str, expected: str) -> None:
    got = ask("/rank", {"customer": 3, "candidates": ["P01"]}, **({"Accept": accept} if accept else {}))
    assert got.content_type == {"json": b"application/json", "arrow": ARROW}[expected]
