"""`bedplate serve`: the inference service over HTTP."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from bedplate.cli.options import project_option


@click.command()
@project_option
@click.option("--json", "as_json", is_flag=True, help="Write the line that says it is ready as JSON, on one line.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free port.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads of a call of a model.")
@click.option("--model-control", is_flag=True, help="Let clients load and unload versions of the registry's models.")
@click.option(
    "--batch-delay",
    metavar="MS",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="How long requests may wait to share a call of a model, where that is measured to pay; 0: never.",
)
@click.argument("service", required=False)
def serve(
    service: str | None,
    directory: Path,
    as_json: bool,
    host: str,
    port: int,
    threads: int,
    model_control: bool,
    batch_delay: float,
) -> None:
    """Serve SERVICE, a Service of the project's service.py, over HTTP.

    Without SERVICE, the only one that the project defines. Prints 'ready on URL' once the models have reproduced their
    golden scores; with --json that is one line {"ready": true, "url": ..., "seconds": ..., "pid": ...}. SIGTERM and
    Ctrl-C answer what is under way and end.

    \b
    Examples:
      bedplate serve shop
      bedplate serve --project retail --port 0 shop
      bedplate serve shop --json
      bedplate serve shop --model-control
      curl -d '{"customer": 17850}' localhost:8000/recommend
    """
    from bedplate.online.base import open_store
    from bedplate.online.fallback import FallbackReader
    from bedplate.online.resident import open_resident
    from bedplate.project import Project
    from bedplate.registry.registry import Registry
    from bedplate.serving.load import load_pipeline
    from bedplate.serving.loader import Loader
    from bedplate.serving.model_source import RegistryModels
    from bedplate.serving.pipeline import Pipeline
    from bedplate.serving.repository import Repository
    from bedplate.serving.server import run_service
    from bedplate.serving.service import Service
    from bedplate.types import SECOND, parse_duration

    repository = Repository(is_controlled=model_control)

    def load() -> Pipeline:
        project = Project(directory)
        definition = project.find(Service, service)
        store = open_store(project.config.online_url, project.root)
        registry = Registry(project.config.registry_path)
        loader = Loader(registry, threads, delay=batch_delay / 1e3, say=lambda text: click.echo(text, err=True))
        repository.attach(RegistryModels(loader))
        config, asked = project.config, definition.read_deadline
        deadline = config.online_deadline if asked is None else parse_duration(asked)
        reader = FallbackReader(
            store, deadline / SECOND, config.online_cache, resident=open_resident(config, project.views)
        )
        return load_pipeline(definition, project.graph, reader, registry, loader=loader)

    def announce(url: str, seconds: float) -> None:
        if as_json:
            click.echo(json.dumps({"ready": True, "url": url, "seconds": seconds, "pid": os.getpid()}))
        else:
            click.echo(f"ready on {url} in {seconds:.1f} s")

    run_service(load, host=host, port=port, on_ready=announce, repository=repository)
