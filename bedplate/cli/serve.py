"""`bedplate serve`: the inference service over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.options import project_option
from bedplate.cli.server import ServerOptions, server_options

if TYPE_CHECKING:
    from bedplate.serving.pipeline import Pipeline
    from bedplate.serving.server import Application
    from bedplate.serving.settings import Settings


TOKEN_VARIABLE = "BEDPLATE_SERVE_TOKEN"


@click.command()
@project_option
@server_options(TOKEN_VARIABLE, most_waiting=0)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads of a call of a model.")
@click.argument("service", required=False)
def serve(service: str | None, directory: Path, server: ServerOptions, threads: int) -> None:
    """Serve SERVICE, a Service of the project's service.py, over HTTP.

    Without SERVICE, the only one that the project defines. Prints 'ready on URL' once the models have reproduced their
    golden scores; with --json that is one line {"ready": true, "url": ..., "seconds": ..., "pid": ...}. SIGTERM and
    Ctrl-C answer what is under way and end. With --workers a supervisor starts a worker that ends again.

    \b
    Examples:
      bedplate serve shop
      bedplate serve --project retail --port 0 shop
      bedplate serve shop --json
      bedplate serve shop --host 0.0.0.0 --workers 2 --tokens tokens.txt --certificate cert.pem --key key.pem
      curl -d '{"customer": 17850}' localhost:8000/recommend
    """

    def load() -> Pipeline:
        from bedplate.online.base import open_store
        from bedplate.online.fallback import FallbackReader
        from bedplate.online.resident import open_resident
        from bedplate.project import Project
        from bedplate.registry.registry import Registry
        from bedplate.serving.load import load_pipeline
        from bedplate.serving.service import Service
        from bedplate.types import SECOND, parse_duration

        project = Project(directory)
        definition = project.find(Service, service)
        store = open_store(project.config.online_url, project.root)
        registry = Registry(project.config.registry_path)
        config, asked = project.config, definition.deadline
        deadline = config.online_deadline if asked is None else parse_duration(asked)
        reader = FallbackReader(
            store, deadline / SECOND, config.online_cache, resident=open_resident(config, project.views)
        )
        return load_pipeline(definition, project.graph, reader, registry, threads=threads)

    def app(_: Settings) -> Application[Pipeline]:
        from bedplate.serving.routes import App

        return App()

    server.serve(app, load, TOKEN_VARIABLE)
