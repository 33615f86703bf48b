"""Both clients over TLS: connections are kept as plain ones are, and what is wrong with it is said."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import shop
from scripted import WELL

from bedplate.client.errors import UnreachableError
from bedplate.http.message import Response
from bedplate.http.tls import Certificate

HERE = Path(__file__).parents[1] / "http" / "certificates"
Ask = Callable[..., list[Any]]


def recommend(client: Any) -> Any:
    return client.recommend(customer=1)


@pytest.fixture
def secure() -> Iterator[str]:
    """The URL of a service with a certificate."""
    certificate = Certificate(HERE / "first.pem", HERE / "first.key")
    with shop.running(lambda _: Response(200, WELL), certificate=certificate) as server:
        yield f"https://localhost:{server.port}"


def test_calls_by_tls_share_a_connection(ask: Ask, secure: str, tmp_path: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(HERE / "first.pem"))
    trusted.keylog_filename = str(tmp_path / "keys")  # gets lines of each connection that is made
    answers = ask(secure, *[recommend] * 5, tls=trusted, timeout=20)
    assert [answer.time for answer in answers] == [1] * 5
    lines = [line.split() for line in (tmp_path / "keys").read_text().splitlines() if not line.startswith("#")]
    assert len({line[1] for line in lines}) == 1


@pytest.mark.parametrize("name", ["second", None])
def test_a_certificate_that_is_not_trusted_is_said(ask: Ask, secure: str, name: str | None) -> None:
    other = ssl.create_default_context(cafile=str(HERE / f"{name}.pem")) if name else None
    [error] = ask(secure, recommend, tls=other, timeout=20)
    with pytest.raises(UnreachableError, match=r"(?s)certificate.*a certificate that 'tls' trusts\?"):
        raise error


def test_a_service_without_tls_that_is_asked_by_it_is_said(ask: Ask) -> None:
    with shop.running(lambda _: Response(200, WELL)) as server:
        [error] = ask(f"https://localhost:{server.port}", recommend, timeout=20)
    with pytest.raises(UnreachableError, match="does the service speak TLS"):
        raise error
