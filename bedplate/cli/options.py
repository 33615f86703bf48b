"""Options that several commands have, and output for programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click
import msgspec

if TYPE_CHECKING:
    from bedplate.registry.registry import Registry

project_option = click.option(
    "--project", "directory", metavar="DIR", default=".", type=click.Path(path_type=Path), help="The project's folder."
)
"""`--project DIR`: passed as `directory`."""

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs; times in microseconds.")
"""`--json`: passed as `as_json`."""


@final
class Between(click.FloatRange):
    """A finite number in a range. NaN is in none, though no comparison says so, and infinity has no form in JSON."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; fails where it is none, or not in the range."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number.", param, ctx)
        return found


def echo_json(value: Any) -> None:
    """Writes a value as indented JSON to stdout; numbers that aren't numbers are null."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def open_registry(directory: Path) -> Registry:
    """The registry that the project in a folder names.

    Raises:
        ConfigError: there is no project, or its configuration is wrong.
        StoreError: the registry can't be opened.
    """
    from bedplate.config import load_config
    from bedplate.registry.registry import Registry

    return Registry(load_config(directory).registry_path)
