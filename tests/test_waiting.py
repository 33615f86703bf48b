"""Threads of OpenMP that wait for each other soon sleep, as the runtime that torch loads says itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def seen_by_openmp(chosen: dict[str, str]) -> dict[str, str]:
    """What OpenMP tells of its variables when torch is imported after bedplate."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", "import bedplate, torch"],
        env=environment | {"OMP_DISPLAY_ENV": "verbose"} | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    told = (line.partition(" = ") for line in done.stderr.splitlines())
    return {name.split()[-1]: value.strip("'") for name, _, value in told if value}


@pytest.mark.parametrize(
    ("chosen", "policy", "spins"),
    [
        ({}, "PASSIVE", "3000"),
        ({"OMP_WAIT_POLICY": "passive"}, "PASSIVE", "0"),
        ({"OMP_WAIT_POLICY": "active"}, "ACTIVE", "30000000000"),
        ({"GOMP_SPINCOUNT": "700"}, "PASSIVE", "700"),  # the runtime's own name for what nobody chose
    ],
)
def test_they_soon_sleep_unless_it_is_chosen_otherwise(chosen: dict[str, str], policy: str, spins: str) -> None:
    seen = seen_by_openmp(chosen)
    assert (seen["OMP_WAIT_POLICY"], seen["GOMP_SPINCOUNT"]) == (policy, spins)
