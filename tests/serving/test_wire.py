"""What a client may say: every body is read as it is meant or refused with its place, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.canonical import string_ids
from bedplate.errors import DefinitionError, RequestError
from bedplate.serving.service import Retrieval, Service
from bedplate.serving.steps import Given, Softmax
from bedplate.serving.wire import Answer, Wire, empty_reason
from bedplate.types import DAY, EARLIEST_TIME, LATEST_TIME, Type, to_micros

NOW = to_micros("2026-01-05")
SERVICE = Service("shop", ranking="r", item="item", retrieval=Retrieval("t", count=50), top=7, most_candidates=4)
WIRE = Wire(SERVICE, {"user": Type.INT, "query": Type.STRING}, Type.STRING, lambda: NOW)
KEYS: dict[str, Any] = {"user": 3, "query": "lamp"}
MICROS = "not seconds or milliseconds; a text such as 2011-12-01T09:00:00 does too"
FIELDS = "user, query, count, exclude, time, trace"
BRING = "the sources of the service bring 50 in all: the count of each says how many"
EXPECTED = f"expected fields: {FIELDS}"

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=8,
)


def refused(read: Any, body: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.http_status == 400
    return caught.value


def test_a_request_is_read_with_its_defaults():
    asked = WIRE.recommend(json.dumps(KEYS).encode())
    assert asked.given == KEYS
    assert {n: k.tolist() for n, k in asked.keys.items()} == {"user": [3], "query": string_ids(["lamp"])}
    assert (asked.time, asked.count, asked.items, asked.trace) == (NOW, 7, [], False)
    ranked = WIRE.rank(json.dumps(KEYS | {"candidates": ["a", "b", "a"]}).encode())
    assert ranked.item_keys.tolist() == string_ids(["a", "b", "a"])
    assert (ranked.count, ranked.items) == (3, ["a", "b", "a"])


@given(
    user=st.integers(-(2**63), 2**63 - 1),
    query=st.text(max_size=1024),
    time=st.integers(365 * DAY, LATEST_TIME - 1),
    count=st.integers(1, 50),
    exclude=st.lists(st.text(max_size=9), max_size=5),
)
def test_every_right_request_is_read_as_it_was_written(user, query, time, count, exclude):
    body = {"user": user, "query": query, "time": time, "count": count, "exclude": exclude, "trace": True}
    asked = WIRE.recommend(json.dumps(body).encode())
    assert (asked.given, asked.time, asked.count, asked.items) == ({"user": user, "query": query}, time, count, exclude)
    assert asked.keys["user"].tolist() == [user]
    assert asked.keys["query"].tolist() == string_ids([query])
    assert asked.item_keys.tolist() == string_ids(exclude)


@given(
    body=anything, field=st.sampled_from(["user", "query", "time", "count", "exclude", "trace", "candidates", "more"])
)
def test_any_json_is_read_or_refused(body, field):
    for read in (WIRE.recommend, WIRE.rank):
        for document in (body, KEYS | {field: body}, KEYS | {"candidates": [], field: body}):
            try:
                asked, error = read(json.dumps(document).encode()), None
            except RequestError as refusal:
                asked, error = None, refusal
            assert error is None or (str(error.where).startswith("$") and error.message)
            assert asked is None or EARLIEST_TIME <= asked.time < LATEST_TIME
            assert asked is None or len(asked.items) == len(asked.item_keys)


@pytest.mark.parametrize("text", ['"\\ud800"', '"\\udfff\\ud800"'])
def test_half_a_character_is_refused(text):
    error = refused(WIRE.recommend, f'{{"user": 3, "query": {text}}}'.encode())
    assert error.message.startswith("not JSON: ")


@given(body=st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(body):
    for read in (WIRE.recommend, WIRE.rank):
        assert isinstance(refused(read, body), RequestError)


def test_what_is_not_json_is_answered_with_a_body_that_is_right():
    for read, name in ((WIRE.recommend, "recommend"), (WIRE.rank, "rank")):
        example = refused(read, b'{"user": 5,').hint.removeprefix("for example ")
        assert read(example.encode()) is not None, name


def test_the_byte_that_is_not_utf_8_is_counted_from_the_beginning_of_the_body():
    message = refused(WIRE.recommend, b'{"user": 3, "query": "r\xc3\xa4d \xff"}').message
    assert message == "not JSON: byte 0xff at position 27 is not UTF-8: invalid start byte"


@pytest.mark.parametrize(
    ("body", "where", "message", "hint"),
    [
        (KEYS | {"usr": 1}, "$", "Object contains unknown field `usr`", f"did you mean 'user'? {EXPECTED}"),
        (KEYS | {"counts": 1}, "$", "Object contains unknown field `counts`", f"did you mean 'count'? {EXPECTED}"),
        (KEYS | {"zzz": 1}, "$", "Object contains unknown field `zzz`", EXPECTED),
        (KEYS | {"": 1}, "$", "Object contains unknown field ``", EXPECTED),
        ({"user": 3}, "$", "Object missing required field `query`", "required: user, query"),
        ({}, "$", "Object missing required field `user`", "required: user, query"),
        (KEYS | {"user": "3"}, "$.user", "Expected `int`, got `str`", None),
        (KEYS | {"user": True}, "$.user", "Expected `int`, got `bool`", None),
        (KEYS | {"user": 2**63}, "$.user", "got 9223372036854775808, expected `int` <= 9223372036854775807", None),
        (KEYS | {"count": 0}, "$.count", "got 0, expected `int` >= 1", None),
        (KEYS | {"count": 1000}, "$.count", "got 1000, expected `int` <= 50", BRING),
        (KEYS | {"exclude": ["a"] * 10_001}, "$.exclude", "got a list of 10,001, expected `array` of length", None),
        (
            KEYS | {"exclude": ["a", "x" * 2000]}, "$.exclude[1]",
            "got a text of 2,000 characters, expected `str` of length <= 1024", None,
        ),
        (
            KEYS | {"exclude": ["x" * 1_000_001]}, "$.exclude[0]", "Expected `str` of length <= 1024", None,
        ),
        (
            KEYS | {"exclude": ["x" * 100] * 10_001}, "$.exclude", "got a list of 1,040,104 bytes, expected `array`",
            None,
        ),
        (KEYS | {"exclude": ["a", 3]}, "$.exclude[1]", "Expected `str`, got `int`", None),
        (KEYS | {"time": "2300-01-01"}, "$.time", "got '2300-01-01', expected a time from 1970 to 2199", None),
        (KEYS | {"time": "1969-12-31T23:59"}, "$.time", "got '1969-12-31T23:59', expected a time", None),
        (KEYS | {"time": "soon"}, "$.time", "got 'soon', expected an ISO 8601", "for example 2011-12-09T10:30:00"),
        (KEYS | {"time": -1}, "$.time", "got -1, expected microseconds", MICROS),
        (KEYS | {"time": 1_768_568_400}, "$.time", "got 1768568400, expected microseconds", MICROS),
        (KEYS | {"time": LATEST_TIME}, "$.time", f"got {LATEST_TIME}, expected", MICROS),
        (KEYS | {"time": 1.5}, "$.time", "Expected `int | str | null`, got `float`", None),
        ([], "$", "Expected `object`, got `array`", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(body, where, message, hint):
    error = refused(WIRE.recommend, body)
    assert error.where == where
    assert error.message.startswith(message)
    assert error.hint == hint


def test_bounds_of_what_a_service_may_have_are_said_with_what_was_got():
    service = Service("s", ranking="r", item="item", candidates=[Given(3)], exploration=Softmax(1.0), top=2)
    wire = Wire(service, {"user": Type.INT}, Type.STRING, lambda: NOW)
    error = refused(wire.recommend, {"user": 3, "candidates": ["a"] * 4})
    assert (error.where, error.message) == ("$.candidates", "got a list of 4, expected `array` of length <= 3")
    assert error.hint == "the count of the service's Given says how many"
    for seed, bound in ((-1, ">= 0"), (2**53, "< 9007199254740992")):
        error = refused(wire.recommend, {"user": 3, "seed": seed})
        assert error.where == "$.seed"
        assert error.message.startswith(f"got {seed}, expected `int")
        assert bound in error.message or "<= 9007199254740991" in error.message


def test_candidates_are_limited_and_only_of_rank():
    error = refused(WIRE.rank, KEYS | {"candidates": ["a"] * 5})
    assert error.message == "got a list of 5, expected `array` of length <= 4"
    assert error.hint == "the service's most_candidates says how many"
    assert refused(WIRE.rank, KEYS | {"candidates": ["a"] * 5}).where == "$.candidates"
    assert refused(WIRE.rank, KEYS).hint == "required: user, query, candidates"
    error = refused(WIRE.recommend, KEYS | {"candidates": ["a"]})
    assert error.message == "Object contains unknown field `candidates`"
    assert refused(WIRE.rank, KEYS | {"candidate": []}).hint in (
        "did you mean 'candidates'? expected fields: user, query, candidates, time, trace",
        "required: user, query, candidates",
    )


@pytest.mark.parametrize("name", ["candidates", "count", "exclude", "time", "trace"])
def test_an_entity_with_the_name_of_a_field_is_refused(name):
    with pytest.raises(DefinitionError, match=f"entity '{name}' has the name of a field of a request"):
        Wire(SERVICE, {name: Type.INT}, Type.INT, lambda: NOW)


def test_requests_are_described_for_clients():
    described = WIRE.describe()
    assert set(described) == {"rank", "recommend", "embed", "embed_items", "similar"}
    alone = Wire(Service("s", ranking="r", item="item"), {"user": Type.INT}, Type.INT, lambda: NOW)
    assert set(alone.describe()) == {"rank"}
    shown = json.dumps(described["recommend"])
    assert all(field in shown for field in FIELDS.split(", "))


@pytest.mark.parametrize(
    ("items", "candidates", "reason"),
    [
        (5000, 1200, "the filters let none of 1,200 candidates through"),
        (5000, 0, "all 5,000 items of the catalogue are excluded"),
        (0, 0, "the catalogue holds no item"),
    ],
)
def test_an_empty_answer_says_why(items, candidates, reason):
    assert empty_reason(items, candidates) == reason
    answer = Answer(ids=[], scores=[], models={}, time=NOW, reason=empty_reason(items, candidates))
    assert json.loads(msgspec.json.encode(answer))["reason"] == reason
    full = Answer(ids=[1], scores=[0.5], models={}, time=NOW)
    assert "reason" not in json.loads(msgspec.json.encode(full))


def test_no_list_is_longer_than_a_worker_can_read_while_others_wait():
    longest = [f"i{i}" for i in range(10_000)]
    assert len(WIRE.recommend(json.dumps(KEYS | {"exclude": longest}).encode()).items) == 10_000
    error = refused(WIRE.recommend, KEYS | {"exclude": [*longest, "more"]})
    assert "length <= 10000" in error.message
    assert error.where == "$.exclude"
