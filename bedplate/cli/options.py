"""Options that several commands have, and output for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from bedplate.errors import ConfigError

if TYPE_CHECKING:
    from bedplate.config import Config
    from bedplate.online.base import OnlineStore
    from bedplate.registry.registry import Registry

project_option = click.option(
    "--project", "directory", metavar="DIR", default=".", type=click.Path(path_type=Path), help="The project's folder."
)
"""`--project DIR`: passed as `directory`."""

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs; times in microseconds.")
"""`--json`: passed as `as_json`."""


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


def open_online(config: Config, patience: float | None = None) -> OnlineStore:
    """The online store that a project names.

    Args:
        config: of the project.
        patience: how long a store of servers tries a lost connection again by itself, seconds; None: its own.

    Raises:
        ConfigError: it is in memory, so that it would be gone with this process.
        StoreError: it can't be opened.
    """
    from bedplate.online.base import open_store

    if config.online_url == "memory:":
        raise ConfigError(
            "the online store 'memory:' is gone when a command ends",
            where="bedplate.toml: online.url",
            hint='name one that stays, such as "lmdb:.bedplate/online"',
        )
    return open_store(config.online_url, config.root, patience, project=config.online_project)
