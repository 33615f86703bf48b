"""Functions for the tests of derived features: right ones, wrong ones, and ones without an identity."""

from __future__ import annotations

import functools
import re

import numpy as np

SCALE = 2.0
WORD = re.compile(r"\w+")
TABLE = {"a": 1}
NAMES = ("red", "blue")


def double(x):
    """Twice the value."""
    return x * SCALE


def helped(x):
    return _helper(x) + 1


def _helper(x):
    return x * 3


def lengths(texts):
    return np.array([len(t) for t in texts], np.int64)


def shouted(texts):
    return np.array([t.upper() if t else None for t in texts], object)


def words(texts):
    return [WORD.findall(t.lower()) for t in texts]


@functools.lru_cache
def _cached(text):
    return len(text)


def cached_lengths(texts):
    return np.array([_cached(t) for t in texts])


def flipped(vectors):
    return vectors[:, ::-1]


def widened(vectors):
    return np.concatenate([vectors, vectors[:, :1]], axis=1)


def known(names):
    return np.array([n in NAMES for n in names])


def positive(x):
    return np.ma.masked_less_equal(x, 0).astype(np.int64)


def moments(times):
    return times.astype("datetime64[us]") + np.timedelta64(1, "D")


def centred(x):
    return x - x.mean()


def ordered(x):
    return np.sort(x)


def shorter(x):
    return x[1:]


def as_list(x):
    return list(x)


def as_text(x):
    return x.astype(str)


def failing(x):
    raise ValueError("no such zone")


def looked_up(texts):
    return np.array([TABLE.get(t, 0) for t in texts])


def made():
    factor = 3.0

    def inner(x):
        return x * factor

    return inner


closure = made()
scaled = functools.partial(double)
