"""The feature server: what it answers equals a lookup in the online store, in JSON and in Arrow, over real HTTP."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import shop
from troubled_store import TroubledStore

from bedplate import Client
from bedplate.aggregations.ordered import Last
from bedplate.client.errors import UnauthorizedError
from bedplate.errors import ConfigError
from bedplate.features.context import Context
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.features.links import Link
from bedplate.features.lookup import lookup_table
from bedplate.features.view import FeatureView
from bedplate.http.door import OPEN_PATHS
from bedplate.http.message import Limits, Request
from bedplate.http.tokens import Tokens, read_tokens
from bedplate.online import keys
from bedplate.online.base import Changes
from bedplate.online.fallback import FallbackReader
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.feature_plan import FeatureLookup, warm_up
from bedplate.testing.online_store import grouped

ARROW = "application/vnd.apache.arrow.stream"
TOKEN = "a-token-of-the-web-team"
LAST = FeatureView("last", shop.customer, shop.source, {"product": Last("product_id")})
QUERY = Context("query", str)
SAME = DerivedFeature("same", pl.col("request.query") == pl.col("last.product"))
NAMES = ["customers.*", "last.product", "products.price", "products.sold", "pairs.*", "ratio", "hour", "same"]
CUSTOMERS, PRODUCTS = [3, 4, 99, 3], ["P01", shop.FREE, "P02", "NEW"]
KEYS = {"customer": CUSTOMERS, "product": PRODUCTS}
QUERIES = ["P01", None, "P07", "x"]


@pytest.fixture(scope="module")
def graph() -> FeatureGraph:
    views = [shop.customers, shop.products, shop.pairs, LAST]
    return FeatureGraph(views, [shop.hour, shop.ratio, SAME], contexts=[QUERY])


@pytest.fixture(scope="module")
def store(graph: FeatureGraph) -> Iterator[Any]:
    with TroubledStore(MemoryStore()) as store:
        for view in graph.views.values():
            bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
        yield store


@pytest.fixture(scope="module")
def features(graph: FeatureGraph, store: TroubledStore) -> FeatureLookup:
    found = FeatureLookup(graph, FallbackReader(store, 5.0), most_keys=500, clock=lambda: shop.NOW)
    assert warm_up(found) == {}
    return found


@pytest.fixture(scope="module")
def app(features: FeatureLookup) -> FeatureApp:
    app = FeatureApp()
    app.open(features)
    return app


@pytest.fixture(scope="module")
def url(app: FeatureApp) -> Iterator[str]:
    with shop.running(app.handle, limits=Limits(waiting=8, body_bytes=100_000)) as server:
        yield server.url.removeprefix("http://")


@pytest.fixture(scope="module")
def expected(graph: FeatureGraph, store: TroubledStore) -> pl.DataFrame:
    found = lookup_table(graph, OnlineReader(store), NAMES, KEYS, shop.NOW, {"query": QUERIES})
    return found.drop("customer", "product", "time")


def test_a_lost_text_is_no_value_and_said(graph: FeatureGraph) -> None:
    store = MemoryStore()
    for view in graph.views.values():
        bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
    names, given = ["last.product"], {"customer": [3, 4]}
    reader = OnlineReader(store)
    before = lookup_table(graph, reader, names, given, shop.NOW).to_dicts()
    [lost] = [key for key, value in store.scan(keys.TEXTS) if value.endswith(before[0]["last.product"].encode())]
    store.commit(Changes(drops=[lost]))
    app = FeatureApp()
    app.open(FeatureLookup(graph, FallbackReader(store), most_keys=500, clock=lambda: shop.NOW))
    with shop.running(app.handle) as server:
        place = server.url.removeprefix("http://")
        for headers in ({}, {"Accept": ARROW}):
            status, got, body = post(place, {"features": names, "keys": given}, **headers)
            assert status == 200
            if headers:
                values = pl.read_ipc_stream(io.BytesIO(body)).to_dict(as_series=False)
                degraded = msgspec.json.decode(got["bedplate-degraded"])
            else:
                answer = msgspec.json.decode(body)
                values, degraded = answer["values"], answer["degraded"]
            same = before[1]["last.product"] == before[0]["last.product"]
            assert values["last.product"] == [None, None if same else before[1]["last.product"]]
            assert degraded == {"last": {"texts": 1 + same}}


def test_the_hint_for_a_body_that_is_no_json_is_a_body(url: str) -> None:
    hint = refused(url, b"{")["hint"]
    assert msgspec.json.decode(hint.removeprefix("for example ")).keys() == {"features", "keys"}


def post(url: str, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(url, timeout=30)
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/v1/features", content, named)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, answer


def stream(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_ipc_stream(out, compat_level=pl.CompatLevel.oldest())
    return out.getvalue()


def refused(url: str, body: Any, status: int = 400, **headers: str) -> dict[str, str]:
    got, _, answer = post(url, body, **headers)
    assert got == status, answer
    return msgspec.json.decode(answer)


def test_json_equals_a_lookup(url: str, expected: pl.DataFrame) -> None:
    body = {"features": NAMES, "keys": KEYS, "context": {"query": QUERIES}}
    status, _, answer = post(url, body)
    found = msgspec.json.decode(answer)
    assert (status, found["rows"], found["time"]) == (200, 4, shop.NOW)
    assert "degraded" not in found
    assert found["values"] == expected.to_dict(as_series=False)
    assert found["values"]["products.price"] == [1.5, None, 2.5, None]


@pytest.mark.parametrize("asks_in_arrow", [False, True])
def test_arrow_equals_a_lookup(url: str, expected: pl.DataFrame, asks_in_arrow: bool) -> None:
    if asks_in_arrow:
        kinds = pl.Series("customer", CUSTOMERS, pl.Int32), pl.Series("product", PRODUCTS, pl.Categorical)
        frame = pl.DataFrame([*kinds, pl.Series("query", QUERIES)])
        extra = {"Content_Type": ARROW, "Bedplate_Features": ", ".join(NAMES), "Bedplate_Time": str(shop.NOW)}
        status, headers, answer = post(url, stream(frame), Accept=ARROW, **extra)
    else:
        status, headers, answer = post(
            url, {"features": NAMES, "keys": KEYS, "context": {"query": QUERIES}}, Accept=ARROW
        )
    assert (status, headers["content-type"], headers["bedplate-time"]) == (200, ARROW, str(shop.NOW))
    assert "bedplate-degraded" not in headers
    found = pl.read_ipc_stream(io.BytesIO(answer))
    assert found.equals(expected)
    assert found["products.price"].to_list() == [1.5, None, 2.5, None]


def test_one_key_is_that_of_every_row(url: str, expected: pl.DataFrame) -> None:
    body = {"features": ["pairs.times", "customers.all"], "keys": {"customer": 3, "product": ["P01", "P02"]}}
    found = msgspec.json.decode(post(url, body)[2])
    assert found["rows"] == 2
    assert found["values"]["customers.all"] == [expected["customers.all"][0]] * 2


def test_no_keys_are_no_rows(url: str) -> None:
    body = {"features": ["products.price"], "keys": {"product": []}}
    assert msgspec.json.decode(post(url, body)[2])["values"] == {"products.price": []}
    assert pl.read_ipc_stream(io.BytesIO(post(url, body, Accept=ARROW)[2])).shape == (0, 1)


def test_keys_that_features_hold_are_followed() -> None:
    link = Link("latest", "last.product", shop.product)
    graph = FeatureGraph([shop.products, LAST], links=[link])
    with MemoryStore() as store:
        for view in graph.views.values():
            bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
        features = FeatureLookup(graph, FallbackReader(store), clock=lambda: shop.NOW)
        app = FeatureApp()
        app.open(features)
        name = "latest.products.price"
        assert name in graph.features, list(graph.features)
        body = msgspec.json.encode({"features": [name], "keys": {"customer": [3, 99]}})
        found = msgspec.json.decode(app.handle(Request("POST", "/v1/features", {}, body)).body)
        table = lookup_table(graph, OnlineReader(store), [name], {"customer": [3, 99]}, shop.NOW)
        assert found["values"][name] == table[name].to_list()
        assert found["values"][name][1] is None


def test_a_plan_is_made_once(features: FeatureLookup) -> None:
    assert features.plan(["ratio", "hour"]) is features.plan(["ratio", "hour"])
    assert features.plan(["hour", "ratio"]) is not features.plan(["ratio", "hour"])


@pytest.mark.parametrize(
    ("body", "error", "where"),
    [
        ({"features": ["products.prize"], "keys": {}}, "unknown feature 'products.prize'", "$.features"),
        ({"features": []}, "got no features, expected at least one", "$.features"),
        ({"features": ["ratio"] * 1001}, "got 1,001 names, expected at most 1,000", "$.features"),
        ({"features": ["ratio"], "keys": {"customer": [1]}}, "got no keys of 'product'", "$.keys"),
        ({"features": ["products.price"], "keys": {"product": ["a"], "cust": [1]}}, "no keys of 'cust'", "$.keys"),
        ({"features": ["products.price"], "keys": {"product": ["a", 7]}}, "got `int`", "$.keys.product[1]"),
        (
            {"features": ["customers.all"], "keys": {"customer": [2**63]}},
            "got 9223372036854775808, exp",
            "$.keys.customer",
        ),
        ({"features": ["customers.all"], "keys": {"customer": [1.5]}}, "got `float`", "$.keys.customer[0]"),
        ({"features": ["customers.all"], "keys": {"customer": [3, None]}}, "got `null`", "$.keys.customer[1]"),
        ({"features": ["customers.all"], "keys": {"customer": {"a": 1}}}, "got `object`", "$.keys.customer[0]"),
        ({"features": ["ratio"], "keys": {"customer": [1, 2], "product": ["a"] * 3}}, "as many of each", "$.keys"),
        ({"features": ["hour"], "time": 5}, "expected microseconds", "$.time"),
        ({"features": ["same"], "keys": {"customer": 1}, "context": {"query": 5}}, "of type string", "$.context"),
        ({"features": ["same"], "keys": {"customer": 1}, "context": {"quary": "x"}}, "'quary'", "$.context"),
        ({"features": ["same"], "keys": {"customer": 1}}, "no values of the context 'query'", "$.context"),
        ({"features": ["hour"], "kees": {}}, "unknown field `kees`", "$"),
        (b"{", "not JSON", None),
    ],
)
def test_wrong_requests_say_what_is_wrong(url: str, body: Any, error: str, where: str | None) -> None:
    found = refused(url, body)
    assert error in found["error"]
    assert where is None or found["where"].startswith(where)


def test_what_is_not_json_is_answered_with_a_request_of_the_project(url: str) -> None:
    example = json.loads(refused(url, b"{")["hint"].removeprefix("for example "))
    assert example == {"features": ["customers.*"], "keys": {"customer": [1]}}


def test_wrong_arrow_says_what_is_wrong(url: str) -> None:
    headers = {"Content_Type": ARROW, "Bedplate_Features": "products.price"}
    assert "not an Arrow IPC stream" in refused(url, b"arrow", **headers)["error"]
    assert "not an Arrow IPC stream" in refused(url, b"", **headers)["error"]
    null = refused(url, stream(pl.DataFrame({"product": ["P01", None]})), **headers)
    assert (null["error"], null["where"]) == ("got 1 null keys, the first at position 1", "column 'product'")
    assert "no keys of 'price'" in refused(url, stream(pl.DataFrame({"price": [1]})), **headers)["error"]
    whole = stream(pl.DataFrame({"product": shop.PRODUCTS}))
    rng = np.random.default_rng(0)
    for _ in range(200):  # whatever is in the stream, the server lives
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] = rng.integers(256)
        assert post(url, bytes(broken), **headers)[0] in (200, 400, 413, 415)


def test_limits(url: str) -> None:
    many = refused(url, {"features": ["products.price"], "keys": {"product": ["a"] * 501}}, 413)
    assert many["error"] == "got 501 keys, expected at most 500"
    large = refused(url, b" " * 100_001, 413)
    assert large["error"] == "the request's body is larger than 100000 bytes"


def test_those_that_come_while_many_wait_are_refused(app: FeatureApp) -> None:
    """While one request is at work eleven others come: some wait, the others are told to come again."""
    entered, go_on = threading.Event(), threading.Event()

    def slow(request: Request) -> Any:
        if not entered.is_set():
            entered.set()
            go_on.wait(20)
        return app.handle(request)

    with shop.running(slow, limits=Limits(waiting=3)) as server:
        address, body = ("127.0.0.1", server.port), b'{"features":["hour"]}'
        asked = b"POST /v1/features HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        sockets = [socket.create_connection(address, timeout=20) for _ in range(12)]
        sockets[0].sendall(asked)
        assert entered.wait(20)
        for other in sockets[1:]:
            other.sendall(asked)
        time.sleep(0.2)
        go_on.set()
        answers = [s.recv(4096) for s in sockets]
        statuses = [int(a.split()[1]) for a in answers]
        assert statuses[0] == 200
        assert sorted(set(statuses)) == [200, 429]
        assert statuses.count(200) >= 4
        refusal = answers[statuses.index(429)]
        assert b"Retry-After: 1" in refusal
        assert b'{"error":"too many requests wait"' in refusal
        sockets[0].sendall(asked)
        assert sockets[0].recv(4096).startswith(b"HTTP/1.1 200")
        for one in sockets:
            one.close()


def test_tokens(features: FeatureLookup, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tokens").write_text(f"# of the web team\n\n{TOKEN}\nanother-long-token\n")
    app = FeatureApp(has_tokens=True)
    app.open(features)
    with shop.running(app.handle, tokens=Tokens(read_tokens(tmp_path / "tokens"))) as server:
        url = server.url.removeprefix("http://")
        body = {"features": ["hour"]}
        for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}):
            status, headers, answer = post(url, body, **wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert TOKEN.encode() not in answer
        assert post(url, body, Authorization=f"Bearer {TOKEN}")[0] == 200
        assert post(url, body, Authorization="bearer another-long-token")[0] == 200
        with Client(server.url) as client:
            for path in set(app.paths) - OPEN_PATHS | {"/", "/v1", "/metrics/"}:
                for method in ("GET", "POST"):
                    with pytest.raises(UnauthorizedError):
                        client.request(method, path)
            assert client.request("GET", "/healthz")[0]
            described = msgspec.json.decode(client.request("GET", "/openapi.json")[0])
        with Client(server.url, token=TOKEN) as client:
            assert b"bedplate_requests_total" in client.request("GET", "/metrics")[0]
    for path, of_path in described["paths"].items():
        [operation] = of_path.values()
        assert bool(operation.get("security")) == (path not in OPEN_PATHS)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("text", ["short\n", "has a space in the middle\n", "# none\n"])
def test_wrong_tokens_are_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Tokens(read_tokens(tmp_path / "tokens"))
    assert text.strip("# \n") not in str(caught.value)


def test_it_answers_while_the_store_is_down(graph: FeatureGraph, store: TroubledStore) -> None:
    app = FeatureApp()
    app.open(FeatureLookup(graph, FallbackReader(store, 10.0), clock=lambda: shop.NOW))
    body = msgspec.json.encode({"features": ["last.product", "customers.all"], "keys": {"customer": [3, 4]}})
    warm = msgspec.json.encode({"features": ["last.product", "customers.all"], "keys": {"customer": [3]}})
    well = msgspec.json.decode(app.handle(Request("POST", "/v1/features", {}, warm)).body)["values"]
    store.mood = "down"
    try:
        answers = [app.handle(Request("POST", "/v1/features", {}, body)) for _ in range(3)]
        in_arrow = app.handle(Request("POST", "/v1/features", {b"accept": ARROW.encode()}, body))
        health = msgspec.json.decode(app.handle(Request("GET", "/healthz", {}, b"")).body)
    finally:
        store.mood = "well"
    found = msgspec.json.decode(answers[0].body)
    assert found["values"] == {name: [values[0], None] for name, values in well.items()}
    for flag in (found["degraded"], msgspec.json.decode(dict(in_arrow.headers)[b"Bedplate-Degraded"])):
        assert {view: f["cached"] + f["default"] for view, f in flag.items()} == {"last": 2, "customers": 2}
    assert health == {"ready": True, "store": "down"}
    text = app.handle(Request("GET", "/metrics", {}, b"")).body.decode()
    assert 'bedplate_degraded_rows_total{view="last",how="default"} 4' in text
    assert 'bedplate_requests_total{route="features",status="200"} 5' in text
    assert "bedplate_online_up 0" in text


def test_a_view_that_is_not_loaded_is_named(graph: FeatureGraph) -> None:
    with MemoryStore() as empty:
        features = FeatureLookup(graph, FallbackReader(empty), clock=lambda: shop.NOW)
        assert set(warm_up(features)) == set(graph.views)
        app = FeatureApp()
        app.open(features)
        body = msgspec.json.encode({"features": ["products.price"], "keys": {"product": ["P01"]}})
        response = app.handle(Request("POST", "/v1/features", {}, body))
        assert (response.status, b"bedplate materialize" in response.body) == (503, True)


def test_before_it_is_ready_it_says_so() -> None:
    app = FeatureApp()
    assert [app.handle(Request("GET", p, {}, b"")).status for p in ("/healthz", "/openapi.json")] == [503, 503]
    assert app.handle(Request("GET", "/v1/features", {}, b"")).status == 405
    assert app.handle(Request("GET", "/v1/feature", {}, b"")).status == 404


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else {r for v in value.values() for r in references(v)}
    return {r for v in value for r in references(v)} if isinstance(value, list) else set()


def test_the_openapi_file_is_whole(app: FeatureApp, graph: FeatureGraph) -> None:
    found = msgspec.json.decode(app.handle(Request("GET", "/openapi.json", {}, b"")).body)
    assert re.fullmatch(r"3\.1\.\d+", found["openapi"])
    assert set(found["info"]) == {"title", "version"}
    assert set(found["paths"]) == set(app.paths)
    for methods in found["paths"].values():
        for method, operation in methods.items():
            assert method in ("get", "post")
            assert operation["operationId"]
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d", status)
                assert response["description"]
            for parameter in [*operation.get("parameters", []), *found["components"]["parameters"].values()]:
                assert {"name", "in", "schema"} <= set(parameter) or set(parameter) == {"$ref"}
    of_any = {"200", "400", "405", "408", "413", "415", "417", "431", "500", "501", "503"}
    for path, method, statuses in (
        ("/v1/features", "post", of_any | {"409", "429", "504"}),
        ("/metrics", "get", of_any | {"429", "504"}),
        ("/openapi.json", "get", of_any | {"429", "504"}),
        ("/healthz", "get", of_any),
    ):
        assert set(found["paths"][path][method]["responses"]) == statuses
        asked = {reference.rpartition("/")[2] for reference in references(found["paths"][path][method])}
        assert ({"timeout", "priority"} <= asked) == ("429" in statuses)
    schemas, parameters = found["components"]["schemas"], found["components"]["parameters"]
    assert {p["name"] for p in parameters.values()} == {"X-Request-Timeout-Ms", "X-Request-Priority"}
    assert references(found) == {
        *(f"#/components/schemas/{name}" for name in schemas),
        *(f"#/components/parameters/{name}" for name in parameters),
    }  # fmt: skip
    values = schemas["FeaturesAnswer"]["properties"]["values"]["properties"]
    assert set(values) == set(graph.features)
    assert values["customers.bought"]["items"] == {"type": "array", "items": {"type": "string"}}
    assert values["products.price"]["items"] == {"type": ["number", "null"]}
    asked = schemas["FeaturesRequest"]["properties"]
    assert set(asked["keys"]["properties"]) == {"customer", "product"}
    assert "customers.*" in asked["features"]["items"]["enum"]
