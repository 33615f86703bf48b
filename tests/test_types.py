"""Types, durations and times."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import ConfigError, DefinitionError
from bedplate.types import DAY, LATEST_TIME, Type, format_duration, format_time, parse_duration, to_micros, type_of


@given(st.integers(1, LATEST_TIME - 1))
def test_a_duration_is_its_text(micros):
    assert parse_duration(format_duration(micros)) == micros


@given(st.integers(1, 5000), st.sampled_from(["us", "ms", "s", "m", "h", "d", "w"]))
def test_a_text_is_its_duration(count, unit):
    sizes = {"us": 1, "ms": 10**3, "s": 10**6, "m": 6 * 10**7, "h": 36 * 10**8, "d": DAY, "w": 7 * DAY}
    micros = parse_duration(f" {count}{unit} ")
    assert micros == count * sizes[unit]
    assert parse_duration(format_duration(micros)) == micros


WRONG = [
    "",
    "5",
    "m",
    "5 m",
    "-5m",
    "5.5m",
    "5M",
    "\u0665m",
    "1d12h",
    "0s",
    0,
    -1,
    True,
    1.5,
    None,
    "9999999999w",
    10**18,
]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_duration_says_what_was_got(text):
    with pytest.raises(ConfigError) as caught:
        parse_duration(text, where="job: gap")
    assert repr(text) in caught.value.message
    assert caught.value.where == "job: gap"
    assert "for example" in (caught.value.hint or "")
    with pytest.raises(DefinitionError):
        parse_duration(text, error=DefinitionError)


@given(st.integers(0, LATEST_TIME))
def test_a_time_is_its_text(micros):
    assert to_micros(format_time(micros)) == micros


@given(st.datetimes(datetime(1970, 1, 2), datetime(2199, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_a_time_without_a_zone_is_utc_and_an_offset_counts(moment, minutes):
    micros = to_micros(moment)
    assert micros == to_micros(moment.replace(tzinfo=UTC)) == to_micros(moment.isoformat())
    east = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert to_micros(east) == to_micros(east.isoformat()) == micros - minutes * 60_000_000


def test_dates_and_integers_are_times():
    assert to_micros(date(1970, 1, 2)) == to_micros("1970-01-02") == DAY
    assert to_micros("1970-01-02T00:00:00Z") == DAY
    assert to_micros(np.int64(7)) == to_micros(7) == 7


@pytest.mark.parametrize("text", ["", "yesterday", "2011-13-01", "09/12/2011"])
def test_a_wrong_time_says_what_was_got(text):
    with pytest.raises(ConfigError, match=f"got '{text}', expected an ISO 8601 date or time\n  for example"):
        to_micros(text)


KINDS = {
    Type.INT: [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32],
    Type.FLOAT: [pl.Float32, pl.Float64, pl.Decimal(10, 2)],
    Type.BOOL: [pl.Boolean],
    Type.STRING: [pl.String, pl.Categorical, pl.Enum(["a"])],
    Type.TIME: [pl.Date, pl.Datetime("ms"), pl.Datetime("us", "UTC"), pl.Datetime("ns", "Europe/Berlin")],
    # What does not fit into 64 bits with a sign, and what is no value.
    None: [
        pl.UInt64,
        pl.Int128,
        pl.UInt128,
        pl.Binary,
        pl.Duration,
        pl.Time,
        pl.List(pl.Int64),
        pl.Null,
        pl.Struct({}),
    ],
}


@pytest.mark.parametrize(("kind", "dtype"), [(k, d) for k, dtypes in KINDS.items() for d in dtypes], ids=str)
def test_every_polars_type_has_a_type_or_none(kind, dtype):
    assert type_of(pl.Series([], dtype=dtype).dtype) is kind


def test_stored_values():
    assert [t.dtype.name for t in Type] == ["int64", "float64", "bool", "int64", "int64"]
