"""What the tests of verification share."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis_server import running
from verified_world import Case

from bedplate.online.base import open_store


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Case]:
    with ExitStack() as opened:
        kind = getattr(request, "param", "memory")
        url = {"memory": "memory:", "lmdb": f"lmdb:{tmp_path}/store", "redis": ""}[kind]
        url = url or opened.enter_context(running("--appendonly", "no")).url
        yield Case(tmp_path, opened.enter_context(open_store(url)))
