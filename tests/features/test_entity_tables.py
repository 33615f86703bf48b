"""Entity tables: the newest row counts as a whole, as long as it holds, and the same in history and online.

That both equal the oracle on simulated states is tested with all other aggregations (`testing.simulator`); here are
histories whose answers are written down by hand.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count
from bedplate.aggregations.attribute import Attribute
from bedplate.aggregations.ordered import Last, TimeSince
from bedplate.datasets.spine import Spine
from bedplate.errors import DataError, DefinitionError
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.sources.base import ALWAYS, Source
from bedplate.testing.columns import plain
from bedplate.types import HOUR, to_micros

ITEM = Entity("item", key="item")
T = to_micros("2024-05-01")
FRAME = pl.DataFrame({"item": [1], "from": [T], "to": [None], "gone": [False], "price": [1.0], "title": ["a"]})
FRAME = FRAME.with_columns(pl.col("to").cast(pl.Int64))
ONE = FRAME.row(0, named=True)


def table(*rows: dict, **options) -> Source:
    """A source of states; each row changes some columns of `FRAME`'s."""
    frame = pl.DataFrame([ONE | row for row in rows], schema=FRAME.schema, orient="row")
    return Source("items", frame, **({"time": "from"} | options))


def read(view: FeatureView, folder: Path, times: list[int], key: int = 1) -> dict[str, list]:
    """The values of a key at times from history, which the oracle and a store loaded up to each time must give too."""
    compiled = view.compile()
    names, keys, at = list(compiled.features), np.full((len(times), 1), key), np.array(times)
    history = IndexedHistory(folder)
    history.build(compiled).run()
    found = {n: plain(c) for n, c in history.read(compiled, names, keys, at).items()}
    assert found == {n: plain(c) for n, c in Reference(compiled).read(compiled, names, keys, at).items()}
    for i, time in enumerate(times):
        store = MemoryStore()
        bulk_load(store, compiled, history.grouped(compiled), time)
        online = OnlineReader(store).read(compiled, names, keys[:1], at[i : i + 1])
        assert {n: plain(online[n]) for n in names} == {n: found[n][i : i + 1] for n in names}
    return {compiled.short(n): values for n, values in found.items()}


def test_the_newest_row_counts_as_a_whole(tmp_path):
    source = table({}, {"from": T + 10, "price": None, "title": None}, {"from": T + 20, "title": None})
    view = FeatureView(
        "items", ITEM, source, {"price": Attribute("price"), "last": Last("price"), "t": Attribute("title")}
    )
    found = read(view, tmp_path, [T, T + 1, T + 10, T + 11, T + 21])
    assert found["price"] == [None, 1.0, 1.0, None, 1.0]
    assert found["last"] == [None, 1.0, 1.0, 1.0, 1.0]
    assert found["t"] == [None, "a", "a", None, None]


def test_a_list_of_columns_is_their_attributes():
    listed = FeatureView("items", ITEM, table({}), ["price", "title"]).compile()
    named = FeatureView("items", ITEM, table({}), {n: Attribute(n) for n in ("price", "title")}).compile()
    assert listed.features == named.features
    assert list(listed.features) == ["items.price", "items.title"]


def test_rows_that_follow_each_other_leave_no_gap_and_gaps_are_null(tmp_path):
    source = table(
        {"to": T + 10}, {"from": T + 10, "to": T + 20, "price": 2.0}, {"from": T + 30, "price": 3.0}, valid_to="to"
    )
    view = FeatureView("items", ITEM, source, ["price"])
    times = [T + 1, T + 10, T + 11, T + 20, T + 21, T + 30, T + 31]
    assert read(view, tmp_path, times)["price"] == [1.0, 1.0, 2.0, 2.0, None, None, 3.0]


def test_of_overlapping_rows_the_one_that_began_last_counts_and_none_comes_back(tmp_path):
    source = table({"to": T + 100}, {"from": T + 10, "to": T + 20, "price": 2.0}, valid_to="to")
    view = FeatureView("items", ITEM, source, ["price"])
    assert read(view, tmp_path, [T + 10, T + 11, T + 20, T + 21])["price"] == [1.0, 2.0, 2.0, None]


