"""The small shop, for tests of the Open Inference Protocol."""

from __future__ import annotations

from shop_fixtures import app, features, pipeline, registry, server

__all__ = ["app", "features", "pipeline", "registry", "server"]
