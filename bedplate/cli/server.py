"""What `bedplate serve` and `bedplate features serve` have in common: options of the server, and running it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

import click

from bedplate.cli.hangup import take_hangups
from bedplate.errors import ConfigError
from bedplate.process import check_per_core
from bedplate.types import SECOND, parse_duration

if TYPE_CHECKING:
    from bedplate.http.message import Limits
    from bedplate.http.server import Application, Beside
    from bedplate.http.settings import Settings
    from bedplate.online.base import OnlineStore
    from bedplate.online.readers import Notices

Loaded = TypeVar("Loaded")

_WORKERS = "Processes that share the port, at most 8 for each core."


@final
@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of a server, as the command line has them; each is described in its help."""

    as_json: bool
    host: str
    port: int
    workers: int
    tokens: Path | None
    certificate: Path | None
    key: Path | None
    most_megabytes: int
    most_connections: int
    most_waiting: int
    most_wait: str
    most_per_client: int
    grace: str

    def settings(self, variable: str) -> Settings:
        """The settings of the server.

        Args:
            variable: the environment variable that may hold a token.

        Raises:
            ConfigError: a file can't be read, or a token or a duration is wrong.
        """
        from bedplate.http.settings import Settings
        from bedplate.http.tls import Certificate

        if (self.certificate is None) != (self.key is None):
            raise ConfigError("--certificate and --key go together", where="options")
        given = os.environ.get(variable)
        settings = Settings(
            host=self.host,
            port=self.port,
            limits=self._limits(),
            grace_seconds=_seconds(self.grace, "--grace"),
            token_file=self.tokens,
            more_tokens=(given,) if given else (),
            certificate=None
            if self.certificate is None or self.key is None
            else Certificate(self.certificate, self.key),
        )
        settings.read_tokens()
        return settings

    def serve(
        self,
        app: Callable[[Settings], Application[Loaded]],
        load: Callable[[], Loaded],
        variable: str,
        *,
        beside: Callable[[Settings], Sequence[Beside]] = lambda _: (),
        load_again: Callable[[], Loaded] | None = None,
        hold: Callable[[], Sequence[socket.socket]] = tuple,
    ) -> None:
        """Serves until SIGTERM or Ctrl-C, in this process or in several.

        Args:
            app: makes what answers.
            load: gives what that is opened with.
            variable: as of `settings`.
            beside: makes the servers of other protocols, after the application.
            load_again: gives what it is opened with anew on SIGHUP. None: that signal has workers replaced, one after
                the other, and ends a process without workers.
            hold: binds the ports that workers share beside that of HTTP, until all have ended.

        Raises:
            ConfigError: an option is wrong; nothing was started.
        """
        from bedplate.http.board import is_worker

        check_per_core(self.workers, "--workers", "options")
        is_first = self.workers > 1 and not is_worker()
        take_hangups(is_awaited=is_first or load_again is not None)
        if is_first:
            with contextlib.ExitStack() as held:
                for bound in hold():
                    held.enter_context(bound)
                self._supervise(signal.SIGTERM if load_again is None else signal.SIGHUP)
            return
        from bedplate.http.loading import Again
        from bedplate.http.place import Place
        from bedplate.http.server import run_application

        place = Place.of_environment()

        settings = self.settings(variable)
        made = app(settings)
        others = beside(settings)

        def announce(url: str, seconds: float) -> None:
            if place is None:
                self._announce(url, seconds, 1, {other.name: other.target for other in others})

        again = None if load_again is None else Again(load_again, lambda text: click.echo(text, err=True))
        run_application(made, load, settings, on_ready=announce, place=place, beside=others, again=again)

    def _supervise(self, hangup: signal.Signals) -> None:
        from time import perf_counter

        from bedplate.http.listening import url_of
        from bedplate.http.supervisor import Supervisor, worker_command

        begin = perf_counter()
        supervisor = Supervisor(
            worker_command(),
            self.workers,
            host=self.host,
            port=self.port,
            grace_seconds=_seconds(self.grace, "--grace"),
            say=lambda text: click.echo(text, err=True),
            hangup=hangup,
        )
        url = url_of(self.host, supervisor.port, secure=self.certificate is not None)
        supervisor.run(lambda: self._announce(url, perf_counter() - begin, self.workers))

    def _announce(self, url: str, seconds: float, workers: int, others: Mapping[str, str] | None = None) -> None:
        if self.as_json:
            more = {"workers": workers} if workers > 1 else {}
            shown = {"ready": True, "url": url, "seconds": seconds, "pid": os.getpid(), **more, **(others or {})}
            click.echo(json.dumps(shown))
        else:
            also = "".join(f", {name} on {target}" for name, target in (others or {}).items())
            click.echo(f"ready on {url} in {seconds:.1f} s" + (f", {workers} workers" if workers > 1 else "") + also)

    def _limits(self) -> Limits:
        from bedplate.http.message import Limits

        return Limits(
            body_bytes=self.most_megabytes * 1_000_000,
            connections=self.most_connections,
            waiting=self.most_waiting,
            wait_seconds=_seconds(self.most_wait, "--most-wait"),
            client_requests=self.most_per_client,
        )


def server_options(variable: str, *, most_waiting: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a server, as its argument `server`.

    Args:
        variable: the environment variable that may hold a token.
        most_waiting: the default of `--most-waiting`.
    """
    whole, some = click.IntRange(1), click.IntRange(0)
    file = click.Path(path_type=Path)
    options = [
        click.option(
            "--json", "as_json", is_flag=True, help="Write the line that says it is ready as JSON, on one line."
        ),
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 for all."
        ),
        click.option(
            "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free port."
        ),
        click.option("--workers", default=1, show_default=True, type=whole, help=_WORKERS),
        click.option(
            "--tokens",
            metavar="FILE",
            type=file,
            help="Bearer tokens that are accepted, one a line: [ROLE [NAME]] TOKEN, roles read, infer and operate. "
            f"Or one in the environment variable {variable}. Read again when it changes.",
        ),
        click.option("--certificate", metavar="FILE", type=file, help="PEM, for TLS. Read again when it changes."),
        click.option("--key", metavar="FILE", type=file, help="PEM, of the certificate's key."),
        click.option("--most-megabytes", default=16, show_default=True, type=whole, help="Of a request's body."),
        click.option("--most-connections", default=4096, show_default=True, type=whole, help="Of each worker."),
        click.option(
            "--most-waiting",
            default=most_waiting,
            show_default=True,
            type=some,
            help="Requests that wait for their turn; 0: as many as --most-wait allows.",
        ),
        click.option("--most-wait", default="1s", show_default=True, help="The longest wait for a turn, by estimate."),
        click.option(
            "--most-per-client",
            default=0,
            show_default=True,
            type=some,
            help="Requests of one token, or else one address, that wait or are being answered; 0: no limit.",
        ),
        click.option("--grace", default="10s", show_default=True, help="For requests under way when it is stopped."),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            shared = {field.name: given.pop(field.name) for field in fields(ServerOptions)}
            command(server=ServerOptions(**shared), **given)

        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def notices_of(store: OnlineStore, what: str) -> Notices:
    """The notices in a store that this process reads views, as what."""
    from bedplate.online.readers import Notices

    return Notices(store, f"{what} (process {os.getpid()} of {socket.gethostname()})")


def _seconds(given: str, option: str) -> float:
    return parse_duration(given, where=option, error=ConfigError) / SECOND
