"""Request context: from the log of requests in training and from the request in serving, to the same features."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import polars as pl
import pytest
import shop
from dataset_world import SPLIT, OracleHistory, built, shop_events, shop_graph
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.ordered import Last
from bedplate.batch import Dense, Ids, column_to_series
from bedplate.canonical import string_ids
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.datasets.negatives import Negatives
from bedplate.datasets.spine import Spine
from bedplate.errors import DataError, DefinitionError, RequestError
from bedplate.features.assemble import Candidates, Join
from bedplate.features.context import Context
from bedplate.features.derived import DerivedFeature, series_to_column
from bedplate.features.encoding import Category, Number
from bedplate.features.functions import cosine, token_overlap
from bedplate.features.graph import FeatureGraph
from bedplate.features.lookup import lookup_table
from bedplate.features.view import FeatureView
from bedplate.health.parity import ParityReport
from bedplate.models.config import TwoTowerConfig
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.serving.service import Retrieval, Service
from bedplate.serving.wire import Wire
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER, simulations
from bedplate.training.checks import check_towers
from bedplate.training.job import Job
from bedplate.types import Type, to_micros

QUERY = Context("query", str)
BUDGET = Context("budget", float, column="most")
TASTE = Context("taste", "vector[2]")
SINCE = Context("since", "timestamp")


def request_log(seed: int = 3, **columns: pl.Expr) -> Source:
    number = pl.col("request").hash(7) % 1000
    context = {
        "query": pl.when(number % 5 > 0).then(pl.format("item {}", number % 8)),
        "most": (number % 90).cast(pl.Int32),
        "taste": pl.when(number % 4 > 0).then(pl.concat_list(number / 8.0, number / 16.0)),
        "since": pl.from_epoch(number * 86400),
    }
    return Source("events", shop_events(seed).with_columns(**(context | columns)), time="time")


OVERLAP = DerivedFeature("overlap", function=token_overlap, inputs=[QUERY, "user.kind"], type=float)
AFFORDABLE = DerivedFeature("affordable", pl.col("item.price_1d") <= pl.col("request.budget"))


def features(source: Source) -> FeatureGraph:
    graph = shop_graph(source)
    views = [v.view for v in graph.views.values()]
    derived = [*graph.derived.values(), OVERLAP, AFFORDABLE]
    return FeatureGraph(views, derived, contexts=[QUERY, BUDGET, TASTE, SINCE])


def dataset(source: Source, negatives: bool = False, chosen=(QUERY, "request.taste", SINCE, "overlap", AFFORDABLE)):
    spine = Spine(source, request="request", entities=USER, item=ITEM)
    drawn = Negatives(source, ITEM, window="1d", per_request=3) if negatives else None
    return Dataset("shop", spine=spine, features=[*chosen, "user.n_1h"], split=SPLIT, negatives=drawn, batch_items=25)


@pytest.mark.parametrize("negatives", [False, True])
def test_a_dataset_has_the_context_of_each_request(negatives):
    source = request_log()
    loaded = LoadedDataset(dataset(source, negatives).compile(features(source)), OracleHistory())
    rows = source.scan().collect().unique("request", keep="first", maintain_order=True)
    by_id = {string_ids([r["request"]])[0]: r for r in rows.iter_rows(named=True)}
    seen = 0
    for batch in Loader(loaded, "train").epoch(1, 0):
        shown = {n: column_to_series(batch.request[n]).to_list() for n in batch.request}
        prices = column_to_series(batch.item["affordable"]).to_list()
        assert len(prices) == batch.items
        for i, request in enumerate(batch.request_ids.tolist()):
            row = by_id[request]
            assert shown["request.query"][i] == row["query"]
            assert shown["request.taste"][i] == row["taste"]
            assert shown["request.since"][i] == row["since"].timestamp() * 1e6
            seen += row["query"] is not None
    assert seen > 5


def test_context_is_part_of_the_spine_only_where_it_is_used():
    source = request_log()
    plain = Source("events", shop_events(3), time="time")
    used = dataset(source).compile(features(source))
    unused = dataset(source, chosen=()).compile(features(source))
    assert used.spine.id != unused.spine.id
    # A log without the columns is no mistake where nothing asks for them.
    assert dataset(plain, chosen=()).compile(features(plain)).selected.contexts == ()
    with pytest.raises(DefinitionError, match="context 'query' is the column 'query', which source 'events' does not"):
        dataset(plain).compile(features(plain))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query": pl.lit(3)}, "context 'query' is string; the column 'query' of source 'events' is Int64"),
        ({"most": pl.lit("much")}, "context 'budget' is float64; the column 'most' of source 'events' is String"),
        ({"taste": pl.lit(1.0)}, r"context 'taste' is vector\[2\]; the column 'taste'"),
    ],
)
def test_a_column_of_another_type_is_refused(columns, message):
    source = request_log(**columns)
    with pytest.raises(DefinitionError, match=message):
        dataset(source).compile(features(source))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"most": pl.lit("12345678901234567.8").cast(pl.Decimal(38, 1))},
            "decimals have more digits than a float64 holds, the first, 12345678901234567.8, in request",
        ),
        ({"query": pl.format("{}", pl.int_range(pl.len()))}, "a request has rows with different values, the first is"),
        (
            {"query": pl.when(pl.int_range(pl.len()).over("request") > 0).then(pl.lit("x"))},
            "column 'query' of context 'query': a request has rows with different values",
        ),
        (
            {"taste": pl.lit([1.0])},
            "200 rows hold no vector of 2 numbers: a list of another length than 2 is in request",
        ),
    ],
)
def test_values_that_can_not_be_one_request_s_are_refused(columns, message):
    source = request_log(**columns)
    compiled = dataset(source).compile(features(source))
    with pytest.raises(DataError, match=message):
        LoadedDataset(compiled, OracleHistory())


def test_decimals_are_context_of_floats():
    source = request_log(most=pl.lit("123456.789").cast(pl.Decimal(38, 18)))
    loaded = LoadedDataset(dataset(source, chosen=[BUDGET]).compile(features(source)), OracleHistory())
    batch = next(iter(Loader(loaded, "train").epoch(1, 0)))
    assert set(column_to_series(batch.request["request.budget"]).to_list()) == {123456.789}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("time", float), "got the name 'time'"),
        (("a b", float), "got the name 'a b'"),
        (("x", dict), "got the type 'dict', expected str, int"),
        (("x", "vector[0]"), "got the type 'vector"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(DefinitionError, match=message):
        Context(*arguments)
    with pytest.raises(DefinitionError, match="got the column ''"):
        Context("x", int, column="")
    with pytest.raises(DefinitionError, match="two definitions have this name"):
        FeatureGraph([], contexts=[QUERY, Context("query", int)])


def test_lookup_takes_context():
    source = request_log()
    graph = features(source)
    asked = ["overlap", "request.budget", QUERY]
    at = to_micros("2024-03-20")
    found = lookup_table(
        graph, OracleHistory(), asked, [1, 1], at, {"query": ["buy", None], "request.budget": [3, 2.5]}
    )
    assert found["request.query"].to_list() == ["buy", None]
    assert found["request.budget"].to_list() == [3.0, 2.5]
    assert found["overlap"].to_list()[1] is None
    # A value that is forgotten is not a request without one.
    budget = {"budget": [1.0, 1.0]}
    with pytest.raises(
        DataError, match=r"no values of the context 'query', which 'overlap' reads(.|\n)*with None where"
    ):
        lookup_table(graph, OracleHistory(), "overlap", [1], at)
    with pytest.raises(DataError, match="no values of the context 'query'"):
        lookup_table(graph, OracleHistory(), asked, [1, 1], at, budget)
    with pytest.raises(DataError, match="no values of the context 'budget'\n"):
        lookup_table(graph, OracleHistory(), ["request.budget"], [1], at)
    assert lookup_table(graph, OracleHistory(), "hour", {}, at).height == 1
    for context, message in (
        ({"qeury": ["x"]}, "unknown context 'qeury'\n  did you mean 'query'"),
        ({"query": [3]}, "expected values of type string"),
        (budget | {"query": ["x", "y", "z"]}, "got 3 values of request.query and 2 times|got keys"),
        ({"since": ["soon"]}, "soon"),
    ):
        with pytest.raises(DataError, match=message):
            lookup_table(graph, OracleHistory(), asked, [1, 2], [at, at], context)


def test_a_tower_of_candidates_can_not_depend_on_context():
    source = request_log()
    compiled = dataset(source, chosen=("affordable", "item.n_1d", QUERY)).compile(features(source))
    inputs = {"affordable": Category(), "request.query": Category()}
    labelled = Job("towers", dataset="shop", model=TwoTowerConfig(label="again"), inputs=inputs)
    with pytest.raises(DefinitionError, match="'affordable' is about 'item' and the request"):
        check_towers(labelled, compiled)


@given(simulations(events=60, questions=20), st.lists(st.sampled_from(["buy", "view it", "", None]), min_size=20))
def test_online_and_history_agree_on_functions_of_context(simulation, queries):
    """Texts, vectors and numbers of either store, with the same context, through the same functions."""
    source = Source("events", simulation.events, time="time")
    view = FeatureView("u", USER, source, {"kind": Last("kind"), "image": Last("image"), "price": Last("price")})
    items = FeatureView("i", ITEM, source, {"image": Last("image")})
    derived = [
        DerivedFeature("overlap", function=token_overlap, inputs=[QUERY, "u.kind"], type=float),
        DerivedFeature("alike", function=cosine, inputs=["u.image", "i.image"], type=float),
        DerivedFeature("left", pl.col("request.budget") - pl.col("u.price")),
        DerivedFeature("twice", pl.col("left") * 2 + pl.col("overlap")),
    ]
    graph = FeatureGraph([view, items], derived, contexts=[QUERY, BUDGET])
    end = int(simulation.events["time"].max() or START) + 1
    store, times = MemoryStore(), np.maximum(simulation.times, end)
    oracle = OracleHistory()
    with TemporaryDirectory() as folder:
        history = built(Path(folder), list(graph.views.values()))
        for compiled in graph.views.values():
            bulk_load(store, compiled, history.grouped(compiled), end)
        keys = {"user": simulation.users, "item": simulation.items}
        texts = pl.Series("q", queries[: len(times)], dtype=pl.String)
        budgets = np.arange(len(times), dtype=np.float64)
        context = {"request.query": series_to_column(texts), "request.budget": Dense(budgets)}
        selected = graph.select(list(graph.features))
        for reader in (OnlineReader(store), oracle):
            report = ParityReport()
            report.compare_features(selected, keys, times, reader, history, context)
            report.require()
    assert report.rows["twice"] == len(times)


# ---- serving


SERVICE = Service("shop", ranking="r", item="item", retrieval=Retrieval("t", count=50))
CONTEXTS = (QUERY, BUDGET, TASTE, SINCE, Context("page", int), Context("logged_in", bool))
WIRE = Wire(SERVICE, {"user": Type.INT}, Type.STRING, lambda: to_micros("2026-01-05"), CONTEXTS)


def asked(**body):
    return WIRE.recommend(json.dumps({"user": 1, **body}).encode())


def test_fields_become_columns():
    body = {"query": "red", "budget": 3, "taste": [1, 2.5], "since": "2026-01-01", "page": 2, "logged_in": False}
    found = asked(**body).context
    assert {n: column_to_series(c).to_list()[0] for n, c in found.items()} == {
        "request.query": "red",
        "request.budget": 3.0,
        "request.taste": [1.0, 2.5],
        "request.since": to_micros("2026-01-01"),
        "request.page": 2,
        "request.logged_in": False,
    }
    assert asked().context == {}
    assert asked(query=None).context == {}


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ({"query": 3}, "$.query", "Expected `str | null`, got `int`"),
        ({"budget": "3"}, "$.budget", "Expected `float | null`, got `str`"),
        ({"taste": [1.0]}, "$.taste", "length >= 2"),
        ({"taste": [1.0, "x"]}, "$.taste[1]", "Expected `float`, got `str`"),
        ({"taste": [1.0, 1e300]}, "$.taste", "beyond float32"),
        ({"since": "soon"}, "$.since", "got 'soon'"),
        ({"page": 2**63}, "$.page", "got 9223372036854775808, expected `int` <= 9223372036854775807"),
        ({"logged_in": 1}, "$.logged_in", "Expected `bool | null`, got `int`"),
        ({"qeury": "x"}, "$", "unknown field `qeury`"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(body, place, message):
    with pytest.raises(RequestError) as caught:
        asked(**body)
    assert caught.value.http_status == 400
    assert caught.value.where == place
    assert message in caught.value.message


def test_a_name_that_is_taken_is_refused():
    for name in ("count", "user"):
        with pytest.raises(DefinitionError, match=f"context '{name}' has the name of a field of a request"):
            Wire(SERVICE, {"user": Type.INT}, Type.STRING, lambda: 0, [Context(name, int)])
    described = WIRE.describe()["recommend"]
    assert "query" in json.dumps(described)


def test_a_service_reads_context_like_training(tmp_path, monkeypatch):
    """Scores with a query are those of the encoder on the join with that query; without one those of null."""
    overlap = DerivedFeature("overlap", function=token_overlap, inputs=[QUERY, "products.price_text"], type=float)
    text = DerivedFeature("products.price_text", pl.format("item {}", pl.col("products.sold")))
    graph = FeatureGraph(
        [shop.customers, shop.products, shop.pairs], [shop.hour, shop.ratio, text, overlap], contexts=[QUERY, BUDGET]
    )
    monkeypatch.setattr(shop, "ENCODINGS", shop.ENCODINGS | {"overlap": Number(), "request.query": Category()})
    registry = shop.register(tmp_path, graph)
    line = pl.col("products.price") < pl.col("request.budget").fill_null(1e9)
    pipeline = shop.pipeline(registry, graph, filters=[line])
    assert [c.name for c in pipeline.models["ranking"].signature.context] == ["request.query"]
    oracle = shop.Oracle(graph)

    def ranked(**body):
        request = {"customer": 3, "candidates": shop.PRODUCTS, **body}
        return pipeline.rank(pipeline.wire.rank(msgspec.json.encode(request))).scores

    def expected(query: str | None):
        ids = np.array(string_ids(shop.PRODUCTS), np.int64)
        [number] = string_ids([query or ""])
        context = {} if query is None else {"request.query": Ids(np.array([number]), None, {number: query})}
        offsets = np.array([0, len(ids)])
        rows = Candidates(
            {"customer": np.array([3])}, "product", ids, offsets, np.array([shop.NOW]), offsets[:1], context
        )
        names = [n for n in shop.ENCODINGS if n != "candidate"]
        batch = Join(graph.select(names), "product").batch(oracle, rows)
        return pipeline.models["ranking"].run(batch, "score").tolist()

    query = "item 7 item 9"
    assert ranked(query=query) == expected(query)
    assert ranked() == expected(None)
    assert ranked(query=query) != ranked()
    body = msgspec.json.encode({"customer": 3, "budget": 12.0})
    chosen = pipeline.recommend(pipeline.wire.recommend(body)).ids
    assert chosen
    assert all(float(str(p)[1:]) + 0.5 < 12 for p in chosen)


def test_a_context_that_is_missing_is_null_with_a_mask():
    none = np.zeros(0, np.int64)
    rows = Candidates({}, "item", none, np.zeros(2, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))
    contexts = [BUDGET, QUERY, TASTE]
    column = Join(FeatureGraph([], contexts=contexts).select(contexts), "item").request(OracleHistory(), rows)
    assert {n: column_to_series(c).to_list() for n, c in column.items()} == {
        "request.budget": [None],
        "request.query": [None],
        "request.taste": [None],
    }
    assert isinstance(column["request.budget"], Dense)
