"""Compressed requests and answers: what is accepted, what is refused, and that nothing grows without bound."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import BedplateError, RequestError
from bedplate.http.compression import LEAST_BYTES, compress, decompress
from bedplate.http.message import Request, Response
from bedplate.serving.service_app import App

MEGABYTE = 1 << 20


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


PACKERS: dict[str, Any] = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


def request(body: bytes, encoding: str | None = "gzip", most: int = MEGABYTE, accept: str | None = None) -> Request:
    headers = {} if encoding is None else {b"content-encoding": encoding.encode()}
    return Request(
        "POST", "/", headers | ({b"accept-encoding": accept.encode()} if accept else {}), body, most_bytes=most
    )


def unpacked(body: bytes, encoding: str | None = "gzip", most: int = MEGABYTE) -> bytes:
    asked = request(body, encoding, most)
    decompress(asked)
    return asked.body


@given(st.binary(max_size=300), st.sampled_from(["gzip", "x-gzip", "GZIP", "deflate", "raw"]))
def test_what_was_packed_comes_out(content: bytes, how: str) -> None:
    if how == "raw":
        assert unpacked(raw_deflate(content), "deflate") == content
    else:
        assert unpacked(PACKERS[how.lower()](content), how) == content


@pytest.mark.parametrize("encoding", [None, "identity"])
def test_a_body_that_is_not_compressed_stays(encoding: str | None) -> None:
    assert unpacked(b"abc", encoding) == b"abc"


def test_several_members_are_one_body_and_too_many_are_refused() -> None:
    assert unpacked(gzip.compress(b"ab") + gzip.compress(b"cd")) == b"abcd"
    begin = time.perf_counter()
    with pytest.raises(BedplateError, match="more than 16 members") as raised:
        unpacked(gzip.compress(b"") * 500_000)
    assert raised.value.http_status == 400
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_413(encoding: str) -> None:
    assert unpacked(PACKERS[encoding](bytes(MEGABYTE)), encoding) == bytes(MEGABYTE)
    for size in (MEGABYTE + 1, 100 * MEGABYTE):
        bomb = PACKERS[encoding](bytes(size), 1)
        assert len(bomb) < MEGABYTE
        with pytest.raises(BedplateError, match=f"larger than {MEGABYTE} bytes") as raised:
            unpacked(bomb, encoding)
        assert raised.value.http_status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_takes_no_more_memory_than_a_body_may(encoding: str) -> None:
    bomb = PACKERS[encoding](bytes(64 * MEGABYTE), 1)
    tracemalloc.start()
    with pytest.raises(BedplateError, match="larger than"):
        unpacked(bomb, encoding)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 * MEGABYTE  # the body, as often as it is copied while it grows


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"", "gzip", 400),
        (b"nonsense", "gzip", 400),
        (gzip.compress(b"abc", mtime=0)[:-4], "gzip", 400),
        (gzip.compress(b"abc", mtime=0) + b"rest", "gzip", 400),
        (zlib.compress(b"abc") + b"rest", "deflate", 400),
        (b"\xff\xff", "deflate", 400),
        (b"abc", "br", 415),
        (b"abc", "gzip, gzip", 415),
        (b"abc", "\xe9", 415),
    ],
    ids=["nothing", "nonsense", "cut off", "more", "more deflate", "no deflate", "unknown", "twice", "not ascii"],
)
def test_what_is_damaged_or_unknown_is_refused(body: bytes, encoding: str, status: int) -> None:
    asked = request(body, None)
    asked.headers[b"content-encoding"] = encoding.encode("latin-1")
    with pytest.raises(BedplateError) as raised:
        decompress(asked)
    assert raised.value.http_status == status


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]), st.integers(0, 100))
def test_no_bytes_give_another_error(content: bytes, encoding: str, cut: int) -> None:
    for body in (content, PACKERS[encoding](content)[cut:]):
        with contextlib.suppress(RequestError):
            unpacked(body, encoding)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("gzip", b"gzip"), ("deflate", b"deflate"), ("br, GZIP;q=0.5", b"gzip"), ("gzip;q=0", None), ("br", None)],
)
def test_an_answer_is_compressed_for_who_accepts_it(accept: str, expected: bytes | None) -> None:
    large = Response(200, b"a" * LEAST_BYTES)
    got = compress(request(b"", None, accept=accept), large)
    assert dict(got.headers).get(b"Content-Encoding") == expected
    if expected is not None:
        unpack: Any = gzip.decompress if expected == b"gzip" else zlib.decompress
        assert unpack(got.body) == large.body
        assert len(got.body) < 100
    else:
        assert got.body == large.body


def test_small_answers_go_as_they_are() -> None:
    small = Response(200, b"a" * (LEAST_BYTES - 1))
    assert compress(request(b"", None, accept="gzip"), small) is small


def test_the_service_takes_compressed_requests(app: App) -> None:
    body = json.dumps({"customer": 3, "candidates": ["P01", "P02"] * 100}).encode()
    plain = app.handle(Request("POST", "/rank", {}, body))
    headers = {b"content-encoding": b"gzip", b"accept-encoding": b"gzip"}
    packed = app.handle(Request("POST", "/rank", headers, gzip.compress(body)))
    assert dict(packed.headers)[b"Vary"] == b"Accept-Encoding"
    assert json.loads(gzip.decompress(packed.body)) | {"time": 0} == json.loads(plain.body) | {"time": 0}
    bomb = gzip.compress(bytes(17 * MEGABYTE))
    assert app.handle(Request("POST", "/rank", {b"content-encoding": b"gzip"}, bomb)).status == 413
