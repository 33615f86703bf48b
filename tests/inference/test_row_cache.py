"""Rows are found by their bits, and by nothing else, however full the cache is."""

from __future__ import annotations

import numpy as np
import pytest

from bedplate.inference.row_cache import RowCache, _tag, as_words


@pytest.mark.parametrize("room", [1, 3, 40, 1000])
def test_a_place_has_the_row_that_was_put_there_last(room: int) -> None:
    rng, cache = np.random.default_rng(room), RowCache(20, room)
    there: dict[int, bytes] = {}
    for _ in range(60):
        rows = as_words([rng.integers(0, 9, (20, 2)), rng.integers(0, 3, (20, 1)).astype(np.float32)])
        names = [row.tobytes() for row in rows]
        found = cache.places(rows).tolist()
        for name, place in zip(names, found, strict=True):
            if place >= 0:
                assert there[place] == name
        new = [i for i, place in enumerate(found) if place < 0]
        if room >= 1000:  # then nothing is forgotten
            assert {names[i] for i in new}.isdisjoint(there.values())
        for i, place in zip(new, cache.add(rows[new]).tolist(), strict=True):
            assert 0 <= place < cache.size == room
            there[place] = names[i]


def test_places_are_given_away_one_after_the_other() -> None:
    cache = RowCache(8, 500)
    rows = as_words([np.arange(300)[:, None]])
    assert cache.add(rows).tolist() == list(range(300))
    assert cache.places(rows[::-1].copy()).tolist() == list(range(300))[::-1]


def test_every_byte_of_a_row_counts() -> None:
    row = [np.array([[1, 2]]), np.array([[0.5, 1.5, 2.5]], np.float32)]
    cache = RowCache(28, 100)
    cache.add(as_words(row))
    assert cache.places(as_words(row)).tolist() == [0]
    for part in range(2):
        for byte in range(row[part].nbytes):
            other = [a.copy() for a in row]
            other[part].view(np.uint8)[0, byte] ^= 1
            assert cache.places(as_words(other)).tolist() == [-1]


def test_rows_of_one_hash_are_told_apart() -> None:
    """64 bits of a hash are no proof: a client who sends such rows must not get the scores of others."""

    def mixed(first: int) -> int:
        """What the hash has made of a row's first word."""
        found = (0xCBF29CE484222325 ^ first) * 0x9E3779B97F4A7C15 % 2**64
        return found ^ found >> 32

    second = 12345
    words = [[first, mixed(first) ^ mixed(1) ^ second] for first in range(1, 40)]
    rows = np.array(words, np.uint64).view(np.int64)
    assert len({int(_tag(row)) for row in rows}) == 1, "the hash has changed: make rows of one hash anew"
    cache = RowCache(16, 100)
    cache.add(rows[:1])
    assert cache.places(rows).tolist() == [0] + [-1] * 38
    places = cache.add(rows[:10])  # a bucket has room for them
    assert sorted(places.tolist()) == list(range(10))
    assert cache.places(rows[:10]).tolist() == places.tolist()


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="got rows of 2 words, expected 1"):
        RowCache(8, 10).add(as_words([np.zeros((1, 2))]))
