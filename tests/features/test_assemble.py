"""From keys to a batch: what is read on requests, what on candidates, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import Last
from bedplate.batch import Column, Columns, Dense, Ids, Places, column_to_series
from bedplate.canonical import string_ids
from bedplate.errors import DataError, RequestError
from bedplate.features.assemble import Candidates, Join
from bedplate.features.derived import DerivedFeature
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView, FeatureView
from bedplate.sources.base import Source
from bedplate.types import HOUR, Int64s, Type

FRAME = pl.DataFrame(
    schema={"user": pl.Int64, "item": pl.Int64, "shop": pl.Int64, "time": pl.Int64, "x": pl.Int64, "s": pl.String}
)
SOURCE = Source("e", FRAME, time="time")
USER, ITEM, SHOP = (Entity(n, key=n) for n in ("user", "item", "shop"))
VIEWS = [
    FeatureView("u", USER, SOURCE, {"n": Sum("x"), "m": Count()}),
    FeatureView("i", ITEM, SOURCE, {"n": Sum("x"), "s": Last("s")}),
    FeatureView("iu", [ITEM, USER], SOURCE, {"n": Sum("x")}),
    FeatureView("us", [USER, SHOP], SOURCE, {"n": Sum("x")}),
]


def col(name: str) -> pl.Expr:
    return pl.col(name)


DERIVED = [
    DerivedFeature("share", col("i.n") * 1000 + col("u.n")),
    DerivedFeature("share_less", col("share") - col("u.n")),
    DerivedFeature("users", col("u.n") + col("us.n")),
    DerivedFeature("mixed", col("users") + col("i.n") + col("hour")),
    DerivedFeature("hour", col("request.time").dt.hour().cast(pl.Int64)),
    DerivedFeature("upper", col("i.s").str.to_uppercase()),
]
GRAPH = FeatureGraph(VIEWS, DERIVED)


class CountingReader(Reader):
    """Values that say their key and time; remembers what it was asked for."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, tuple[str, ...], int]] = []

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        assert keys.shape == (len(times), len(view.view.entities))
        self.reads.append((view.name, tuple(names), len(times)))
        value = keys @ 10 ** np.arange(keys.shape[1]) * 100 + times // HOUR
        texts = {string_ids([f"s{k}"])[0]: f"s{k}" for k in keys[:, 0].tolist()}
        strings = Ids(np.array([string_ids([f"s{k}"])[0] for k in keys[:, 0].tolist()], np.int64), None, texts)
        return {n: strings if view.features[n].type is Type.STRING else Dense(value) for n in names}


ROWS = Candidates(
    request_keys={"user": np.array([1, 2, 3]), "shop": np.array([7, 8, 9])},
    item="item",
    candidates=np.array([4, 5, 4, 6]),
    offsets=np.array([0, 2, 2, 4]),
    times=np.array([1, 2, 3]) * HOUR,
    request_ids=np.array([11, 12, 13]),
)
U = [101, 202, 303]
ITEMS_N = [401, 501, 403, 603]
US = [(1 + 70) * 100 + 1, (2 + 80) * 100 + 2, (3 + 90) * 100 + 3]
IU = [(4 + 10) * 100 + 1, (5 + 10) * 100 + 1, (4 + 30) * 100 + 3, (6 + 30) * 100 + 3]


def made(*names: str, rows: Candidates = ROWS, **options):
    reader = CountingReader()
    batch = Join(GRAPH.select(names), rows.item).batch(reader, rows, **options)
    shown = {n: column_to_series(c).to_list() for n, c in {**batch.request, **batch.item}.items()}
    return batch, shown, reader.reads


def test_what_belongs_to_the_request_is_read_once_a_request():
    batch, shown, reads = made("u.n", "us.n")
    assert shown == {"u.n": U, "us.n": US}
    assert batch.request.keys() == {"u.n", "us.n"}
    assert reads == [("u", ("u.n",), 3), ("us", ("us.n",), 3)]


def test_what_belongs_to_a_candidate_is_read_at_the_time_of_its_request():
    batch, shown, reads = made("i.n", "iu.n", "i.s")
    assert shown == {"i.n": ITEMS_N, "iu.n": IU, "i.s": ["s4", "s5", "s4", "s6"]}
    assert batch.item.keys() == {"i.n", "iu.n", "i.s"}
    assert reads == [("i", ("i.n", "i.s"), 4), ("iu", ("iu.n",), 4)]


