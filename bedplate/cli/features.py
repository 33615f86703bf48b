"""`bedplate features`: the feature server, for programs in other languages."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bedplate.cli.options import project_option
from bedplate.cli.server import ServerOptions, notices_of, server_options

if TYPE_CHECKING:
    from bedplate.serving.feature_plan import FeatureLookup
    from bedplate.serving.server import Application
    from bedplate.serving.settings import Settings

TOKEN_VARIABLE = "BEDPLATE_FEATURES_TOKEN"


@click.group()
def features() -> None:
    """Serve features to programs outside Python.

    \b
    Example:
      bedplate features serve --port 8000
    """


@features.command()
@project_option
@server_options(TOKEN_VARIABLE, most_waiting=64)
@click.option("--most-keys", default=10_000, show_default=True, type=click.IntRange(1), help="Keys of a call.")
def serve(directory: Path, server: ServerOptions, most_keys: int) -> None:
    """Serve the project's features from its online store, over HTTP: JSON, or Arrow for large answers.

    Prints 'ready on URL' once every view was read; with --json that is one line {"ready": true, "url": ...,
    "seconds": ..., "pid": ...}. GET /openapi.json describes the requests. SIGTERM and Ctrl-C answer what is under way
    and end.

    \b
    Examples:
      bedplate features serve
      bedplate features serve --host 0.0.0.0 --tokens tokens.txt
      bedplate features serve --port 0 --json
      curl -d '{"features": ["customer_lines.*"], "keys": {"customer": [17850]}}' localhost:8000/v1/features
    """
    ending = contextlib.ExitStack()

    def load() -> FeatureLookup:
        from bedplate.cli.options import open_online
        from bedplate.online.fallback import FallbackReader
        from bedplate.online.resident import open_resident
        from bedplate.project import Project
        from bedplate.serving.feature_plan import FeatureLookup, warm_up
        from bedplate.types import SECOND

        project = Project(directory)
        config = project.config
        resident, seconds = open_resident(config, project.views), config.online_deadline / SECOND
        store = open_online(config)
        reader = FallbackReader(store, seconds, config.online_cache, resident=resident)
        found = FeatureLookup(project.graph, reader, project.scorers, most_keys=most_keys)
        with project.located():
            for view, error in warm_up(found).items():
                click.echo(f"not served: view '{view}': {error.message}", err=True)
        notices = notices_of(store, "the feature server")
        ending.callback(notices.close)
        notices.keep(project.views.values())
        return found

    def app(settings: Settings) -> Application[FeatureLookup]:
        from bedplate.serving.feature_app import FeatureApp

        return FeatureApp(settings.tokens)

    with ending:
        server.serve(app, load, TOKEN_VARIABLE)
