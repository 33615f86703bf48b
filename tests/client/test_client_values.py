"""What both clients take for keys, times and tensors: nothing becomes another request in silence."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scripted import WELL, head, says, service

from bedplate.errors import RequestError

Ask = Callable[..., list[Any]]
NOBODY = "http://127.0.0.1:9"
CALLS = {
    "rank": lambda c, keys: c.rank(customer=3, candidates=keys),
    "table": lambda c, keys: c.table("rank", customer=3, candidates=keys),
}
ranks = pytest.mark.parametrize("name", list(CALLS))


def generated() -> Iterator[str]:
    yield from ("P01", "P02")


@ranks
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("P01", "candidates: got the text 'P01', expected a list of keys\n  for example ['P01']"),
        (np.str_("P01"), "candidates: got the text "),
        (b"P01", "candidates: got bytes, expected a list of keys"),
        (bytearray(b"P01"), "candidates: got bytearray, expected a list of keys"),
        (memoryview(b"P01"), "candidates: got memoryview, expected a list of keys"),
        (5, "candidates: got int, expected a list of keys"),
        (None, "candidates: got NoneType, expected a list of keys"),
        ({"P01", "P02"}, "candidates: got set, expected a list of keys"),
        ({"P01": 1}, "candidates: got dict, expected a list of keys"),
        (np.array("P01"), "candidates: got ndarray of shape [], expected [n]"),
        (np.array([["P01"]]), "candidates: got ndarray of shape [1, 1], expected [n]"),
        (pl.DataFrame({"a": ["P01"]}), "candidates: got DataFrame of shape [1, 1], expected [n]"),
        (pd.DataFrame({"a": ["P01"]}), "candidates: got DataFrame of shape [1, 1], expected [n]"),
        ([b"P01"], "candidates: got b'P01', expected a text\n  bytes are no key: decode them"),
        (np.array([b"P01"]), "candidates: got b'P01', expected a text"),
        ([object()], "got "),
        ([float("nan")], "candidates: got nan, expected a finite number"),
    ],
)
def test_candidates_that_are_no_list_of_keys_are_refused(ask: Ask, name: str, keys: Any, said: str) -> None:
    [error] = ask(NOBODY, lambda c: CALLS[name](c, keys))
    assert isinstance(error, RequestError)
    assert said in str(error)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (pl.Series([b"P01"]), "got keys of Binary, expected texts or integers"),
        ([1, "P01"], "got keys of more than one type"),
        ([True], "got keys of Boolean, expected texts or integers"),
    ],
)
def test_a_column_of_keys_is_of_texts_or_integers(ask: Ask, keys: Any, said: str) -> None:
    [error] = ask(NOBODY, lambda c: c.table("rank", customer=3, candidates=keys))
    assert isinstance(error, RequestError)
    assert said in str(error)


@ranks
@pytest.mark.parametrize(
    "keys",
    [
        ("P01", "P02"),
        {"P01": 1, "P02": 2}.keys(),
        np.array(["P01", "P02"], object),
        pl.Series(["P01", "P02"], dtype=pl.Categorical),
        pd.Series(["P01", "P02"]),
        pd.Index(["P01", "P02"]),
        generated,
    ],
    ids=["tuple", "view", "objects", "categories", "pandas", "index", "generator"],
)
def test_whatever_has_keys_in_an_order_is_taken(ask: Ask, server: Any, name: str, keys: Any) -> None:
    [found] = ask(server.url, lambda c: CALLS[name](c, keys() if keys is generated else keys))
    ids = found["id"].to_list() if name == "table" else list(found.ids)
    assert ids == ["P01", "P02"]


@pytest.mark.parametrize("name", ["recommend", "table"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.datetime64("NaT"), "time: got NaT, expected a time\n  a request without a time is as of now"),
        (np.datetime64("NaT", "ns"), "time: got NaT, expected a time"),
        (np.array(["2026-01-01", "NaT"], "M8[s]"), "time: got NaT, expected a time"),
        (pd.NaT, "got a value of type NaTType"),
        (float("nan"), "time: got nan, expected a finite number"),
        (np.float32("inf"), "time: got inf, expected a finite number"),
        (np.longdouble("nan"), "time: got nan, expected a finite number"),
        (np.timedelta64(5, "ns"), "time: got timedelta64[ns], a duration, expected a time or a number"),
        (b"2026-01-01", "time: got b'2026-01-01', expected a text"),
        ({"at": [b"1"]}, "time.at: got b'1', expected a text"),
        ({5: 1}, "time: got a field 5, expected a text"),
        ("\ud800", "got a text that has no form in UTF-8"),
        (1j, "got a value of type complex"),
    ],
)
def test_values_that_would_become_others_are_refused(ask: Ask, name: str, value: Any, said: str) -> None:
    def call(client: Any) -> Any:
        if name == "table":
            return client.table("rank", customer=3, candidates=["P01"], time=value)
        return client.recommend(customer=3, time=value)

    [error] = ask(NOBODY, call)
    assert isinstance(error, RequestError)
    assert said in str(error)


@dataclass
class Node:
    """A value that only the encoder looks into."""

    inner: Any


def nested(*kinds: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(100_000 // len(kinds)):
        for kind in kinds:
            value = kind(value)
    return value


def endless() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: nested(lambda v: [v]), "note: got values that are nested too deep, expected a few levels"),
        (lambda: nested(lambda v: {"a": v}), "note"),
        (lambda: nested(lambda v: (v,), lambda v: {"a": v}), "note"),
        (endless, "note: got values that are nested too deep"),
        (lambda: nested(Node), "client: got values that are nested too deep, expected a few levels"),
    ],
    ids=["lists", "mappings", "both", "endless", "of the encoder"],
)
def test_values_that_are_nested_too_deep_are_refused(ask: Ask, value: Callable[[], Any], said: str) -> None:
    given = value()
    calls = (lambda c: c.recommend(note=given), lambda c: c.table("rank", candidates=["P01"], note=given))
    errors = ask(NOBODY, *calls)
    assert [type(error) for error in errors] == [RequestError] * 2
    assert all(str(error).startswith(said) for error in errors)


@ranks
def test_candidates_that_are_nested_too_deep_are_refused(ask: Ask, name: str) -> None:
    [error] = ask(NOBODY, lambda c: CALLS[name](c, endless()))
    assert isinstance(error, RequestError)
    assert str(error) == "candidates: got values that are nested too deep, expected a few levels"


def test_values_are_sent_as_json_has_them(ask: Ask) -> None:
    at = dt.datetime(2026, 1, 16, 13)
    request = {
        "customer": np.int64(3),
        "time": np.datetime64(at, "ns"),
        "exclude": {"P01"},
        "more": {"a": np.array([1.5, 2.0], np.float16), "b": pl.Series([at]), "c": (True, None, np.bool_(True))},
    }
    with service(says(head(len(WELL)) + WELL)) as (url, seen):
        ask(url, lambda c: c.recommend(**request))
    assert json.loads(seen[0].partition(b"\r\n\r\n")[2]) == {
        "customer": 3,
        "time": "2026-01-16T13:00:00",
        "exclude": ["P01"],
        "more": {"a": [1.5, 2.0], "b": ["2026-01-16T13:00:00"], "c": [True, None, True]},
    }


def test_fields_beside_a_column_of_keys_may_hold_any_text(ask: Ask, server: Any) -> None:
    call = lambda c: c.table("rank", customer=3, candidates=["P01"], note="a\x7f\r\né漢")  # noqa: E731
    [error] = ask(server.url, call)
    assert "note" in str(error)  # the service has read it, and knows no such field


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x": [[1.0]]}, "tensors: 'x' is list, expected an array of NumPy\n  numpy.array(..., dtype=...) makes one"),
        ({"x": np.float32(1)}, "tensors: 'x' is float32, expected an array of NumPy"),
        ({"x": pl.Series([1.0])}, "tensors: 'x' is Series, expected an array of NumPy"),
        ({"x": np.array(["a"])}, "tensors: 'x' is <U1, expected one of"),
        ({"x": np.array([b"a"], object)}, "tensors: 'x' has b'a', expected texts\n  decode bytes"),
        ({"x": np.array([["a", None]], object)}, "tensors: 'x' has None, expected texts"),
        ([("x", np.zeros(1))], "tensors: got list, expected arrays by name"),
    ],
)
def test_tensors_that_are_none_are_refused(ask: Ask, tensors: Any, said: str) -> None:
    [error] = ask(NOBODY, lambda c: c.infer("m", tensors))
    assert isinstance(error, RequestError)
    assert said in str(error)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": 3}, "model: got 3, expected a text"),
        ({"version": 3}, "version: got 3, expected a text"),
        ({"outputs": "score"}, "outputs: got 'score', expected a list of names"),
        ({"outputs": None}, "outputs: got None, expected a list of names"),
    ],
)
def test_names_that_are_none_are_refused(ask: Ask, options: dict[str, Any], said: str) -> None:
    [error] = ask(NOBODY, lambda c: c.infer(**{"model": "m", "tensors": {}, **options}))
    assert isinstance(error, RequestError)
    assert said in str(error)
