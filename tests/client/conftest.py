"""The small shop, for tests of clients; and one way to ask by either client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from shop_fixtures import app, features, pipeline, registry, server

from bedplate import AsyncClient, Client
from bedplate.errors import BedplateError

__all__ = ["app", "features", "pipeline", "registry", "server"]


def _by_client(url: str, *calls: Callable[[Any], Any], **options: Any) -> list[Any]:
    with Client(url, **options) as client:
        found: list[Any] = []
        for call in calls:
            try:
                found.append(call(client))
            except BedplateError as error:
                found.append(error)
        return found


def _by_async_client(url: str, *calls: Callable[[Any], Any], **options: Any) -> list[Any]:
    async def all_calls() -> list[Any]:
        async with AsyncClient(url, **options) as client:
            found: list[Any] = []
            for call in calls:
                try:
                    found.append(await call(client))
                except BedplateError as error:
                    found.append(error)
            return found

    return asyncio.run(all_calls())


@pytest.fixture(params=[_by_client, _by_async_client], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """What calls of one client give, one after the other: answers, or Bedplate's errors; others are raised."""
    return request.param
