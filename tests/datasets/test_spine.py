"""The spine: rows become requests, and nothing is lost without being counted."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pytest
from dataset_world import shop_events
from hypothesis import given
from hypothesis import strategies as st

from bedplate.canonical import string_ids
from bedplate.datasets.negatives import Negatives
from bedplate.datasets.spine import Spine
from bedplate.errors import DataError, DefinitionError
from bedplate.features.entity import Entity
from bedplate.sources.base import Snapshot, Source, Table
from bedplate.testing.simulator import ITEM, START, USER


def orders(**columns: list) -> Source:
    count = len(columns["user"])
    frame = pl.DataFrame(
        {"request": [1] * count, "item": ["a"] * count, "time": [START + i for i in range(count)]} | columns
    )
    return Source("orders", frame, time="time")


def spine_of(source: Source, **options: object) -> Spine:
    return Spine(source, **({"request": "request", "entities": USER, "item": ITEM} | options))


@given(seed=st.integers(0, 10_000), events=st.integers(0, 150))
def test_requests_equal_a_loop_over_the_rows(seed, events):
    frame = shop_events(seed, events)
    expected: dict[str, tuple[list[int], int, list[str], list[int]]] = {}
    for place, row in enumerate(frame.iter_rows(named=True)):
        times, _, items, places = expected.setdefault(row["request"], ([], row["user"], [], []))
        times.append(row["time"])
        items.append(row["item"])
        places.append(place)
    ordered = sorted(expected.items(), key=lambda entry: (min(entry[1][0]), entry[1][3][0]))

    requests = spine_of(Source("events", frame, time="time")).compile().read()

    rows = requests.rows
    assert rows.request_ids.tolist() == string_ids([name for name, _ in ordered])
    assert rows.times.tolist() == [min(times) for _, (times, _, _, _) in ordered]
    assert rows.request_keys["user"].tolist() == [user for _, (_, user, _, _) in ordered]
    chosen = [list(dict.fromkeys(items)) for _, (_, _, items, _) in ordered]
    texts = [requests.item_texts[i] for i in rows.candidates.tolist()]
    got = [texts[a:b] for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]
    assert got == chosen
    assert requests.duplicates.tolist() == [len(x[2]) - len(set(x[2])) for _, x in ordered]


def test_requests_of_one_key_and_time_are_all_kept():
    source = orders(user=[7, 7, 7], request=[3, 1, 2], item=["a", "a", "a"], time=[START] * 3)
    rows = spine_of(source).compile().read().rows
    assert rows.request_ids.tolist() == [3, 1, 2]
    assert rows.offsets.tolist() == [0, 1, 2, 3]


def test_rows_that_the_condition_leaves_out_are_not_there():
    source = orders(user=[7, 7, 8], request=[1, 1, 2], item=["a", "b", "c"])
    rows = spine_of(source, where=pl.col("item") != "a").compile().read().rows
    assert rows.candidates.tolist() == string_ids(["b", "c"])
    assert rows.times.tolist() == [START + 1, START + 2]


def test_a_request_of_two_customers_is_refused():
    source = orders(user=[7, 8, 9], request=[1, 1, 2])
    with pytest.raises(
        DataError, match=r"1 requests have rows of more than one user, the first is request 1"
    ) as caught:
        spine_of(source).compile().read()
    assert "column 'user'" in str(caught.value.where)


def test_a_row_without_request_is_refused():
    with pytest.raises(DataError, match="1 of 2 rows have no key"):
        spine_of(orders(user=[7, 8], request=[1, None])).compile().read()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"request": "requst"}, "did you mean 'request'"),
        ({"request": "price"}, "expected integers or strings"),
        ({"item": Entity("item", key="itm")}, "did you mean 'item'"),
        ({"entities": Entity("user", key="usr")}, "did you mean 'user'"),
        ({"entities": (USER, ITEM)}, "also an entity of the request"),
        ({"entities": ()}, "no entity"),
        ({"entities": "user"}, "got 'user', expected an Entity or a list of them"),
        ({"where": pl.col("usr") == 1}, "did you mean 'user'"),
        ({"where": pl.col("user") + 1}, "expected a boolean"),
    ],
)
def test_mistakes_are_found_when_defined(options, says):
    with pytest.raises(DefinitionError) as caught:
        spine_of(orders(user=[1], price=[1.5]), **options).compile()
    assert says in str(caught.value)
    assert "spine of source 'orders'" in str(caught.value.where)


def test_the_id_depends_on_what_the_rows_are():
    source = orders(user=[1])
    same = spine_of(source).compile().id
    assert same == spine_of(orders(user=[1, 2])).compile().id
    assert same != spine_of(source, where=pl.col("user") > 0).compile().id


class Growing(Table):
    """A table that is written to between two looks at it."""

    name = "growing"

    def __init__(self, grows: bool) -> None:
        self.grows, self.rows = grows, 2

    def _frame(self) -> pl.DataFrame:
        return pl.DataFrame({"user": [7] * self.rows, "item": ["a"] * self.rows, "request": 1, "time": START})

    def schema(self) -> Mapping[str, pl.DataType]:
        return dict(self._frame().schema)

    def snapshot(self) -> Snapshot:
        return Snapshot(f"rows {self.rows}", self.rows, f"{self.rows} rows")

    def scan(self) -> pl.LazyFrame:
        frame = self._frame()
        self.rows += self.grows
        return frame.lazy()


def test_a_table_that_is_written_while_it_is_read_is_refused():
    assert spine_of(Source("events", Growing(False), time="time")).compile().read().snapshot == "rows 2"
    with pytest.raises(DataError, match="growing was changed while it was read: 2 rows, now 3 rows"):
        spine_of(Source("events", Growing(True), time="time")).compile().read()
    source = Source("events", Growing(True), time="time")
    with pytest.raises(DataError, match="growing was changed while it was read"):
        Negatives(source, Entity("item", key="item"), per_request=1).compile().read()
