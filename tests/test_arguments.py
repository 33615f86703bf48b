"""Whatever an argument of a definition is, it is taken for what it is or refused by an error that says where."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime
from typing import Any

import polars as pl
import pytest

from bedplate import (
    Bag,
    Category,
    Count,
    CountDistinct,
    Dataset,
    DCNConfig,
    DerivedFeature,
    Entity,
    FeatureView,
    Job,
    Label,
    Last,
    LastN,
    LogisticConfig,
    Max,
    Mean,
    Negatives,
    Number,
    Retrieval,
    Sequence,
    Service,
    Source,
    Spine,
    Sum,
    TimeSince,
    TimeSplit,
    TrainerConfig,
    TwoTowerConfig,
    Window,
)
from bedplate.aggregations.base import OneInput
from bedplate.aggregations.counts import TopK
from bedplate.errors import BedplateError, ConfigError, DefinitionError
from bedplate.features.context import Context
from bedplate.features.graph import FeatureGraph
from bedplate.features.links import Link
from bedplate.features.model import ModelFeature

FRAME = pl.DataFrame({"user": [1], "item": ["a"], "order": [1], "price": [1.0], "time": [datetime(2026, 1, 1)]})
SOURCE = Source("orders", FRAME, time="time")
USER, ITEM = Entity("user", key="user"), Entity("item", key="item")
VIEW = FeatureView("v", USER, SOURCE, {"n": Count()})
SPINE = Spine(SOURCE, request="order", entities=USER, item=ITEM)
SPLIT = TimeSplit("2026-02-01", "2026-03-01")
GRAPH = FeatureGraph([VIEW])
ODD: dict[str, Any] = {
    "nothing": None,
    "an integer": 3,
    "a negative": -1,
    "a float": 1.5,
    "infinity": float("inf"),
    "a boolean": True,
    "an empty text": "",
    "a text": "x",
    "an empty list": [],
    "a list": [3],
    "an empty mapping": {},
    "a mapping": {"a": 1},
    "an expression": pl.col("price"),
    "a frame": FRAME,
    "an object": object(),
    "a function": lambda rows: rows,
    "an entity": USER,
    "a source": SOURCE,
    "a view": VIEW,
    "a tuple": (1, 2),
    "a set": {1},
    "bytes": b"x",
}
"""What somebody may give by mistake."""

Make = Callable[[Any], object]


def view(**options: Any) -> object:
    return FeatureView(
        **({"name": "v", "entities": USER, "source": SOURCE, "features": {"n": Count()}} | options)
    ).compile()


def spine(**options: Any) -> object:
    return Spine(**({"source": SOURCE, "request": "order", "entities": USER, "item": ITEM} | options)).compile()


def negatives(**options: Any) -> object:
    given = {} if "per_positive" in options else {"per_request": 2}
    return Negatives(**({"source": SOURCE, "item": ITEM} | given | options)).compile()


def label(**options: Any) -> object:
    arguments = {"name": "l", "entities": USER, "source": SOURCE, "aggregation": Count()}
    return Label(**(arguments | options)).compile()


def dataset(**options: Any) -> object:
    return Dataset(**({"name": "d", "spine": SPINE, "features": [VIEW], "split": SPLIT} | options)).compile(GRAPH)


def job(**options: Any) -> object:
    arguments = {"name": "j", "dataset": "d", "model": LogisticConfig("l"), "inputs": {"a": Number()}}
    return Job(**(arguments | options)).form()


def service(**options: Any) -> object:
    arguments = {"name": "s", "ranking": "r", "item": "i", "retrieval": Retrieval("t"), "top": 2}
    return Service(**(arguments | options)).form()


TEXT, NUMBER, EXPRESSION = {"a text"}, {"an integer"}, {"an expression"}
COLUMN = {"an expression"}  # and the name of a column that is there
WHERE = {"nothing"}
ARGUMENTS: dict[str, tuple[Make, set[str]]] = {
    "Source name": (lambda x: Source(x, FRAME, time="time"), TEXT),
    "Source table": (lambda x: Source("s", x, time="time"), TEXT | {"a frame"}),
    "Source time": (lambda x: Source("s", FRAME, time=x).schema(), set()),
    "Source delay": (lambda x: Source("s", FRAME, time="time", delay=x), {"nothing"}),
    "Source prepare": (lambda x: Source("s", FRAME, time="time", prepare=x).schema(), {"nothing", "a function"}),
    "Entity name": (lambda x: Entity(x, key="u"), TEXT),
    "Entity key": (lambda x: Entity("u", key=x), TEXT),
    "FeatureView name": (lambda x: view(name=x), TEXT),
    "FeatureView entities": (lambda x: view(entities=x), {"an entity"}),
    "FeatureView source": (lambda x: view(source=x), {"a source"}),
    "FeatureView features": (lambda x: view(features=x), set()),
    "FeatureView where": (lambda x: view(where=x), WHERE),
    "FeatureView ttl": (lambda x: view(ttl=x), {"nothing"}),
    "Count": (lambda x: view(features={"a": Count(x)}), COLUMN | {"nothing"}),
    "Count windows": (lambda x: Count(windows=x), {"nothing"}),
    "Count where": (lambda x: view(features={"a": Count(where=x)}), WHERE),
    "Sum": (lambda x: view(features={"a": Sum(x)}), COLUMN),
    "Mean": (lambda x: view(features={"a": Mean(x)}), COLUMN),
    "Max": (lambda x: view(features={"a": Max(x)}), COLUMN),
    "Last": (lambda x: view(features={"a": Last(x)}), COLUMN),
    "CountDistinct": (lambda x: view(features={"a": CountDistinct(x)}), set()),
    "TimeSince where": (lambda x: view(features={"a": TimeSince(where=x)}), WHERE),
    "LastN columns": (lambda x: view(features={"a": LastN(x, 3)}), set()),
    "LastN n": (lambda x: LastN("x", x), NUMBER),
    "LastN age": (lambda x: LastN("y", 3, age=x), TEXT | {"nothing"}),
    "Window length": (Window.of, set()),
    "Window hop": (lambda x: Window.of("1d", hop=x), {"nothing"}),
    "Window bound": (lambda x: Window.of("1d", hop="exact", bound=x), NUMBER),
    "DerivedFeature name": (lambda x: DerivedFeature(x, pl.col("v.n")), TEXT),
    "DerivedFeature": (lambda x: FeatureGraph([VIEW], [DerivedFeature("d", x)]), set()),
    "Label name": (lambda x: label(name=x), TEXT),
    "Label entities": (lambda x: label(entities=x), {"an entity"}),
    "Label source": (lambda x: label(source=x), {"a source"}),
    "Label aggregation": (lambda x: label(aggregation=x), set()),
    "Label within": (lambda x: label(within=x), set()),
    "Label at_least": (lambda x: label(at_least=x), NUMBER | {"nothing", "a negative", "a float"}),
    "Label empty": (
        lambda x: label(empty=x, aggregation=Mean("price"), at_least=1),
        NUMBER | {"nothing", "a negative", "a float"},
    ),
    "Spine source": (lambda x: spine(source=x), {"a source"}),
    "Spine request": (lambda x: spine(request=x), set()),
    "Spine entities": (lambda x: spine(entities=x), {"an entity"}),
    "Spine item": (lambda x: spine(item=x), set()),
    "Spine where": (lambda x: spine(where=x), WHERE),
    "Negatives source": (lambda x: negatives(source=x), {"a source"}),
    "Negatives item": (lambda x: negatives(item=x), {"an entity"}),
    "Negatives window": (lambda x: negatives(window=x), set()),
    "Negatives per_request": (lambda x: negatives(per_request=x), NUMBER),
    "Negatives per_positive": (lambda x: negatives(per_positive=x), NUMBER | {"a float"}),
    "Negatives where": (lambda x: negatives(where=x), WHERE),
    "TimeSplit validation": (lambda x: TimeSplit(x, "2026-01-01"), set()),
    "TimeSplit test": (lambda x: TimeSplit("2026-01-01", x), set()),
    "TimeSplit gap": (lambda x: TimeSplit("2026-01-01", "2026-03-01", gap=x), set()),
    "Dataset name": (lambda x: dataset(name=x), TEXT),
    "Dataset spine": (lambda x: dataset(spine=x), set()),
    "Dataset features": (lambda x: dataset(features=x), set()),
    "Dataset split": (lambda x: dataset(split=x), set()),
    "Dataset labels": (lambda x: dataset(labels=x), {"an empty list"}),
    "Dataset negatives": (lambda x: dataset(negatives=x), {"nothing"}),
    "Dataset batch_items": (lambda x: dataset(batch_items=x), NUMBER | {"nothing"}),
    "Dataset batch_requests": (lambda x: dataset(batch_requests=x), NUMBER | {"nothing"}),
    "Job name": (lambda x: job(name=x), TEXT),
    "Job dataset": (lambda x: job(dataset=x), TEXT),
    "Job model": (lambda x: job(model=x), set()),
    "Job inputs": (lambda x: job(inputs=x), set()),
    "Job trainer": (lambda x: job(trainer=x), {"nothing"}),
    "Job fit_batches": (lambda x: job(fit_batches=x), NUMBER),
    "Job golden": (lambda x: job(golden=x), NUMBER),
    "Service name": (lambda x: service(name=x), TEXT),
    "Service ranking": (lambda x: service(ranking=x), TEXT),
    "Service item": (lambda x: service(item=x), TEXT),
    "Service retrieval": (lambda x: service(retrieval=x), {"nothing"}),
    "Service filters": (lambda x: service(filters=x), {"an empty list"}),
    "Service exclude": (lambda x: service(exclude=x), {"an empty list"}),
    "Service top": (lambda x: service(top=x), NUMBER),
    "Service most_candidates": (lambda x: service(most_candidates=x), NUMBER),
    "Retrieval model": (Retrieval, TEXT),
    "Retrieval count": (lambda x: Retrieval("t", count=x), NUMBER),
    "Retrieval always": (lambda x: Retrieval("t", always=x), {"an empty list"}),
    "Number log": (lambda x: Number(log=x), {"a boolean"}),
    "Category vocabulary": (Category, TEXT | {"an empty text"}),
    "Category min_count": (lambda x: Category(min_count=x), NUMBER),
    "Bag length": (lambda x: Bag(length=x), NUMBER),
    "Sequence of": (Sequence, set()),
    "Sequence group": (lambda x: Sequence(Category(), x), TEXT),
    "DCNConfig label": (DCNConfig, TEXT),
    "DCNConfig rank": (lambda x: DCNConfig("l", rank=x), NUMBER),
    "TwoTowerConfig width": (lambda x: TwoTowerConfig("l", width=x), NUMBER),
    "TrainerConfig epochs": (lambda x: TrainerConfig(epochs=x), NUMBER),
    "TrainerConfig metric": (lambda x: TrainerConfig(metric=x), TEXT),
    "TrainerConfig clip_norm": (lambda x: TrainerConfig(clip_norm=x), NUMBER | {"nothing", "a float"}),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_is_taken_or_refused(name: str) -> None:
    make, accepted = ARGUMENTS[name]
    taken: set[str] = set()
    for kind, value in ODD.items():
        try:
            make(value)
        except BedplateError as error:  # anything else is a raw error, and fails the test
            refusal: BedplateError | None = error
        else:
            refusal = None
            taken.add(kind)
        if refusal is not None:
            assert type(refusal) in (DefinitionError, ConfigError), (kind, refusal)
            assert refusal.where, (kind, refusal)
            assert "object at 0x" not in refusal.message or kind in ("an object", "a function", "a source", "a view")
    assert taken == accepted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: view(entities=3), "view 'v': got 3, expected an Entity or a list of them"),
        (lambda: view(entities=["user"]), "view 'v': got 'user', expected an Entity"),
        (lambda: view(features=[Count()]), "view 'v': got the feature <bedplate"),
        (lambda: view(features={3: Count()}), "view 'v': got the feature name 3, expected a name without dots"),
        (lambda: label(at_least="5"), "label 'l': at_least: got '5', expected a number"),
        (lambda: label(empty=float("nan")), "label 'l': empty: got nan, expected a number"),
        (
            lambda: negatives(per_request=2.5),
            "negatives of source 'orders': per_request: got 2.5, expected a whole number",
        ),
        (lambda: dataset(batch_items=True), "dataset 'd': batch_items: got True, expected a whole number"),
        (lambda: dataset(labels=None), "dataset 'd': labels: got None, expected a list"),
        (lambda: dataset(features=GRAPH), "dataset 'd': features: got <bedplate"),
        (lambda: LastN(None, 3), "LastN: got the columns None and age=None, expected names of columns"),
        (lambda: LastN("x", 3, age=5), "LastN: got the columns 'x' and age=5, expected names of columns"),
    ],
)
def test_what_was_got_is_said(make: Callable[[], object], message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        make()
    assert str(caught.value).startswith(message)


CALLS: list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any], str]] = [
    (TopK, ("x",), {}, "TopK: the argument 'k' is missing\n  it takes: TopK(expression, k, counts=..., "),
    (TopK, (), {}, "TopK: the arguments 'expression' and 'k' are missing"),
    (Sum, (), {}, "Sum: the argument 'expression' is missing\n  it takes: Sum(expression, windows=..., where=...)"),
    (Sum, ("x", "1d", None, 3), {}, "Sum: got 4 arguments without a name, expected at most 3"),
    (Sum, ("x",), {"expression": "y"}, "Sum: got the argument 'expression' twice"),
    (
        Source,
        ("s", FRAME),
        {},
        "Source: the argument 'time' is missing\n  it takes: Source(name, table, *, time, delay=",
    ),
    (Source, ("s", FRAME), {"tme": "time"}, "Source: unknown argument 'tme'\n  did you mean 'time'?"),
    (Entity, ("user",), {}, "Entity: the argument 'key' is missing\n  it takes: Entity(name, key)"),
    (FeatureView, ("v", USER, SOURCE), {}, "FeatureView: the argument 'features' is missing"),
    (Label, ("l",), {}, "Label: the arguments 'entities'"),
    (Dataset, (), {"name": "d"}, "Dataset: the arguments 'spine'"),
    (Spine, (), {}, "Spine: the arguments 'source'"),
    (Negatives, (), {}, "Negatives: the arguments"),
    (TimeSplit, ("2026-01-01",), {}, "TimeSplit: the argument 'test' is missing"),
    (DerivedFeature, (), {}, "DerivedFeature: the argument"),
    (Context, ("c",), {}, "Context: the argument 'type' is missing"),
    (Link, ("l", "v.n"), {}, "Link: the argument 'entity' is missing"),
    (ModelFeature, ("m",), {}, "ModelFeature: the argument"),
    (Job, ("j",), {}, "Job: the argument"),
    (Service, ("s",), {}, "Service: the argument"),
]


@pytest.mark.parametrize(("made", "given", "named", "message"), CALLS)
def test_a_call_that_does_not_fit_says_what_is_taken(
    made: Callable[..., object], given: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        made(*given, **named)
    assert str(caught.value).startswith(message)


def test_an_aggregation_of_ones_own_refuses_such_a_call_too_and_other_errors_are_not_hidden() -> None:
    class Broken(OneInput):
        def __init__(self, expression: str, power: int) -> None:
            super().__init__(expression)
            self.power = power + "1"  # type: ignore[operator]

        reductions = ()

        def outputs(self, types: Any) -> Any:
            return ()

        def finalize(self, partials: Any, times: Any) -> Any:
            return ()

    with pytest.raises(DefinitionError, match="Broken: the argument 'power' is missing"):
        Broken("x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unsupported operand"):
        Broken("x", 2)
    assert copy.copy(Sum("x")).form() == Sum("x").form()
