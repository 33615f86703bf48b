"""What Prometheus scrapes of workers, and the endpoint that serves it beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from socket import AF_INET, AF_INET6
from socketserver import BaseServer, ThreadingTCPServer
from types import TracebackType
from typing import Any, Self, final

from bedplate.clock import Clock, system_clock
from bedplate.errors import ConfigError
from bedplate.exposition import CONTENT_TYPE, family
from bedplate.online.measures import Measures, age

HOST = "127.0.0.1"
"""The address that the endpoint listens on, unless told."""

_PREFIX = "bedplate_ingest_"


def metrics_text(workers: Sequence[Measures], clock: Clock = system_clock) -> str:
    """How workers stand, for a scraper.

    >>> print(metrics_text([Measures("clicks")]).splitlines()[2])
    bedplate_ingest_events_per_second{source="clicks"} 0.0
    """
    now = clock()
    parts = [({"source": w.source, "partition": n}, p) for w in workers for n, p in list(w.partitions.items())]
    views = [({"source": w.source, "view": n}, time) for w in workers for n, time in list(w.watermarks.items())]

    def of_sources(value: Callable[[Measures], float]) -> list[tuple[dict[str, str], float]]:
        return [({"source": w.source}, value(w)) for w in workers]

    lags = [(labels, p.lag) for labels, p in parts if p.lag is not None]
    ages = [(labels, old) for labels, p in parts if (old := age(p.newest, now)) is not None]
    families: list[tuple[str, str, str, Sequence[tuple[dict[str, str], float]]]] = [
        ("events_per_second", "gauge", "Events taken in a second, of the last ten.", of_sources(lambda w: w.rate)),
        ("events_total", "counter", "Events taken in.", [(labels, p.events) for labels, p in parts]),
        ("passed_over_total", "counter", "Events whose time the loads had.", [(x, p.passed_over) for x, p in parts]),
        ("lag_events", "gauge", "Events of the stream that are not taken in yet.", lags),
        ("freshness_seconds", "gauge", "Age of the newest event of the last micro-batch.", ages),
        ("watermark_seconds", "gauge", "Reads of this time or later are exact.", [(v, t / 1e6) for v, t in views]),
        ("conflicts_total", "counter", "Steps made anew: others came first.", of_sources(lambda w: w.conflicts)),
        ("dead_letters_total", "counter", "Events that went aside.", of_sources(lambda w: w.letters)),
        ("stuck_partitions", "gauge", "Partitions that can't go on.", of_sources(lambda w: len(w.stuck))),
        ("ahead_total", "counter", "Events taken in too far ahead of the clock.", of_sources(lambda w: w.ahead)),
        ("swept_rows_total", "counter", "Rows deleted: nothing of them counted.", of_sources(lambda w: w.swept)),
        ("store_errors_total", "counter", "Turns that the store ended.", of_sources(lambda w: w.store_errors)),
        ("store_up", "gauge", "Whether the store can be reached.", of_sources(lambda w: int(not w.trouble))),
        ("stream_up", "gauge", "Whether the stream can be reached.", of_sources(lambda w: int(not w.stream_trouble))),
        ("stream_errors_total", "counter", "Errors of the stream that passed.", of_sources(lambda w: w.stream_errors)),
    ]
    lines = [line for name, kind, text, samples in families for line in family(_PREFIX + name, kind, text, samples)]
    return "\n".join(lines) + "\n"


def parse_address(text: str) -> tuple[str, int]:
    """The host and port of `PORT` or `HOST:PORT`.

    Raises:
        ConfigError: it is neither.

    >>> parse_address("9100"), parse_address("0.0.0.0:0"), parse_address("[::1]:9100")
    (('127.0.0.1', 9100), ('0.0.0.0', 0), ('::1', 9100))
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else HOST
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            f"got '{text}', expected PORT or HOST:PORT", where="--metrics", hint="port 0 picks one that is free"
        )
    return host, int(port)


@final
class MetricsEndpoint:
    """`GET /metrics`, answered by threads of its own as long as the context lasts. It listens once it is made.

    Args:
        host: the address to listen on.
        port: the port; 0 picks one that is free.
        workers: how each worker stands; may grow.

    Attributes:
        url: where the metrics are.

    Raises:
        ConfigError: the port is taken, or there is no such address.
    """

    def __init__(self, host: str, port: int, workers: Sequence[Measures]) -> None:
        class Handler(_Handler):
            shown = workers

        try:
            self._server = (_Server6 if ":" in host else _Server)((host, port), Handler)
        except OSError as error:
            raise ConfigError(
                f"can't listen on port {port} of {host}: {error.strerror or error}",
                where="--metrics",
                hint="name another one; port 0 picks one that is free",
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_address[1]}/metrics"

    def __enter__(self) -> Self:
        """The endpoint, which answers from now on."""
        threading.Thread(target=self._server.serve_forever, name="bedplate-metrics", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    address_family = AF_INET

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nobody's error."""


class _Server6(_Server):
    address_family = AF_INET6


class _Handler(BaseHTTPRequestHandler):
    shown: Sequence[Measures] = ()
    timeout = 5.0  # seconds that a client may take
    server: BaseServer

    def do_GET(self) -> None:
        """Answers with the metrics."""
        is_there = self.path.partition("?")[0] == "/metrics"
        body = (metrics_text(self.shown) if is_there else "not found; see /metrics\n").encode()
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: standard error is the command's."""
