"""Every aggregation that ships passes the contract suite that ships."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from aggregation_cases import CASES

import bedplate
from bedplate.aggregations.base import Aggregation
from bedplate.testing.aggregation import AggregationContract

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("case", CASES)
class TestShipped(AggregationContract):
    @pytest.fixture(autouse=True)
    def choose(self, case):
        self.case = case

    def make(self, windows=None, where=None):
        return CASES[self.case](windows=windows, where=where)


def test_every_aggregation_is_a_case():
    def members(kind):
        return {m for below in kind.__subclasses__() for m in (below, *members(below))}

    shipped = {m.__name__ for m in members(Aggregation) if m.__module__.startswith("bedplate.aggregations.")}
    cases = {type(make(windows="1d")).__name__ for make in CASES.values()}
    assert {name for name in shipped if not name.startswith("_")} - {"OneInput"} == cases


def test_forms_are_the_same_in_another_process():
    """Whatever the order of its sets and the addresses of its objects."""
    code = "from aggregation_cases import CASES; from bedplate.canonical import digest; import polars as pl; "
    code += "print([digest(make(windows='7d', where=pl.col('flag')).form()) for make in CASES.values()])"
    paths = os.pathsep.join([str(TESTS), str(Path(bedplate.__file__).parents[1])])
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(printed.pop().split(",")) == len(CASES)
