"""Reading windows: the compiled passes over the tiles of many rows (see `codec`). They are most of a read's work."""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.aggregations.base import Reduce
from bedplate.online.codec import CODES, MISSING, WIDE
from bedplate.online.compiled import (
    AT,
    CODE,
    HOP,
    IS_FLOAT,
    LENGTH,
    NUMBER_AT,
    PARTIAL,
    SOURCE,
    TILE,
    jit,
    window_start,
)
from bedplate.online.folding import add_whole

_MIN, _SUM, _COUNT = (CODES[r] for r in (Reduce.MIN, Reduce.SUM, Reduce.COUNT))


@jit
def take(
    code: int, is_float: int, words: Any, floats: Any, at: int, values: Any, value_floats: Any, present: Any, i: int
) -> None:
    """Merges the value at a word into value i; a count counts it."""
    if code == _COUNT:
        values[i] += 1
    elif code == _SUM:
        if is_float:
            value_floats[i] += floats[at]
        else:
            values[i] = add_whole(values[i], words[at])
    else:
        smaller = floats[at] < value_floats[i] if is_float else words[at] < values[i]
        if not present[i] or smaller == (code == _MIN):
            values[i] = words[at]
    present[i] = True


@jit
def find_tiles(words: Any, times: Any, width: int, located: Any, request: Any, found: Any) -> None:
    """Fills `found` [n] with the word of the first tile in each row that a request's window covers."""
    length, hop, at = request[LENGTH], request[HOP], request[AT]
    time, since = MISSING, MISSING
    for i in range(len(times)):
        if located[i, 0] < 0:
            continue
        if times[i] != time:  # most often all rows are asked for as of one time
            time = times[i]
            since = window_start(time, length, hop)
        begin = located[i, at + 1]
        low, high = np.int64(0), (located[i, at + 2] - begin) // width
        while low < high:
            middle = (low + high) // 2
            if words[begin + middle * width] < since:
                low = middle + 1
            else:
                high = middle
        found[i] = begin + low * width


@jit
def read_tiles(
    words: Any,
    floats: Any,
    width: int,
    located: Any,
    first: Any,
    request: Any,
    values: Any,
    value_floats: Any,
    present: Any,
) -> None:
    """Fills the value of a request; no call and no array is made in the loops over rows and tiles."""
    code, is_float, at, partial = request[CODE], request[IS_FLOAT], request[AT], request[PARTIAL]
    distance = request[NUMBER_AT] - partial
    for i in range(len(values)):
        if located[i, 0] < 0:
            continue
        k, end = first[i] + partial, located[i, at + 2]
        if code == _COUNT:  # no key has so many events that it could overflow
            number = np.int64(0)
            while k < end:
                number += words[k]
                k += width
            values[i] = number
        elif code == _SUM and is_float:
            real = 0.0
            while k < end:
                real += floats[k]
                k += width
            value_floats[i] = real
        elif code == _SUM:
            whole = np.int64(0)
            while k < end:
                whole = add_whole(whole, words[k])
                k += width
            values[i] = whole
        else:
            while k < end:
                if words[k + distance] > 0:
                    take(code, is_float, words, floats, k, values, value_floats, present, i)
                k += width


@jit
def is_of_tiles(requests: Any, r: int) -> bool:
    """Whether a request reads tiles, of partial results of one word."""
    return requests[r, SOURCE] == TILE and 0 <= requests[r, CODE] < WIDE


@jit
def _are_alike(requests: Any, q: int, r: int) -> bool:
    """Whether two requests read the same tiles."""
    return (
        is_of_tiles(requests, q)
        and is_of_tiles(requests, r)
        and requests[q, AT] == requests[r, AT]
        and requests[q, LENGTH] == requests[r, LENGTH]
    )


@jit
def same_window(requests: Any, r: int) -> int:
    """The first request that reads the same tiles as request r."""
    for q in range(r):
        if _are_alike(requests, q, r):
            return q
    return r


@jit
def read_sum_and_counts(
    words: Any, floats: Any, width: int, located: Any, first: Any, requests: Any, r: int, values: Any, done: Any
) -> None:
    """Reads a sum of floats and two counts of the window of request r in one pass, where there are; they are done."""
    total, one, two = -1, -1, -1
    for q in range(r, len(requests)):
        if _are_alike(requests, q, r):
            if requests[q, CODE] == _SUM and requests[q, IS_FLOAT] and total < 0:
                total = q
            elif requests[q, CODE] == _COUNT and one < 0:
                one = q
            elif requests[q, CODE] == _COUNT and two < 0:
                two = q
    if total < 0 or one < 0:
        return
    if two < 0:
        two = one
    done[total], done[one], done[two] = True, True, True
    n, at, value_floats = len(first), requests[r, AT], values.view(np.float64)
    of_sum, of_one, of_two = requests[total, PARTIAL], requests[one, PARTIAL], requests[two, PARTIAL]
    for i in range(n):
        if located[i, 0] < 0:
            continue
        k, end = first[i], located[i, at + 2]
        real, ones, twos = 0.0, np.int64(0), np.int64(0)
        while k < end:
            real += floats[k + of_sum]
            ones += words[k + of_one]
            twos += words[k + of_two]
            k += width
        value_floats[total * n + i], values[one * n + i], values[two * n + i] = real, ones, twos
