"""HTTP/1.1 as clients speak it: a request as bytes, and an answer from bytes as they come.

Both clients send and read by this: what is an answer to one is an answer to the other, and fails in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, final

from bedplate.errors import RequestError
from bedplate.malformed import shown

_Found = TypeVar("_Found")
_Step: TypeAlias = Generator[None, None, _Found]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(r"/[!-\"$-~]*")
_NO_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_DIGITS = re.compile(r"[0-9]{1,15}")
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]{1,12}")
_BEGINNING = b"HTTP/1."
_HEAD_BYTES = 65_536
_OWN = {"content-length", "transfer-encoding"}

ANSWER_BYTES = 268_435_456
"""The largest answer that a client takes, if it is not told otherwise: what comes without end would fill the memory."""
LEAST_ANSWER_BYTES = _HEAD_BYTES
"""The least that it may be told to take: of an error it reads the whole."""


@final
@dataclass(frozen=True, slots=True)
class Call:
    r"""A request. None changes anything in the service, so that each may be sent again.

    Attributes:
        method: a word, such as `GET`.
        path: from `/`, quoted, with a query if there is one.
        body: its bytes; None: it has none.
        headers: those beside the client's own; one that the client has too is sent in place of it.

    Raises:
        RequestError: one of them has another form, or a header says how long the body is.

    >>> Call("GET", "/v2", headers={"X-Trace": "a\r\n\r\nGET /v2"})
    Traceback (most recent call last):
    bedplate.errors.RequestError: header 'X-Trace': got '\r' at position 1 of its value, expected Latin-1 in one line
    """

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        """Refuses what would be another request, or more than one, when it is sent."""
        if not _is(self.method, _TOKEN):
            raise RequestError(f"got {shown(self.method)}, expected a word such as 'GET'", where="method")
        if not _is(self.path, _PATH):
            raise RequestError(
                f"got {shown(self.path)}, expected '/' and more in ASCII, without spaces and '#'",
                where="path",
                hint="quote what stands in it by urllib.parse.quote",
            )
        if not isinstance(self.body, bytes | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestError(f"got {type(self.body).__name__}, expected bytes", where="body", hint="encode it")
        if not isinstance(self.headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestError(f"got {type(self.headers).__name__}, expected values by name", where="headers")
        for name, value in self.headers.items():
            _check_header(name, value)

    def encoded(self, base: str, headers: Mapping[str, str]) -> bytes:
        r"""The bytes that are sent.

        Args:
            base: what comes before the path.
            headers: the client's own.

        >>> Call("PUT", "/a", b"xyz", {"host": "b"}).encoded("/base", {"Host": "a:80"})
        b'PUT /base/a HTTP/1.1\r\nhost: b\r\nContent-Length: 3\r\n\r\nxyz'
        """
        body = self.body or b""
        named = {name.lower() for name in self.headers}
        fields = {**{n: v for n, v in headers.items() if n.lower() not in named}, **self.headers}
        lines = [f"{self.method} {base}{self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status, its body, and its headers by name in lower case; one that comes twice has both values."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@final
class AnswerSizeError(ValueError):
    """An answer that is larger than the client takes.

    Args:
        size: the bytes that came or are said to come.
        most_bytes: how many may come.
        status: of it.
    """

    def __init__(self, size: int, most_bytes: int, status: int) -> None:
        super().__init__(f"got an answer of {size:,} bytes or more, expected at most {most_bytes:,}")
        self.status = status


@final
class CutError(EOFError):
    """The connection ended within the answer."""


@final
class Reading:
    r"""Reads one answer from what comes over a connection, in whatever parts it comes.

    Args:
        method: of the request: an answer to `HEAD` has no body.
        most_bytes: of the answer, all that comes counted.

    Attributes:
        came: the bytes that came.
        keeps: whether the connection may be used again, once the answer is there: the service keeps it, and nothing
            came after the answer.

    >>> reading = Reading("GET")
    >>> reading.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    >>> reading.feed(b"{}"), reading.keeps
    (Reply(status=200, body=b'{}', headers={'content-length': '2'}), True)
    """

    __slots__ = ("_buffer", "_ended", "_method", "_most_bytes", "_status", "_steps", "came", "keeps")

    def __init__(self, method: str, most_bytes: int = ANSWER_BYTES) -> None:
        self.keeps = False
        self._method, self._most_bytes = method, most_bytes
        self.came, self._status = 0, 0
        self._buffer, self._ended = bytearray(), False
        self._steps = self._reply()
        next(self._steps)

    def feed(self, part: bytes) -> Reply | None:
        """The answer, where it ends in this part; None: there is more to come.

        Args:
            part: the bytes that came next; none: the connection has ended.

        Raises:
            AnswerSizeError: it is larger than it may be.
            ValueError: it is no answer of HTTP/1.1.
            CutError: the connection ended within the answer.
            EOFError: it ended before the answer.
        """
        self.came += len(part)
        self._buffer += part
        self._ended = not part
        try:
            next(self._steps)
        except StopIteration as done:
            return done.value
        if self.came > self._most_bytes:
            raise AnswerSizeError(self.came, self._most_bytes, self._status)
        return None

    def cut(self, why: str) -> CutError:
        """What is said where a connection ends within the answer.

        Args:
            why: it ended.
        """
        return CutError(f"the answer was cut after {self.came:,} bytes: {why}")

    def _reply(self) -> _Step[Reply]:
        yield  # for the first part
        status, is_kept, headers = yield from self._head()
        while status < 200:
            status, is_kept, headers = yield from self._head()
        body = yield from self._body(status, headers)
        named = {option.strip() for option in headers.get("connection", "").lower().split(",")}
        self.keeps = is_kept and "close" not in named and not self._ended and not self._buffer
        return Reply(status, body, headers)

    def _head(self) -> _Step[tuple[int, bool, dict[str, str]]]:
        """The status, whether the version keeps connections, and the headers."""
        while len(self._buffer) < len(_BEGINNING) and _BEGINNING.startswith(self._buffer):
            yield from self._more()
        if not self._buffer.startswith(_BEGINNING):  # said at once: what waits for another protocol sends no more
            raise _unlike(self._buffer.partition(b"\r")[0].decode("latin-1"))
        head = yield from self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        found = _STATUS.fullmatch(first)
        if found is None or found[2] == "101":  # nobody asked for another protocol
            raise _unlike(first)
        self._status = int(found[2])
        return self._status, found[1] == "1", _fields(lines)

    def _body(self, status: int, headers: Mapping[str, str]) -> _Step[bytes]:
        if self._method == "HEAD" or status in (204, 304):
            return b""
        coding = headers.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked" or "content-length" in headers:
                raise ValueError(f"got the transfer encoding {shown(coding)}, expected 'chunked' and no length beside")
            return (yield from self._chunks())
        if "content-length" in headers:
            [size, *others] = {text.strip() for text in headers["content-length"].split(",")}
            if others or not _DIGITS.fullmatch(size):
                raise ValueError(f"got the length {shown(headers['content-length'])}, expected bytes")
            return (yield from self._exactly(self._checked(int(size))))
        while not self._ended:  # the body is all that comes
            yield
        return bytes(self._buffer)

    def _chunks(self) -> _Step[bytes]:
        """A body in chunks, each after its length in hexadecimal; the last one is empty, and headers may follow it."""
        body = bytearray()  # parts that are small would each be an object many times its size
        while True:
            line = (yield from self._until(b"\r\n")).decode("latin-1")
            size = line.partition(";")[0].strip(" \t")
            if not _HEXADECIMAL.fullmatch(size):
                raise ValueError(f"got {shown(line)}, expected the length of a chunk")
            if not int(size, 16):
                break
            body += yield from self._exactly(self._checked(int(size, 16)))
            if (yield from self._exactly(2)) != b"\r\n":
                raise ValueError("got a chunk of another length than it says")
        while (yield from self._until(b"\r\n")):
            continue
        return bytes(body)

    def _checked(self, size: int) -> int:
        """A size that is said of what comes next, of which nobody waits for more than an answer may have."""
        whole = self.came - len(self._buffer) + size
        if whole > self._most_bytes:
            raise AnswerSizeError(whole, self._most_bytes, self._status)
        return size

    def _until(self, end: bytes) -> _Step[bytes]:
        """What comes before an end, which is passed over."""
        searched = 0
        while (size := self._buffer.find(end, searched)) < 0 and len(self._buffer) <= _HEAD_BYTES:
            searched = max(0, len(self._buffer) - len(end) + 1)
            yield from self._more()
        if not 0 <= size <= _HEAD_BYTES:
            raise ValueError(f"got headers of more than {_HEAD_BYTES:,} bytes")
        return (yield from self._exactly(size + len(end)))[:size]

    def _exactly(self, size: int) -> _Step[bytes]:
        while len(self._buffer) < size:
            yield from self._more()
        with memoryview(self._buffer) as view:
            found = bytes(view[:size])
        del self._buffer[:size]
        return found

    def _more(self) -> _Step[None]:
        if self._ended:
            raise self.cut("the connection ended") if self.came else EOFError("the connection ended before the answer")
        yield


def _fields(lines: list[str]) -> dict[str, str]:
    """Values by name in lower case."""
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise ValueError(f"got {shown(line)}, expected a header and its value")
        name, value = name.lower(), value.strip(" \t")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _is(value: object, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _check_header(name: str, value: str) -> None:
    """Refuses a header by its name; its value may be a secret, of which only what is wrong is shown."""
    if not _is(name, _TOKEN):
        raise RequestError(f"got the header {shown(name)}, expected letters, digits and '-'", where="headers")
    place = f"header '{name}'"
    if name.lower() in _OWN:
        raise RequestError(f"got '{name}', which the client says itself", where=place, hint="leave it out")
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"got {type(value).__name__}, expected a text", where=place)
    wrong = _NO_VALUE.search(value)
    if wrong is not None:
        message = f"got {wrong[0]!r} at position {wrong.start()} of its value, expected Latin-1 in one line"
        raise RequestError(message, where=place)


def _unlike(line: str) -> ValueError:
    return ValueError(f"got {shown(line)}, expected an answer of HTTP/1.1")
