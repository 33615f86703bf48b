"""Who may ask for what, on every route of every server; and that no secret is shown, whatever goes wrong."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import echo
import pytest
import shop
from hypothesis import given
from hypothesis import strategies as st
from test_http import Raw

from bedplate.errors import ConfigError
from bedplate.http.board import READY, Board, make_board
from bedplate.http.door import OPEN_PATHS, Door, role_of
from bedplate.http.message import Request, Response
from bedplate.http.settings import Settings
from bedplate.http.tokens import LEAST_LENGTH, Role, Tokens, read_tokens
from bedplate.http.turns import HIGH, LOW, NORMAL, PROBE, Turn
from bedplate.http.watching import Watched
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.service_app import App

READER, ASKER, OPERATOR = "reader-5b1d7a42c9e04f83", "asker-e47a90b3d81c4f62", "operator-0c8f5e9a7d3b4c61"
LINES = [f"read dashboard {READER}", f"infer {ASKER}", f"operate platform {OPERATOR}"]
TOKENS = {Role.READ: READER, Role.INFER: ASKER, Role.OPERATE: OPERATOR}

OPEN, READ, INFER, OPERATE = None, Role.READ, Role.INFER, Role.OPERATE
ROUTES: dict[tuple[str, str], Role | None] = {
    ("GET", "/"): READ,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/metrics"): READ,
    ("GET", "/healthz"): OPEN,
    ("POST", "/v1/features"): READ,
    ("POST", "/recommend"): INFER,
    ("POST", "/rank"): INFER,
    ("POST", "/embed"): INFER,
    ("POST", "/similar"): INFER,
    ("GET", "/v2"): READ,
    ("GET", "/v2/"): READ,
    ("GET", "/v2/health/live"): OPEN,
    ("GET", "/v2/health/ready"): OPEN,
    ("GET", "/v2/models/stats"): READ,
    ("GET", "/v2/models/one"): READ,
    ("GET", "/v2/models/one/versions/1"): READ,
    ("GET", "/v2/models/one/ready"): READ,
    ("GET", "/v2/models/one/config"): READ,
    ("GET", "/v2/models/one/stats"): READ,
    ("POST", "/v2/models/one/infer"): INFER,
    ("POST", "/v2/models/one/versions/1/infer"): INFER,
    ("POST", "/v2/repository/index"): READ,
    ("POST", "/v2/repository/models/one/load"): OPERATE,
    ("POST", "/v2/repository/models/one/unload"): OPERATE,
    ("HEAD", "/metrics"): READ,
    ("GET", "/nothing"): READ,
    ("POST", "/nothing"): INFER,
    ("DELETE", "/rank"): INFER,
    ("PUT", "/v2/repository/models/one/load"): OPERATE,
    ("POST", "/v2/models/one/trace/setting"): OPERATE,
    ("POST", "/v2/logging"): OPERATE,
}  # fmt: skip
"""The least role of each route; none: no token is asked for."""


@pytest.fixture(scope="module")
def app(registry: Any, pipeline: Any) -> App:
    return echo.served(registry, pipeline)[0]


@pytest.fixture(scope="module")
def guarded(app: App) -> Iterator[Any]:
    with shop.running(app.handle, tokens=Tokens(LINES)) as server:
        yield server


def ask(server: Any, method: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    lines = [f"{method} {path} HTTP/1.1", "Host: t", "Content-Length: 0", *headers, "", ""]
    with Raw(server) as raw:
        raw.send("\r\n".join(lines).encode())
        return raw.response(body=method != "HEAD")


def test_every_route_is_here(app: App) -> None:
    """A new one must say who may ask for it."""
    known = {path for _, path in ROUTES}
    assert set(app.paths) <= known
    assert set(FeatureApp().paths) <= known
    described = json.loads(app.handle(Request("GET", "/openapi.json", {}, b"")).body)  # type: ignore[union-attr]
    named = {re.sub(r"\{version\}", "1", re.sub(r"\{\w*(model|name)\w*\}", "one", p)) for p in described["paths"]}
    assert named <= known
    assert {path for (_, path), role in ROUTES.items() if role is OPEN} == OPEN_PATHS


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: part.replace("/", "."))
def test_a_route_is_for_its_role_and_those_above(guarded: Any, method: str, path: str) -> None:
    least = ROUTES[method, path]
    for authorization in ([], ["Authorization: Bearer nobody-has-this-token"], [f"Authorization: Basic {OPERATOR}"]):
        status, headers, _ = ask(guarded, method, path, *authorization)
        if least is OPEN:
            assert status not in (401, 403)
        else:
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
    for role, token in TOKENS.items():
        status, _, body = ask(guarded, method, path, f"Authorization: Bearer {token}")
        assert (status == 403) == (least is not OPEN and role < least), (role, status, body)
        assert status != 401
        assert status < 500 or path == "/healthz"
        assert token.encode() not in body


@given(
    st.sampled_from(sorted(ROUTES)),
    st.sampled_from([None, *Role]),
    st.sampled_from([(None, NORMAL), (b"high", HIGH), (b" LOW ", LOW), (b"normal", NORMAL)]),
    st.sampled_from([(None, float("inf")), (b"50", 0.05), (b"0", 0.0)]),
)
def test_the_door_is_the_same_for_every_protocol(
    route: tuple[str, str], role: Role | None, priority: tuple[bytes | None, int], timeout: tuple[bytes | None, float]
) -> None:
    method, path = route
    headers = {b"x-request-priority": priority[0], b"x-request-timeout-ms": timeout[0]}
    headers[b"authorization"] = None if role is None else b"Bearer " + TOKENS[role].encode()
    given_headers = {name: value for name, value in headers.items() if value is not None}
    turn = Door(Tokens(LINES)).turn(method, path, given_headers, 100, "10.0.0.9", 7.0, lambda: None, lambda _: None)
    least = ROUTES[route]
    if least is not OPEN and (role is None or role < least):
        assert isinstance(turn, Response)
        assert turn.status == (401 if role is None else 403)
        return
    assert isinstance(turn, Turn)
    is_probe = path == "/healthz" or path.endswith(("/live", "/ready"))
    assert turn.priority == (PROBE if is_probe else LOW if least is OPEN else priority[1])
    assert turn.deadline == (float("inf") if is_probe else 7.0 + timeout[1])
    names = {Role.READ: "dashboard", Role.INFER: "token 2", Role.OPERATE: "platform"}
    assert turn.client == ("10.0.0.9" if role is None or least is OPEN else names[role])


def test_a_path_is_compared_as_it_is_decoded(guarded: Any) -> None:
    """Else what is asked for would be another thing than what was allowed."""
    bearer = f"Authorization: Bearer {READER}"
    for path in ("/%72ank", "/rank?x=/metrics", "http://t/rank", "/v2/repository/models/one/%6coad"):
        assert ask(guarded, "POST", path, bearer)[0] == 403
    for path in ("/healthz/../metrics", "//metrics", "/Metrics", "/v2/health/ready/"):
        assert ask(guarded, "GET", path)[0] == 401
    assert role_of("POST", "/v1/features/") is INFER


ODD = [
    "Authorization: Bearer {}, Bearer x",
    "Authorization: bearer{}",
    "Authorization: Bearer",
    "Authorization: {}",
    "X-Request-Timeout-Ms: {}",
    "X-Request-Priority: high\r\nAuthorization: Digest username={}",
    "Cookie: token={}",
    "Content-Encoding: gzip\r\nProxy-Authorization: Bearer {}",
]


@pytest.mark.parametrize("header", ODD)
def test_no_answer_and_no_line_of_a_log_has_a_token(
    guarded: Any, caplog: pytest.LogCaptureFixture, header: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        for path in ("/rank", f"/rank?token={ASKER}", "/v2/models/one/infer"):
            _, headers, body = ask(guarded, "POST", path, header.format(ASKER))
            assert ASKER not in str(headers) + body.decode()
        with Raw(guarded) as raw:
            raw.send(b"POST /rank HTTP/1.1\r\nAuthorization: Bearer " + ASKER.encode() + b"\r\nbroken\r\n\r\n")
            _, _, body = raw.response()
            assert ASKER not in body.decode()
    assert ASKER not in caplog.text


def test_a_failure_in_the_handler_is_logged_without_what_the_client_sent(caplog: pytest.LogCaptureFixture) -> None:
    def fails(request: Request) -> Response:
        raise RuntimeError(f"can't answer {request}")

    async def fails_later(request: Request) -> Response:
        raise RuntimeError(f"can't answer {request}")

    for handler in (fails, fails_later):
        with caplog.at_level(logging.DEBUG), shop.running(handler, tokens=Tokens(LINES)) as server:
            assert ask(server, "POST", f"/rank?key={ASKER}", f"Authorization: Bearer {ASKER}")[0] == 500
    assert caplog.text.count("can't answer Request(") == 2
    assert ASKER not in caplog.text


def test_settings_and_tokens_do_not_show_their_secrets() -> None:
    settings = Settings(more_tokens=(f"operate {OPERATOR}",))
    settings.read_tokens()
    shown = f"{settings!r} {settings.tokens!r} {Door(settings.tokens)!r}"
    assert settings.tokens.accepts(f"Bearer {OPERATOR}".encode())
    assert OPERATOR not in shown
    assert OPERATOR not in repr(Request("POST", "/rank", {b"authorization": OPERATOR.encode()}, b"body"))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"", "holds no token"),
        (b"# read x a-token-in-a-comment\n\n  \n", "holds no token"),
        (b"\xff\xfe" + b"a\0" * 40, "can't read"),
        (b"short\n", "token 1 has 5 characters"),
        (f"{ASKER}\nadmin {READER}\n".encode(), "token 2 has another form"),
        (f"read a b {READER}\n".encode(), "token 1 has another form"),
        (f"read {ASKER}\ninfer web {READER}\noperate {ASKER}\n".encode(), "token 3 is token 1.*role 'read'"),
        (f"{'é' * LEAST_LENGTH}\n".encode(), "no header can hold"),
        (f"{'a' * LEAST_LENGTH}\x07\n".encode(), "no header can hold"),
    ],
)
def test_a_file_of_tokens_that_is_wrong_is_refused_and_those_before_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, written: bytes, message: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{OPERATOR}\n")
    settings = Settings(token_file=file)
    settings.read_tokens()
    watched = Watched((file,), settings.read_tokens)
    file.write_bytes(written)
    with caplog.at_level(logging.WARNING):
        watched.look()
        watched.look()
    assert len(caplog.messages) == 1
    assert settings.tokens.accepts(f"Bearer {OPERATOR}".encode())
    assert not settings.tokens.accepts(f"Bearer {ASKER}".encode())
    with pytest.raises(ConfigError, match=message) as caught:
        settings.read_tokens()
    assert str(file) in str(caught.value)
    for text in (caplog.text, str(caught.value)):
        assert not any(token in text for token in (*TOKENS.values(), "é" * LEAST_LENGTH, "a-token-in"))


def test_what_is_wrong_with_a_token_is_said_of_its_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n\nread {READER}\n# theirs\nshort\n")
    with pytest.raises(ConfigError, match="token 2 has 5 characters") as caught:
        read_tokens(file)
    assert caught.value.where == f"{file}:5"


def test_of_many_workers_the_first_one_that_answers_says_what_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{OPERATOR}\n")
    board = Board(make_board(3))
    seats = [board.seat(i) for i in range(3)]
    settings = [Settings(token_file=file) for _ in seats]
    watched = [Watched((file,), s.read_tokens, seat) for s, seat in zip(settings, seats, strict=True)]
    for i in (1, 2):  # the first one is being started again
        seats[i].set_state(READY)
    for number, written in enumerate((f"{ASKER}\n", "short\n"), 1):
        file.write_text(written)
        with caplog.at_level(logging.WARNING):
            for one in watched[1:]:
                one.look()
        assert len(caplog.messages) == number
    assert all(s.tokens.accepts(f"Bearer {ASKER}".encode()) for s in settings[1:])


@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"\r\n# ours\r\n"])
def test_a_file_of_tokens_may_come_from_any_editor(tmp_path: Path, begin: bytes) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(begin + f"read   dashboard\t{READER}  \r\n{ASKER}".encode())
    tokens = Tokens(read_tokens(file))
    held = [tokens.holder(f"Bearer {token}".encode()) for token in (READER, ASKER)]
    assert [(h.name, h.role) for h in held if h is not None] == [("dashboard", READ), ("token 2", INFER)]


def test_a_file_of_tokens_that_goes_and_comes_again(tmp_path: Path) -> None:
    """As when it is a link that is turned to the next directory, which is how secrets are mounted."""
    file = tmp_path / "tokens"
    for name, token in (("first", ASKER), ("second", READER)):
        (tmp_path / name).write_text(f"{token}\n")
    file.symlink_to(tmp_path / "first")
    settings = Settings(token_file=file, more_tokens=(f"operate {OPERATOR}",))
    settings.read_tokens()
    watched = Watched((file,), settings.read_tokens)
    file.unlink()
    watched.look()
    assert settings.tokens.accepts(f"Bearer {ASKER}".encode())
    file.symlink_to(tmp_path / "second")
    watched.look()
    accepted = [settings.tokens.accepts(f"Bearer {token}".encode()) for token in (ASKER, READER, OPERATOR)]
    assert accepted == [False, True, True]


LINE = st.text(max_size=40) | st.from_regex(r"(read |infer x )?[!-~]{14,24}", fullmatch=True)


@given(st.lists(LINE, max_size=4))
def test_any_lines_are_tokens_or_refused_without_being_shown(lines: list[str]) -> None:
    refusal = ""
    try:
        tokens = Tokens(lines)
    except ConfigError as error:
        refusal, tokens = str(error), Tokens([])
    long = [part for line in lines for part in line.split() if len(part) >= LEAST_LENGTH]
    assert not any(part in refusal for part in long)
    if not refusal:
        assert all(tokens.holder(b"Bearer " + line.split()[-1].encode()) for line in lines)
        assert bool(tokens) == bool(lines)
