"""Negatives: as popular as items were, never chosen ones, and the same whoever asks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from dataset_world import drawing, loaded, shop_dataset, shop_source
from hypothesis import given
from hypothesis import strategies as st

from bedplate.canonical import string_ids
from bedplate.datasets.negatives import LOG_Q, SAMPLED, Negatives
from bedplate.datasets.sampling import PopularitySampler
from bedplate.errors import DataError, DefinitionError
from bedplate.features.assemble import Candidates
from bedplate.features.entity import Entity
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START
from bedplate.types import DAY, HOUR, Int64s


def requests_at(times: Int64s, positives: list[list[int]]) -> Candidates:
    return Candidates(
        request_keys={},
        item="item",
        candidates=np.array([i for items in positives for i in items], np.int64),
        offsets=np.concatenate(([0], np.cumsum([len(items) for items in positives]))),
        times=times,
        request_ids=np.arange(len(times)) + 1000,
    )


@given(
    seed=st.integers(0, 10_000),
    run=st.integers(-5, 2**64),
    options=st.sampled_from([{"per_request": 3}, {"per_positive": 1.5}, {"per_request": 40, "window": "1h"}]),
)
def test_negatives_are_new_to_their_request_and_were_in_its_window(seed, run, options):
    source = shop_source(seed)
    definition = drawing(source, **options)
    dataset = loaded(shop_dataset(source, definition, features=["hour"], labels=()), source)
    frame = source.scan().collect()
    times, items = frame["time"].to_numpy(), np.array(string_ids(frame["item"].to_list()))
    spine = dataset.spine.rows
    batch = dataset.sample(np.arange(len(spine.times)), run, 2)
    log_q, sampled = batch.item[LOG_Q], batch.item[SAMPLED].values
    seen_by_mask = []
    for r in range(batch.requests):
        part = slice(int(batch.offsets[r]), int(batch.offsets[r + 1]))
        candidates, drawn = batch.candidates[part], sampled[part]
        positives = spine.candidates[spine.offsets[r] : spine.offsets[r + 1]]
        window = items[(times >= spine.times[r] - definition.window) & (times < spine.times[r])]
        assert candidates[~drawn].tolist() == positives.tolist()
        assert len(set(candidates.tolist())) == len(candidates)
        assert set(candidates[drawn].tolist()) <= set(window.tolist())
        wanted = options.get("per_request") or math.ceil(1.5 * len(positives))
        assert drawn.sum() <= (wanted if len(window) else 0)
        for row, candidate in enumerate(candidates.tolist(), start=part.start):
            count = int((window == candidate).sum())
            seen_by_mask.append(count > 0)
            share = count / len(window) if count else 1 / (len(window) + 1)
            assert log_q.values[row] == pytest.approx(math.log(share), rel=1e-6, abs=1e-7)
    present = np.ones(batch.items, np.bool_) if log_q.present is None else log_q.present
    assert present.tolist() == seen_by_mask
    assert log_q.values.dtype == np.float32


@given(seed=st.integers(0, 10_000), data=st.data())
def test_the_negatives_of_a_request_do_not_depend_on_its_company(seed, data):
    source = shop_source(seed)
    dataset = loaded(shop_dataset(source, drawing(source), features=["hour"], labels=()), source)
    count = len(dataset.spine.rows.times)
    together = dataset.sample(np.arange(count), 5, 1)
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8, unique=True))
    alone = dataset.sample(np.array(chosen), 5, 1)
    for place, request in enumerate(chosen):
        got = alone.candidates[alone.offsets[place] : alone.offsets[place + 1]]
        expected = together.candidates[together.offsets[request] : together.offsets[request + 1]]
        assert got.tolist() == expected.tolist()


def test_seed_epoch_and_request_each_change_what_is_drawn():
    items = np.arange(1000)
    requests = requests_at(np.full(3, 2000), [[], [], []])
    sampler = PopularitySampler(requests, np.arange(1000), items, 2000, np.full(3, 20))
    draws = {
        (seed, epoch): sampler.draw(np.arange(3), seed, epoch).rows.candidates.reshape(3, 20)
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    }
    lists = [tuple(row) for block in draws.values() for row in block.tolist()]
    assert len(set(lists)) == 12
    again = sampler.draw(np.arange(3), 1, 0).rows.candidates.reshape(3, 20)
    assert again.tolist() == draws[1, 0].tolist()


def test_draws_are_as_popular_as_the_window_at_each_time():
    """One draw a request, half of them before and half after popularity turns round: a chi-square on each."""
    draw = np.random.default_rng(3)
    weights = np.array([40, 25, 15, 10, 5, 3, 1, 1]) / 100
    early, late = draw.choice(8, 4000, p=weights), draw.choice(8, 4000, p=weights[::-1])
    event_times = np.sort(np.concatenate([draw.integers(0, DAY, 4000), draw.integers(DAY, 2 * DAY, 4000)]))
    count = 20_000
    request_times = np.repeat(np.array([DAY, 2 * DAY]), count)
    requests = requests_at(request_times, [[]] * (2 * count))
    items = np.concatenate([early, late])
    sampler = PopularitySampler(requests, event_times, items, DAY, np.ones(2 * count, np.int64))
    got = sampler.draw(np.arange(2 * count), 11, 0)
    assert (got.missing, got.repeated) == (0, 0)
    for drawn, events in ((got.rows.candidates[:count], early), (got.rows.candidates[count:], late)):
        expected = np.bincount(events, minlength=8) / 4000 * count
        chi_square = float((((np.bincount(drawn, minlength=8) - expected) ** 2) / expected).sum())
        assert chi_square < 24.3  # 7 degrees of freedom: exceeded once in a thousand seeds


def test_an_event_at_the_time_of_the_request_is_not_in_its_window():
    requests = requests_at(np.array([100, 101, 200, 201]), [[], [], [], []])
    sampler = PopularitySampler(requests, np.array([100]), np.array([7]), 100, np.ones(4, np.int64))
    assert np.diff(sampler.draw(np.arange(4), 0, 0).rows.offsets).tolist() == [0, 1, 1, 0]


def test_what_can_not_be_drawn_is_given_up_and_counted():
    requests = requests_at(np.array([100, 100]), [[1, 2], [3]])
    sampler = PopularitySampler(requests, np.array([10, 20, 30]), np.array([1, 2, 2]), 90, np.full(2, 4))
    got = sampler.draw(np.arange(2), 0, 0)
    assert got.rows.candidates[:2].tolist() == [1, 2]
    assert got.rows.candidates[2] == 3
    assert sorted(got.rows.candidates[3:].tolist()) == [1, 2]
    assert got.missing == 4 + 2
    assert got.repeated >= 6 * 16


def test_no_events_at_all_give_no_negatives():
    empty = np.zeros(0, np.int64)
    sampler = PopularitySampler(requests_at(np.array([5]), [[1, 2]]), empty, empty, HOUR, np.full(1, 4))
    got = sampler.draw(np.arange(1), 0, 0)
    assert got.rows.candidates.tolist() == [1, 2]
    assert not got.sampled.any()
    assert Counter(got.log_q.present.tolist()) == {False: 2}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"per_request": None}, "expected one number above zero"),
        ({"per_positive": 1.0}, "expected one number above zero"),
        ({"per_request": 0}, "expected one number above zero"),
        ({"per_request": 2.5}, "got 2.5, expected a whole number"),
        ({"window": "a while"}, "whole number and a unit"),
        ({"item": Entity("item", key="itm")}, "did you mean 'item'"),
        ({"item": Entity("item", key="price")}, "expected integers or strings"),
        ({"where": pl.col("knd") == "buy"}, "did you mean 'kind'"),
        ({"source": "events"}, "got a str, expected Source"),
    ],
)
def test_mistakes_are_found_when_defined(options, says):
    arguments = {"source": shop_source(1), "item": ITEM, "per_request": 3} | options
    with pytest.raises(DefinitionError) as caught:
        Negatives(arguments.pop("source"), arguments.pop("item"), **arguments).compile()
    assert says in str(caught.value)
    assert "negatives" in str(caught.value.where)


def test_an_event_without_item_is_refused_unless_left_out():
    frame = pl.DataFrame({"item": ["a", None], "time": [START, START + 1]})
    source = Source("clicks", frame, time="time")
    with pytest.raises(DataError, match="1 of 2 rows have no key"):
        Negatives(source, ITEM, per_request=1).compile().read()
    drawn = Negatives(source, ITEM, per_request=1, where=pl.col("item").is_not_null()).compile().read()
    assert (drawn.times.tolist(), drawn.items.tolist()) == ([START], string_ids(["a"]))
