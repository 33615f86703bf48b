"""Looking ids up: collisions, extremes, several vocabularies at once, in one compiled loop."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import DataError
from bedplate.features.kernels import MULTIPLIER
from bedplate.features.vocabulary import FIRST_KNOWN_ROW, NULL_ROW, UNKNOWN_ROW, Vocabularies, Vocabulary

WORDS = st.integers(-(2**63), 2**63 - 1)


def colliding(slot: int, bits: int, count: int) -> list[int]:
    """Ids whose hashes begin with the same bits: each goes to the same slot of a table of 2^bits."""
    inverse = pow(int(MULTIPLIER), -1, 2**64)
    hashes = [(slot << (64 - bits)) + i for i in range(count)]
    return [(h * inverse % 2**64 + 2**63) % 2**64 - 2**63 for h in hashes]


def expected(known: list[int], first: int, ids: list[int], present: list[bool]) -> list[int]:
    """The rows by a dictionary, of the vocabulary whose rows begin at `first`."""
    table = {key: row + FIRST_KNOWN_ROW for row, key in enumerate(sorted(known))}
    return [first + (table.get(i, UNKNOWN_ROW) if p else NULL_ROW) for i, p in zip(ids, present, strict=True)]


@st.composite
def lookups(draw):
    """Some vocabularies, and ids to look up, half of them known; which are present."""
    named = {f"v{i}": draw(st.lists(WORDS, unique=True, max_size=20)) for i in range(draw(st.integers(1, 3)))}
    chosen = draw(st.lists(st.sampled_from(sorted(named)), min_size=1, max_size=4))
    rows = draw(st.integers(1, 6))
    ids = [
        draw(
            st.lists(st.one_of(WORDS, *([st.sampled_from(named[n])] if named[n] else [])), min_size=rows, max_size=rows)
        )
        for n in chosen
    ]
    present = draw(st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=len(chosen), max_size=4))
    return named, chosen, ids, present[: len(chosen)]


@given(lookups())
def test_many_vocabularies_at_once_equal_dictionaries(given_lookups):
    named, chosen, ids, present = given_lookups
    every = Vocabularies({n: Vocabulary(np.array(sorted(keys), np.int64)) for n, keys in named.items()})
    found = every.rows_of(every.choose(chosen), np.array(ids, np.int64), np.array(present))
    assert found.shape == (len(ids[0]), len(chosen))
    assert found.flags.c_contiguous
    for c, name in enumerate(chosen):
        assert found[:, c].tolist() == expected(named[name], every.first_rows[name], ids[c], present[c])


@given(lookups())
def test_without_a_mask_all_ids_are_present(given_lookups):
    named, chosen, ids, _ = given_lookups
    every = Vocabularies({n: Vocabulary(np.array(sorted(keys), np.int64)) for n, keys in named.items()})
    choice, values = every.choose(chosen), np.array(ids, np.int64)
    everywhere = np.ones(values.shape, np.bool_)
    np.testing.assert_array_equal(every.rows_of(choice, values), every.rows_of(choice, values, everywhere))


@pytest.mark.parametrize("slot", [0, 7, 127])
def test_ids_that_go_to_one_slot_are_told_apart(slot):
    """Twenty ids of one slot, also of the last one of the table: the search goes on to the next slots."""
    known = colliding(slot, 7, 20)
    others = colliding(slot, 7, 40)[20:]
    every = Vocabularies({"v": Vocabulary(np.array(sorted(known)))})
    ids = [*known, *others, 0, -1]
    found = every.rows_of(every.choose(["v"]), np.array([ids]))
    assert found[:, 0].tolist() == expected(known, every.first_rows["v"], ids, [True] * len(ids))


def test_a_search_never_reaches_the_table_of_the_next_vocabulary():
    """The last slots of one table are full, and the first of the next holds an id that is looked for in the first."""
    full, wanted = colliding(15, 4, 3), colliding(0, 4, 1)
    every = Vocabularies({"first": Vocabulary(np.array(sorted(full))), "second": Vocabulary(np.array(wanted))})
    looked_for = [*colliding(15, 4, 6)[3:], *wanted]
    found = every.rows_of(every.choose(["first", "second"]), np.array([looked_for, looked_for]))
    assert found[:, 0].tolist() == [every.first_rows["first"] + UNKNOWN_ROW] * 4
    assert found[:, 1].tolist() == [every.first_rows["second"] + UNKNOWN_ROW] * 3 + [
        every.first_rows["second"] + FIRST_KNOWN_ROW
    ]


def test_zero_is_an_id_like_any_other():
    """An empty slot holds no id, though its memory holds a zero."""
    with_zero, without = Vocabulary(np.array([-5, 0, 5])), Vocabulary(np.array([-5, 5]))
    every = Vocabularies({"with": with_zero, "without": without})
    found = every.rows_of(every.choose(["with", "without"]), np.zeros((2, 1), np.int64))
    assert found.tolist() == [[every.first_rows["with"] + 3, every.first_rows["without"] + UNKNOWN_ROW]]


def test_rows_of_all_vocabularies_are_apart_and_none_is_the_padding():
    every = Vocabularies({n: Vocabulary(np.arange(size)) for n, size in (("a", 0), ("b", 3), ("c", 40))})
    ids = np.tile(np.arange(-1, 40), (3, 1))
    present = np.ones(ids.shape, np.bool_)
    present[:, 0] = False
    found = every.rows_of(every.choose(["a", "b", "c"]), ids, present)
    by_vocabulary = [set(found[:, c].tolist()) for c in range(3)]
    assert [len(rows) for rows in by_vocabulary] == [2, 5, 41]  # c knows every id that is asked for
    assert len(set.union(*by_vocabulary)) == 2 + 5 + 41
    assert min(map(min, by_vocabulary)) == 1
    assert max(map(max, by_vocabulary)) < every.rows


@pytest.mark.parametrize("keys", [[3, 1], [1, 1], [[1, 2]], [0.5]])
def test_keys_are_one_ascending_column_of_whole_numbers(keys):
    with pytest.raises(DataError, match="strictly ascending int64"):
        Vocabulary(np.array(keys))


def test_what_is_held_for_each_id_is_small():
    """At most 8 slots of 4 bytes; the keys are those of the vocabulary."""
    known = Vocabulary(np.arange(0, 3 * 140_000, 3))  # just over a power of two
    tracemalloc.start()
    try:
        every = Vocabularies({"v": known})
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held <= 33 * len(known.keys)
    assert every.rows_of(every.choose(["v"]), np.array([[3, 4]])).tolist() == [[4], [2]]
