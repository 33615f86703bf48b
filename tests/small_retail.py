"""The example project on a part of its data: one customer in 25, over the whole year."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl

EXAMPLE = Path(__file__).parents[1] / "examples" / "online_retail"
FILES = ("sources.py", "features.py", "datasets.py")
DATA = "data/online_retail.parquet"


def small_rows() -> pl.DataFrame:
    """Raw rows as in the example's file: orders, cancellations, duplicates, and rows without a customer."""
    rows = pl.scan_parquet(EXAMPLE / DATA).with_row_index()
    of_some = pl.col("CustomerID").cast(pl.Int64) % 25 == 0
    unknown = pl.col("CustomerID").is_null() & (pl.col("index") % 500 == 0)
    return rows.filter(of_some | unknown).drop("index").collect()


def make_project(folder: Path, rows: pl.DataFrame | None = None) -> Path:
    """Makes the project in a new folder, with these rows instead of the small ones."""
    (folder / "data").mkdir(parents=True)
    for name in FILES:
        shutil.copy(EXAMPLE / name, folder)
    (folder / "bedplate.toml").write_text('[project]\nname = "small"\n')
    (small_rows() if rows is None else rows).write_parquet(folder / DATA)
    return folder


def is_same(got: Any, expected: Any) -> bool:
    """Whether two values of a feature are equal, floats nearly."""
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(is_same, got, expected))
    if isinstance(expected, float) and got is not None:
        return math.isclose(got, expected, rel_tol=1e-7, abs_tol=1e-9)
    return got == expected
