"""What the tests of Redis share: a store behind a proxy that cuts its connections. The module starts the `server`."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from redis_server import Proxy, Server, namespace

from bedplate.online.redis import RedisStore


@pytest.fixture
def proxy(server: Server) -> Generator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def through(proxy: Proxy, tmp_path: Path) -> Generator[RedisStore]:
    with RedisStore(f"redis://127.0.0.1:{proxy.port}?namespace={namespace(tmp_path)}", patience=2.0) as store:
        yield store
