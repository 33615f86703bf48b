"""Rows put into buckets come back as they were, and keys are where their hash says."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.features.rows import prepare_batches, prepare_rows
from bedplate.features.view import FeatureView
from bedplate.offline.spill import Spill, bucket_numbers, bucket_rows
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, USER, every_aggregation, simulate


@given(keys=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30), bits=st.integers(0, 7))
def test_twice_as_many_buckets_halve_each(keys, bits):
    array = np.array(keys, np.int64).reshape(-1, 1)
    few, many = bucket_numbers(array, 1 << bits), bucket_numbers(array, 2 << bits)
    assert (many >> 1 == few).all()
    assert len(few) == 0 or (few.min() >= 0 and few.max() < 1 << bits)


def test_keys_are_spread_over_the_buckets():
    for keys in (
        np.arange(8000).reshape(-1, 1),
        np.arange(8000).reshape(-1, 2),
        (np.arange(8000) << 40).reshape(-1, 1),
    ):
        counts = np.bincount(bucket_numbers(keys, 16), minlength=16)
        assert counts.min() > 0.7 * len(keys) / 16
        assert counts.max() < 1.3 * len(keys) / 16


def test_rows_in_order_of_bucket_stand_as_they_came():
    offsets, order = bucket_rows(np.array([2, 0, 2, 1, 0], np.int32), 4)
    assert (offsets.tolist(), order.tolist()) == ([0, 2, 3, 5, 5], [1, 4, 3, 0, 2])


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    events=st.sampled_from([0, 1, 60]),
    buckets=st.sampled_from([1, 2, 8]),
    columns=st.sampled_from([{}, {"available": "known"}, {"sequence": "rank", "available": "known"}]),
    only=st.sampled_from([None, [1], [2, 0]]),
)
def test_what_is_spilled_is_read_back(seed, events, buckets, columns, only):
    simulation = simulate(seed, events=events)
    source = Source("events", simulation.events, time="time", **columns)
    view = FeatureView("v", [USER, ITEM], source, every_aggregation()).compile()
    raw = simulation.events.lazy()
    whole = prepare_rows(view, raw, only)
    with TemporaryDirectory() as folder:
        spill = Spill(Path(folder) / "spill", view, only)
        spill.write(prepare_batches(view, raw, only), buckets)
        assert spill.buckets == buckets
        numbers = bucket_numbers(whole.keys, buckets)
        for bucket in range(buckets):
            own, rows = numbers == bucket, spill.rows(bucket)
            for got, expected in ((rows.times, whole.times), (rows.keys, whole.keys)):
                np.testing.assert_array_equal(got, expected[own])
            for got, expected in ((rows.known, whole.known), (rows.sequence, whole.sequence)):
                assert (got is None) == (expected is None)
                if got is not None and expected is not None:
                    np.testing.assert_array_equal(got, expected[own])
            names = set(simulation.events["item"].to_list())
            assert rows.key_texts[1] is not None
            assert {rows.key_texts[1][k] for k in rows.keys[:, 1].tolist()} <= names
            for got, expected in zip(rows.selections, whole.selections, strict=True):
                there = np.ones(len(rows), np.bool_) if got.valid is None else got.valid
                before = np.ones(len(whole), np.bool_) if expected.valid is None else expected.valid
                np.testing.assert_array_equal(there, before[own])
                for one, other, texts in zip(got.inputs, expected.inputs, got.texts, strict=True):
                    np.testing.assert_array_equal(one[there], other[own][there])
                    assert texts is None or all(v in texts for v in one[there].tolist())
        spill.forget(0)
        spill.forget(0)
        with pytest.raises(FileNotFoundError):
            spill.rows(0)
