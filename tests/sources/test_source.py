"""Sources: times in microseconds, cleaning steps that have an id, and what is refused."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from bedplate.errors import DefinitionError
from bedplate.sources.base import TIME, Source
from bedplate.types import to_micros

FRAME = pl.DataFrame({"user": [1, 2], "time": [1, 2], "x": [1.0, 2.0], "s": ["a", "python"]})


def times(series: pl.Series) -> list[int]:
    return Source("s", pl.DataFrame({"time": series}), time="time").scan().collect()[TIME].to_list()


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "America/St_Johns"])
def test_every_datetime_is_an_instant_in_utc(unit, zone):
    # The two half past twos of the night in which Berlin's clocks go back, and the hour after the one that is missing.
    instants = [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)]
    instants.append(datetime(2026, 3, 29, 1, 0, tzinfo=UTC))
    series = pl.Series(instants).cast(pl.Datetime(unit, "UTC"))
    series = series.dt.replace_time_zone(None) if zone is None else series.dt.convert_time_zone(zone)
    assert times(series) == [to_micros(i) for i in instants]
    if zone == "Europe/Berlin":
        assert series.dt.strftime("%H:%M").to_list() == ["02:30", "02:30", "03:00"]


def test_dates_and_integers_are_times():
    assert times(pl.Series([date(2026, 1, 1), date(1970, 1, 2)])) == [to_micros("2026-01-01"), 86_400_000_000]
    for dtype in (pl.Int64, pl.UInt32, pl.Int8):
        assert times(pl.Series([5, 7], dtype=dtype)) == [5, 7]


def test_a_naive_datetime_is_utc_and_offsets_count():
    assert to_micros(datetime(2026, 1, 1)) == to_micros(datetime(2026, 1, 1, tzinfo=UTC))
    assert to_micros(datetime(2026, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))) == to_micros(
        datetime(2026, 1, 1)
    )
    assert to_micros(datetime(2026, 7, 1, 2, tzinfo=ZoneInfo("Europe/Berlin"))) == to_micros("2026-07-01")


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda: Source("s", FRAME, time="tme").schema(), "no time column 'tme'", "did you mean 'time'?"),
        (lambda: Source("s", FRAME, time="x").schema(), "the time column 'x' is Float64", "prepare"),
        (lambda: Source("s", FRAME.cast({"time": pl.UInt64}), time="time").schema(), "is UInt64", "prepare"),
        (lambda: Source("s", FRAME, time="time", delay="5 minutes"), "got '5 minutes'", "5m"),
        (lambda: Source("s", FRAME, time="time", delay="0s"), "more than zero", "5m"),
        (lambda: Source("s", FRAME, time="time", delay=-1), "got -1, which has no unit", "5m"),
        (lambda: Source("s", FRAME, time="time", delay=300), "got 300, which has no unit", "5m"),
        (lambda: Source("s", 3, time="time"), "got the table 3, expected a path, a Polars frame or a Table", ""),
        (lambda: Source("s", FRAME.lazy(), time="time"), "expected a path, a Polars frame or a Table", ""),
        (lambda: Source("", FRAME, time="time"), "got the name '', expected a text", ""),
    ],
)
def test_a_wrong_source_is_refused(make, message, hint):
    with pytest.raises(DefinitionError) as caught:
        make()
    assert message in caught.value.message
    assert (caught.value.where or "").startswith("source '")
    assert hint in (caught.value.hint or "")


def prepared(step) -> Source:
    return Source("s", FRAME, time="time", prepare=step)


def python_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(pl.col("x").map_elements(lambda v: math.sqrt(abs(v)) + v, return_dtype=pl.Float64))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (python_rows, "calls a Python function"),
        (lambda r: r.map_batches(lambda d: d), "calls a Python function"),
        (lambda r: r.with_columns(pl.fold(pl.lit(0), lambda a, b: a + b, [pl.col("x")]).alias("z")), "calls a Python"),
        (lambda r: r.group_by("user").map_groups(lambda d: d, schema=FRAME.schema), "calls a Python function"),
        (lambda r: r.collect().lazy(), "reads rows while it builds the query"),
        (lambda r: r.filter(pl.col("x") > r.collect().height), "reads rows while it builds the query"),
        (lambda r: None, "gives a NoneType, expected a LazyFrame"),
        (lambda r: pl.DataFrame({"time": [1]}), "gives a DataFrame, expected a LazyFrame"),
        (lambda r: r.filter(pl.col("usr") > 1), "the step prepare fails: ColumnNotFoundError"),
        (lambda r: r.with_columns(pl.col("x").str.to_lowercase()), "fails on no rows"),
        (lambda r: r.nothing(), "the step prepare fails: AttributeError"),
        (lambda r: {}["a"], "the step prepare fails: KeyError"),
    ],
)
def test_a_wrong_cleaning_step_is_refused(step, message):
    with pytest.raises(DefinitionError) as caught:
        prepared(step).prepare_id()
    assert message in caught.value.message
    assert caught.value.where == "source 's'"


def test_a_misspelt_column_in_a_cleaning_step_is_suggested():
    with pytest.raises(DefinitionError, match='Did you mean "user"'):
        prepared(lambda r: r.filter(pl.col("usr") > 1)).schema()


def test_the_word_python_is_no_function():
    assert len(prepared(lambda r: r.filter(pl.col("s") != "python")).prepare_id()) == 40


LIMIT = 1


def inner(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.filter(pl.col("x") > LIMIT)


def outer(rows: pl.LazyFrame) -> pl.LazyFrame:
    return inner(rows).with_columns(y=pl.col("x") * 2)


def test_the_id_of_a_cleaning_step_is_what_it_does(monkeypatch):
    first = prepared(outer).prepare_id()
    assert prepared(outer).prepare_id() == first
    monkeypatch.setitem(globals(), "LIMIT", 2)
    second = prepared(outer).prepare_id()
    monkeypatch.setitem(globals(), "inner", lambda rows: rows.filter(pl.col("x") >= LIMIT))
    assert len({first, second, prepared(outer).prepare_id(), Source("s", FRAME, time="time").prepare_id()}) == 4
