"""The server that the tests of PostgreSQL tables share."""

from __future__ import annotations

from collections.abc import Generator

import postgres
import pytest


@pytest.fixture(scope="session")
def server() -> Generator[postgres.Server]:
    with postgres.running() as running:
        yield running