def test_a_tombstone_ends_an_entity_until_it_is_there_again(tmp_path):
    rows = [{"gone": None}, {"from": T + 10, "gone": True}, {"from": T + 20, "price": 2.0}]
    view = FeatureView("items", ITEM, table(*rows, deleted="gone"), ["price", "title"])
    found = read(view, tmp_path, [T + 10, T + 11, T + 20, T + 21])
    assert found == {"price": [1.0, None, None, 2.0], "title": ["a", None, None, "a"]}


def test_of_rows_of_one_time_the_later_one_counts_and_a_correction_of_the_past_stays_there(tmp_path):
    rows = [{}, {"from": T + 20, "price": 2.0}, {"from": T + 20, "price": 3.0}, {"from": T + 10, "price": 9.0}]
    view = FeatureView("items", ITEM, table(*rows), ["price"])
    assert read(view, tmp_path, [T + 10, T + 20, T + 21])["price"] == [1.0, 9.0, 3.0]


def test_a_ttl_counts_from_the_beginning_of_the_row(tmp_path):
    view = FeatureView("items", ITEM, table({}, {"from": T + 10}), ["price"], ttl="1h")
    assert read(view, tmp_path, [T + 10 + HOUR, T + 11 + HOUR])["price"] == [1.0, None]


def test_a_delay_moves_when_a_row_is_known_but_not_when_it_ends(tmp_path):
    rows = [{"to": T + 2 * HOUR}, {"from": T + 2 * HOUR, "price": 2.0}]
    view = FeatureView("items", ITEM, table(*rows, delay="1h", valid_to="to"), ["price"])
    times = [T + HOUR, T + HOUR + 1, T + 2 * HOUR, T + 2 * HOUR + 1, T + 3 * HOUR, T + 3 * HOUR + 1]
    assert read(view, tmp_path, times)["price"] == [None, 1.0, 1.0, None, None, 2.0]


@pytest.mark.parametrize(
    ("ends", "end"),
    [
        (pl.Series([date(2024, 5, 3), None]), to_micros("2024-05-03")),
        (pl.Series([datetime(2024, 5, 3), None]).cast(pl.Datetime("ms")), to_micros("2024-05-03")),
        (pl.Series([datetime(2024, 5, 3), None]).cast(pl.Datetime("ns")), to_micros("2024-05-03")),
        (
            pl.Series([datetime(2024, 5, 3), None]).dt.replace_time_zone("Europe/Berlin"),
            to_micros("2024-05-02T22:00:00"),
        ),
        (pl.Series([T + 5, None]), T + 5),
    ],
)
def test_a_row_may_end_at_a_date_a_datetime_or_microseconds(ends, end, tmp_path):
    frame = pl.concat([FRAME, FRAME.with_columns(item=pl.lit(2, pl.Int64))]).with_columns(to=ends)
    view = FeatureView("items", ITEM, Source("items", frame, time="from", valid_to="to"), ["price"])
    assert read(view, tmp_path, [end, end + 1])["price"] == [1.0, None]
    assert read(view, tmp_path, [end, end + 1], key=2)["price"] == [1.0, 1.0]


def test_every_type_may_be_null_in_the_newest_row(tmp_path):
    made = {
        "f": [1.5, float("nan"), None],
        "i": [2**60 + 1, None, 0],
        "b": [False, None, True],
        "s": ["", None, "x"],
        "c": pl.Series(["a", None, "b"], dtype=pl.Categorical),
        "d": [date(2024, 1, 1), None, date(2024, 1, 2)],
    }
    frame = pl.DataFrame({"item": 1, "from": [T, T + 10, T + 20]} | made, strict=False)
    view = FeatureView("items", ITEM, Source("items", frame, time="from"), list(made))
    found = read(view, tmp_path, [T + 1, T + 11, T + 21])
    assert found["f"] == [1.5, None, None]
    assert found["i"] == [2**60 + 1, None, 0]
    assert found["b"] == [False, None, True]
    assert found["s"] == ["", None, "x"]
    assert found["c"] == ["a", None, "b"]
    assert found["d"] == [to_micros("2024-01-01"), None, to_micros("2024-01-02")]


