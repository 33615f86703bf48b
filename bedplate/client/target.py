"""Whom a client asks, how long, and how often."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from time import monotonic
from typing import final
from urllib.parse import unquote, urlsplit

from bedplate.client.errors import BusyError, FailedError, LateError, UnreachableError, failure
from bedplate.client.wire import ANSWER_BYTES, LEAST_ANSWER_BYTES, AnswerSizeError, Call, CutError, Reply
from bedplate.errors import ConfigError, reason
from bedplate.malformed import shown

MOST_IDLE = 64
"""Connections that a client keeps while it asks nothing: those of a burst are closed after it."""
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
"""How long the client waits for an answer: a service need not make one that comes later."""

MOST_SECONDS = 900_000
"""The longest timeout of a client: a service reads at most nine digits of milliseconds."""

_FORM = "http://host:port or https://host:port, and a path if a proxy has the service below one"
_HOST = re.compile(r"[0-9A-Za-z._~%:-]+")
_BASE = re.compile(r"[!-~]*")


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a service is.

    Attributes:
        url: as given, without a slash at the end.
        host: its name or address.
        port: of it.
        base: what comes before the path of every request, as where a proxy has the service below one of its own.
        is_secure: whether it is spoken to by TLS.
    """

    url: str
    host: str
    port: int
    base: str
    is_secure: bool

    @property
    def authority(self) -> str:
        """Host and port as a request names them: an address of IPv6 in brackets, and no port that is the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"

    @classmethod
    def of(cls, url: str) -> Place:
        """The place of a URL.

        Raises:
            ConfigError: it has another form. A password in it is not shown.

        >>> Place.of("https://shop.example/ranking/").base
        '/ranking'
        """
        if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"got {shown(url)}, expected {_FORM}", where="url")
        if "@" in unquote(url):
            raise ConfigError(f"got a user or a password, expected {_FORM}", where="url", hint="use token=...")
        if "?" in url or "#" in url:  # which may hold a secret too
            raise ConfigError(f"got a query or a fragment, expected {_FORM}", where="url", hint="leave it out")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host = host if ":" in host else host.encode("idna").decode()
        except ValueError:
            host, port, parts = "", None, urlsplit("")
        is_there = _HOST.fullmatch(host) and _BASE.fullmatch(parts.path) and url.isprintable()
        if not is_there or parts.scheme not in ("http", "https") or port == 0:
            raise ConfigError(f"got {shown(url)}, expected {_FORM}", where="url")
        is_secure = parts.scheme == "https"
        return cls(url.rstrip("/"), host, port or (443 if is_secure else 80), parts.path.rstrip("/"), is_secure)


def timeout_header(seconds: float) -> str:
    """The time that is left, as a service is told it: whole milliseconds, at least one."""
    return str(max(1, int(seconds * 1000)))


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Whom a client asks, and how; see `of`.

    Attributes:
        place: where the service is.
        timeout: seconds for each call, tries included.
        retries: how often a call is sent again to a service that is busy and says when to.
        tls: of an https URL; None: it is not spoken to by TLS.
        headers: of every request.
        most_answer_bytes: the largest answer that is taken.
    """

    place: Place
    timeout: float
    retries: int
    tls: ssl.SSLContext | None
    headers: Mapping[str, str] = field(repr=False)  # the token is a secret
    most_answer_bytes: int

    @classmethod
    def of(
        cls,
        url: str,
        timeout: float,
        token: str | None,
        retries: int,
        tls: ssl.SSLContext | None,
        most_answer_bytes: int = ANSWER_BYTES,
    ) -> Target:
        """What the arguments of a client say.

        Raises:
            ConfigError: one of them is none.

        >>> Target.of("https://shop.example", 0.2, "a-token-of-the-team", 1, None).headers
        {'Authorization': 'Bearer a-token-of-the-team'}
        """
        place = Place.of(url)
        tries = _whole(retries, "retries", 0, "0 sends each call once")
        most = _whole(most_answer_bytes, "most_answer_bytes", LEAST_ANSWER_BYTES, "an error is read as a whole")
        return cls(place, _seconds(timeout), tries, _context(place, tls), _authorization(token), most)

    @property
    def url(self) -> str:
        """As given, without a slash at the end."""
        return self.place.url

    def encoded(self, call: Call, until: float) -> bytes:
        """A call as it is sent now, with the time that is left."""
        left = timeout_header(until - monotonic())
        own = {"Host": self.place.authority, "Accept-Encoding": "identity", TIMEOUT_HEADER: left}
        return call.encoded(self.place.base, {**own, **self.headers})

    @contextlib.contextmanager
    def failures(self) -> Generator[None]:
        """What fails on the way to an answer, as the client's errors.

        Raises:
            LateError: the time is over.
            FailedError: the answer is larger than the client takes.
            UnreachableError: there is no connection, or one that brings no answer.
        """
        try:
            yield
        except TimeoutError as error:
            raise LateError(f"no answer in {self.timeout:g} s", where=self.url) from error
        except AnswerSizeError as error:
            hint = "ask for less at once, or give the client a larger 'most_answer_bytes'"
            failed = FailedError(f"{error.status}: {error}", where=self.url, hint=hint)
            failed.status = error.status
            raise failed from error
        except CutError as error:
            hint = "the service ended the connection, or a proxy on the way: the log of one may say why"
            raise UnreachableError(str(error), where=self.url, hint=hint) from error
        except (OSError, EOFError, ValueError) as error:
            raise UnreachableError(f"no answer: {reason(error)}", where=self.url, hint=_hint(error)) from error


