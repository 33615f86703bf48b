"""What a server that is ready has not loaded: each of these is memory and time of a start that nobody uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import shop

from bedplate.features.graph import FeatureGraph

NOT_LOADED = (
    "bedplate.offline.history", "bedplate.training.trainer", "confluent_kafka", "deltalake", "difflib", "duckdb",
    "grpc", "httpx", "numba.np.arrayobj", "numba.np.linalg", "optuna", "pandas", "pyarrow", "pydantic", "pyiceberg",
    "redis", "statistics", "torch",
)  # fmt: skip
PROGRAM = """
import contextlib, pathlib, sys
import bedplate.http.server, bedplate.serving.service_app
from bedplate.cli.serve import _load
from bedplate.inference.repository import Repository

with contextlib.ExitStack() as ending:
    pipeline = _load(pathlib.Path.cwd(), None, Repository(), 1, 0.001, ending, 1 << 20)
    body = b'{"customer": 3, "candidates": ["P01", "P02"], "time": "2026-01-16T13:00:00"}'
    assert len(pipeline.rank(pipeline.wire.rank(body)).scores) == 2
    print(*sorted(name for name in sys.argv[1:] if name in sys.modules))
"""
SERVICE = """
from bedplate import Service

shop = Service("shop", ranking="ranker@champion", item="product")
"""


def loaded(root: Path) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *NOT_LOADED], cwd=root, env=dict(os.environ), stdout=subprocess.PIPE, check=True
    )
    return found.stdout.decode().split()


def test_a_ready_server_has_loaded_nothing_of_what_it_does_not_use(tmp_path: Path, features: FeatureGraph) -> None:
    shop.write_project(tmp_path, features, SERVICE)
    loaded(tmp_path)  # compiles what is not remembered yet
    assert loaded(tmp_path) == []


def test_the_feature_server_loads_nothing_of_what_answers_for_a_service() -> None:
    program = "import sys, bedplate.http.server, bedplate.serving.feature_app; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], env=dict(os.environ), stdout=subprocess.PIPE, check=True)
    modules = set(found.stdout.decode().split())
    assert "bedplate.http.door" in modules
    of_service = (
        "serving.pipeline",
        "serving.service_app",
        "oip",
        "inference.repository",
        "inference.scorer",
        "runtimes",
    )
    assert modules & {f"bedplate.{name}" for name in of_service} == set()
