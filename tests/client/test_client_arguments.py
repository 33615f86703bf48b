"""What both clients take as their arguments, and refuse when they are made."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scripted import head, says, service

from bedplate import AsyncClient, Client
from bedplate.client.errors import BusyError
from bedplate.client.target import Place
from bedplate.errors import ConfigError

Ask = Callable[..., list[Any]]
kinds = pytest.mark.parametrize("kind", [Client, AsyncClient])


def recommend(client: Any) -> Any:
    return client.recommend(customer=1)


NO_URLS = [
    "127.0.0.1:8000",
    "ftp://x",
    "http://",
    "http:///path",
    "http://x:y",
    "http://x:99999",
    "http://x:0",
    None,
    5,
]
NO_HOSTS = ["http://a b", "http://a\r\nb", "http://a..b", "http://[::1", "http://a,b"]
NO_PATHS = ["http://x/a b", "http://x/é", "http://x/\n"]


@kinds
@pytest.mark.parametrize("url", [*NO_URLS, *NO_HOSTS, *NO_PATHS])
def test_urls_that_are_none_are_refused(kind: Any, url: Any) -> None:
    with pytest.raises(ConfigError, match=r"url: got .*, expected http://host:port or https://host:port") as caught:
        kind(url)
    assert f"got {url!r}" in str(caught.value)


WITH_SECRETS = ["http://user:secret@h", "https://secret@h/base", "user:secret@h:80", "ftp://u:secret@h"]
AND_ODD = [
    "http://u:se/cret@h",
    "http://u:sec?ret@h",
    "http://u:sec#ret@h",
    "http://u:secret%40h",
    "http://u:se cret@:x",
]


@kinds
@pytest.mark.parametrize("url", [*WITH_SECRETS, *AND_ODD])
def test_a_user_or_password_in_a_url_is_refused_and_shown_nowhere(kind: Any, url: str) -> None:
    with pytest.raises(ConfigError, match="url: got a user or a password, expected http://host:port") as caught:
        kind(url)
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert "use token=..." in shown
    assert "cret" not in shown


@kinds
@pytest.mark.parametrize("url", ["http://h?key=secret", "http://h/?", "http://h/base?key=secret", "http://h/#secret"])
def test_a_query_or_a_fragment_of_a_url_is_refused_and_not_shown(kind: Any, url: str) -> None:
    with pytest.raises(ConfigError, match="url: got a query or a fragment, expected http://host:port") as caught:
        kind(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("more", "base"), [("", ""), ("/", ""), ("/base", "/base"), ("/a/b%20c/", "/a/b%20c")])
def test_requests_go_below_the_path_of_the_url(ask: Ask, more: str, base: str) -> None:
    calls = [recommend, lambda c: c.table("rank", customer=3, candidates=["P01"]), lambda c: c.infer("m", {})]
    rest = [lambda c: c.describe(), lambda c: c.request("GET", "/v2?a=b"), lambda c: c.ready()]
    with service(says(head(2) + b"{}")) as (url, seen):
        ask(url + more, *calls, *rest)
    assert [request.split(b"\r\n")[0].decode() for request in seen] == [
        f"POST {base}/recommend HTTP/1.1",
        f"POST {base}/rank HTTP/1.1",
        f"POST {base}/v2/models/m/infer HTTP/1.1",
        f"GET {base}/ HTTP/1.1",
        f"GET {base}/v2?a=b HTTP/1.1",
        f"GET {base}/v2/health/ready HTTP/1.1",
    ]


@kinds
def test_a_url_is_shown_as_it_was_given(kind: Any) -> None:
    assert kind("http://h:80/base//").url == "http://h:80/base"


def test_names_beyond_ascii_are_those_that_are_looked_up() -> None:
    assert Place.of("http://bücher.example:81").authority == "xn--bcher-kva.example:81"


@kinds
@pytest.mark.parametrize("timeout", [0, 0.0, -1.0, float("inf"), float("nan"), 900_001.0, "5", None, True, 2j])
def test_a_timeout_that_is_none_is_refused(kind: Any, timeout: Any) -> None:
    with pytest.raises(ConfigError, match=r"timeout: got .*, expected seconds above 0, at most 900,000") as caught:
        kind("http://127.0.0.1:9", timeout)
    assert f"got {timeout!r}" in str(caught.value)


@kinds
@pytest.mark.parametrize("retries", [-1, None, 1.5, "2", True, float("inf")])
def test_retries_that_are_none_are_refused(kind: Any, retries: Any) -> None:
    with pytest.raises(ConfigError, match=r"retries: got .*, expected a whole number from 0") as caught:
        kind("http://127.0.0.1:9", retries=retries)
    assert f"got {retries!r}" in str(caught.value)


def test_numbers_of_numpy_are_numbers(ask: Ask) -> None:
    busy = head(0, "Retry-After: 0", status="503 Busy")
    with service(says(busy)) as (url, seen):
        [error] = ask(url, recommend, timeout=np.float32(20), retries=np.int64(2))
    assert isinstance(error, BusyError)
    assert len(seen) == 3


@kinds
@pytest.mark.parametrize("token", ["a b", "a\r\nX-Role: operate", "a-token-of-the-team\n", "tökën-of-the-team"])
def test_a_token_that_would_be_more_than_a_token_is_refused_and_not_shown(kind: Any, token: str) -> None:
    with pytest.raises(ConfigError, match="expected printable ASCII") as caught:
        kind("http://127.0.0.1:9", token=token)
    assert token not in str(caught.value)


@kinds
def test_a_token_that_is_empty_is_refused_and_said_to_be(kind: Any) -> None:
    with pytest.raises(ConfigError, match="token: got an empty text, expected printable ASCII") as caught:
        kind("http://127.0.0.1:9", token="")
    assert "strip" not in str(caught.value)


@kinds
@pytest.mark.parametrize("token", [b"a-token-of-the-team", 5])
def test_a_token_that_is_no_text_is_refused_and_not_shown(kind: Any, token: Any) -> None:
    with pytest.raises(ConfigError, match=f"token: got {type(token).__name__}, expected a text") as caught:
        kind("http://127.0.0.1:9", token=token)
    assert "a-token" not in str(caught.value)


@kinds
def test_what_is_known_of_a_service_does_not_show_the_token(kind: Any) -> None:
    client = kind("http://127.0.0.1:9", token="a-token-of-the-team")
    assert "a-token" not in f"{client!r} {vars(client)!r}"


@kinds
def test_tls_that_is_none_or_of_a_place_without_it_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"tls: got bool, expected an ssl.SSLContext"):
        kind("https://127.0.0.1:9", tls=True)
    with pytest.raises(ConfigError, match=r"tls: got one for 'http://127.0.0.1:9', which is not spoken to by TLS"):
        kind("http://127.0.0.1:9", tls=ssl.create_default_context())
