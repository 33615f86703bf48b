"""Blocks, the parts of several processes, and shards by key."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from dataset_world import assert_same_batch, drawing, loaded, shop_dataset, shop_source
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.datasets.blocks import Part, Stretch, batches_of, unbounded
from bedplate.datasets.loader import Loader
from bedplate.datasets.shard import Shard
from bedplate.datasets.slices import slice_batch
from bedplate.datasets.writing import write_dataset
from bedplate.datasets.written import WrittenDataset
from bedplate.errors import ConfigError, DataError

SOURCE = shop_source(4, 220)
SHOP = loaded(shop_dataset(SOURCE, drawing(SOURCE), features=["user.*"], labels=()), SOURCE)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    target = tmp_path_factory.mktemp("written") / "shop"
    write_dataset(SHOP, target, epochs=1, part_items=40)
    return WrittenDataset(target)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=30), count=st.integers(1, 5), data=st.data())
def test_parts_of_a_batch_are_all_of_it_and_of_about_one_size(sizes, count, data):
    before = np.concatenate(([0], np.cumsum(sizes)))
    cuts = data.draw(st.sets(st.integers(1, len(sizes) - 1), max_size=4)) if len(sizes) > 1 else set()
    bounds = np.array([0, *sorted(cuts), len(sizes)])
    edges = [Part(i, count).cut(before, bounds) for i in range(count)]
    for b, (first, stop) in enumerate(pairwise(bounds.tolist())):
        assert edges[0][0][b] == first
        assert edges[-1][1][b] == stop
        for left, right in pairwise(edges):
            assert left[1][b] == right[0][b]
        lengths = [int(e[1][b] - e[0][b]) for e in edges]
        assert min(lengths) >= 0
        assert sum(n > 0 for n in lengths) == min(count, stop - first)
        share, largest = (before[stop] - before[first]) / count, max(sizes[first:stop])
        if stop - first >= count and largest:
            rows = [int(before[e[1][b]] - before[e[0][b]]) for e in edges]
            assert max(rows) <= share + largest * count


@settings(max_examples=10)
@given(data=st.data(), count=st.integers(1, 4), rooms=st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_blocks_of_any_size_and_part_have_the_rows_of_the_batches(files, data, count, rooms):
    split, part = data.draw(st.sampled_from(["train", "test"])), Part(data.draw(st.integers(0, count - 1)), count)
    for loader in (Loader(SHOP, split), files.loader(split)):
        start = data.draw(st.integers(0, len(loader)))
        stop = data.draw(st.integers(start, len(loader)))
        turn = iter(rooms * 100)
        blocks = loader.blocks(Stretch(0, 0, start, stop, part), lambda turn=turn: next(turn))
        made = [list(block.make()) for block in blocks]
        got = [batch for block in made for batch in block]
        assert all(made)
        expected = list(Loader(SHOP, split).epoch(0, 0))[start:stop]
        assert len(got) == len(expected)
        for batch, whole in zip(got, expected, strict=True):
            first, last = (int(e[0]) for e in part.cut(whole.offsets, np.array([0, whole.requests])))
            if batch.requests == last - first:
                assert_same_batch(batch, slice_batch(whole, first, last))


def test_parts_of_all_processes_are_the_batch():
    loader = Loader(SHOP, "train")
    found = [batches_of(loader, Stretch(3, 1, part=Part(i, 3))) for i in range(3)]
    for batch, *parts in zip(loader.epoch(3, 1), *found, strict=True):
        assert np.concatenate([p.candidates for p in parts]).tolist() == batch.candidates.tolist()
        assert np.concatenate([p.request_ids for p in parts]).tolist() == batch.request_ids.tolist()


@pytest.mark.parametrize("by", [None, "user"])
def test_shards_are_all_requests_once_in_every_epoch(by):
    rows = SHOP.spine.rows
    found = {}
    for index in range(3):
        loader = Loader(SHOP, "train", shard=Shard(index, 3, by))
        epochs = [np.concatenate([b.request_ids for b in loader.epoch(seed, seed)]) for seed in range(2)]
        assert sorted(epochs[0]) == sorted(epochs[1])
        assert len(list(loader.epoch(0, 0))) == len(loader)
        found |= dict.fromkeys(epochs[0].tolist(), index)
    first, last = SHOP.positions("train")
    assert sorted(found) == sorted(rows.request_ids[first:last].tolist())
    if by is not None:
        users = dict(zip(rows.request_ids.tolist(), rows.request_keys["user"].tolist(), strict=True))
        shard_of = {}
        for request, index in found.items():
            assert shard_of.setdefault(users[request], index) == index
        assert len(set(shard_of.values())) > 1


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [
        (-1, None, "got start=-1, expected 0 to {}"),
        (99, None, "got start=99, expected 0 to {}"),
        (2, 1, "got stop=1, expected 2 to {}"),
        (0, 99, "got stop=99, expected 0 to {}"),
    ],
)
def test_batches_that_an_epoch_does_not_have_are_named(files, start, stop, message):
    for loader, where in ((Loader(SHOP, "train"), "loader"), (files.loader("train"), str(files.folder))):
        with pytest.raises(ConfigError, match=f"^{where}: {message.format(len(loader))}"):
            loader.blocks(Stretch(0, 0, start, stop), unbounded)


def test_a_wrong_part_or_shard_is_named():
    with pytest.raises(ConfigError, match="got part 2 of 2, expected 0 to 1"):
        Part(2, 2)
    with pytest.raises(ConfigError, match="got shard -1 of 2"):
        Shard(-1, 2)
    with pytest.raises(ConfigError, match="no entity 'usr'"):
        Loader(SHOP, "train", shard=Shard(0, 2, "usr"))
    with pytest.raises(DataError, match="has none of the"):
        [Loader(SHOP, "validation", shard=Shard(i, 1000)) for i in range(1000)]
