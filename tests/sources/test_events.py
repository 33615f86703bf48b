"""Reading events: rows are named where the table holds them, and integers that can't be microseconds are refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import BedplateError, DataError
from bedplate.sources.base import TIME, Source
from bedplate.sources.events import read_events, row_text
from bedplate.sources.parquet import ParquetTable
from bedplate.types import LATEST_TIME, SECOND, to_micros

NOON = to_micros("2026-01-01T12:00:00")


def frame(count: int, **columns: list) -> pl.DataFrame:
    return pl.DataFrame({"key": list(range(count)), "time": [NOON + i for i in range(count)]} | columns)


def read(source: Source, root: Path | None = None, where: pl.Expr | None = None) -> pl.DataFrame:
    table = source.table(root)
    key = pl.col("key").alias("k")
    return read_events(
        source, table.scan(), [key], keys={"k": "key"}, place="view 'v'", name=table.row_name, where=where
    )


def refused(source: Source, root: Path | None = None, where: pl.Expr | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        read(source, root, where)
    return caught.value


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (0, "row 0 of rows/a.parquet"),
        (3, "row 3 of rows/a.parquet"),
        (4, "row 0 of rows/b.parquet"),
        (6, "row 2 of rows/b.parquet"),
    ],
)
def test_a_row_is_named_by_its_file(tmp_path, bad, named):
    rows = frame(7).with_columns(pl.when(pl.int_range(7) != bad).then("key").alias("key"))
    (tmp_path / "rows").mkdir()
    rows[:4].write_parquet(tmp_path / "rows" / "a.parquet")
    rows[4:].write_parquet(tmp_path / "rows" / "b.parquet")
    error = refused(Source("s", "rows", time="time"), tmp_path)
    assert error.message == f"1 of 7 rows have no key, the first is {named}"
    assert error.where == "view 'v', source 's', column 'key'"


def test_a_row_of_one_file_or_of_memory_is_named_shortly(tmp_path):
    rows = frame(3, key=[1, None, 3])
    rows.write_parquet(tmp_path / "a.parquet")
    assert refused(Source("s", "a.parquet", time="time"), tmp_path).message.endswith("the first is row 1 of a.parquet")
    assert refused(Source("s", rows, time="time")).message.endswith("the first is row 1")


@given(kept=st.lists(st.booleans(), min_size=1, max_size=30), cut=st.integers(0, 30), condition=st.booleans())
def test_rows_that_a_step_or_a_condition_leaves_out_are_counted(tmp_path_factory, kept, cut, condition):
    """The row that is named is the bad one of the file, however many before it were left out."""
    folder = tmp_path_factory.mktemp("rows")
    bad = len(kept)
    rows = frame(bad + 1, kept=[*kept, True], key=[*range(bad), None])
    cut = min(cut, bad)
    for name, part in (("a", rows[:cut]), ("b", rows[cut:])):
        if len(part):
            part.write_parquet(folder / f"{name}.parquet")
    prepare = None if condition else (lambda r: r.filter("kept").with_columns(more=pl.col("key") * 2))
    error = refused(
        Source("s", "*.parquet", time="time", prepare=prepare), folder, pl.col("kept") if condition else None
    )
    assert error.message.startswith(f"1 of {sum(kept) + 1} rows have no key")
    file = f"row {bad - cut} of b.parquet"
    assert error.message.endswith(f"the first is {file}")


STEPS = {
    "drops the other columns": lambda r: r.select("key", "time"),
    "drops duplicates": lambda r: r.unique(maintain_order=True),
    "groups": lambda r: r.group_by("time", maintain_order=True).agg(pl.col("key").first()),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_loses_the_rows_says_so(step):
    rows = pl.concat([frame(3), frame(3), frame(1, key=[None], time=[NOON + 9])], how="vertical_relaxed")
    error = refused(Source("s", rows, time="time", prepare=STEPS[step]))
    assert error.message.endswith(f"the first is row {6 if 'other' in step else 3} after the prepare step")


def test_a_row_that_is_not_where_it_was_is_not_named():
    rows, source = frame(3), Source("s", frame(3), time="time")
    times = pl.Series([NOON + 5, NOON + 1, NOON + 2])
    assert row_text(source, rows.lazy(), times, 1, name=str) == "row 1 after the prepare step"
    assert row_text(source, rows.lazy(), rows["time"], 1, name=str) == "1"


@pytest.mark.parametrize(
    ("times", "hint"),
    [
        ([1_767_225_600, 1_767_225_601], "seconds\\? .*pl.from_epoch\\('time', time_unit='s'\\)"),
        ([LATEST_TIME // SECOND - 1], "seconds\\? .*"),
        ([1_767_225_600_000], "milliseconds\\? .*pl.from_epoch\\('time', time_unit='ms'\\)"),
        ([LATEST_TIME // 1000 - 1], "milliseconds\\? .*"),
        ([0], "seconds\\? .*"),
    ],
)
def test_integer_times_of_another_unit_are_refused(times, hint):
    error = refused(Source("s", frame(len(times), time=times), time="time"))
    assert error.where == "source 's', column 'time'"
    assert error.message.startswith(f"the greatest time is {times[-1]}, as microseconds 1970-")
    assert "expected one after 1970" in error.message
    with pytest.raises(DataError, match=hint):
        raise error


def test_the_hint_mends_it():
    rows = frame(1, time=[1_767_225_600])
    source = Source("s", rows, time="time", prepare=lambda r: r.with_columns(pl.from_epoch("time", time_unit="s")))
    assert read(source)[TIME].to_list() == [to_micros("2026-01-01")]


def test_nanoseconds_lie_beyond_what_is_accepted():
    error = refused(Source("s", frame(1, time=[to_micros("2026-01-01") * 1000]), time="time"))
    assert error.message.startswith("row 0 has time 1767225600000000000, expected microseconds between")


def test_early_times_are_taken_where_they_are_times():
    assert len(read(Source("s", frame(1, time=[datetime(1970, 1, 5)]), time="time"))) == 1
    assert len(read(Source("s", frame(2, time=[5, NOON]), time="time"))) == 2
    assert len(read(Source("s", frame(0).cast({"time": pl.Int64, "key": pl.Int64}), time="time"))) == 0


def test_rows_that_can_not_be_read_name_the_source_and_the_use(tmp_path):
    frame(3).write_parquet(tmp_path / "a.parquet")
    table = ParquetTable("a.parquet", tmp_path)
    raw = table.scan()
    (tmp_path / "a.parquet").unlink()
    source = Source("s", "a.parquet", time="time")
    with pytest.raises(BedplateError, match="view 'v', source 's': can't read the rows"):
        read_events(source, raw, [pl.col("key").alias("k")], keys={}, place="view 'v'", name=table.row_name)


def test_a_panic_of_the_reader_is_an_error_like_any_other(tmp_path, monkeypatch):
    """Polars panics on some damaged files; a panic is no `Exception`, and would pass every handler."""
    frame(3).write_parquet(tmp_path / "a.parquet")

    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("left == right")

    source = Source("s", "a.parquet", time="time")
    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    monkeypatch.setattr(pl, "collect_all", panic)
    with pytest.raises(DataError, match="view 'v', source 's': can't read the rows: left == right"):
        read(source, tmp_path)
    with pytest.raises(DataError, match=r"source 's': .*a.parquet: can't read the table: left == right"):
        source.table(tmp_path).snapshot()


@pytest.mark.parametrize(("unit", "factor"), [("s", 1_000_000), ("ms", 1000)])
def test_integers_of_another_unit_do_not_say_when_rows_could_be_known(unit, factor):
    known = [(NOON + i * SECOND) // factor for i in range(3)]
    error = refused(Source("s", frame(3, known=known), time="time", available="known"))
    assert error.where == "source 's', column 'known'"
    assert error.hint is not None
    assert f"pl.from_epoch('known', time_unit='{unit}')" in error.hint
    early = pl.Series([datetime(1970, 1, 1, 0, 29)] * 3)
    assert read(Source("s", frame(3, known=early), time="time", available="known")).height == 3
    with_one = frame(3, known=[*known[:2], NOON])
    assert read(Source("s", with_one, time="time", available="known")).height == 3
