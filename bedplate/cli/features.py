"""`bedplate features`: the feature server, for programs in other languages."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from bedplate.cli.options import project_option

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
@click.option("--json", "as_json", is_flag=True, help="Write the line that says it is ready as JSON, on one line.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free port.")
@click.option(
    "--tokens",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"Bearer tokens that are accepted, one a line. Or one in the environment variable {TOKEN_VARIABLE}.",
)
@click.option("--most-keys", default=10_000, show_default=True, type=click.IntRange(1), help="Keys of a call.")
@click.option("--most-megabytes", default=16, show_default=True, type=click.IntRange(1), help="Of a request's body.")
@click.option(
    "--most-waiting", default=64, show_default=True, type=click.IntRange(1), help="Requests that wait for their turn."
)
def serve(
    directory: Path,
    as_json: bool,
    host: str,
    port: int,
    tokens: Path | None,
    most_keys: int,
    most_megabytes: int,
    most_waiting: int,
) -> None:
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
    from bedplate.serving.feature_app import FeatureApp
    from bedplate.serving.feature_plan import FeatureLookup, warm_up
    from bedplate.serving.http import Limits
    from bedplate.serving.server import run_application
    from bedplate.serving.tokens import Tokens, read_tokens

    given = os.environ.get(TOKEN_VARIABLE)
    accepted = Tokens([*(read_tokens(tokens) if tokens else []), *([given] if given else [])])

    def load() -> FeatureLookup:
        from bedplate.cli.options import open_online
        from bedplate.online.fallback import FallbackReader
        from bedplate.online.resident import open_resident
        from bedplate.project import Project
        from bedplate.types import SECOND

        project = Project(directory)
        config = project.config
        resident, seconds = open_resident(config, project.views), config.online_deadline / SECOND
        reader = FallbackReader(open_online(config), seconds, config.online_cache, resident=resident)
        found = FeatureLookup(project.graph, reader, project.scorers, most_keys=most_keys)
        with project.located():
            for view, error in warm_up(found).items():
                click.echo(f"not served: view '{view}': {error.message}", err=True)
        return found

    def announce(url: str, seconds: float) -> None:
        if as_json:
            click.echo(json.dumps({"ready": True, "url": url, "seconds": seconds, "pid": os.getpid()}))
        else:
            click.echo(f"ready on {url} in {seconds:.1f} s")

    limits = Limits(body_bytes=most_megabytes * 1_000_000, waiting=most_waiting)
    run_application(FeatureApp(accepted), load, host=host, port=port, on_ready=announce, limits=limits)
