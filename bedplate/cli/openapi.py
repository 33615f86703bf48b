"""`bedplate openapi`: the description of a service for programs that write clients."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bedplate.cli.options import project_option


@click.command()
@project_option
@click.option("--json", "as_json", is_flag=True, help="Write the JSON on one line.")
@click.argument("service", required=False)
def openapi(service: str | None, directory: Path, as_json: bool) -> None:
    """Write the OpenAPI 3.1 description of SERVICE, a Service of the project's service.py.

    It is what the running service answers to GET /openapi.json. Without SERVICE, of the only one that the project
    defines. The service's models must be registered; the online store is not read.

    \b
    Examples:
      bedplate openapi shop
      bedplate openapi shop > openapi.json
      bedplate openapi shop --json
    """
    from bedplate.project import Project
    from bedplate.serving.load import describe_service
    from bedplate.serving.service import Service

    project = Project(directory)
    described = describe_service(project.find(Service, service), project.graph, project.registry)
    click.echo(json.dumps(described, indent=None if as_json else 2))
