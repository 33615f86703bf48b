"""Times as a person gives them: datetimes, dates, texts or numbers, one or many, as int64 microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, TypeAlias, cast

import numpy as np
import polars as pl

from bedplate.errors import ConfigError, DataError
from bedplate.sources.base import epoch_micros
from bedplate.types import (
    EARLIEST_TIME,
    LATEST_TIME,
    Array,
    Bools,
    Int64s,
    format_time,
    is_accepted,
    likely_unit,
    to_micros,
    unit_hint,
)

TimesLike: TypeAlias = "str | int | date | np.datetime64 | Sequence[str | int | date] | pl.Series | Array"
"""One time or several: datetimes, dates, ISO 8601 texts or integer microseconds."""

_FINEST = ("ps", "fs", "as")
"""Units of which 64 bits reach no further than some months from 1970."""

_LAST = np.datetime64("2199-12-31T23:59:59.999999999")

_HINT = "datetimes, dates, ISO 8601 texts or integer microseconds since the epoch"


def encode_times(times: TimesLike, count: int, place: str) -> Int64s:
    """The int64 form of times that a person gave.

    Datetimes without a zone are UTC; what is finer than a microsecond is cut off, as it is in a source's time column.

    Args:
        times: n times, or one for all.
        count: how many times one becomes.
        place: what a message says the times are for.

    Returns:
        [n] int64 microseconds since the epoch.

    Raises:
        DataError: a time is null, not a time, or not between 1970 and 2200; says which.

    >>> encode_times(np.array(["2026-01-01", "2026-01-02"], "datetime64[D]"), 2, "times").tolist()
    [1767225600000000, 1767312000000000]
    """
    if isinstance(times, np.datetime64) or (isinstance(times, np.ndarray) and times.ndim == 0):
        times = np.full(count, times)
    if isinstance(times, np.ndarray):
        return _of_array(times, place)
    if isinstance(times, pl.Series):
        return _of_series(times, place)
    if isinstance(times, str | bytes | int | float | date) or not isinstance(times, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        return np.full(count, _micros(times, place), np.int64)
    return np.array([_micros(t, f"{place}, position {i}") for i, t in enumerate(times)], np.int64)


def asked_times(times: TimesLike, count: int, place: str) -> Int64s:
    """As `encode_times`, of times at which values are asked for: integers that must have another unit are refused.

    Args:
        times: as for `encode_times`.
        count: as for `encode_times`.
        place: as for `encode_times`.

    Raises:
        DataError: as `encode_times`; or integers that must be seconds or milliseconds: the greatest is within a year of
            1970 (and not 0, which is the epoch in every unit).
    """
    micros = encode_times(times, count, place)
    greatest = int(micros.max(initial=0))
    unit = likely_unit(greatest) if greatest else None
    if unit is not None and _are_integers(times):
        raise DataError(
            f"the greatest time is {greatest}, as microseconds {format_time(greatest)}; expected one after 1970",
            where=place,
            hint=unit_hint(unit),
        )
    return micros


def _are_integers(times: TimesLike) -> bool:
    if isinstance(times, np.ndarray) and times.dtype.kind != "O":
        return times.dtype.kind in "iu"
    if isinstance(times, pl.Series):
        return times.dtype.is_integer()
    given = times if isinstance(times, Sequence | np.ndarray) and not isinstance(times, str) else [times]
    return all(isinstance(t, int | np.integer) for t in given)


def _micros(value: Any, place: str) -> int:
    if isinstance(value, np.datetime64):
        return int(_of_datetimes(cast("Array", np.array([value])), place)[0])  # pyright: ignore[reportUnknownArgumentType]
    try:
        micros = to_micros(value)
    except ConfigError as error:
        raise DataError(error.message, where=place, hint=error.hint) from None
    if not is_accepted(micros):
        raise _out_of_range(micros if isinstance(value, int | np.integer) else str(value), place)
    return micros


def _of_array(times: Array, place: str) -> Int64s:
    if times.ndim != 1:
        raise DataError(f"got times of shape {times.shape}, expected one dimension", where=place)
    if times.dtype.kind == "M":
        return _of_datetimes(times, place)
    if times.dtype.kind in "iu":
        wrong: Bools = (times < EARLIEST_TIME) | (times >= LATEST_TIME)
        if wrong.any():
            at = int(wrong.argmax())
            raise _out_of_range(int(times[at]), f"{place}, position {at}")
        return times.astype(np.int64, copy=False)
    if times.dtype.kind in "OU":
        return np.array([_micros(t, f"{place}, position {i}") for i, t in enumerate(times.tolist())], np.int64)
    raise DataError(f"got an array of {times.dtype}, expected times", where=place, hint=_HINT)


def _of_datetimes(times: Array, place: str) -> Int64s:
    unit = np.datetime_data(times.dtype)[0]
    nulls: Bools = np.isnat(times)
    if nulls.any():
        raise DataError("got no time (NaT)", where=f"{place}, position {int(nulls.argmax())}")
    if unit == "generic":
        raise DataError("got datetimes without a unit", where=place, hint='for example the dtype "datetime64[us]"')
    # Compared in their own unit: a cast to microseconds wraps round without a word.
    late = np.zeros(len(times), np.bool_) if unit in _FINEST else times > _LAST.astype(times.dtype)
    wrong: Bools = late | (times.astype(np.int64) < 0)
    if wrong.any():
        at = int(wrong.argmax())
        raise _out_of_range(str(times[at]), f"{place}, position {at}")
    return times.astype("datetime64[us]").astype(np.int64)


def _of_series(times: pl.Series, place: str) -> Int64s:
    if times.null_count():
        raise DataError("got no time (null)", where=f"{place}, position {times.is_null().arg_max()}")
    if isinstance(times.dtype, pl.Datetime | pl.Date):
        micros = times.to_frame("time").select(epoch_micros(pl.col("time"), times.dtype)).to_series()
        wrong = (micros < EARLIEST_TIME) | (micros >= LATEST_TIME)
        if wrong.any():
            at = int(wrong.arg_max() or 0)
            # Polars panics when it shows a datetime beyond the year 9999.
            is_near = to_micros("0001-01-01") <= int(micros[at]) < to_micros("9999-12-31")
            shown = str(times[at]) if is_near else f"{times.to_physical()[at]} as {times.dtype}"
            raise _out_of_range(shown, f"{place}, position {at}")
        return np.ascontiguousarray(micros.to_numpy())
    if times.dtype.is_integer():
        return _of_array(times.to_numpy(), place)
    if isinstance(times.dtype, pl.String | pl.Object) or times.is_empty():
        return encode_times(cast("list[str]", times.to_list()), len(times), place)
    raise DataError(f"got a series of {times.dtype}, expected times", where=place, hint=_HINT)


def _out_of_range(shown: int | str, place: str) -> DataError:
    is_number = isinstance(shown, int)
    return DataError(
        f"got {shown if is_number else repr(shown)}, expected a time from 1970 to 2199",
        where=place,
        hint="an integer is microseconds since the epoch" if is_number else None,
    )
