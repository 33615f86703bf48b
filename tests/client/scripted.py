"""A service that answers with the bytes that a test gives it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WELL = b'{"ids": [], "scores": [], "models": {}, "time": 1}'
Script = Callable[[socket.socket], None]


def head(size: int, *more: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {size}", *more, "", ""]).encode()


def asked(connection: socket.socket) -> bytes:
    """One request of a connection; nothing where the client has closed it."""
    found = b""
    while b"\r\n\r\n" not in found:
        part = connection.recv(65536)
        if not part:
            return b""
        found += part
    start, _, body = found.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in start.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", b"0")):
        body += connection.recv(65536)
    return start + b"\r\n\r\n" + body


@contextmanager
def service(*scripts: Script, family: int = socket.AF_INET) -> Iterator[tuple[str, list[bytes]]]:
    """A service whose n-th connection is answered by the n-th script; gives its URL and the requests that came."""
    seen: list[bytes] = []
    listener = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)
    listener.settimeout(10)

    def one(script: Script) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(10)
            request = asked(connection)
            while request:
                seen.append(request)
                try:
                    script(connection)
                    request = asked(connection)
                except OSError:
                    return

    def work() -> None:
        for script in scripts:
            one(script)

    thread = threading.Thread(target=work)
    thread.start()
    host, port = listener.getsockname()[:2]
    try:
        yield f"http://[{host}]:{port}" if family == socket.AF_INET6 else f"http://{host}:{port}", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(15)
        listener.close()
        assert not thread.is_alive()


def says(*parts: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return script


def says_and_closes(*parts: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        says(*parts)(connection)
        connection.shutdown(socket.SHUT_RDWR)

    return script


def drips(content: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        for byte in content:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    return script


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    parts = [b"%x;note=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + end
