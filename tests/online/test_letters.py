"""Dead letters are written once and taken once into each view that they were withheld from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.errors import DataError
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online.base import OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.letters import Letter, read_letters, write_letters
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.payloads import Payloads
from bedplate.online.replay import LetterStream
from bedplate.online.state import read_state
from bedplate.online.streams import MicroBatch, Position, Stream
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, HOUR

SCHEMA = {"user": pl.Int64(), "time": pl.Int64(), "amount": pl.Int64(), "flag": pl.Int64()}
SOURCE = Source("events", pl.DataFrame(schema=SCHEMA), time="time")
COUNTS = FeatureView("counts", USER, SOURCE, {"n": Count()}).compile()
SUMS = FeatureView("sums", USER, SOURCE, {"total": Sum("amount")}).compile()
STRICT = FeatureView("strict", USER, SOURCE, {"total": Sum(1 / pl.col("flag"))}).compile()
BIG = 2**62


class Topic(Stream):
    """A partition of payloads, as a topic has them."""

    def __init__(self, payloads: list[bytes], letters: Path, schema: Mapping[str, pl.DataType] = SCHEMA) -> None:
        self.payloads, self.letters, self._schema = payloads, letters, schema

    @property
    def name(self) -> str:
        return "topic"

    @property
    def overlaps_history(self) -> bool:
        return True

    def partitions(self) -> list[str]:
        return ["t/0"]

    def read(
        self, partition: str, after: Position, before: Position | None, rows: int, completed: object = ()
    ) -> MicroBatch | None:
        end = min(after.at + rows, len(self.payloads), len(self.payloads) if before is None else before.at)
        if end <= after.at:
            return None
        given = self.payloads[after.at : end]
        frame, wrong = Payloads("json", self._schema).decode(given)
        numbers = [n for n in range(len(given)) if n not in wrong]

        def refuse(further: Mapping[int, str]) -> list[str]:
            found = wrong | {numbers[n]: why for n, why in further.items()}
            letters = [Letter.of("t", 0, after.at + n, found[n], given[n]) for n in sorted(found)]
            self.letters_written += write_letters(self.letters, letters) if letters else 0
            return [letter.name for letter in letters]

        return MicroBatch(
            partition,
            after,
            Position("", end),
            frame,
            "t/0",
            lambda n: f"event {numbers[n]}",
            lambda: -1,
            refuse=refuse,
        )

    def lag(self, partition: str, after: Position) -> int:
        return len(self.payloads) - after.at

    def close(self) -> None:
        pass


def event(user: int, at: int, amount: object = 1, flag: int = 1) -> bytes:
    return msgspec.json.encode({"user": user, "time": START + at, "amount": amount, "flag": flag})


def loaded(*views: CompiledView) -> MemoryStore:
    store = MemoryStore()
    for view in views:
        bulk_load(store, view, [], START)
    return store


def value(store: OnlineStore, view: CompiledView, user: int = 1) -> int:
    [name] = view.features
    return OnlineReader(store).read(view, [name], np.array([[user]]), np.array([START + DAY]))[name].values.tolist()[0]


def letters_in(folder: Path) -> dict[int, Letter]:
    found = [letter for path in sorted(folder.glob("*.jsonl")) for letter in read_letters(path)]
    assert len({letter.offset for letter in found}) == len(found)
    return {letter.offset: letter for letter in found}


def replay(store: OnlineStore, view: CompiledView, folder: Path) -> int:
    return sum(
        Ingest(store, [view], LetterStream(path, view, store)).run().events for path in sorted(folder.glob("*.jsonl"))
    )


def test_a_later_view_keeps_the_letters_of_others_and_what_was_mended(tmp_path: Path) -> None:
    store, topic = loaded(COUNTS), Topic([event(1, 0), b"no", event(1, 1), event(1, 2, "x"), event(1, 3)], tmp_path)
    Ingest(store, [COUNTS], topic, batch=2).run()
    assert letters_in(tmp_path).keys() == {1, 3}
    for path in tmp_path.glob("*1.jsonl"):
        (letter,) = read_letters(path)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(letter, payload=event(1, 9).decode())))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    bulk_load(store, SUMS, [], START)
    again = Topic([*topic.payloads, b"also no"], tmp_path)
    Ingest(store, [COUNTS, SUMS], again, batch=4).run()
    after = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert after.items() >= before.items()
    assert letters_in(tmp_path).keys() == {1, 3, 5}
    assert again.letters_written == 1


def test_a_letter_is_taken_once_into_each_view_that_lacks_it(tmp_path: Path) -> None:
    store, topic = loaded(COUNTS, STRICT), Topic([event(1, 0), event(1, 1, flag=0), event(1, 2)], tmp_path)
    Ingest(store, [COUNTS, STRICT], topic).run()
    assert value(store, COUNTS) == 2  # one view's refusal withholds the event from all of the source
    assert letters_in(tmp_path)[1].reason.startswith("view 'strict'")
    bulk_load(store, SUMS, [], START)
    Ingest(store, [COUNTS, STRICT, SUMS], topic).run()
    assert value(store, SUMS) == 3  # which reads it by itself, and has nothing against it
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'\\"flag\\":0', b'\\"flag\\":1'))
    assert [replay(store, view, tmp_path) for view in (COUNTS, STRICT, SUMS)] == [1, 1, 0]
    assert [replay(store, view, tmp_path) for view in (COUNTS, STRICT, SUMS)] == [0, 0, 0]
    assert [value(store, view) for view in (COUNTS, STRICT, SUMS)] == [3, 3, 3]


def test_a_view_that_is_loaded_again_takes_no_old_letter(tmp_path: Path) -> None:
    store, topic = loaded(COUNTS), Topic([event(1, 0), b"no", event(1, 2)], tmp_path)
    Ingest(store, [COUNTS], topic).run()
    bulk_load(store, COUNTS, [], START)
    (path,) = tmp_path.glob("*.jsonl")
    mended = msgspec.structs.replace(read_letters(path)[0], payload=event(1, 1).decode())
    path.write_bytes(msgspec.json.encode(mended))
    assert replay(store, COUNTS, tmp_path) == 0
    Ingest(store, [COUNTS], topic).run()
    assert replay(store, COUNTS, tmp_path) == 1
    assert value(store, COUNTS) == 3


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_sums_beyond_64_bits_stop_nothing(tmp_path: Path, batch: int) -> None:
    payloads = [event(1, 0, BIG), event(2, 1, 5), event(1, 2, BIG), event(2, 3, 6), event(1, 4, -7), event(3, 5 * HOUR)]
    store, topic = loaded(COUNTS, SUMS), Topic(payloads, tmp_path)
    Ingest(store, [COUNTS, SUMS], topic, batch=batch).run()
    assert [read_state(store, view).position("t/0").at for view in (COUNTS, SUMS)] == [6, 6]
    assert [value(store, SUMS, user) for user in (2, 3)] == [11, 1]
    letters = letters_in(tmp_path)
    assert all("beyond 64 bits, for the key [1]" in letter.reason for letter in letters.values())
    assert value(store, SUMS) == sum(json["amount"] for at, p in enumerate(payloads) if at not in letters
                                     and (json := msgspec.json.decode(p))["user"] == 1)  # fmt: skip
    assert value(store, COUNTS) == 3  # which took them in
    for path in tmp_path.glob("*.jsonl"):
        path.write_bytes(path.read_bytes().replace(str(BIG).encode(), b"3"))
    assert replay(store, COUNTS, tmp_path) == 0
    assert replay(store, SUMS, tmp_path) == len(letters) > 0
    assert value(store, COUNTS) == 3


def test_a_sum_of_a_file_beyond_64_bits_names_key_file_and_row(tmp_path: Path) -> None:
    store = loaded(SUMS)
    rows = pl.DataFrame([(2, START, 1, 1), (1, START, BIG, 1), (1, START + 1, BIG, 1)], SCHEMA, orient="row")
    rows.write_parquet(tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"(?s)1\.parquet.*row 1.*beyond 64 bits, for the key \[1\]"):
        Ingest(store, [SUMS], tmp_path).run()
    assert value(store, SUMS, 2) == 0


def test_a_read_beyond_64_bits_names_the_key(tmp_path: Path) -> None:
    view = FeatureView("v", USER, SOURCE, {"x": Sum("amount", windows="1d")}).compile()
    store = loaded(view)
    Ingest(store, [view], Topic([event(9, 0, BIG), event(8, 1), event(9, 4 * HOUR, BIG)], tmp_path)).run()
    with pytest.raises(DataError, match=r"for the key \[9\]"):
        OnlineReader(store).read(view, list(view.features), np.array([[8], [9]]), np.full(2, START + 5 * HOUR))


def test_letters_of_a_line_that_is_being_mended_are_left_alone(tmp_path: Path) -> None:
    write_letters(tmp_path, [Letter.of("t", 0, 5, "why", b"a"), Letter.of("t", 0, 1_005, "why", b"b")])
    first, _ = sorted(tmp_path.glob("*.jsonl"))
    first.write_text('{"topic": "t", half of')
    assert write_letters(tmp_path, [Letter.of("t", 0, 5, "why", b"a"), Letter.of("t", 0, 1_005, "why", b"c")]) == 1
    assert first.read_text().endswith("half of")
    assert [read_letters(path)[0].offset for path in sorted(tmp_path.glob("*.jsonl")) if path != first] == [5, 1_005]
