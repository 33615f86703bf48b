"""What both clients take as their arguments, and refuse when they are made."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scripted import head, says, service

from bedplate import AsyncClient, Client
from bedplate.client.errors import BusyError
from bedplate.errors import ConfigError

Ask = Callable[..., list[Any]]
kinds = pytest.mark.parametrize("kind", [Client, AsyncClient])


def recommend(client: Any) -> Any:
    return client.recommend(customer=1)


@kinds
@pytest.mark.parametrize("timeout", [0.0, -1.0, float("inf"), float("nan"), 900_001.0, "5", None, True, 2j])
def test_a_timeout_that_is_none_is_refused(kind: Any, timeout: Any) -> None:
    with pytest.raises(ConfigError, match=r"timeout: got .*, expected seconds from 0 to 900,000") as caught:
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
@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Role: operate", "a-token-of-the-team\n", "tökën-of-the-team"])
def test_a_token_that_would_be_more_than_a_token_is_refused_and_not_shown(kind: Any, token: str) -> None:
    with pytest.raises(ConfigError, match="expected printable ASCII") as caught:
        kind("http://127.0.0.1:9", token=token)
    assert not token or token not in str(caught.value)


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
