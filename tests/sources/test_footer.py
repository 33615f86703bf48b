"""What the footers of Parquet files say of columns, whoever wrote them."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as arrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.sources.footer import read_bounds
from bedplate.sources.pruning import Bounds

NOON = datetime(2026, 1, 1, 12, 0, 0, 123_456)
FRAME = pl.DataFrame(
    {
        "n": [3, None, -(2**60)],
        "small": pl.Series([-1, 2, 3], dtype=pl.Int8),
        "day": [date(1969, 12, 31), date(2026, 1, 2), date(2026, 1, 1)],
        "naive": [NOON, NOON + timedelta(days=1), NOON],
        "berlin": pl.Series([NOON] * 3).dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin"),
        "ms": pl.Series([NOON] * 3).cast(pl.Datetime("ms")),
        "ns": pl.Series([1, 1999, 1000]).cast(pl.Datetime("ns")),
        "null": pl.Series([None] * 3, dtype=pl.Int64),
        "unsigned": pl.Series([1, 2, 2**32 - 1], dtype=pl.UInt32),
        "text": ["a", "b", None],
        "flag": [True, False, None],
        "x": [1.0, 2.0, 3.0],
        "list": [[1], [2, 3], None],
        "inner": [{"n": 7, "day": 1}] * 3,
        "last": [5, 6, 7],
    }
)


def known(low: Any, high: Any, *, has_null: bool = False) -> Bounds:
    return Bounds(low, high, has_null=has_null)


EXPECTED = {
    "n": known(-(2**60), 3, has_null=True),
    "small": known(-1, 3),
    "day": known(date(1969, 12, 31), date(2026, 1, 2)),
    "naive": known(NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=UTC) + timedelta(days=1)),
    "berlin": known(NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=UTC)),
    "ms": known(NOON.replace(tzinfo=UTC, microsecond=123_000), NOON.replace(tzinfo=UTC, microsecond=123_000)),
    "ns": known(datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    "null": Bounds(is_null=True),
    "last": known(5, 7),
}


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("writer", ["polars", "arrow", "an old arrow"])
def test_bounds_are_those_of_all_row_groups(tmp_path, writer, rows):
    file, frame = tmp_path / "a.parquet", FRAME
    if writer == "polars":
        frame.write_parquet(file, row_group_size=rows)
    else:
        version = "2.6" if writer == "arrow" else "1.0"
        frame = frame if version == "2.6" else frame.drop("ns", "unsigned")  # types that it has no form for
        arrow.write_table(frame.to_arrow(), file, row_group_size=rows, version=version, store_schema=False)
    expected = {c: b for c, b in EXPECTED.items() if c in frame.columns}
    assert read_bounds(file) == expected


@settings(max_examples=30)
@given(values=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=12), rows=st.integers(1, 5))
def test_bounds_hold_every_value(tmp_path_factory, values, rows):
    file = tmp_path_factory.mktemp("footer") / "a.parquet"
    frame = pl.DataFrame({"n": values}, schema={"n": pl.Int64})
    frame.write_parquet(file, row_group_size=rows)
    there = [v for v in values if v is not None]
    expected = Bounds(min(there), max(there), has_null=len(there) < len(values)) if there else Bounds(is_null=True)
    assert read_bounds(file) == ({"n": expected} if values else {})


def test_what_is_not_told_is_not_known(tmp_path):
    file = tmp_path / "a.parquet"
    FRAME.write_parquet(file, statistics=False)
    assert read_bounds(file) == {}
    FRAME.write_parquet(file, statistics={"min": True, "max": True, "null_count": False})
    assert read_bounds(file)["day"] == known(date(1969, 12, 31), date(2026, 1, 2), has_null=True)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_without_a_footer_is_an_error(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"the footer of a\.parquet can't be read"):
        read_bounds(tmp_path / "a.parquet")


@settings(max_examples=60)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_damaged_footer_is_an_error_or_another_footer(tmp_path_factory, at, value):
    """Nothing but the error that says so, and never an endless read."""
    file: Path = tmp_path_factory.mktemp("footer") / "a.parquet"
    FRAME.write_parquet(file)
    content = bytearray(file.read_bytes())
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[begin + at % (len(content) - 8 - begin)] = value
    file.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert len(read_bounds(file)) <= len(FRAME.columns)
