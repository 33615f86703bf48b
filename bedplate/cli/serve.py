"""`bedplate serve`: the inference service over HTTP."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.options import Between, project_option
from bedplate.cli.server import ServerOptions, server_options
from bedplate.errors import ConfigError
from bedplate.process import check_per_core

if TYPE_CHECKING:
    from bedplate.http.server import Beside
    from bedplate.http.settings import Settings
    from bedplate.inference.repository import Repository
    from bedplate.serving.pipeline import Pipeline
    from bedplate.serving.service_app import App


TOKEN_VARIABLE = "BEDPLATE_SERVE_TOKEN"


@click.command()
@project_option
@server_options(TOKEN_VARIABLE, most_waiting=0)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of a call of a model, at most 8 for each core; unless given, the cores among the workers, at most 4.",
)
@click.option("--model-control", is_flag=True, help="Let clients load and unload versions of the registry's models.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Answer tensor clients over gRPC too; 0: a free port.")
@click.option(
    "--batch-delay",
    metavar="MS",
    default=1.0,
    show_default=True,
    type=Between(0, 100),
    help="How long requests may wait to share a call of a model, where that is measured to pay; 0: never.",
)
@click.option(
    "--item-cache",
    metavar="MB",
    default=64,
    show_default=True,
    type=click.IntRange(0),
    help="Memory for what a ranking model computes of candidates alone, kept for later requests; 0: none is kept.",
)
@click.argument("service", required=False)
def serve(
    service: str | None,
    directory: Path,
    server: ServerOptions,
    threads: int | None,
    model_control: bool,
    grpc_port: int | None,
    batch_delay: float,
    item_cache: int,
) -> None:
    """Serve SERVICE, a Service of the project's service.py, over HTTP.

    Without SERVICE, the only one that the project defines. Prints 'ready on URL' once the models have reproduced their
    golden scores; with --json that is one line {"ready": true, "url": ..., "seconds": ..., "pid": ...}. SIGTERM and
    Ctrl-C answer what is under way and end. With --workers a supervisor starts a worker that ends again, and on SIGHUP
    has all of them replaced in turn, by what is promoted then.

    \b
    Examples:
      bedplate serve shop
      bedplate serve --project retail --port 0 shop
      bedplate serve shop --json
      bedplate serve shop --host 0.0.0.0 --workers 2 --tokens tokens.txt --certificate cert.pem --key key.pem
      bedplate serve shop --grpc-port 8001 --model-control --tokens tokens.txt
      curl -d '{"customer": 17850}' localhost:8000/recommend
    """
    _check_options(server, threads, model_control, grpc_port)

    @functools.cache
    def repository() -> Repository:
        from bedplate.inference.repository import Repository

        return Repository(is_controlled=model_control)

    @functools.cache
    def app() -> App:
        from bedplate.serving.service_app import App

        return App(repository())

    ending = contextlib.ExitStack()

    def load() -> Pipeline:
        from bedplate.runtimes.base import threads_for

        of_call = threads_for(server.workers) if threads is None else threads
        return _load(directory, service, repository(), of_call, batch_delay / 1e3, ending, item_cache << 20)

    def beside(settings: Settings) -> Sequence[Beside]:
        return () if grpc_port is None else (_grpc(repository(), app(), settings, grpc_port, server.workers > 1),)

    def hold() -> Sequence[socket.socket]:
        from bedplate.oip.port import hold_port

        return () if grpc_port is None else hold_port(server.host, grpc_port)

    with ending:
        server.serve(lambda _: app(), load, TOKEN_VARIABLE, beside=beside, hold=hold)


def _grpc(repository: Repository, app: App, settings: Settings, port: int, is_shared: bool) -> Beside:
    from bedplate.oip.grpc import GrpcServer
    from bedplate.oip.methods import InferenceService

    service = InferenceService(repository, lambda: app.is_ready)
    return GrpcServer(service, app.metrics, settings, port=port, is_shared=is_shared)


def _check_options(server: ServerOptions, threads: int | None, model_control: bool, grpc_port: int | None) -> None:
    if threads is not None:
        check_per_core(threads, "--threads", "options")
    if grpc_port and grpc_port == server.port:
        hint = "the protocols need a port each: give one of them another"
        raise ConfigError(
            f"--port and --grpc-port are both {grpc_port}, expected two ports", where="options", hint=hint
        )
    if server.workers == 1:
        return
    if model_control:
        hint = "what one worker loads, the others would not serve"
        raise ConfigError("--model-control needs --workers 1", where="options", hint=hint)
    if grpc_port == 0:
        raise ConfigError("--grpc-port 0 needs --workers 1", where="options", hint="name the port that workers share")


def _load(
    directory: Path,
    service: str | None,
    repository: Repository,
    threads: int,
    delay: float,
    ending: contextlib.ExitStack,
    item_bytes: int = 0,
) -> Pipeline:
    from bedplate.cli.server import notices_of
    from bedplate.inference.loader import Loader
    from bedplate.inference.model_source import RegistryModels
    from bedplate.online.fallback import FallbackReader
    from bedplate.online.resident import open_resident
    from bedplate.project import Project
    from bedplate.serving.load import load_pipeline
    from bedplate.serving.service import Service
    from bedplate.types import SECOND, parse_duration

    project = Project(directory)
    definition = project.find(Service, service)
    store, registry = project.open_store(create=False), project.registry
    say = functools.partial(click.echo, err=True)
    loader = Loader(registry, threads, delay=delay, item_bytes=item_bytes, say=say)
    repository.attach(RegistryModels(loader))
    config, asked = project.config, definition.read_deadline
    deadline = config.online_deadline if asked is None else parse_duration(asked)
    reader = FallbackReader(
        store, deadline / SECOND, config.online_cache, resident=open_resident(config, project.views)
    )
    pipeline = load_pipeline(definition, project.graph, reader, registry, loader=loader)
    notices = notices_of(store, f"the service '{definition.name}'")
    ending.callback(notices.close)
    notices.keep(pipeline.views)
    return pipeline
