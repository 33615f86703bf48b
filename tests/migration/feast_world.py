"""Small Feast repositories for tests, written by hand, and what becomes of them."""

from __future__ import annotations

import json
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import polars as pl
import pytest

from bedplate import Project
from bedplate.cli.main import run

HEAD = """\
from datetime import timedelta
from feast import *
from feast.types import *
from feast.several import LoggingConfig, ParquetFormat, SomethingView, on_demand_feature_view
"""
SHOP = """\
user = Entity(name="user", join_keys=["user_id"], description="Who buys.", tags={"team": "shop"})
orders = FileSource(path="orders.parquet", timestamp_field="at", created_timestamp_column="made")
spending = FeatureView(
    name="spending",
    entities=[user],
    ttl=timedelta(days=2),
    schema=[Field(name="user_id", dtype=Int64), Field(name="price", dtype=Float32), Field(name="city", dtype=String)],
    source=orders,
)
"""
YAML = "project: shop\nregistry: registry.db\nprovider: local\n"


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 1, day, hour, tzinfo=UTC)


def orders() -> pl.DataFrame:
    """Three rows of one user: two of one time, the one made first being last in the file, and then a null."""
    return pl.DataFrame(
        {
            "user_id": [1, 1, 1, 2],
            "price": [5.0, 7.0, None, 3.0],
            "city": ["Rome", "Oslo", "Bern", "Kyiv"],
            "tags": [["a"], ["b"], ["c"], []],
            "at": [at(5, 10), at(5, 10), at(6, 10), at(5, 12)],
            "made": [at(8), at(7), at(7), at(7)],
        }
    )


@final
class World:
    """A folder with a Feast repository, and the command that imports it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.repository, self.target = folder / "repository", folder / "made"
        self._capsys = capsys
        self.repository.mkdir()
        self.write("feature_store.yaml", YAML)
        orders().write_parquet(self.repository / "orders.parquet")

    def write(self, name: str, content: str) -> None:
        path = self.repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def define(self, content: str, name: str = "features.py") -> None:
        self.write(name, HEAD + textwrap.dedent(content))

    def run(self, *options: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of the command."""
        code = run(["import", "feast", str(self.repository), "--to", str(self.target), *options])
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err

    def imported(self, *options: str) -> dict[str, Any]:
        """The report."""
        code, out, err = self.run("--json", *options)
        assert code in (0, 8), err
        report = json.loads(out)
        assert code == (8 if report["not_carried"] else 0)
        return report

    def left(self, *options: str) -> dict[str, tuple[str, str]]:
        """Reason and to do of what was not carried over, by kind and name."""
        return {f"{n['kind']} {n['name']}": (n["reason"], n["todo"]) for n in self.imported(*options)["not_carried"]}

    def code(self) -> str:
        return (self.target / "features.py").read_text()

    def project(self) -> Project:
        project = Project(self.target)
        project.apply()
        return project
