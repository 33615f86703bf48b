"""Statuses and bodies of every route, through a server and the client."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
from typing import Any

import numpy as np
import pytest
import shop

from bedplate import Client
from bedplate.errors import AheadError, ConfigError, RequestError, StoreError
from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request
from bedplate.registry.registry import Registry
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App


def call(server: Any, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    is_json = response.getheader("Content-Type") == "application/json" and content
    return response.status, json.loads(content) if is_json else content, response.headers


def test_the_client_asks_over_one_connection(server: Any) -> None:
    with Client(server.url) as client:
        assert client.ready()
        answer = client.recommend(customer=3, count=4)
        [first] = client._connections.idle
        assert len(answer.ids) == 4
        ranked = client.rank(customer=3, candidates=list(answer.ids))
        assert ranked.scores == answer.scores
        assert client._connections.idle == [first]
        assert client.describe()["models"] == {"ranking": "ranker:1", "retrieval": "towers:1"}


def test_infer_gives_the_scores_of_rank(server: Any, pipeline: Pipeline) -> None:
    batch = shop.sample_batch(shop.graph(), 2)
    tensors = pipeline.models["ranking"].encoder.encode(batch)
    expected = pipeline.models["ranking"].run(batch, "score")
    with Client(server.url) as client:
        for version in (None, "1"):
            got = client.infer("ranker", tensors, version=version)
            assert np.array_equal(got["score"], expected)
        assert client.infer("towers", {"request_dense": tensors["request_dense"]}, outputs=["query"])[
            "query"
        ].shape == (2, 4)
    inputs = [
        {"name": n, "shape": a.shape, "datatype": "FP32" if a.dtype == np.float32 else "INT64", "data": a.tolist()}
        for n, a in tensors.items()
    ]
    status, answer, _ = call(server, "POST", "/v2/models/ranker/infer", json.dumps({"inputs": inputs}).encode())
    assert status == 200
    assert np.array_equal(np.array(answer["outputs"][0]["data"], np.float32), expected)


def test_metadata_and_health(server: Any) -> None:
    assert "binary_tensor_data" in call(server, "GET", "/v2")[1]["extensions"]
    assert call(server, "GET", "/v2/health/live")[:2] == (200, {"live": True})
    assert call(server, "GET", "/v2/health/ready")[:2] == (200, {"ready": True})
    assert call(server, "GET", "/v2/models/ranker/versions/1/ready")[:2] == (200, {"name": "ranker", "ready": True})
    shown = call(server, "GET", "/v2/models/ranker")[1]
    assert shown["versions"] == ["1"]
    assert {"name": "score", "datatype": "FP32", "shape": [-1]} in shown["outputs"]
    assert {"name": "item_ids", "datatype": "INT64", "shape": [-1, 1]} in shown["inputs"]
    status, text, headers = call(server, "GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert b'bedplate_requests_total{route="live",status="200"}' in text
    assert b'le="+Inf"' in text
    status, _, headers = call(server, "HEAD", "/v2")
    assert status == 200
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "where", "message"),
    [
        ("GET", "/nothing", None, 404, None, "/nothing"),
        ("GET", "/v2/models/", None, 404, None, "no path"),
        ("GET", "/v2/models/rankr", None, 404, None, "rankr"),
        ("GET", "/v2/models/ranker/versions/7", None, 404, None, "'7'"),
        ("GET", "/v2/models/ranker/versions", None, 404, None, "no path"),
        ("POST", "/v2/models/nobody/infer", b"{}", 404, None, "nobody"),
        ("GET", "/recommend", None, 405, None, "expected POST"),
        ("PUT", "/rank", b"{}", 405, None, "expected POST"),
        ("DELETE", "/v2", None, 405, None, "GET, HEAD"),
        ("GET", "/v2/models/ranker/infer", None, 405, None, "expected POST"),
        ("POST", "/recommend", b"", 400, None, "not JSON"),
        ("POST", "/recommend", b"{", 400, None, "not JSON"),
        ("POST", "/recommend", b"\xff", 400, None, ""),
        ("POST", "/recommend", b"[1]", 400, "$", "array"),
        ("POST", "/recommend", b"{}", 400, "$", "customer"),
        ("POST", "/recommend", b'{"customer": "3"}', 400, "$.customer", "Expected `int`, got `str`"),
        ("POST", "/recommend", b'{"customer": 3.5}', 400, "$.customer", "int"),
        ("POST", "/recommend", b'{"customer": null}', 400, "$.customer", "int"),
        ("POST", "/recommend", b'{"customer": 99999999999999999999}', 400, "$.customer", "int"),
        ("POST", "/recommend", b'{"customer": 3, "count": 0}', 400, "$.count", ">= 1"),
        ("POST", "/recommend", b'{"customer": 3, "count": 21}', 400, "$.count", "<= 20"),
        ("POST", "/recommend", b'{"customer": 3, "exclude": ["a", 7]}', 400, "$.exclude[1]", "str"),
        ("POST", "/recommend", b'{"customer": 3, "cuont": 2}', 400, "$", "cuont"),
        ("POST", "/recommend", b'{"customer": 3, "time": "noon"}', 400, "$.time", "ISO 8601"),
        ("POST", "/recommend", b'{"customer": 3, "time": -5}', 400, "$.time", "microseconds"),
        ("POST", "/recommend", b'{"customer": 3, "time": 1768568400}', 400, "$.time", "microseconds"),
        ("POST", "/recommend", b'{"customer": 3, "time": 1768568400000}', 400, "$.time", "microseconds"),
        ("POST", "/recommend", b'{"customer": 3, "time": 99999999999999999999}', 400, "$.time", ""),
        ("POST", "/recommend", b'{"customer": 3, "trace": 1}', 400, "$.trace", "bool"),
        ("POST", "/rank", b'{"customer": 3}', 400, "$", "candidates"),
        ("POST", "/rank", b'{"customer": 3, "candidates": "P01"}', 400, "$.candidates", "array"),
        ("POST", "/rank", b'{"customer": 3, "candidates": [["P01"]]}', 400, "$.candidates[0]", "str"),
        ("POST", "/rank", b'{"customer": 3, "candidates": ["' + b"x" * 2000 + b'"]}', 400, "$.candidates[0]", "1024"),
        ("POST", "/rank", json.dumps({"customer": 3, "candidates": ["P"] * 1001}).encode(), 400, "$.candidates", "100"),
        ("POST", "/rank", b'{"customer":' + b"[" * 3000, 400, None, ""),
        ("POST", "/v2/models/ranker/infer", b"{}", 400, None, "inputs"),
        ("GET", "/v2/models/ranker/versions/7/stats", None, 404, None, "'7'"),
        ("GET", "/v2/models/rankr/config", None, 404, None, "rankr"),
        ("POST", "/v2/models/ranker/config", b"", 405, None, "expected GET"),
        ("GET", "/v2/repository/index", None, 405, None, "expected POST"),
        ("POST", "/v2/repository/index", b"[", 400, "body", "not what"),
        ("POST", "/v2/repository/models/ranker/load", b'{"parameters": 3}', 400, "body", "not what"),
        ("POST", "/v2/repository/models/ranker/load", b"", 400, None, "can't be loaded"),
        ("POST", "/v2/repository/models/ranker/unload", b"", 400, None, "can't be loaded"),
        ("POST", "/v2/repository/models//load", b"", 404, None, "no path"),
    ],
)
def test_every_wrong_request_gets_its_status_and_says_where(
    server: Any, method: str, path: str, body: bytes | None, status: int, where: str | None, message: str
) -> None:
    got, answer, headers = call(server, method, path, body)
    assert got == status
    assert message in answer["error"]
    assert answer.get("where") == where or where is None
    assert "Traceback" not in str(answer)
    if status == 405:
        assert headers["Allow"] in ("POST", "GET, HEAD")


def test_bodies_in_an_unknown_encoding_are_refused(server: Any) -> None:
    assert call(server, "POST", "/rank", b"x", Content_Encoding="br")[0] == 415
    assert call(server, "POST", "/rank", b"x", Content_Encoding="gzip")[0] == 400


def test_before_it_is_ready_everything_but_liveness_is_503() -> None:
    app = App()
    for method, path in (
        ("GET", "/v2/health/ready"), ("POST", "/recommend"), ("POST", "/rank"), ("GET", "/"),
        ("GET", "/v2/models/ranker"), ("POST", "/v2/models/ranker/infer"),
    ):  # fmt: skip
        assert app.handle(Request(method, path, {}, b"{}")).status == 503
    assert app.handle(Request("GET", "/v2/health/live", {}, b"")).status == 200


def test_while_it_drains_it_is_not_ready_and_still_answers(pipeline: Pipeline) -> None:
    app = App()
    app.open(pipeline)
    app.close()
    assert app.handle(Request("GET", "/v2/health/ready", {}, b"")).status == 503
    assert app.handle(Request("POST", "/recommend", {}, b'{"customer": 3}')).status == 200


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [("/recommend", b'{"customer": 3, "cuont": 2}', "count"), ("/rank", b'{"customer": 3}', "customer, candidates")],
)
def test_a_wrong_field_gets_a_hint(pipeline: Pipeline, path: str, body: bytes, hint: str) -> None:
    app = App()
    app.open(pipeline)
    assert hint in json.loads(app.handle(Request("POST", path, {}, body)).body)["hint"]


SOON = 10**15


class Trouble(shop.Oracle):
    """Fails when the time asked for is one of these."""

    def read(self, view: Any, names: Any, keys: Any, times: Any) -> Any:
        if times[0] == SOON + 7:
            raise AheadError("the store is ahead of the time asked for", where=view.place)
        if times[0] == SOON + 8:
            raise StoreError("the disk is gone", where=view.place)
        return super().read(view, names, keys, times)


def test_a_store_that_is_ahead_is_409_and_one_that_is_gone_503(registry: Registry, features: FeatureGraph) -> None:
    from bedplate.serving.load import load_pipeline

    app = App()
    app.open(load_pipeline(shop.service(), features, Trouble(features), registry, clock=lambda: shop.NOW))
    for time, status, message in ((SOON + 7, 409, "ahead of the time"), (SOON + 8, 503, "disk is gone")):
        body = json.dumps({"customer": 3, "time": time}).encode()
        response = app.handle(Request("POST", "/recommend", {}, body))
        assert response.status == status
        assert message in json.loads(response.body)["error"]
        assert json.loads(response.body)["where"] == "view 'customers'"


def test_the_client_raises_what_the_service_says(server: Any) -> None:
    with Client(server.url) as client:
        with pytest.raises(RequestError, match=r"\$.customer: 400: Expected `int`"):
            client.recommend(customer="x")
        with pytest.raises(RequestError, match="404"):
            client.infer("nobody", {})
        assert client.recommend(customer=3).ids
    with Client("http://127.0.0.1:9") as nobody:
        assert not nobody.ready()
        with pytest.raises(StoreError, match="no answer"):
            nobody.recommend(customer=3)
    for url in ("127.0.0.1:8000", "ftp://x", "http://", "http://x:y"):
        with pytest.raises(ConfigError, match="expected http"):
            Client(url)


def test_the_client_opens_a_connection_again_that_was_closed(app: App) -> None:
    from bedplate.http.message import Limits

    with shop.running(app.handle, limits=Limits(idle_seconds=0.2)) as server, Client(server.url) as client:
        assert client.recommend(customer=3).ids
        import time

        time.sleep(1.5)
        assert client.recommend(customer=3).ids


def test_what_does_not_change_is_found_out_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes ask again and again, on the thread that answers everybody."""
    asked = [app.handle(Request("GET", "/v2", {}, b"")).body]  # type: ignore[union-attr]
    monkeypatch.setattr(importlib.metadata, "version", lambda _: pytest.fail("files are read"))
    asked.append(app.handle(Request("GET", "/v2", {}, b"")).body)  # type: ignore[union-attr]
    assert asked[0] == asked[1]
    assert json.loads(asked[0])["name"] == "bedplate"
