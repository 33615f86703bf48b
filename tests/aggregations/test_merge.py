"""Merging partials of pieces gives the partial of all their events, however they are split."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.base import (
    Counts,
    Decayed,
    Hashes,
    Latest,
    Moments,
    Newest,
    Oldest,
    Reduce,
    Reduction,
    Scalar,
    Selection,
    Values,
)
from bedplate.aggregations.merge import ChainedTexts, chain_texts, interleave, merge, merge_sets, union
from bedplate.aggregations.ordered import Last
from bedplate.errors import DataError, DefinitionError

SELECTION = Selection(["x"], None, "test")
WHOLE = (Reduce.COUNT, Reduce.SUM, Reduce.MIN, Reduce.MAX, Reduce.DISTINCT)

events = st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 3)), max_size=6)
"""The events of a piece: times and values, with ties; a piece has them in order of time."""
histories = st.lists(st.lists(events, max_size=4), min_size=1, max_size=4)
"""Pieces by key."""


def ordered(piece):
    return sorted(piece, key=lambda event: event[0])


def all_events(pieces):
    """The events of all pieces in order of time and, at equal times, of arrival."""
    return ordered([event for piece in pieces for event in ordered(piece)])


def owners_of(history):
    return np.cumsum([0, *map(len, history)])


def scalar_of(reduce, pieces, dtype):
    values = [[v for _, v in piece] for piece in pieces]
    if reduce is Reduce.COUNT:
        return Scalar(np.array([len(v) for v in values], np.int64))
    if reduce is Reduce.SUM:
        return Scalar(np.array([sum(v) for v in values], dtype))
    best = min if reduce is Reduce.MIN else max
    there = np.array([len(v) > 0 for v in values], np.bool_)
    return Scalar(np.array([best(v, default=99) for v in values], dtype), there)


def newest_of(pieces):
    last = [(ordered(piece) or [(77, 77)])[-1] for piece in pieces]
    there = np.array([len(piece) > 0 for piece in pieces], np.bool_)
    times, values = np.array([t for t, _ in last], np.int64), np.array([v for _, v in last], np.int64)
    return Newest(there, times, (values,), (None,))


def lists_of(pieces, depth):
    kept = [ordered(piece)[-depth:] for piece in pieces]
    offsets = np.cumsum([0, *map(len, kept)])
    flat = [event for piece in kept for event in piece]
    times, values = np.array([t for t, _ in flat], np.int64), np.array([v for _, v in flat], np.int64)
    return Latest(offsets, times, (values, values * 0.5), (None, None))


def values_of(pieces):
    different = [list(dict.fromkeys(v for _, v in piece)) for piece in pieces]
    offsets = np.cumsum([0, *map(len, different)])
    return Values(offsets, np.array([v for piece in different for v in piece], np.int64))


def by_of(pieces, depth):
    """The last events of different values."""
    in_order = [ordered(piece) for piece in pieces]
    last = [[e for i, e in enumerate(p) if all(v != e[1] for _, v in p[i + 1 :])] for p in in_order]
    return lists_of(last, depth)


def counts_of(pieces):
    of_values = [{v: [t for t, other in piece if other == v] for _, v in piece} for piece in pieces]
    found = [(v, times) for piece in of_values for v, times in sorted(piece.items())]
    return Counts(
        np.cumsum([0, *map(len, of_values)]),
        np.array([v for v, _ in found], np.int64),
        np.array([len(times) for _, times in found], np.int64),
        np.array([max(times) for _, times in found], np.int64),
        None,
    )


def hashes_of(pieces, depth):
    kept = [sorted({v for _, v in piece})[:depth] for piece in pieces]
    return Hashes(np.cumsum([0, *map(len, kept)]), np.array([v for piece in kept for v in piece], np.int64))


def oldest_of(pieces):
    first = [(ordered(piece) or [(77, 77)])[0] for piece in pieces]
    there = np.array([len(piece) > 0 for piece in pieces], np.bool_)
    return Oldest(there, np.array([t for t, _ in first], np.int64), np.array([v for _, v in first], np.int64), None)


def moments_of(pieces):
    values = [np.array([v for _, v in piece], np.float64) for piece in pieces]
    means = np.array([v.mean() if len(v) else 0.0 for v in values])
    squares = np.array([((v - m) ** 2).sum() for v, m in zip(values, means, strict=True)])
    return Moments(np.array([len(v) for v in values], np.int64), means, np.zeros(len(values)), squares)


def decayed_of(pieces, *, counts):
    """As of the last event; the half-life is 2."""
    last = [max((t for t, _ in piece), default=0) for piece in pieces]
    added = [[(1 if counts else v) * 2.0 ** ((t - at) / 2) for t, v in p] for at, p in zip(last, pieces, strict=True)]
    return Decayed(np.array([sum(a) for a in added], np.float64), np.array(last, np.int64))


def flat(history):
    return [piece for pieces in history for piece in pieces]


@given(history=histories, dtype=st.sampled_from([np.int64, np.float64]))
@pytest.mark.parametrize("reduce", [Reduce.COUNT, Reduce.SUM, Reduce.MIN, Reduce.MAX])
def test_scalars(reduce, history, dtype):
    got = merge(Reduction(reduce, SELECTION), scalar_of(reduce, flat(history), dtype), owners_of(history))
    expected = scalar_of(reduce, [all_events(pieces) for pieces in history], dtype)
    there = expected.present if expected.present is not None else np.ones(len(history), np.bool_)
    assert got.values.dtype == expected.values.dtype
    np.testing.assert_array_equal(got.values[there], expected.values[there])
    assert (got.present is None) == (expected.present is None)
    if got.present is not None:
        np.testing.assert_array_equal(got.present, expected.present)


@given(
    given=st.lists(
        st.lists(
            st.tuples(st.sampled_from([1e15, -1e15, 0.01, 1 / 3, -1e12]), st.sampled_from([0, 2**-54, -(2**-60)]))
        ),
        min_size=1,
        max_size=4,
    )
)
def test_sums_of_floats_have_twice_their_digits(given):
    """Pieces are sums and what is to be added to them; sets have as many for each key."""
    history = [[(value, value * share) for value, share in pieces] for pieces in given]
    (total,) = Sum("x").reductions
    values, rests = (np.array([pair[i] for pieces in history for pair in pieces]) for i in range(2))
    got = merge(total, Scalar(values, rests=rests), owners_of(history))
    exact = [sum(Fraction(v) + Fraction(r) for v, r in pieces) for pieces in history]
    size = [sum(abs(v) for v, _ in pieces) for pieces in history]
    for i, expected in enumerate(exact):
        assert abs(Fraction(got.values[i]) + Fraction(got.rests[i]) - expected) <= size[i] * 2.0**-98
        assert got.values[i] == pytest.approx(float(expected), rel=1e-12, abs=size[i] * 2.0**-98)
    most = max(map(len, history))
    if most:
        padded = [[*pieces, *[(0.0, 0.0)] * (most - len(pieces))] for pieces in history]
        sets = [
            Scalar(np.array([p[k][0] for p in padded]), rests=np.array([p[k][1] for p in padded])) for k in range(most)
        ]
        whole, interleaved = merge_sets(total, sets), interleave(sets)
        np.testing.assert_allclose(whole.values, got.values, rtol=1e-12, atol=max(size) * 2.0**-98)
        assert interleaved.rests.tolist() == [r for pieces in padded for _, r in pieces]


def test_sums_beyond_the_range_of_a_float_are_infinite():
    (total,) = Sum("x").reductions
    assert merge(total, Scalar(np.array([1e308, 1e308, 1.0])), np.array([0, 3])).values.tolist() == [np.inf]
    assert merge_sets(total, [Scalar(np.array([-1e308]))] * 3).values.tolist() == [-np.inf]
    owners = np.array([0, 2])
    moments = merge(Reduction(Reduce.MOMENTS, SELECTION), moments_of([[(0, 1e300)], [(1, -1e300)]]), owners)
    assert moments.squares.tolist() == [np.inf]
    decayed = Reduction(Reduce.DECAYED_SUM, SELECTION, half_life=2)
    assert merge(decayed, Decayed(np.array([1e308, 1e308]), np.array([5, 5])), owners).values.tolist() == [np.inf]


@given(history=histories)
def test_the_newest_event_and_of_equal_times_the_one_that_arrived_last(history):
    got = merge(Reduction(Reduce.LATEST, SELECTION, 1), newest_of(flat(history)), owners_of(history))
    expected = newest_of([all_events(pieces) for pieces in history])
    np.testing.assert_array_equal(got.present, expected.present)
    np.testing.assert_array_equal(got.times[got.present], expected.times[got.present])
    np.testing.assert_array_equal(got.columns[0][got.present], expected.columns[0][got.present])


@given(history=histories, depth=st.integers(2, 5))
def test_the_latest_events_in_order_of_time_and_arrival(history, depth):
    got = merge(Reduction(Reduce.LATEST, SELECTION, depth), lists_of(flat(history), depth), owners_of(history))
    expected = lists_of([all_events(pieces) for pieces in history], depth)
    np.testing.assert_array_equal(got.offsets, expected.offsets)
    np.testing.assert_array_equal(got.times, expected.times)
    for one, other in zip(got.columns, expected.columns, strict=True):
        np.testing.assert_array_equal(one, other)


@given(history=histories)
def test_a_distinct_count_is_of_the_values_of_all_pieces(history):
    reduction, pieces = Reduction(Reduce.DISTINCT, SELECTION), values_of(flat(history))
    expected = values_of([all_events(p) for p in history])
    got = merge(reduction, pieces, owners_of(history))
    np.testing.assert_array_equal(got.values, np.diff(expected.offsets))
    united = union(pieces, owners_of(history))
    np.testing.assert_array_equal(united.offsets, expected.offsets)
    for k in range(len(history)):
        ours, theirs = (v.values[v.offsets[k] : v.offsets[k + 1]].tolist() for v in (united, expected))
        assert ours == sorted(theirs)


@given(history=histories, depth=st.integers(1, 4))
@pytest.mark.parametrize("reduce", [Reduce.COUNTS, Reduce.SMALLEST, Reduce.LATEST_BY])
def test_lists_of_values(reduce, history, depth):
    make = {
        Reduce.COUNTS: counts_of,
        Reduce.SMALLEST: lambda p: hashes_of(p, depth),
        Reduce.LATEST_BY: lambda p: by_of(p, depth),
    }[reduce]
    got = merge(Reduction(reduce, SELECTION, depth), make(flat(history)), owners_of(history))
    assert_same(got, make([all_events(pieces) for pieces in history]))


@given(history=histories)
@pytest.mark.parametrize("reduce", [Reduce.EARLIEST, Reduce.MOMENTS, Reduce.DECAYED_SUM, Reduce.DECAYED_COUNT])
def test_first_events_moments_and_decayed_sums(reduce, history):
    make = makers(0)[reduce]
    got = merge(Reduction(reduce, SELECTION, half_life=2), make(flat(history)), owners_of(history))
    assert_same(got, make([all_events(pieces) for pieces in history]))


@given(history=histories, data=st.data())
@pytest.mark.parametrize("reduce", Reduce)
def test_merging_in_steps_is_merging_at_once(reduce, history, data):
    """Associative: neighbouring pieces may be merged first, wherever the cut is."""
    depth = data.draw(st.integers(1, 3)) if reduce in LISTS else 0
    reduction, pieces, owners = Reduction(reduce, SELECTION, depth, 2), flat(history), owners_of(history)
    make = makers(depth) | ({Reduce.LATEST: newest_of} if depth == 1 else {})
    whole = make.get(reduce, lambda p: scalar_of(reduce, p, np.int64))(pieces)
    cuts = [sorted({0, len(p), *data.draw(st.lists(st.integers(0, len(p)), max_size=2))}) for p in history]
    inner = np.unique(np.concatenate([[0], *[o + np.array(c) for o, c in zip(owners, cuts, strict=False)]]))
    outer = np.searchsorted(inner, owners)
    step = union(whole, inner) if isinstance(whole, Values) else merge(reduction, whole, inner)
    assert_same(merge(reduction, step, outer), merge(reduction, whole, owners))


LISTS = (Reduce.LATEST, Reduce.LATEST_BY, Reduce.SMALLEST)


def makers(depth):
    return {
        Reduce.DISTINCT: values_of,
        Reduce.LATEST: lambda p: lists_of(p, depth),
        Reduce.COUNTS: counts_of,
        Reduce.SMALLEST: lambda p: hashes_of(p, depth),
        Reduce.LATEST_BY: lambda p: by_of(p, depth),
        Reduce.EARLIEST: oldest_of,
        Reduce.MOMENTS: moments_of,
        Reduce.DECAYED_SUM: lambda p: decayed_of(p, counts=False),
        Reduce.DECAYED_COUNT: lambda p: decayed_of(p, counts=True),
    }


def assert_same(one, other):
    if isinstance(one, Scalar):
        there = slice(None) if one.present is None else one.present
        np.testing.assert_array_equal(one.values[there], other.values[there])
    elif isinstance(one, Newest):
        np.testing.assert_array_equal(one.present, other.present)
        np.testing.assert_array_equal(one.times[one.present], other.times[one.present])
        np.testing.assert_array_equal(one.columns[0][one.present], other.columns[0][one.present])
    elif isinstance(one, Oldest):
        np.testing.assert_array_equal(one.present, other.present)
        np.testing.assert_array_equal(one.times[one.present], other.times[one.present])
        np.testing.assert_array_equal(one.values[one.present], other.values[one.present])
    elif isinstance(one, Moments):
        np.testing.assert_array_equal(one.counts, other.counts)
        np.testing.assert_allclose(one.means + one.rests, other.means + other.rests, rtol=1e-15, atol=1e-15)
        np.testing.assert_allclose(one.squares, other.squares, rtol=1e-13, atol=1e-13)
    elif isinstance(one, Decayed):
        later = np.maximum(one.times, other.times)
        ours, theirs = (d.values * 2.0 ** ((d.times - later) / 2) for d in (one, other))
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)
    elif isinstance(one, Counts | Hashes):
        for field in one.__struct_fields__:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    else:
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_array_equal(one.times, other.times)
        for a, b in zip(one.columns, other.columns, strict=True):
            np.testing.assert_array_equal(a, b)


@given(history=st.lists(st.tuples(events, events, events), max_size=4), depth=st.integers(2, 4))
@pytest.mark.parametrize("reduce", Reduce)
def test_sets_of_events_of_the_same_keys(reduce, history, depth):
    make = makers(depth).get(reduce, lambda p: scalar_of(reduce, p, np.int64))
    reduction = Reduction(reduce, SELECTION, depth if reduce in LISTS else 0, 2)
    sets = [make([pieces[i] for pieces in history]) for i in range(3)]
    expected = merge(reduction, make(flat(history)), np.arange(len(history) + 1) * 3)
    assert_same(merge_sets(reduction, sets), expected)
    assert_same(merge(reduction, interleave(sets), np.arange(len(history) + 1) * 3), expected)


def test_the_sets_of_the_newest_events():
    sets = [newest_of([[(1, 5)], [], [(3, 1)]]), newest_of([[(1, 6)], [], [(2, 2)]])]
    got = merge_sets(Reduction(Reduce.LATEST, SELECTION, 1), sets)
    assert got.present.tolist() == [True, False, True]
    assert got.columns[0][got.present].tolist() == [6, 1]


def test_vectors_stay_whole():
    (last,) = Last("x").reductions
    old = Newest(np.array([True, True]), np.array([1, 9]), (np.array([[1.0, 2.0], [3.0, 4.0]]),), (None,))
    new = Newest(np.array([True, False]), np.array([5, 0]), (np.array([[5.0, 6.0], [0.0, 0.0]]),), (None,))
    assert merge_sets(last, [old, new]).columns[0].tolist() == [[5.0, 6.0], [3.0, 4.0]]
    none = Newest(np.zeros(0, np.bool_), np.zeros(0, np.int64), (np.zeros((0, 2)),), (None,))
    assert merge(last, none, np.zeros(3, np.int64)).columns[0].shape == (2, 2)


def test_no_keys_and_no_pieces():
    (count,) = Count().reductions
    assert merge(count, Scalar(np.zeros(0, np.int64)), np.zeros(1, np.int64)).values.tolist() == []
    assert merge(count, Scalar(np.zeros(0, np.int64)), np.zeros(3, np.int64)).values.tolist() == [0, 0]
    last = Reduction(Reduce.LATEST, SELECTION, 1)
    assert merge(last, newest_of([]), np.zeros(3, np.int64)).present.tolist() == [False, False]


@pytest.mark.parametrize("pieces", [[2**62, 2**62], [-(2**63), -1], [2**63 - 1, 2**63 - 1, 2**63 - 1]])
def test_a_sum_beyond_64_bits_is_an_error(pieces):
    (total,) = Sum("x").reductions
    with pytest.raises(DataError, match="beyond 64 bits"):
        merge(total, Scalar(np.array([5, *pieces])), np.array([0, 1, 1 + len(pieces)]))


@pytest.mark.parametrize("pieces", [[2**62, 2**62], [-(2**63), -1]])
def test_a_sum_of_sets_beyond_64_bits_is_an_error(pieces):
    (total,) = Sum("x").reductions
    with pytest.raises(DataError, match="beyond 64 bits"):
        merge_sets(total, [Scalar(np.array([5, p])) for p in pieces])
    assert merge_sets(total, [Scalar(np.array([2**62])), Scalar(np.array([-(2**63)]))]).values.tolist() == [-(2**62)]


def test_a_sum_at_the_edge_of_64_bits_is_exact():
    (total,) = Sum("x").reductions
    got = merge(total, Scalar(np.array([2**63 - 2, 1, -(2**63), 2**63 - 1])), np.array([0, 2, 4]))
    assert got.values.tolist() == [2**63 - 1, -1]


def test_what_does_not_merge_is_refused():
    with pytest.raises(DefinitionError, match="do not add up"):
        merge(Reduction(Reduce.DISTINCT, SELECTION), Scalar(np.array([1, 2])), np.array([0, 2]))
    with pytest.raises(DefinitionError, match="got a Scalar partial of a latest"):
        merge(Reduction(Reduce.LATEST, SELECTION, 3), Scalar(np.array([1])), np.array([0, 1]))
    with pytest.raises(DefinitionError, match="got a Scalar beside a Newest"):
        interleave([newest_of([]), Scalar(np.zeros(0, np.int64))])


def test_numbers_of_different_values_stand_where_there_is_one_piece():
    got = merge(Reduction(Reduce.DISTINCT, SELECTION), Scalar(np.array([4, 2])), np.array([0, 1, 1, 2]))
    assert got.values.tolist() == [4, 0, 2]


def test_texts_of_several_pieces_are_looked_for_in_all_of_them():
    texts = chain_texts([{1: "a"}, None, {2: "b", 1: "a"}])
    assert isinstance(texts, ChainedTexts)
    assert (texts[1], texts[2], dict(texts), len(texts)) == ("a", "b", {1: "a", 2: "b"}, 2)
    with pytest.raises(KeyError):
        texts[3]
    assert chain_texts([None, None]) is None
    only = {1: "a"}
    assert chain_texts([only, None, only]) is only
