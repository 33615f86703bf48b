"""The small shop, opened once for all tests of a folder: each folder's `conftest.py` takes these fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import shop as small

from bedplate.features.graph import FeatureGraph
from bedplate.registry.registry import Registry
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App


@pytest.fixture(scope="session")
def features() -> FeatureGraph:
    return small.graph()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, features: FeatureGraph) -> Registry:
    return small.register(tmp_path_factory.mktemp("shop"), features)


@pytest.fixture(scope="session")
def pipeline(registry: Registry, features: FeatureGraph) -> Pipeline:
    return small.pipeline(registry, features)


@pytest.fixture(scope="session")
def app(pipeline: Pipeline) -> App:
    app = App()
    app.open(pipeline)
    return app


@pytest.fixture(scope="session")
def server(app: App) -> Iterator[Any]:
    with small.running(app.handle) as server:
        yield server
