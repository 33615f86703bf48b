"""`bedplate features`: the feature server, for programs in other languages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, final

import click

from bedplate.cli.options import project_option
from bedplate.cli.server import ServerOptions, notices_of, server_options

if TYPE_CHECKING:
    from bedplate.config import Config
    from bedplate.http.server import Application
    from bedplate.http.settings import Settings
    from bedplate.online.base import OnlineStore
    from bedplate.online.fallback import FallbackReader
    from bedplate.online.readers import Notices
    from bedplate.project import Project
    from bedplate.serving.feature_plan import FeatureLookup

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
    "seconds": ..., "pid": ...}. GET /openapi.json describes the requests. SIGHUP loads the definitions again, and
    changes nothing where the store does not hold what they need. SIGTERM and Ctrl-C answer what is under way and end.

    \b
    Examples:
      bedplate features serve
      bedplate features serve --host 0.0.0.0 --tokens tokens.txt
      bedplate features serve --port 0 --json
      curl -d '{"features": ["customer_lines.*"], "keys": {"customer": [17850]}}' localhost:8000/v1/features
    """
    with _Features(directory, most_keys) as features:
        server.serve(_app, features.load, TOKEN_VARIABLE, load_again=features.load_again)


def _app(settings: Settings) -> Application[FeatureLookup]:
    from bedplate.serving.feature_app import FeatureApp

    return FeatureApp(has_tokens=bool(settings.tokens))


class _Served(NamedTuple):
    """What is served now, from what; `absent` are the views that the store did not hold."""

    project: Project
    store: OnlineStore
    reader: FallbackReader
    notices: Notices
    absent: frozenset[str]


@final
class _Features:
    """The project's definitions as they are when they are loaded, served from one store."""

    def __init__(self, directory: Path, most_keys: int) -> None:
        self._directory, self._most_keys = directory, most_keys
        self._now: _Served | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._now is not None:
            self._now.notices.close()

    def load(self) -> FeatureLookup:
        """The first definitions; views that the store does not hold are told, and served once it holds them."""
        from bedplate.online.fallback import FallbackReader
        from bedplate.online.resident import open_resident
        from bedplate.project import Project
        from bedplate.serving.feature_plan import FeatureLookup, warm_up
        from bedplate.types import SECOND

        project = _with_features(Project(self._directory))
        config = project.config
        resident, seconds = open_resident(config, project.views), config.online_deadline / SECOND
        store = project.open_store(create=False)
        reader = FallbackReader(store, seconds, config.online_cache, resident=resident)
        found = FeatureLookup(project.graph, reader, project.scorers, most_keys=self._most_keys)
        with project.located():
            absent = warm_up(found)
        for view, error in absent.items():
            click.echo(f"not served: view '{view}': {error.message}", err=True)
        notices = notices_of(store, "the feature server")
        notices.keep(project.views.values())
        self._now = _Served(project, store, reader, notices, frozenset(absent))
        return found

    def load_again(self) -> FeatureLookup:
        """The definitions as they are now.

        Raises:
            BedplateError: they can't be loaded, the store does not hold a view that is served, or the store itself is
                another.
        """
        from bedplate.errors import ConfigError, StoreError
        from bedplate.online.resident import open_resident
        from bedplate.project import Project
        from bedplate.serving.feature_plan import FeatureLookup, unread

        assert self._now is not None  # `load` came first
        project, now = _with_features(Project(self._directory)), self._now
        if _store_of(project.config) != _store_of(now.project.config):
            raise ConfigError("[online] has another url, deadline or cache", hint="start the server again")
        with project.located():
            absent = unread(now.store, project.views)
        for name in sorted(absent.keys() & now.project.views.keys() - now.absent):
            raise StoreError(f"view '{name}': {absent[name].message}", hint="run 'bedplate materialize' first")
        for name in sorted(now.project.views.keys() - project.views.keys()):
            click.echo(f"not served: view '{name}': the definitions don't have it any more", err=True)
        resident, before = open_resident(project.config, project.views), now.reader.resident
        reader = now.reader.with_resident(resident)
        found = FeatureLookup(project.graph, reader, project.scorers, most_keys=self._most_keys)
        now.notices.keep(project.views.values())
        if before is not None:
            before.close()
        self._now = _Served(project, now.store, reader, now.notices, frozenset(absent))
        return found


def _with_features(project: Project) -> Project:
    """The same project, which must define a feature."""
    from bedplate.errors import DefinitionError

    if not project.graph.features:
        raise DefinitionError(
            "no feature is defined",
            where=str(project.root),
            hint="define a FeatureView in features.py, or name its file in project.definitions of bedplate.toml",
        )
    return project


def _store_of(config: Config) -> tuple[str, int, int]:
    return config.online_url, config.online_deadline, config.online_cache