@final
class Tries:
    """How often a call is sent, and until when: its time begins here.

    Args:
        target: whom it is sent to.

    Attributes:
        until: when its time is over, on the monotonic clock.
    """

    __slots__ = ("_left", "until")

    def __init__(self, target: Target) -> None:
        self.until, self._left = monotonic() + target.timeout, target.retries

    def wait_after(self, reply: Reply) -> float | None:
        """The seconds after which the call is sent again; None: the reply is its answer.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, and there is no other try that the time allows.
        """
        if reply.status < 400:
            return None
        error = failure(reply.status, reply.body, reply.headers)
        wait = error.retry_after if isinstance(error, BusyError) else None
        if wait is None or not self._left or monotonic() + wait >= self.until:
            raise error
        self._left -= 1
        return wait


def _hint(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):  # one of a certificate is a ValueError too
        return "does the service speak TLS, with a certificate that 'tls' trusts?"
    return "is it a service of HTTP/1.1?" if isinstance(error, ValueError) else "is the service running?"


def _seconds(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or not 0 < timeout <= MOST_SECONDS:
        hint = "a call that may take long needs a long timeout, not none"
        raise ConfigError(
            f"got {timeout!r}, expected seconds above 0, at most {MOST_SECONDS:,}", where="timeout", hint=hint
        )
    return float(timeout)


def _whole(value: int, name: str, least: int, hint: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigError(f"got {value!r}, expected a whole number from {least:,}", where=name, hint=hint)
    return int(value)


def _context(place: Place, tls: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """What a place is spoken to by; by default certificates are checked against those of the system."""
    if tls is None:
        return ssl.create_default_context() if place.is_secure else None
    if not isinstance(tls, ssl.SSLContext):  # pyright: ignore[reportUnnecessaryIsInstance]
        hint = "ssl.create_default_context(cafile=...) makes one"
        raise ConfigError(f"got {type(tls).__name__}, expected an ssl.SSLContext", where="tls", hint=hint)
    if not place.is_secure:
        raise ConfigError(f"got one for '{place.url}', which is not spoken to by TLS", where="tls", hint="use https://")
    return tls


def _authorization(token: str | None) -> dict[str, str]:
    """The header by which a service knows the caller; none without a token, which no message shows."""
    if token is None:
        return {}
    if not isinstance(token, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"got {type(token).__name__}, expected a text", where="token")
    if not token:
        hint = "is the variable set that it is of? without a token: None"
        raise ConfigError("got an empty text, expected printable ASCII without spaces", where="token", hint=hint)
    if not token.isascii() or not token.isprintable() or " " in token:  # such as a line with its end
        raise ConfigError("expected printable ASCII without spaces", where="token", hint="strip the end of the line")
    return {"Authorization": f"Bearer {token}"}