def test_a_table_of_how_things_are_now_has_to_be_called_one(tmp_path):
    with pytest.raises(DefinitionError, match="got the time None") as refused:
        Source("items", FRAME, time=None)  # pyright: ignore[reportArgumentType]
    assert "time=ALWAYS" in (refused.value.hint or "")
    now = table({"gone": None}, {"item": 2, "gone": True}, time=ALWAYS, deleted="gone")
    view = FeatureView("items", ITEM, now, ["price"])
    assert read(view, tmp_path, [1, T - 1, T + 1])["price"] == [1.0, 1.0, 1.0]
    assert read(view, tmp_path, [T], key=2)["price"] == [None]
    assert "not time-true" in view.compile().features["items.price"].text


@pytest.mark.parametrize(
    ("options", "features", "ttl", "message"),
    [
        ({"delay": "1h"}, ["price"], None, "ALWAYS with a delay, available or valid_to"),
        ({"available": "from"}, ["price"], None, "ALWAYS with a delay, available or valid_to"),
        ({"valid_to": "to"}, ["price"], None, "ALWAYS with a delay, available or valid_to"),
        ({}, {"n": Count()}, None, "'n' needs the time of rows"),
        ({}, {"n": TimeSince()}, None, "'n' needs the time of rows"),
        ({}, ["price"], "1d", "'price' needs the time of rows"),
    ],
)
def test_what_needs_a_time_is_refused_of_such_a_table(options, features, ttl, message):
    with pytest.raises(DefinitionError, match=message):
        FeatureView("items", ITEM, table({}, time=ALWAYS, **options), features, ttl=ttl)


def test_requests_are_not_read_from_such_a_table():
    with pytest.raises(DefinitionError, match="have no time"):
        Spine(table({}, time=ALWAYS), request="item", entities=Entity("user", key="user"), item=ITEM)


@pytest.mark.parametrize(
    ("options", "features", "message", "hint"),
    [
        ({"valid_to": "too"}, ["price"], "no valid_to column 'too'", "'to'"),
        ({"valid_to": "title"}, ["price"], "the valid_to column 'title' is String", "prepare"),
        ({"deleted": "price"}, ["price"], r"deleted of source 'items' .* is Float64, expected a boolean", "compare"),
        ({"deleted": "goner"}, ["price"], "unknown column 'goner'", "'gone'"),
        ({}, ["prize"], "unknown column 'prize'", "'price'"),
        ({}, ["price", "price"], "the column 'price' twice", "for example"),
        ({}, ["price", 3], "the feature 3", "for example"),
        ({}, "price", "got the features 'price'", "for example"),
        ({}, [], "no features", ""),
    ],
)
def test_mistakes_are_named(options, features, message, hint):
    with pytest.raises(DefinitionError, match=message) as error:
        FeatureView("items", ITEM, table({}, **options), features).compile()
    assert hint in (error.value.hint or "")


def test_a_column_more_changes_no_other_feature_and_another_end_changes_all():
    def ids(columns: list[str], **options) -> dict[str, str]:
        view = FeatureView("items", ITEM, table({}, **options), columns)
        return {n: f.id for n, f in view.compile().features.items()}

    one, two = ids(["price"]), ids(["title", "price"])
    assert one["items.price"] == two["items.price"]
    ended, gone = ids(["price"], valid_to="to"), ids(["price"], deleted="gone")
    assert len({one["items.price"], ended["items.price"], gone["items.price"]}) == 3


@pytest.mark.parametrize(("unit", "factor"), [("s", 1_000_000), ("ms", 1000)])
def test_integers_of_another_unit_do_not_say_when_rows_end(tmp_path, unit, factor):
    rows = [{"item": 1, "to": T // factor}, {"item": 2}]
    for features in (["price"], {"p": Attribute("price", valid_to="to")}):
        view = FeatureView("v", ITEM, table(*rows, valid_to="to"), features).compile()
        with pytest.raises(DataError, match="source 'items', column 'to': the greatest time is") as caught:
            IndexedHistory(tmp_path).build(view).run()
        assert f"time_unit='{unit}'" in (caught.value.hint or "")
    datetimes = FRAME.with_columns(to=pl.lit(T // factor).cast(pl.Datetime("us")))
    view = FeatureView("v", ITEM, Source("items", datetimes, time="from", valid_to="to"), ["price"])
    IndexedHistory(tmp_path).build(view.compile()).run()