def test_derived_features_of_every_level():
    batch, shown, reads = made("mixed", "share_less", "users", "hour", "upper")
    assert shown == {
        "users": [a + b for a, b in zip(U, US, strict=True)],
        "hour": [1, 2, 3],
        "mixed": [
            u + i + h for u, i, h in zip([U[0] + US[0]] * 2 + [U[2] + US[2]] * 2, ITEMS_N, [1, 1, 3, 3], strict=True)
        ],
        "share_less": [i * 1000 for i in ITEMS_N],
        "upper": ["S4", "S5", "S4", "S6"],
    }
    assert set(batch.request) == {"users", "hour"}
    assert sorted(name for name, _, _ in reads) == ["i", "u", "us"]


def test_each_view_is_read_once_with_what_is_needed():
    _, _, reads = made("u.*", "users", "mixed", "share", "i.s")
    assert reads == [("u", ("u.n", "u.m"), 3), ("us", ("us.n",), 3), ("i", ("i.n", "i.s"), 4)]


def test_inputs_that_were_not_asked_for_are_left_out():
    batch, _, _ = made("share")
    assert (list(batch.request), list(batch.item)) == ([], ["share"])


def test_the_rest_of_the_batch_is_passed_on():
    labels = {"y": np.zeros(4, np.float32)}
    batch, _, _ = made("u.n", labels=labels)
    assert (batch.requests, batch.items) == (3, 4)
    for name in ("offsets", "times", "request_ids", "candidates"):
        assert getattr(batch, name) is getattr(ROWS, name)
    assert batch.labels is labels


def test_what_is_known_is_not_made_again():
    whole, shown, _ = made("u.n", "users", "mixed")
    known = Join(GRAPH.select(["u.n", "users", "mixed"]), "item").request(CountingReader(), ROWS)
    assert {"u.n", "us.n", "users", "hour"} <= known.keys()
    batch, again, reads = made("u.n", "users", "mixed", known=known)
    assert again == shown
    assert reads == [("i", ("i.n",), 4)]
    assert batch.request["users"] is known["users"]
    assert whole.request["users"] is not known["users"]


def test_no_candidates_and_no_requests():
    none = np.zeros(0, np.int64)
    empty = Candidates({"user": none, "shop": none}, "item", none, np.array([0]), none, none)
    _, shown, _ = made("mixed", "users", "upper", "iu.n", rows=empty)
    assert shown == {"mixed": [], "users": [], "upper": [], "iu.n": []}
    bare = Candidates(
        {k: v[:1] for k, v in ROWS.request_keys.items()}, "item", none, np.array([0, 0]), ROWS.times[:1], none
    )
    with pytest.raises(DataError, match="request_ids has 0 rows, expected 1"):
        made("mixed", "users", rows=bare)


@pytest.mark.parametrize("name", ["us.n", "users", "mixed"])
def test_an_entity_that_the_rows_lack(name):
    rows = Candidates(
        {"user": ROWS.request_keys["user"]}, "item", ROWS.candidates, ROWS.offsets, ROWS.times, ROWS.request_ids
    )
    with pytest.raises(RequestError) as caught:
        made(name, rows=rows)
    assert str(caught.value) == "view 'us': needs the entity 'shop', got ['user', 'item']"


def test_levels_are_known_without_reading():
    selected = GRAPH.select(["share_less", "mixed", "users", "us.n", "upper", "iu.n"])
    batch, _, _ = made(*selected.names)
    levels = Join(selected, "item").levels
    assert {n: levels[n] for n in selected.names} == {n: n in batch.request for n in selected.names}
    assert levels["hour"]
    assert not levels["i.n"]


def test_columns_stay_in_their_places_from_batch_to_batch():
    """What encodes them plans once: with derived features of both levels, and after rows are taken."""

    class Stable(CountingReader):
        places: ClassVar[dict[str, Places]] = {}

        def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Columns:
            found = Columns.of(super().read(view, names, keys, times))
            return Columns(found.parts, self.places.setdefault(view.name, found.places))

    join, reader = Join(GRAPH.select(["u.n", "mixed", "users", "upper", "share_less"]), "item"), Stable()
    first, second = join.batch(reader, ROWS), join.batch(reader, ROWS)
    for one, other in ((first.request, second.request), (first.item, second.item)):
        assert isinstance(one, Columns)
        assert isinstance(other, Columns)
        assert one.places is other.places
        assert one.take(np.array([1, 0])).places is one.places
