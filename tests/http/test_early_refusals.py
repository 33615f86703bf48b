"""What the door says of a request's head, before its body is there: who may not ask makes the server hold nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import echo
import grpc
import pytest
import shop
from test_http import Raw

from bedplate.http.message import Limits, Request, Response, error_response
from bedplate.http.parser import RefusedError, RequestParser
from bedplate.http.tokens import Tokens
from bedplate.http.turns import Turns

READER, ASKER = "reader-5b1d7a42c9e04f83", "asker-e47a90b3d81c4f62"
TOKENS = [f"read dashboard {READER}", f"infer web {ASKER}"]
PIECE = b"x" * 10


def head(token: str | None, size: int = 1000, more: str = "") -> bytes:
    lines = ["POST /rank HTTP/1.1", "Host: a", f"Content-Length: {size}"]
    lines += [] if token is None else [f"Authorization: Bearer {token}"]
    return ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()


def answer(request: Request) -> Response:
    return Response(200, b"%d" % len(request.body))


@pytest.fixture
def guarded() -> Iterator[Any]:
    with shop.running(answer, tokens=Tokens(TOKENS)) as server:
        yield server


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("nobody-knows-this-token", 401), (READER, 403)])
@pytest.mark.parametrize("more", ["", "Expect: 100-continue\r\n"])
def test_who_may_not_ask_is_told_before_the_body_has_come(
    guarded: Any, token: str | None, status: int, more: str
) -> None:
    with Raw(guarded) as raw:
        raw.send(head(token, more=more) + PIECE)
        got, headers, _ = raw.response()
        assert (got, headers["connection"]) == (status, "close")
        assert raw.closed()
    assert guarded.turns.tally.refused == {("token", 2): 1}


def test_a_chunked_body_of_nobody_and_one_beyond_the_limit_are_refused_as_any(guarded: Any) -> None:
    chunked = head(None).replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")
    for sent in (chunked + b"5\r\nhello\r\n", head(None, 10**12)):
        with Raw(guarded) as raw:
            raw.send(sent)
            assert raw.response()[0] == 401


def test_a_connection_stays_open_after_a_request_that_was_whole(guarded: Any) -> None:
    with Raw(guarded) as raw:
        raw.send(head(None, 10) + PIECE + head(ASKER, 10) + PIECE)
        assert [raw.response()[0::2] for _ in range(2)] == [
            (401, b'{"error":"no token, or one that is not known","hint":"send Authorization: Bearer TOKEN"}'),
            (200, b"10"),
        ]


def test_requests_before_one_that_is_turned_away_are_answered_first(guarded: Any) -> None:
    with Raw(guarded) as raw:
        raw.send(head(ASKER, 10) + PIECE + head(None) + PIECE)
        assert [raw.response()[0] for _ in range(2)] == [200, 401]


def test_no_byte_of_a_body_is_kept_that_is_turned_away() -> None:
    no = error_response(401, "no")
    parser = RequestParser(Limits(), lambda *_: no)
    parser.feed(head(None, 10) + PIECE)
    request = parser.complete[0][0]
    assert (request.body, request.refusal) == (b"", no)
    with pytest.raises(RefusedError) as caught:
        parser.feed(head(None) + PIECE)
    assert caught.value.response is no
    assert not parser._body


def test_a_body_counts_for_its_client_from_its_head_on() -> None:
    with shop.running(answer, limits=Limits(client_requests=1)) as server, Raw(server) as first:
        first.send(head(None, 20) + PIECE)
        while not server.turns.clients:
            pass
        with Raw(server) as second:
            second.send(head(None, 20) + PIECE)
            status, headers, _ = second.response()
            assert (status, headers["retry-after"]) == (429, "1")
            assert second.closed()
        first.send(PIECE)
        assert first.response()[0] == 200
        first.send(head(None, 20) + PIECE)
        while not server.turns.clients:
            pass
        first.socket.close()
        while server.turns.clients:  # one that breaks off counts no more
            pass
        with Raw(server) as third:
            third.send(head(None, 10) + PIECE)
            assert third.response()[0] == 200
    assert server.turns.tally.refused == {("client", 2): 1}


@pytest.mark.parametrize(("token", "code"), [(None, "UNAUTHENTICATED"), (READER, "PERMISSION_DENIED")])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_a_call_over_grpc_is_refused_before_its_message(
    registry: Any, pipeline: Any, token: str | None, code: str, method: str
) -> None:
    app, repository = echo.served(registry, pipeline)
    turns, never = Turns(), threading.Event()

    def messages() -> Iterator[bytes]:
        never.wait(30)
        yield b""

    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with (
        echo.running_grpc(app, repository, tokens=Tokens(TOKENS), turns=turns) as target,
        grpc.insecure_channel(target) as channel,
    ):
        call = channel.stream_stream(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(messages(), timeout=20, metadata=metadata))
        never.set()
        assert caught.value.code().name == code
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=20) == b"\x08\x01"
    assert turns.tally.refused == {("token", 2): 1}
