"""What a worker does in a process of its own that a test kills: it takes in a stream of files until it is stopped."""

from __future__ import annotations

import os
from pathlib import Path

from bedplate.features.view import CompiledView
from bedplate.online.base import open_store
from bedplate.online.ingest import Ingest
from bedplate.testing.simulator import ITEM, USER, Simulation, simulate, simulated_view
from bedplate.types import HOUR


def world() -> tuple[Simulation, list[CompiledView]]:
    """The events and views of the test and its workers."""
    simulation = simulate(5, events=500)
    return simulation, [simulated_view(simulation, e, delay=HOUR) for e in ((USER,), (ITEM, USER))]


def work(url: str, files: str) -> None:
    """Takes in what is there until nothing is left."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    with open_store(url) as store:
        Ingest(store, world()[1], Path(files), batch=3, late=True).run(follow=True, poll=0.01)
