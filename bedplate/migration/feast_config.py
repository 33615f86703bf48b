"""A Feast repository's `feature_store.yaml`, and what `bedplate.toml` says in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

from bedplate.errors import ConfigError, reason
from bedplate.migration.feast_redis import RedisUrl, is_redis, redis_url
from bedplate.migration.report import Report

CONFIG_FILE = "feature_store.yaml"
PLACES = (".", "feature_repo")
"""Where in a folder the repository may be: `feast init` puts it into one of its own."""

_EMBEDDED = ("sqlite", "")
_FILES = ("file", "dask", "duckdb", "")
_SILENT = {"project", "project_description", "registry", "provider", "online_store", "offline_store"} | {
    "entity_key_serialization_version",
    "repo_path",
    "flags",
}
"""Settings that Bedplate has another place for, or no need of."""

_TOML = """\
# Made by 'bedplate import feast'. Every key may be left out: a value in a comment is the default.

[project]
name = {name}

[offline]
{offline}# path = ".bedplate/offline"

[online]
{online}

[registry]
# path = ".bedplate/registry"

[engine]
# url = "local"
"""


@final
@dataclass(frozen=True, slots=True)
class FeastConfig:
    """What `feature_store.yaml` says.

    Attributes:
        root: its folder.
        project: the project's name.
        settings: all of it, as it stands there.
    """

    root: Path
    project: str
    settings: Mapping[str, Any]

    def type_of(self, setting: str) -> str:
        """The type of a store, empty where it is the default one."""
        value = self.settings.get(setting)
        if isinstance(value, Mapping):
            value = cast("Mapping[str, Any]", value).get("type", "")
        return value if isinstance(value, str) else ""


def find_repository(directory: Path) -> Path:
    """The folder of `feature_store.yaml`: this one, or `feature_repo` in it, where `feast init` puts it.

    Raises:
        ConfigError: there is none.
    """
    for place in PLACES:
        if (directory / place / CONFIG_FILE).is_file():
            return (directory / place).resolve()
    raise ConfigError(
        f"no {CONFIG_FILE} in this folder nor in its folder feature_repo",
        where=str(directory),
        hint="name the folder of a Feast repository, where 'feast apply' works",
    )


def read_config(root: Path) -> FeastConfig:
    """Reads `feature_store.yaml`.

    Raises:
        ConfigError: it is not YAML, or names no project.
    """
    import yaml

    file = root / CONFIG_FILE
    try:
        settings = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid YAML: {reason(error)}", where=str(file)) from error
    project = settings.get("project") if isinstance(settings, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(project, str) or not project:
        raise ConfigError("names no project", where=str(file), hint="the key 'project' is the project's name")
    return FeastConfig(root, project, cast("dict[str, Any]", settings))


def toml(config: FeastConfig) -> str:
    """The content of `bedplate.toml`. Of Feast's stores only the address of Redis is copied, and no password."""
    offline = config.type_of("offline_store")
    return _TOML.format(
        name=json.dumps(config.project),
        online=_online(config),
        offline="" if offline in _FILES else f"# Feast's offline store was {offline}.\n",
    )


def _redis(config: FeastConfig) -> RedisUrl | None:
    """The URL of its online store, where that is Redis."""
    if not is_redis(config.type_of("online_store")):
        return None
    return redis_url(config.settings.get("online_store"), config.project, config.root)


def _online(config: FeastConfig) -> str:
    """What the table `online` holds."""
    kind, redis = config.type_of("online_store"), _redis(config)
    if redis is None or not redis.url:
        return (
            "" if kind in _EMBEDDED else f"# Feast's online store was {kind}.\n"
        ) + '# url = "lmdb:.bedplate/online"'
    where = f"# The password is in the environment variable {redis.password_env}.\n" if redis.password_env else ""
    return f"{where}url = {json.dumps(redis.url)}"


def _report_online(config: FeastConfig, report: Report) -> None:
    """Puts down what became of the online store."""
    kind, redis = config.type_of("online_store"), _redis(config)
    if kind in _EMBEDDED:
        report.carry("online store", kind or "sqlite", CONFIG_FILE, "the embedded store LMDB")
    elif redis is not None and redis.url:
        report.carry("online store", kind, CONFIG_FILE, f"`{redis.url}`, beside Feast's own keys")
        report.note(
            "Feast's rows in Redis are not read: fill the store with `bedplate materialize`"
            + (f", the password in the environment variable `{redis.password_env}`" if redis.password_env else "")
        )
        for setting in redis.left:
            report.leave(
                "setting of the online store",
                setting,
                CONFIG_FILE,
                "the URL of Bedplate's store has no place for it",
                "see whether you need it: docs/redis.md says what rows, connections and certificates do",
            )
    else:
        report.leave(
            "online store",
            kind,
            CONFIG_FILE,
            redis.reason if redis is not None else "Bedplate's online stores are LMDB, embedded, and Redis",
            "fill one with 'bedplate materialize': the embedded one, or a server that `online.url` names",
        )


def report_settings(config: FeastConfig, report: Report) -> None:
    """Puts down which settings were carried over and which were not."""
    report.carry("project", config.project, CONFIG_FILE, f"the project `{config.project}` in bedplate.toml")
    _report_online(config, report)
    offline = config.type_of("offline_store")
    if offline in _FILES:
        report.carry("offline store", offline or "dask", CONFIG_FILE, "as-of indexes in .bedplate/offline")
    else:
        report.leave(
            "offline store",
            offline,
            CONFIG_FILE,
            "Bedplate builds its own indexes of history, in .bedplate/offline",
            "nothing more than for its sources, which are listed each",
        )
    for setting in config.settings:
        value = config.settings[setting]
        if setting not in _SILENT and not (setting == "auth" and value in ({"type": "no_auth"}, None)):
            report.leave(
                "setting",
                setting,
                CONFIG_FILE,
                "bedplate.toml has no such setting",
                "see whether you need it: Bedplate needs no servers of its own",
            )
