"""Times as people give them: every form of the same instant is the same number, and what is no time is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bedplate.errors import ConfigError, DataError
from bedplate.features.times import asked_times, encode_times
from bedplate.sources.base import TIME, Source
from bedplate.types import DAY, EARLIEST_TIME, LATEST_TIME, SECOND, parse_moment, parse_time, to_micros

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WRAPPED = 2**64 + 10**15
"""Microseconds of which 64 bits are those of a time in 2001."""
MICROS = {"D": DAY, "h": 3600 * SECOND, "m": 60 * SECOND, "s": SECOND, "ms": 1000, "us": 1}
instants = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2199, 12, 31, 23, 59, 59, 999999))


def micros_of(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@given(moments=st.lists(instants, min_size=1, max_size=5))
def test_every_form_of_an_instant_is_the_same_number(moments):
    expected = [micros_of(m) for m in moments]
    forms = [
        moments,
        tuple(moments),
        [m.isoformat() for m in moments],
        [m.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=-3, minutes=-30))) for m in moments],
        expected,
        np.array(expected),
        np.array(moments, dtype="datetime64[us]"),
        np.array(moments, dtype=object),
        np.array([m.isoformat() for m in moments]),
        [np.datetime64(m, "us") for m in moments],
        pl.Series(moments),
        pl.Series(moments).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kathmandu"),
        pl.Series(expected),
        pl.Series([m.isoformat() for m in moments]),
    ]
    for form in forms:
        assert encode_times(form, len(moments), "t").tolist() == expected, form


@given(count=st.integers(0, LATEST_TIME - 1), unit=st.sampled_from([*MICROS, "ns", "ps", "W", "M", "Y"]))
def test_every_unit_of_numpy_is_read_as_it_is(count, unit):
    moment = np.datetime64(count, "us")
    if unit == "ps":
        moment = np.datetime64(count % (80 * DAY), "us")
    form = moment.astype(f"datetime64[{unit}]")
    expected = int(form.astype("datetime64[us]").astype(np.int64))
    for given_ in (np.array([form]), form, np.array(form), [form]):
        assert encode_times(given_, 1, "t").tolist() == [expected]
    if unit in MICROS:
        assert expected == count - count % MICROS[unit]


@given(nanoseconds=st.integers(0, LATEST_TIME * 1000 - 1))
def test_what_is_finer_than_a_microsecond_is_cut_off_as_in_a_source(nanoseconds):
    series = pl.Series([nanoseconds], dtype=pl.Int64).cast(pl.Datetime("ns"))
    of_source = Source("s", pl.DataFrame({"time": series}), time="time").scan().collect()[TIME].to_list()
    asked = [encode_times(t, 1, "t").tolist() for t in (series, series.to_numpy())]
    assert asked == [of_source, of_source] == [[nanoseconds // 1000]] * 2


@pytest.mark.parametrize("unit", ["us", "ms", "s", "m", "h", "D", "W", "M", "Y"])
@pytest.mark.parametrize("year", [-3000, 1969, 2201, 9999, 200_000])
def test_numpy_datetimes_out_of_range_are_refused_in_every_unit(unit, year):
    wrong = np.datetime64(f"{year:+05}" if year < 0 else f"{year:04}", "Y").astype(f"datetime64[{unit}]")
    good = np.datetime64("2026-01-01").astype(wrong.dtype)
    with pytest.raises(DataError, match=r"^t, position 1: got '.*', expected a time from 1970 to 2199"):
        encode_times(np.array([good, wrong]), 2, "t")


def test_numpy_datetimes_that_would_wrap_round_are_refused():
    for unit in MICROS:
        far = np.array([2**62], f"datetime64[{unit}]")
        with pytest.raises(DataError, match="expected a time from 1970 to 2199"):
            encode_times(far, 1, "t")
    for unit in ("ns", "ps", "fs"):
        with pytest.raises(DataError, match="expected a time from 1970 to 2199"):
            encode_times(np.array([-1], f"datetime64[{unit}]"), 1, "t")


def test_one_time_is_for_all():
    moment = datetime(2026, 1, 5, 9)
    for one in ("2026-01-05T09:00", moment, micros_of(moment), np.int64(micros_of(moment)), np.datetime64(moment)):
        assert encode_times(one, 3, "t").tolist() == [micros_of(moment)] * 3
    assert encode_times(date(2026, 1, 5), 2, "t").tolist() == [to_micros("2026-01-05")] * 2
    assert encode_times("2026-01-05", 0, "t").tolist() == []
    assert encode_times([], 5, "t").tolist() == []
    assert encode_times(pl.Series([]), 5, "t").dtype == np.int64


NONE = [
    ([None], "t, position 0: got None, expected a datetime"),
    (["2026-01-01", None], "t, position 1: got None, expected a datetime"),
    (["2026-01-01", "soon"], "t, position 1: got 'soon', expected an ISO 8601"),
    ([1.5e15], r"t, position 0: got 1500000000000000\.0, expected a datetime"),
    ([True], "t, position 0: got True, expected a datetime"),
    (1.5e15, r"t: got 1500000000000000\.0, expected a datetime"),
    (None, "t: got None, expected a datetime"),
    ([b"2026-01-01"], "t, position 0: got b'2026-01-01', expected a datetime"),
    (pl.Series([datetime(2026, 1, 1), None]), r"t, position 1: got no time \(null\)"),
    (pl.Series([5, None]), r"t, position 1: got no time \(null\)"),
    (pl.Series([None, None]), r"t, position 0: got no time \(null\)"),
    (pl.Series([1.5e15]), "t: got a series of Float64, expected times"),
    (pl.Series([timedelta(1)]), "t: got a series of Duration"),
    (pl.Series([True]), "t: got a series of Boolean"),
    (np.array([1.5e15]), "t: got an array of float64, expected times"),
    (np.array([True]), "t: got an array of bool"),
    (np.array(["2026-01-01", "NaT"], "datetime64[us]"), r"t, position 1: got no time \(NaT\)"),
    (np.array([[1, 2]]), r"t: got times of shape \(1, 2\), expected one dimension"),
    (np.array(["2026-01-01", None], object), "t, position 1: got None"),
    ([LATEST_TIME], f"t, position 0: got {LATEST_TIME}, expected a time from 1970 to 2199\n  an integer is micros"),
    ([0, -1], "t, position 1: got -1, expected a time from 1970"),
    (np.array([0, LATEST_TIME]), f"t, position 1: got {LATEST_TIME}, expected a time"),
    (np.array([2**64 - 1], np.uint64), f"t, position 0: got {2**64 - 1}, expected a time"),
    (pl.Series([0, -5]), "t, position 1: got -5, expected a time"),
    (
        pl.Series([datetime(2026, 1, 1), datetime(2200, 1, 1)]),
        "t, position 1: got '2200-01-01 00:00:00', expected a time",
    ),
    (pl.Series([date(1969, 12, 31)]), "t, position 0: got '1969-12-31', expected a time"),
    (["1960-01-01"], "t, position 0: got '1960-01-01', expected a time"),
    (datetime(2300, 1, 1), "t: got '2300-01-01 00:00:00', expected a time"),
]


@pytest.mark.parametrize(("times", "message"), NONE, ids=[str(n) for n in range(len(NONE))])
def test_what_is_no_time_is_refused_with_its_position(times, message):
    with pytest.raises(DataError, match=f"^{message}"):
        encode_times(times, 2, "t")


def test_the_ends_of_time_are_taken():
    ends = [EARLIEST_TIME, LATEST_TIME - 1]
    for form in (ends, np.array(ends), pl.Series(ends), np.array(ends).astype("datetime64[us]")):
        assert encode_times(form, 2, "t").tolist() == ends


@pytest.mark.parametrize("value", ["1969-12-31", "2200-01-01", -1, LATEST_TIME, "soon", None, 2.5, True])
def test_a_time_for_a_command_is_checked(value):
    with pytest.raises(ConfigError) as caught:
        parse_time(value, "--time")
    assert caught.value.where == "--time"
    assert caught.value.message.startswith(f"got {value!r}, expected")


@pytest.mark.parametrize("days", [20_260_101, 106_751_992, WRAPPED // DAY, 2**31 - 1, -(2**31), -1, 84_006])
def test_dates_too_far_away_are_refused_in_a_source(days):
    series = pl.Series([days], dtype=pl.Int32).cast(pl.Date)
    got = Source("s", pl.DataFrame({"time": series}), time="time").scan().collect()[TIME][0]
    assert (got < EARLIEST_TIME) if days < 0 else (got >= LATEST_TIME)
    with pytest.raises(DataError, match=r"^t, position 0: got '.*', expected a time from 1970 to 2199"):
        encode_times(series, 1, "t")


@example(ticks=WRAPPED // 1000, unit="ms")
@example(ticks=-(2**64 - 10**15) // 1000, unit="ms")
@given(ticks=st.integers(-(2**63) + 1, 2**63 - 1), unit=st.sampled_from(["ms", "us", "ns"]))
def test_every_datetime_of_a_source_is_itself_or_out_of_range(ticks, unit):
    series = pl.Series([ticks], dtype=pl.Int64).cast(pl.Datetime(unit))
    got = Source("s", pl.DataFrame({"time": series}), time="time").scan().collect()[TIME][0]
    exact = {"ms": ticks * 1000, "us": ticks, "ns": ticks // 1000}[unit]
    if EARLIEST_TIME <= exact < LATEST_TIME:
        assert got == exact
    else:
        assert not EARLIEST_TIME <= got < LATEST_TIME


@pytest.mark.parametrize(("factor", "unit"), [(1_000_000, "seconds"), (1000, "milliseconds")])
def test_integers_of_another_unit_can_not_be_asked_for(factor, unit):
    asked = to_micros("2026-01-02") // factor
    for form in (asked, [0, asked], np.array([asked]), np.int64(asked), pl.Series([asked]), np.array([asked], object)):
        with pytest.raises(DataError, match=f"the greatest time is {asked}") as caught:
            asked_times(form, 1, "t")
        assert caught.value.hint is not None
        assert caught.value.hint.startswith(f"{unit}? ")
    with pytest.raises(ConfigError, match=f"got {asked}") as refused:
        parse_moment(asked, "until")
    assert refused.value.hint is not None
    assert refused.value.hint.startswith(f"{unit}? ")


def test_times_of_1970_that_are_no_integers_and_the_epoch_are_as_they_are():
    early = datetime(1970, 1, 2)
    for form in (early, [early], "1970-01-02", np.array([early], "datetime64[s]"), pl.Series([early])):
        assert asked_times(form, 1, "t").tolist() == [DAY]
    assert asked_times([0, 0], 2, "t").tolist() == [0, 0]
    assert asked_times([DAY, 400 * DAY], 2, "t").tolist() == [DAY, 400 * DAY]
    assert asked_times([], 0, "t").tolist() == []
    assert parse_moment(0, "until") == 0
