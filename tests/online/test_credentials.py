"""Brokers that refuse a password end a worker: a fake broker answers the two questions that come before one."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from kafka_broker import VIEW, loaded, turn_until

from bedplate.errors import ConfigError
from bedplate.online import kafka_connection
from bedplate.online.ingest import Ingest
from bedplate.online.kafka import KafkaStream

VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36
_UNSUPPORTED, _FAILED = 35, 58
WHY = b"Invalid username or password"


def _answer(kind: int, version: int) -> bytes:
    """Of the requests that a client sends before it may ask anything else."""
    known = [(VERSIONS, 0, 0), (HANDSHAKE, 0, 1), (AUTHENTICATE, 0, 0), (3, 0, 1)]
    if kind == VERSIONS:
        found = b"".join(struct.pack(">hhh", *k) for k in known)
        return struct.pack(">hi", _UNSUPPORTED if version else 0, len(known)) + found
    if kind == HANDSHAKE:
        return struct.pack(">hih", 0, 1, 5) + b"PLAIN"
    return struct.pack(">hh", _FAILED, len(WHY)) + WHY + struct.pack(">i", 0)


def _serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as asked:
        while len(size := asked.read(4)) == 4:
            kind, version, number = struct.unpack(">hhi", asked.read(struct.unpack(">i", size)[0])[:8])
            answer = struct.pack(">i", number) + _answer(kind, version)
            connection.sendall(struct.pack(">i", len(answer)) + answer)


@pytest.fixture
def address() -> Generator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=_serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_a_password_that_is_refused_ends_the_worker(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_connection, "PATIENCE", 0.5)
    settings = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "worker",
        "sasl.password": "wrong",
    }
    opened = KafkaStream(f"kafka://{address}/events", VIEW, "group", tmp_path, settings=settings)
    worker = Ingest(loaded(), [VIEW], opened)
    with pytest.raises(ConfigError, match=r"refuse the name or the password: .*Invalid username") as caught:
        turn_until([worker], lambda: False)
    assert caught.value.exit_code == 2
    assert "sasl.password" in caught.value.hint
    assert "wrong" not in str(caught.value)
    opened.close()
