"""Types of values, and time: int64 microseconds since the epoch, UTC, everywhere inside."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from bedplate.errors import ConfigError, DefinitionError

if TYPE_CHECKING:
    import polars as pl

Int32s: TypeAlias = npt.NDArray[np.int32]
Int64s: TypeAlias = npt.NDArray[np.int64]
Float64s: TypeAlias = npt.NDArray[np.float64]
Float32s: TypeAlias = npt.NDArray[np.float32]
Bools: TypeAlias = npt.NDArray[np.bool_]
Array: TypeAlias = npt.NDArray[Any]

MICROSECOND = 1
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

EARLIEST_TIME = 0
"""The first time accepted in data: 1970-01-01."""
LATEST_TIME = 7_258_118_400 * SECOND
"""The first time no longer accepted in data: 2200-01-01. Nanoseconds read as microseconds lie beyond it."""

_UNITS = {"us": MICROSECOND, "ms": 1000, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"^([0-9]+)(us|ms|s|m|h|d|w)$")


_VECTOR = re.compile(r"vector\[([1-9][0-9]{0,5})\]")


class Type(StrEnum):
    """What a feature's value is. Strings and times are held as int64: a 64-bit hash, microseconds.

    Beside the members there is a type for vectors of each number of float32 values, such as `Type("vector[64]")`; the
    same one each time.

    >>> Type("vector[64]") is Type.vector(64), Type.vector(64).width
    (True, 64)
    """

    INT = "int64"
    FLOAT = "float64"
    BOOL = "bool"
    STRING = "string"
    TIME = "timestamp"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the stored values.

        >>> Type.STRING.dtype
        dtype('int64')
        """
        if self.width:
            return np.dtype(np.float32)
        return np.dtype({"float64": np.float64, "bool": np.bool_}.get(self.value, np.int64))

    @property
    def width(self) -> int:
        """How many values a vector has; 0: it is no vector."""
        return int(self.value[len("vector[") : -1]) if self.value.startswith("vector[") else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one stored value: `(width,)` of a vector, else `()`."""
        return (self.width,) if self.width else ()

    @classmethod
    def vector(cls, width: int) -> Type:
        """The type of vectors of so many float32 values.

        Raises:
            ValueError: the width is not between 1 and 999,999.
        """
        return cls(f"vector[{width}]")

    @classmethod
    def _missing_(cls, value: object) -> Type | None:
        """Makes the type of vectors of a width when it is first asked for, as `enum.Flag` does for its combinations."""
        if not isinstance(value, str) or _VECTOR.fullmatch(value) is None:
            return None
        made = str.__new__(cls, value)
        made._name_, made._value_ = value, value
        # Another thread may have been first.
        return cast("Type", cls._value2member_map_.setdefault(value, made))


def type_of(dtype: pl.DataType) -> Type | None:
    """The `Type` of a Polars data type, or None where Bedplate has none for it (integers wider than int64 included).

    Arrays of numbers are vectors: their values are rounded to float32.

    >>> import polars as pl
    >>> type_of(pl.Int32()), type_of(pl.Categorical()), type_of(pl.Binary())
    (<Type.INT: 'int64'>, <Type.STRING: 'string'>, None)
    """
    import polars as pl

    base = dtype.base_type()
    if base in {pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32}:
        return Type.INT
    if dtype.is_float() or dtype.is_decimal():
        return Type.FLOAT
    if base is pl.Boolean:
        return Type.BOOL
    if base in {pl.String, pl.Categorical, pl.Enum}:
        return Type.STRING
    if base in {pl.Datetime, pl.Date}:
        return Type.TIME
    if isinstance(dtype, pl.Array) and len(dtype.shape) == 1 and dtype.inner.is_numeric() and dtype.shape[0]:
        return Type.vector(dtype.shape[0])
    return None


def parse_duration(
    text: str, *, where: str = "duration", error: type[ConfigError] | type[DefinitionError] = ConfigError
) -> int:
    """Microseconds of a duration such as `"5ms"`, `"90s"`, `"5m"`, `"12h"`, `"7d"`, `"2w"`.

    Args:
        text: the duration.
        where: what a message says the duration is of.
        error: the class of the error: `DefinitionError` for a duration in a definition.

    >>> parse_duration("5m")
    300000000

    Raises:
        ConfigError: the text is not a whole number and a unit, is not above zero, or is longer than 230 years.
    """
    hint = "for example 5ms, 90s, 5m, 12h, 7d, 2w"
    if isinstance(text, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise error(f"got {text!r}, which has no unit", where=where, hint=f"write a text with a unit, {hint}")
    match = _DURATION.match(text.strip()) if isinstance(text, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if match is None:
        raise error(f"got {text!r}, expected a whole number and a unit", where=where, hint=hint)
    micros = int(match[1]) * _UNITS[match[2]]
    if not 0 < micros < LATEST_TIME:
        raise error(f"got {text!r}, expected more than zero and less than 230 years", where=where, hint=hint)
    return micros


def format_duration(micros: int) -> str:
    """The shortest exact text of a duration; the inverse of `parse_duration`.

    >>> format_duration(604800000000), format_duration(90_000_000)
    ('7d', '90s')
    """
    for unit, size in (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1000)):
        if micros % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros}us"


def to_micros(value: datetime | date | str | int) -> int:
    """Microseconds since the epoch of a time; a time without a zone is UTC; an integer is microseconds already.

    >>> to_micros("2011-12-09"), to_micros("2011-12-09T01:00:00+01:00")
    (1323388800000000, 1323388800000000)

    Raises:
        ConfigError: the text is not an ISO 8601 date or time, or the value is no time.
    """
    # Whoever gives a time may run no type checker; a boolean is an integer to Python, and pandas' NaT a datetime.
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    given: Any = value
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            raise ConfigError(
                f"got '{given}', expected an ISO 8601 date or time", hint="for example 2011-12-09T10:30:00"
            ) from None
    if not isinstance(given, date) or given != given:  # noqa: PLR0124
        raise ConfigError(
            f"got {given!r}, expected a datetime, a date, an ISO 8601 text or integer microseconds",
            hint="for example 2011-12-09T10:30:00",
        )
    if not isinstance(given, datetime):
        given = datetime(given.year, given.month, given.day)
    if given.tzinfo is None:
        given = given.replace(tzinfo=UTC)
    since = given - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * SECOND + since.microseconds


def parse_time(value: datetime | date | str | int, place: str) -> int:
    """Microseconds of a time that a person gave, checked to be one that data may have.

    Args:
        value: as for `to_micros`.
        place: what a message says the time is for.

    >>> parse_time("1970-01-02", "--until")
    86400000000

    Raises:
        ConfigError: it is no time, or not between 1970 and 2200.
    """
    try:
        micros = to_micros(value)
    except ConfigError as error:
        raise ConfigError(error.message, where=place, hint=error.hint) from None
    if not is_accepted(micros):
        is_number = isinstance(value, int | np.integer)
        raise ConfigError(
            f"got {value if is_number else str(value)!r}, expected a time from 1970 to 2199",
            where=place,
            hint="an integer is microseconds since the epoch" if is_number else None,
        )
    return micros


def parse_moment(value: datetime | date | str | int, place: str) -> int:
    """As `parse_time`, for a time among those of events: an integer that must be seconds or milliseconds is refused.

    >>> parse_moment("2026-01-01", "until")
    1767225600000000

    Raises:
        ConfigError: as `parse_time`, or an integer within a year of 1970 (not 0, which is the epoch in every unit).
    """
    micros = parse_time(value, place)
    unit = likely_unit(micros) if isinstance(value, int | np.integer) and micros else None
    if unit is not None:
        raise ConfigError(
            f"got {value}, as microseconds {format_time(micros)}; expected a time after 1970",
            where=place,
            hint=unit_hint(unit),
        )
    return micros


def likely_unit(greatest: int) -> str | None:
    """Which unit integer times have that are no microseconds: "s" or "ms", by the greatest of them; None: they may be.

    Seconds and milliseconds of all accepted times are, as microseconds, within a year of 1970.

    >>> likely_unit(1_768_003_200), likely_unit(1_768_003_200_000), likely_unit(1_768_003_200_000_000)
    ('s', 'ms', None)
    """
    if greatest >= 365 * DAY:
        return None
    # Milliseconds of times since April 1970 are above the seconds of any accepted time.
    return "s" if greatest < LATEST_TIME // SECOND else "ms"


def unit_hint(unit: str, column: str | None = None) -> str:
    """What to do about integer times that have another unit.

    >>> unit_hint("ms")
    'milliseconds? An integer is microseconds since the epoch: multiply by 1_000'
    >>> unit_hint("s", "seen")
    "seconds? Convert them in the prepare step: pl.from_epoch('seen', time_unit='s')"
    """
    named = {"s": "seconds", "ms": "milliseconds"}[unit]
    if column is None:
        factor = {"s": "1_000_000", "ms": "1_000"}[unit]
        return f"{named}? An integer is microseconds since the epoch: multiply by {factor}"
    return f"{named}? Convert them in the prepare step: pl.from_epoch('{column}', time_unit='{unit}')"


def is_accepted(micros: int) -> bool:
    """Whether a time is one that data may have: from 1970 to the end of 2199.

    >>> is_accepted(0), is_accepted(-1), is_accepted(LATEST_TIME)
    (True, False, False)
    """
    return EARLIEST_TIME <= micros < LATEST_TIME


def format_time(micros: int) -> str:
    """ISO 8601 text of a time, UTC; the inverse of `to_micros`.

    >>> format_time(1323388800000000)
    '2011-12-09T00:00:00Z'
    """
    whole, rest = divmod(int(micros), SECOND)
    text = (datetime(1970, 1, 1) + timedelta(seconds=whole)).isoformat()
    return f"{text}.{rest:06d}Z" if rest else f"{text}Z"
