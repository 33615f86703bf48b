"""Functions of derived features that many teams need: distances, likeness of vectors and texts, local time.

DerivedFeature("km", function=haversine, type=float, inputs=["request.lat", "request.lon", "shops.lat", "shops.lon"])
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable

import numpy as np
import polars as pl

from bedplate.errors import DefinitionError
from bedplate.features.derived import REQUEST_TIME
from bedplate.features.function import expects
from bedplate.texts import Remembered
from bedplate.types import Array, Float32s, Float64s, Int64s

EARTH_RADIUS = 6371.0088
"""Kilometres: the mean radius of the Earth (IUGG)."""

_WORD = re.compile(r"[^\W_]+")


def haversine(latitude: Float64s, longitude: Float64s, other_latitude: Float64s, other_longitude: Float64s) -> Float64s:
    """Kilometres between two points on a sphere of the Earth's mean radius (Sinnott 1984, "Virtues of the Haversine").

    Args:
        latitude: [n] degrees, -90 to 90; others have no distance.
        longitude: [n] degrees.
        other_latitude: [n] degrees.
        other_longitude: [n] degrees.

    Returns:
        [n] float64; NaN where there is none.

    >>> vienna, paris = (48.2082, 16.3738), (48.8566, 2.3522)
    >>> haversine(*(np.array([d]) for d in (*vienna, *paris))).round().tolist()
    [1033.0]
    """
    first, second = np.radians(latitude), np.radians(other_latitude)
    across = np.radians(np.subtract(other_longitude, longitude)) / 2
    squared = np.sin((second - first) / 2) ** 2 + np.cos(first) * np.cos(second) * np.sin(across) ** 2
    valid = (np.abs(latitude) <= 90) & (np.abs(other_latitude) <= 90)
    return np.where(valid, 2 * EARTH_RADIUS * np.arcsin(np.sqrt(np.clip(squared, 0, 1))), np.nan)


def dot(first: Float32s, second: Float32s) -> Float64s:
    """The inner products [n] of vectors [n, d], summed in float64.

    >>> dot(np.array([[1.0, 2.0]], np.float32), np.array([[3.0, 4.0]], np.float32)).tolist()
    [11.0]
    """
    return np.einsum("ij,ij->i", first, second, dtype=np.float64)


def cosine(first: Float32s, second: Float32s) -> Float64s:
    """The cosines [n] of the angles between vectors [n, d], from -1 to 1; NaN where one is zero.

    >>> cosine(np.array([[3.0, 0.0]], np.float32), np.array([[1.0, 0.0]], np.float32)).tolist()
    [1.0]
    """
    lengths = np.sqrt(dot(first, first) * dot(second, second))
    shares = np.full(len(first), np.nan)
    np.divide(dot(first, second), lengths, out=shares, where=lengths > 0)
    return np.clip(shares, -1.0, 1.0)


def local_time(zone: str, time: str = REQUEST_TIME) -> pl.Expr:
    """The expression of a time as clocks in a zone show it, daylight saving included, such as `.dt.hour()` of it.

    Args:
        zone: the zone's IANA name.
        time: the name of the feature; the time of the request unless given.

    Raises:
        DefinitionError: there is no such zone.

    >>> midnight = pl.DataFrame({"request.time": [1782943200000000]}).cast(pl.Datetime("us", "UTC"))
    >>> midnight.select(local_time("Europe/Vienna").dt.hour())["request.time"].to_list()
    [0]
    """
    if not _is_zone(zone):
        raise DefinitionError(
            f"got '{zone}', expected the IANA name of a time zone",
            where="local_time",
            hint="for example Europe/Vienna or America/New_York",
        )
    column = pl.col(time)
    return column.dt.convert_time_zone(zone)


def local_hour(times: Int64s, zones: Array) -> Array:
    """The hours [n], 0 to 23, that clocks in each row's zone show; daylight saving included.

    Args:
        times: [n] int64 microseconds, UTC.
        zones: [n] IANA names; one that is none masks its row.

    >>> local_hour(np.array([0, 0]), np.array(["Asia/Tokyo", "nowhere"], object)).tolist()
    [9, None]
    """
    return _local(times, zones, _hour)


def local_weekday(times: Int64s, zones: Array) -> Array:
    """The days of the week [n], 1 for Monday to 7, in each row's zone; arguments as of `local_hour`.

    >>> local_weekday(np.array([0]), np.array(["UTC"], object)).tolist()
    [4]
    """
    return _local(times, zones, _weekday)


def _hour(times: pl.Series) -> pl.Series:
    return times.dt.hour()


def _weekday(times: pl.Series) -> pl.Series:
    return times.dt.weekday()


def _local(times: Int64s, zones: Array, part: Callable[[pl.Series], pl.Series]) -> Array:
    values, known = np.zeros(len(times), np.int64), np.zeros(len(times), np.bool_)
    names, codes = np.unique(zones.astype(str), return_inverse=True)
    for code, zone in enumerate(names.tolist()):
        rows = codes == code
        if _is_zone(zone):
            local = pl.Series("", times[rows]).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
            values[rows], known[rows] = part(local).to_numpy(), True
    return np.ma.MaskedArray(values, ~known)


@functools.lru_cache(maxsize=1024)
def _is_zone(zone: str) -> bool:
    if not zone:  # Polars takes it for the removal of a zone
        return False
    try:
        pl.Series([0]).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    except pl.exceptions.PolarsError:
        return False
    return True


def token_overlap(query: Array, text: Array) -> Float64s:
    """The share [n] of the query's different words that the text has, 0 to 1; NaN where the query has no word.

    Words are runs of letters and digits, in any case.

    >>> token_overlap(np.array(["red mug"], object), np.array(["A Mug, red-ish"], object)).tolist()
    [1.0]
    """
    shares = np.full(len(query), np.nan)
    for row, (wanted, offered) in enumerate(zip(query.tolist(), text.tolist(), strict=True)):
        words = _WORDS[wanted]
        if words:
            shares[row] = len(words & _WORDS[offered]) / len(words)
    return shares


def _words_of(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def _size_of(words: frozenset[str]) -> int:
    return sys.getsizeof(words) + sum(map(sys.getsizeof, words))


# The same titles come with every request; long texts are queries, if anything, and take as long as their words.
_WORDS = Remembered(_words_of, _size_of, most_bytes=64 * 1024 * 1024, most_of_one=16 * 1024)


expects(haversine, "a number", "a number", "a number", "a number")
expects(dot, "a vector", "a vector")
expects(cosine, "a vector", "a vector")
expects(token_overlap, "a text", "a text")
expects(local_hour, "a time", "a text")
expects(local_weekday, "a time", "a text")
