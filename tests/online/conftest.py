"""What tests of stores share: URLs of empty ones that processes share, and a Redis store behind a proxy that cuts its
connections. For that the module starts the `server`.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from redis_server import Proxy, Server, namespace, running

from bedplate.online.redis import RedisStore


@pytest.fixture(params=["lmdb", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """Of an empty store that processes share; Redis is a server of the test's own."""
    if request.param == "lmdb":
        yield f"lmdb:{tmp_path / 'store'}"
    else:
        with running("--appendonly", "no") as own:
            yield f"{own.url}/0"


@pytest.fixture
def proxy(server: Server) -> Generator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def through(proxy: Proxy, tmp_path: Path) -> Generator[RedisStore]:
    with RedisStore(f"redis://127.0.0.1:{proxy.port}?namespace={namespace(tmp_path)}", patience=2.0) as store:
        yield store
