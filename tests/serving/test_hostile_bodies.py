"""Whatever comes in place of a request, the answer says what is wrong with it; it is never a 500, and others go on."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import socket
from typing import Any

import msgspec
import pytest
import shop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_http import Raw

from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Limits, Request, Response
from bedplate.registry.registry import Registry
from bedplate.serving.service_app import App
from bedplate.serving.steps import Diversity, Given, Recent, Retrieval, Softmax

CALLS = ("/rank", "/recommend", "/embed", "/similar")
FULL: dict[str, dict[str, Any]] = {
    "/rank": {"customer": 3, "candidates": ["P01", "P02", "FREE", "new"], "time": "2026-01-16", "trace": True},
    "/recommend": {"customer": 3, "count": 4, "exclude": ["P03"], "candidates": ["P05"], "time": shop.NOW, "seed": 7},
    "/embed": {"customer": 3, "time": "2026-01-16T09:00:00", "trace": False},
    "/similar": {"item": "P02", "count": 3, "exclude": ["P03"]},
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-(2**63) - 1, -(2**63), 2**63 - 1, 2**63, 2**64, 10**400, -1, 0, 1, 3.0, 1e308, 5e-324, -0.0]),
    st.sampled_from(
        ["", "P01", "\0", "\ud83d\ude42", "é" * 2000, "2026-02-30", "9999-12-31", "NaN", "' or 1=1 --", "../"]
    ),
    st.integers(),
    st.text(max_size=20),
)
JSON = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = sorted({name for body in FULL.values() for name in body} | {"items", "customers", "__class__", ""})
MANY = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def app(registry: Registry, features: FeatureGraph) -> App:
    """A service with everything that a client can say something about."""
    sources = [Retrieval("towers@champion", 12), Recent("customers.bought", 3), Given(4)]
    options = {"retrieval": None, "candidates": sources, "exploration": Softmax(1.0), "diversity": Diversity(0.3)}
    app = App()
    app.open(shop.pipeline(registry, features, **options))
    return app


def ask(app: App, path: str, body: bytes, **headers: bytes) -> Response:
    found = app.handle(Request("POST", path, {n.replace("_", "-").encode(): v for n, v in headers.items()}, body))
    assert isinstance(found, Response)
    return found


def check(found: Response) -> None:
    """It is an answer, or says what is wrong."""
    assert found.status == 200 or 400 <= found.status < 500, (found.status, found.body)
    if found.status != 200:
        error = json.loads(found.body)
        assert error["error"].strip()
        assert "Traceback" not in error["error"]


def written(value: Any) -> bytes:
    """JSON as other programs write it: with NaN, and any integer, and halves of surrogate pairs."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    """A log that clients can fill hides what is to be seen."""
    with caplog.at_level(logging.WARNING, logger="bedplate"):
        yield
    assert caplog.messages == []


@pytest.mark.parametrize("path", CALLS)
def test_what_the_others_are_changed_from_is_answered(app: App, path: str) -> None:
    assert ask(app, path, written(FULL[path])).status == 200


@MANY
@given(path=st.sampled_from(CALLS), value=JSON)
def test_any_json_is_answered(app: App, path: str, value: Any) -> None:
    check(ask(app, path, written(value)))


@MANY
@given(path=st.sampled_from(CALLS), changes=st.dictionaries(st.sampled_from(NAMES), JSON, min_size=1, max_size=3))
def test_any_value_of_a_field_is_answered(app: App, path: str, changes: dict[str, Any]) -> None:
    found = ask(app, path, written({**FULL[path], **changes}))
    check(found)
    if set(changes) - set(FULL[path]) - {"items", "candidates", "time", "trace"}:
        assert found.status == 400  # a field that nobody knows is a typing error, not ignored


@MANY
@given(path=st.sampled_from(CALLS), data=st.data())
def test_a_body_with_other_bytes_is_answered(app: App, path: str, data: st.DataObject) -> None:
    body = bytearray(written(FULL[path]))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body)))
        match data.draw(st.sampled_from(["put", "drop", "cut", "double"])):
            case "put":
                body[at : at + 1] = data.draw(st.binary(min_size=1, max_size=3))
            case "drop":
                del body[at : at + data.draw(st.integers(1, 4))]
            case "cut":
                del body[at:]
            case _:
                body[at:at] = body[: data.draw(st.integers(0, 30))]
    check(ask(app, path, bytes(body)))


@MANY
@given(
    path=st.sampled_from(CALLS),
    body=st.binary(max_size=200),
    kind=st.sampled_from(
        [b"application/vnd.apache.arrow.stream", b"application/json", b"text/html; charset=utf-7", b""]
    ),
    encoding=st.sampled_from([b"", b"gzip", b"deflate", b"br", b"gzip, gzip", b"\xff"]),
    accept=st.sampled_from([b"", b"*/*", b"application/vnd.apache.arrow.stream", b";;q=x,,"]),
    rest=st.sampled_from([b"{}", b"", b"[", b'{"customer": 3}', b'{"customer": 3, "candidates": []}', b"\xff"]),
)
def test_any_bytes_of_any_kind_are_answered(
    app: App, path: str, body: bytes, kind: bytes, encoding: bytes, accept: bytes, rest: bytes
) -> None:
    headers = {"content_type": kind, "content_encoding": encoding, "accept": accept, "bedplate_request": rest}
    check(ask(app, path, body, **headers))


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"customer":' * 50_000,
        b'{"customer": ' + b"9" * 50_000 + b"}",
        b'{"customer": 1e999999999}',
        b'{"customer": 3, "customer": 4, "customer": "x"}',
        b'{"customer": 3}' * 1000,
        b"\xef\xbb\xbf" + b'{"customer": "3"}',
        '{"customer": "3"}'.encode("utf-16"),
        b'{"customer": 3, "candidates": [' + b'"x",' * 200_000 + b'"x"]}',
        b'{"item": "' + b"y" * 500_000 + b'"}',
        b"\0" * 10_000,
        b"null",
    ],
    ids=range(12),
)
def test_what_is_deep_long_or_strange_is_a_400(app: App, path: str, body: bytes) -> None:
    found = ask(app, path, body)
    assert found.status == 400
    assert len(found.body) < 2000  # what is wrong is said, not given back
    assert "error" in msgspec.json.decode(found.body)


def http(path: str, body: bytes, length: int | str | None = None, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: t", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


GOOD = http("/rank", written(FULL["/rank"]))


@pytest.fixture(scope="module")
def hostile(app: App) -> Any:
    """Over sockets, with little patience."""
    limits = Limits(body_bytes=10_000, request_seconds=0.3)
    with shop.running(app.handle, limits=limits) as server:
        yield server


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (http("/rank", b'{"customer"', 5) + GOOD, [400, 400]),  # what is left of the body is no request
        (http("/rank", written(FULL["/rank"]), 9_999), [408]),  # the rest of it never comes
        (http("/rank", b"", "0x10"), [400]),
        (http("/rank", b"", "18446744073709551617"), [400]),
        (http("/rank", b"", 10_001), [413]),
        (http("/rank", b"{}", "2, 2"), [400]),
        (http("/rank", b"", 0), [400]),
        (GOOD + GOOD + b"\0\xff\r\n\r\n", [200, 200, 400]),
        (GOOD + b"GET / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", [200, 400]),
        (GOOD + http("/rank", b"{]") + GOOD + b"RANK", [200, 400, 200, 400]),
        (http("/rank\0/../recommend", b"{}") + GOOD, [400]),
        (http("/%00%ff%2e%2e", b"{}") + GOOD, [404, 200]),
        (http("/v2/models/%F0%9F%99%82/infer", b"{}") + GOOD, [404, 200]),
        (http("/rank", b"{}", Expect="100-continue", Content_Encoding="gzip") + GOOD, [400, 200]),
        (http("/rank", b"{}", X_Request_Timeout_Ms="1e3") + GOOD, [400, 200]),
    ],
)  # fmt: skip
def test_wrong_lengths_and_rubbish_between_requests_cost_their_sender_only(
    hostile: Any, sent: bytes, statuses: list[int]
) -> None:
    with Raw(hostile) as bystander, Raw(hostile) as raw:
        raw.send(sent)
        got = [raw.response()[0] for _ in statuses]
        assert got == statuses
        bystander.send(GOOD)
        assert bystander.response()[0] == 200


PIECES = [
    GOOD,
    GOOD[:40],
    GOOD[-30:],
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"\xff\xfe",
    b"POST ",
    b"{}",
    b"0\r\n\r\n",
    b"PRI * HTTP/2.0",
]


@settings(max_examples=40)
@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=8), byte_by_byte=st.booleans())
def test_a_stream_of_anything_ends_in_answers_and_a_closed_connection(
    hostile: Any, pieces: list[bytes], byte_by_byte: bool
) -> None:
    sent = b"".join(pieces)
    whole = sum(1 for _ in itertools.takewhile(lambda piece: piece == GOOD, pieces))
    with Raw(hostile) as raw:
        for at in range(0, len(sent), 200 if byte_by_byte else max(1, len(sent))):
            try:
                raw.send(sent[at : at + 200] if byte_by_byte else sent)
            except OSError:
                break  # it has heard enough
        with contextlib.suppress(OSError):
            raw.socket.shutdown(socket.SHUT_WR)
        assert [raw.response()[0] for _ in range(whole)] == [200] * whole
        assert raw.closed()
        for line in raw.buffer.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                assert line.split()[1] < b"500"
    with Raw(hostile) as other:
        other.send(GOOD)
        assert other.response()[0] == 200
