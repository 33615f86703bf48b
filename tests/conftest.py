"""Settings that hold for every test: reproducible examples, a cache for compiled kernels, two threads."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from postgres import Server

ROOT = Path(__file__).parents[1]

# Read when numba and torch are first imported, and inherited by the processes that tests start.
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".numba_cache"))
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# `--hypothesis-profile=random` looks for new examples; the default tries the same ones everywhere.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("random", deadline=None, max_examples=600, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the tests of training: some take a minute, for which other processes would wait at the end."""
    items.sort(key=lambda item: item.path.parent.name != "training")


def pytest_collection_finish() -> None:
    """Spares the garbage collector what lives as long as the process: the libraries and the tests themselves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def server() -> Generator[Server]:
    """A PostgreSQL server that tests of a process share."""
    from postgres import running

    with running() as server:
        yield server
