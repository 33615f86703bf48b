"""The loader: equal to the oracle row by row, the same for the same seed, and enterable anywhere."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from dataset_world import (
    SPLIT,
    OracleHistory,
    assert_same_batch,
    built,
    drawing,
    loaded,
    shop_dataset,
    shop_graph,
    shop_source,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count
from bedplate.batch import Batch, Column, column_to_series
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset, select_requests, with_candidates
from bedplate.datasets.loader import Loader
from bedplate.datasets.negatives import LOG_Q, SAMPLED
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import SPLITS, TimeSplit
from bedplate.errors import ConfigError, DataError, NotFoundError
from bedplate.features.graph import FeatureGraph
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import DAY, HOUR, Int64s

SOURCE = shop_source(4, 220)
SHOP = loaded(shop_dataset(SOURCE, drawing(SOURCE), features=["user.*"], labels=()), SOURCE)


def positions_of(dataset: LoadedDataset, request_ids: Int64s) -> Int64s:
    """The place of each request in the spine."""
    places = {r: i for i, r in enumerate(dataset.spine.rows.request_ids.tolist())}
    return np.array([places[r] for r in request_ids.tolist()], np.int64)


def assert_close(got: Column, expected: Column, name: str) -> None:
    """Floats at float32 precision, all else exact."""
    pairs = zip(column_to_series(got).to_list(), column_to_series(expected).to_list(), strict=True)
    for row, (g, e) in enumerate(pairs):
        assert g == (pytest.approx(e, rel=1e-6, abs=1e-9) if isinstance(e, float) else e), f"{name}, row {row}"


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), negatives=st.booleans())
def test_every_value_of_every_batch_equals_the_oracle(seed, negatives):
    source = shop_source(seed, 150, delay="5m")
    compiled = shop_dataset(source, drawing(source) if negatives else None).compile(shop_graph(source))
    oracle = LoadedDataset(compiled, OracleHistory())
    with TemporaryDirectory() as folder:
        dataset = LoadedDataset(compiled, built(Path(folder), compiled.views))
        for split in SPLITS:
            first, last = dataset.positions(split)
            assert (first, last) == oracle.positions(split)
            for batch in Loader(dataset, split).epoch(3, 1) if first < last else ():
                requests = select_requests(dataset.spine.rows, positions_of(dataset, batch.request_ids))
                expected = oracle.assemble(with_candidates(requests, batch.candidates, batch.offsets))
                assert batch.times.tolist() == requests.times.tolist()
                assert list(batch.request) == list(expected.request)
                assert list(batch.item) == [*expected.item, *([LOG_Q, SAMPLED] if negatives else [])]
                for name, column in expected.request.items():
                    assert_close(batch.request[name], column, name)
                for name, column in expected.item.items():
                    assert_close(batch.item[name], column, name)
                assert list(batch.labels) == ["again", "quantity", "price", "paid"]
                for name, values in expected.labels.items():
                    np.testing.assert_allclose(batch.labels[name], values, rtol=1e-6, err_msg=name)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    split=st.sampled_from(SPLITS),
    size=st.sampled_from([{"batch_items": 1}, {"batch_items": 30}, {"batch_items": None, "batch_requests": 4}]),
    blocks=st.sampled_from([1, 64, 100_000]),
    data=st.data(),
)
def test_an_epoch_entered_anywhere_goes_on_as_the_whole_one(seed, split, size, blocks, data):
    source = shop_source(seed, 120)
    dataset = loaded(shop_dataset(source, drawing(source), features=["user.*"], labels=(), **size), source)
    if np.diff(dataset.positions(split)) == 0:
        return
    whole = list(Loader(dataset, split).epoch(seed, 2))
    loader = Loader(dataset, split, block_items=blocks)
    start = data.draw(st.integers(0, len(loader)))
    rest = list(loader.epoch(seed, 2, start))
    assert len(whole) == len(loader)
    assert len(rest) == len(loader) - start
    for got, expected in zip(rest, whole[start:], strict=True):
        assert_same_batch(got, expected)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from(
        [{"batch_items": n} for n in (1, 10, 50, 10_000)] + [{"batch_items": None, "batch_requests": 3}]
    ),
    epoch=st.integers(0, 5),
)
def test_an_epoch_has_every_request_once_and_no_batch_is_empty(seed, size, epoch):
    source = shop_source(seed, 150)
    dataset = loaded(shop_dataset(source, drawing(source), features=["user.n_1d"], labels=(), **size), source)
    if np.diff(dataset.positions("train")) == 0:
        return
    loader = Loader(dataset, "train")
    batches = list(loader.epoch(1, epoch))
    ids = [r for batch in batches for r in batch.request_ids.tolist()]
    assert sorted(ids) == sorted(dataset.requests("train").request_ids.tolist())
    assert len(batches) == len(loader)
    assert all(batch.requests for batch in batches)
    if size["batch_items"] is None:
        assert {b.requests for b in batches[:-1]} <= {3}
    else:
        largest = int(dataset.sizes().max())
        assert all(b.items <= size["batch_items"] + largest for b in batches)


def requests_and_candidates(batches: list[Batch]) -> tuple[list[int], list[int]]:
    return (
        [r for batch in batches for r in batch.request_ids.tolist()],
        [c for batch in batches for c in batch.candidates.tolist()],
    )


def test_training_differs_by_seed_and_epoch_and_repeats_with_them():
    def read(seed: int, epoch: int) -> tuple[list[int], list[int]]:
        return requests_and_candidates(list(Loader(SHOP, "train").epoch(seed, epoch)))

    first = read(1, 0)
    assert first == read(1, 0)
    for seed, epoch in ((2, 0), (1, 1), (0, 1)):
        assert read(seed, epoch)[0] != first[0]
        assert sorted(read(seed, epoch)[0]) == sorted(first[0])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_judged_comes_in_order_of_time_and_is_the_same_in_every_epoch(split):
    batches = list(Loader(SHOP, split).epoch(1, 0))
    requests, candidates = requests_and_candidates(batches)
    assert requests == SHOP.requests(split).request_ids.tolist()
    times = [t for batch in batches for t in batch.times.tolist()]
    assert times == sorted(times)
    assert requests_and_candidates(list(Loader(SHOP, split).epoch(1, 7))) == (requests, candidates)
    assert requests_and_candidates(list(Loader(SHOP, split).epoch(2, 0)))[1] != candidates


def test_batches_of_a_block_share_its_memory():
    batches = list(Loader(SHOP, "train").epoch(1, 0))
    assert len(batches) > 2
    for one, other in pairwise(batches):
        assert one.candidates.base is other.candidates.base is not None


def test_a_start_beyond_the_epoch_is_refused():
    loader = Loader(SHOP, "train")
    assert list(loader.epoch(0, 0, len(loader))) == []
    for start in (-1, len(loader) + 1):
        with pytest.raises(ConfigError, match=f"expected 0 to {len(loader)}"):
            loader.epoch(0, 0, start)


def test_an_unknown_or_empty_split_is_refused():
    with pytest.raises(NotFoundError, match="did you mean 'validation'"):
        Loader(SHOP, "validaton")
    late = TimeSplit(START + 50 * DAY, START + 60 * DAY)
    dataset = loaded(shop_dataset(SOURCE, split=late, labels=()), SOURCE)
    with pytest.raises(DataError, match="the split 'test' has no requests"):
        Loader(dataset, "test")


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), within=st.sampled_from(["1us", "1h", "6h"]))
def test_requests_without_any_known_label_are_left_out_and_counted(seed, within):
    source = shop_source(seed, 150)
    labels = [
        Label("soon", USER, source, Count(), within="1us"),
        Label("later", (USER, ITEM), source, Count(), within=within),
    ]
    dataset = loaded(shop_dataset(source, labels=labels, features=["hour"]), source)
    rows, end = dataset.spine.rows, int(source.scan().collect()["time"].max())
    soon, later = (rows.times + label.horizon <= end for label in labels)
    summary = dataset.summary()
    for numbers, (low, high) in zip(summary.splits, SPLIT.bounds().values(), strict=True):
        inside = (rows.times >= low) & (rows.times < high)
        assert dataset.requests(numbers.name).request_ids.tolist() == rows.request_ids[inside & soon].tolist()
        assert numbers.requests == np.count_nonzero(inside & soon)
        assert numbers.censored == np.count_nonzero(inside & ~soon)
        assert numbers.censored_labels == {"soon": 0, "later": np.count_nonzero(inside & soon & ~later)}
    assert summary.gap == len(rows.times) - sum(s.requests + s.censored for s in summary.splits)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_the_summary_counts_what_the_loader_gives(seed):
    source = shop_source(seed, 150)
    dataset = loaded(shop_dataset(source, drawing(source, per_request=6, window="6h")), source)
    summary = dataset.summary(seed=9, epoch=0)
    for numbers in summary.splits:
        batches = list(Loader(dataset, numbers.name).epoch(9, 0)) if numbers.requests else []
        sampled = [bool(s) for b in batches for s in b.item[SAMPLED].values]
        assert numbers.rows == len(sampled) == numbers.listed + numbers.drawn
        assert numbers.drawn == sum(sampled)
        assert numbers.drawn + numbers.missing_negatives == 6 * (numbers.requests - numbers.without_negatives)
        first, last = dataset.positions(numbers.name)
        assert numbers.duplicates == dataset.spine.duplicates[first:last].sum()
    assert summary.form()["splits"][0]["name"] == "train"
    assert f"{summary.splits[0].drawn:,}" in str(summary)


def test_requests_hold_what_was_chosen_and_any_candidates_can_be_assembled():
    source = shop_source(8)
    dataset = loaded(shop_dataset(source), source)
    requests = dataset.requests("test")
    chosen = {
        r: list(dict.fromkeys(frame["item"].to_list()))
        for (r,), frame in source.scan().collect().group_by("request", maintain_order=True)
    }
    texts = [dataset.item_texts[i] for i in requests.candidates.tolist()]
    got = [texts[a:b] for a, b in pairwise(requests.offsets.tolist())]
    assert len(got) > 3
    assert all(items in chosen.values() for items in got)

    catalogue = np.unique(dataset.spine.rows.candidates)
    few = select_requests(requests, np.array([2, 0]))
    whole = with_candidates(few, np.tile(catalogue, 2), np.arange(3) * len(catalogue))
    batch = dataset.assemble(whole, labels=False)
    assert (batch.requests, batch.items, dict(batch.labels)) == (2, 2 * len(catalogue), {})
    assert batch.request_ids.tolist() == requests.request_ids[[2, 0]].tolist()
    true = dataset.assemble(few)
    assert true.labels["again"].tolist() == [1.0] * len(few.candidates)
    for row, candidate in enumerate(few.candidates[: few.offsets[1]].tolist()):
        place = int(np.searchsorted(catalogue, candidate))
        assert batch.item["pair.n"].values[place] == true.item["pair.n"].values[row]


def test_requests_that_share_key_and_time_each_give_their_rows():
    frame = pl.DataFrame(
        {"user": [1] * 6, "item": ["a", "b", "a", "b", "a", "a"], "request": [1, 1, 2, 2, 3, 4]},
    ).with_columns(time=pl.Series([START, START, START, START, START + HOUR, START + 9 * DAY]))
    source = Source("events", frame, time="time")
    graph = FeatureGraph([FeatureView("pair", (USER, ITEM), source, {"n": Count()})])
    dataset = Dataset(
        "ties",
        spine=Spine(source, request="request", entities=USER, item=ITEM),
        labels=Label("n", (USER, ITEM), source, Count(), within="1d"),
        features=["pair.n"],
        split=TimeSplit(START + 2 * HOUR + DAY, START + 5 * DAY),
    )
    loader = Loader(LoadedDataset(dataset.compile(graph), OracleHistory()), "train")
    (batch,) = loader.epoch(0, 0)
    rows = {
        int(r): (batch.labels["n"][a:b].tolist(), batch.item["pair.n"].values[a:b].tolist())
        for r, a, b in zip(batch.request_ids, batch.offsets[:-1], batch.offsets[1:], strict=True)
    }
    assert rows == {1: ([3.0, 2.0], [0, 0]), 2: ([3.0, 2.0], [0, 0]), 3: ([1.0], [2])}


@pytest.mark.parametrize(("end", "censored"), [(HOUR - 1, 1), (HOUR, 0)])
def test_a_horizon_that_ends_with_the_data_is_known(end, censored):
    frame = pl.DataFrame({"user": [1, 2], "item": ["a", "b"], "request": [1, 2], "time": [START, START + end]})
    source = Source("events", frame, time="time")
    labels = Label("n", USER, source, Count(), within="1h")
    split = TimeSplit(START - 2 * HOUR, START + DAY, gap="1h")
    summary = loaded(shop_dataset(source, labels=labels, features=["hour"], split=split), shop_source(1)).summary()
    assert summary.splits[1].censored == censored + 1  # the last request is always censored
