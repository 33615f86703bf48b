"""TLS and tokens over real sockets: who is let in, what roles may do, renewal without a restart, and what is logged."""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shop

from bedplate.errors import ConfigError
from bedplate.http.message import Request, Response
from bedplate.http.settings import Settings
from bedplate.http.tls import Certificate
from bedplate.http.tokens import Role, Tokens
from bedplate.http.watching import Watched

HERE = Path(__file__).parent / "certificates"
READER, ASKER, OPERATOR = "reader-token-of-a-dashboard", "asker-token-of-the-web-team", "operator-token-of-the-platform"
LINES = [f"read dashboard {READER}", ASKER, f"operate platform {OPERATOR}"]


def answer(request: Request) -> Response:
    if request.path == "/fail":
        raise ValueError(str(request.headers))
    return Response(200, b"{}")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    renew((certificate, key), "first")
    return certificate, key


def renew(files: tuple[Path, Path], name: str) -> None:
    files[1].write_bytes((HERE / f"{name}.key").read_bytes())
    files[0].write_bytes((HERE / f"{name}.pem").read_bytes())


def common_name(port: int, trusted: str) -> Any:
    context = ssl.create_default_context(cafile=str(HERE / f"{trusted}.pem"))
    client = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
    client.request("GET", "/v2")
    assert client.getresponse().read() == b"{}"
    found = client.sock.getpeercert()["subject"][0][0][1]  # type: ignore[index,union-attr]
    client.close()
    return found


def test_a_client_that_ends_tls_while_its_request_waits_is_closed_quietly(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    ended, begun = threading.Event(), threading.Event()

    async def wait() -> Response:
        begun.set()
        await asyncio.to_thread(ended.wait, 20)
        return Response(200, b"late")

    with shop.running(lambda _: wait(), certificate=Certificate(*files)) as server:
        context = ssl.create_default_context(cafile=str(HERE / "first.pem"))
        plain = socket.create_connection(("localhost", server.port), timeout=20)
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert begun.wait(20)
            client.unwrap()  # says that it ends, and waits until the server does
        ended.set()
    assert caplog.text == ""


def test_connections_are_encrypted_and_a_renewed_certificate_is_taken_up(files: tuple[Path, Path]) -> None:
    certificate = Certificate(*files)
    with shop.running(answer, certificate=certificate) as server:
        assert server.url.startswith("https://")
        assert common_name(server.port, "first") == "first"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            assert not plain.recv(4096).startswith(b"HTTP/1.1 200")
        renew(files, "second")
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                assert common_name(server.port, "second") == "second"
                break
            except ssl.SSLError:
                time.sleep(0.1)
        assert common_name(server.port, "second") == "second"


def test_a_pair_that_does_not_belong_together_is_refused_and_the_old_one_stays(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(*files)
    watched = Watched(certificate.paths, certificate.reload)
    files[0].write_bytes((HERE / "second.pem").read_bytes())
    with caplog.at_level(logging.ERROR):
        watched.look()
        watched.look()
    assert caplog.text.count("can't use the certificate") == 1
    with shop.running(answer, certificate=certificate) as server:
        assert common_name(server.port, "first") == "first"
    with pytest.raises(ConfigError, match="can't use the certificate"):
        Certificate(*files)
    with pytest.raises(ConfigError, match="No such file"):
        Certificate(files[0].parent / "none.pem", files[1])


@pytest.fixture(scope="module")
def guarded() -> Iterator[Any]:
    with shop.running(answer, tokens=Tokens(LINES)) as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/v2/health/ready", None, 200),
        ("GET", "/metrics", None, 401),
        ("GET", "/metrics", "another-token-nobody-has", 401),
        ("GET", "/metrics", READER, 200),
        ("POST", "/v2/repository/index", READER, 200),
        ("POST", "/v1/features", READER, 200),
        ("POST", "/rank", READER, 403),
        ("POST", "/rank", ASKER, 200),
        ("POST", "/v2/models/m/infer", ASKER, 200),
        ("POST", "/v2/repository/models/m/load", ASKER, 403),
        ("POST", "/v2/repository/models/m/load", OPERATOR, 200),
        ("POST", "/rank", OPERATOR, 200),
    ],
)
def test_what_a_role_may_do(guarded: Any, method: str, path: str, token: str | None, status: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=10)
    client.request(method, path, b"", {} if token is None else {"Authorization": f"Bearer {token}"})
    got = client.getresponse()
    body = got.read()
    client.close()
    assert got.status == status
    assert not any(secret.encode() in body for secret in (READER, ASKER, OPERATOR))


def test_no_token_is_ever_logged_or_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Not even where the handler fails, or where a file of tokens is wrong."""
    with caplog.at_level(logging.DEBUG), shop.running(lambda _: Response(1, b""), tokens=Tokens(LINES)) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        client.request("POST", "/rank", b"x", {"Authorization": f"Bearer {ASKER}"})
        client.close()
        time.sleep(0.05)
    shown = [repr(Tokens(LINES)), str(Tokens(LINES).holder(f"Bearer {ASKER}".encode()))]
    for wrong in (f"reed {ASKER}", f"read a b {ASKER}", f"read {ASKER[:9]}"):
        with pytest.raises(ConfigError) as caught:
            Tokens([wrong])
        shown.append(str(caught.value))
    for text in [caplog.text, *shown]:
        assert ASKER not in text
        assert ASKER[:9] not in text


def test_a_file_of_tokens_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{ASKER}\n")
    settings = Settings(token_file=file, more_tokens=(OPERATOR,))
    settings.read_tokens()
    watched = Watched((file,), settings.read_tokens)
    file.write_text(f"read {READER}\n")
    watched.look()
    holders = {t: settings.tokens.holder(f"Bearer {t}".encode()) for t in (ASKER, READER, OPERATOR)}
    assert holders[ASKER] is None
    assert {t: h.role for t, h in holders.items() if h is not None} == {READER: Role.READ, OPERATOR: Role.INFER}
    file.write_text("short\n")
    watched.look()
    assert settings.tokens.holder(f"Bearer {READER}".encode()) is not None
