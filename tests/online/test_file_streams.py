"""Streams of files in Parquet, JSON, Avro and Protobuf: poison rows go aside, damaged files stop one partition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_files import FORMS, SCHEMA, WRITERS, avro, jsonl, parquet, pb, put, write_schemas

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import LastN
from bedplate.errors import ConfigError, DataError, StoreError
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.reference import Reference
from bedplate.online.base import OnlineStore, open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.files import FileStream
from bedplate.online.ingest import Ingest
from bedplate.online.ingest_metrics import metrics_text
from bedplate.online.letters import Letter, read_letters
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.replay import LetterStream
from bedplate.online.state import read_state
from bedplate.online.streams import StuckError
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, MINUTE

SOURCE = Source("events", pl.DataFrame(schema=SCHEMA), time="time")
FEATURES = {"n": Count(), "n_in": Count(windows="1h"), "total": Sum("amount", windows="1d"), "last": LastN("amount", 4)}
POISON: list[dict[str, Any]] = [{"user": None}, {"time": None}, {"time": 0}, {"time": -5}, {"time": START // 1000}]
FORM = {"pb": "protobuf:e.pb:E", "avro": "avro:e.avsc"}


def view(root: Path | None = None) -> CompiledView:
    return FeatureView("v", USER, SOURCE, FEATURES).compile(root)


def loaded(*views: CompiledView) -> MemoryStore:
    store = MemoryStore()
    for each in views:
        bulk_load(store, each, [], START)
    return store


def row(i: int, **changed: Any) -> dict[str, Any]:
    return {"user": i % 3, "time": START + i * MINUTE, "amount": i} | changed


def stream(folder: Path, each: CompiledView, form: str = "json") -> FileStream:
    return FileStream(folder / "stream", each, folder / "letters", form)


def letters_in(folder: Path) -> list[Letter]:
    return [letter for path in sorted((folder / "letters").glob("*.jsonl")) for letter in read_letters(path)]


def mend(folder: Path, rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Writes the rows that were meant in the letters."""
    for path in (folder / "letters").glob("*.jsonl"):
        found = list[Letter]()
        for letter in read_letters(path):
            payload = msgspec.json.encode(rows[letter.file, letter.row]).decode()
            found.append(msgspec.structs.replace(letter, payload=payload, base64="", form="json"))
        path.write_bytes(b"".join(msgspec.json.encode(letter) + b"\n" for letter in found))


def replay(folder: Path, store: OnlineStore, each: CompiledView, form: str = "json") -> int:
    return sum(
        Ingest(store, [each], LetterStream(path, each, store, form), late=True).run().events
        for path in sorted((folder / "letters").glob("*.jsonl"))
    )


def assert_oracle(store: OnlineStore, each: CompiledView, rows: list[dict[str, Any]]) -> None:
    """The store reads as history of these rows does, and has counted each once."""
    frame = pl.DataFrame(rows, SCHEMA, orient="row")
    asked, times = np.arange(3).reshape(-1, 1), np.full(3, START + DAY)
    whole = Reference(each, frame.lazy()).read(each, list(each.features), asked, times)
    assert mismatches(OnlineReader(store).read(each, list(each.features), asked, times), whole) == []
    assert read_state(store, each).events == len(rows)


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_poison_rows_go_aside_and_are_taken_once_when_they_are_mended(tmp_path: Path, kind: str, batch: int) -> None:
    write_schemas(tmp_path)
    good = [row(i) for i in range(20)]
    bad = {4 * i: row(4 * i) | change for i, change in enumerate(POISON)}
    put(tmp_path / "stream" / "a", f"1.{kind}", WRITERS[kind]([bad.get(i, each) for i, each in enumerate(good)]))
    put(tmp_path / "stream" / "b", f"1.{kind}", WRITERS[kind]([row(50)]))
    each, form = view(tmp_path), FORM.get(kind, "json")
    store = loaded(each)
    worker = Ingest(store, [each], stream(tmp_path, each, form), batch=batch)
    assert worker.run().files == 2
    kept = [each for i, each in enumerate(good) if i not in bad]
    assert_oracle(store, each, [*kept, row(50)])
    assert 'bedplate_ingest_dead_letters_total{source="events"} 5' in metrics_text([worker.measures])
    letters = letters_in(tmp_path)
    assert {(letter.file, letter.row) for letter in letters} == {(f"a/1.{kind}", i) for i in bad}
    for letter in letters:
        assert letter.reason
        assert msgspec.json.decode(letter.payload) == bad[letter.row]
    with pytest.raises(DataError, match=r"letters are still wrong, the first is the one of row 0 of a/1\."):
        replay(tmp_path, store, each)
    mend(tmp_path, {(f"a/1.{kind}", i): good[i] for i in bad})
    assert [replay(tmp_path, store, each) for _ in range(3)] == [5, 0, 0]
    assert_oracle(store, each, [*kept, row(50), *(good[i] for i in bad)])


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("jsonl", jsonl([row(0), b"{", b"", row(3), b"\xff", b"[1]", row(6)]), {1: "{", 4: "/w==", 5: "[1]"}),
        ("pb", pb([row(0), b"\xff", row(2)]), {1: "/w=="}),
        ("avro", avro([row(0, user="0"), row(1, user="one"), row(2, user="2")], user="string"), None),
    ],
    ids=["jsonl", "pb", "avro"],  # an Avro file has random bytes
)
def test_records_that_can_not_be_decoded_are_letters(tmp_path: Path, kind: str, content: bytes, said: Any) -> None:
    write_schemas(tmp_path)
    put(tmp_path / "stream", f"1.{kind}", content)
    each = view(tmp_path)
    store = loaded(each)
    Ingest(store, [each], stream(tmp_path, each, FORM["pb"])).run()
    found = {letter.row: letter.payload or letter.base64 for letter in letters_in(tmp_path)}
    if said is None:  # texts are no users
        assert sorted(found) == [0, 1, 2]
        assert msgspec.json.decode(found[1]) == row(1, user="one")
    else:
        assert found == said


def test_a_line_that_is_empty_is_no_event_and_files_are_read_in_steps(tmp_path: Path) -> None:
    lines = [row(i) if i % 3 else b"" for i in range(30)]
    put(tmp_path / "stream", "1.ndjson", jsonl([*lines, b"", b""])[:-1])
    put(tmp_path / "stream", "2.json", jsonl([row(40)])[:-1])  # a last line without an end
    each = view()
    store = loaded(each)
    done = Ingest(store, [each], stream(tmp_path, each), batch=4).run()
    assert (done.events, done.files) == (21, 2)
    assert Ingest(store, [each], stream(tmp_path, each), batch=4).run().events == 0
    assert_oracle(store, each, [*(row(i) for i in range(30) if i % 3), row(40)])


def test_the_letter_of_a_line_is_the_line(tmp_path: Path) -> None:
    line = b'{"time":%d, "note": "kept as it is",  "amount": 3}' % (START + 1)
    put(tmp_path / "stream", "1.jsonl", jsonl([row(1), b"", line, row(2)]))
    each = view()
    Ingest(loaded(each), [each], stream(tmp_path, each)).run()
    [letter] = letters_in(tmp_path)
    assert (letter.row, letter.payload, letter.reason) == (2, line.decode(), "the key 'user' is null")


@pytest.mark.parametrize("kind", FORMS)
def test_a_cleaning_step_sees_whole_files_and_a_view_that_is_behind_the_same_rows(tmp_path: Path, kind: str) -> None:
    write_schemas(tmp_path)
    rows = [row(i) for i in range(10)]
    put(tmp_path / "stream", f"1.{kind}", WRITERS[kind]([*rows, row(10, user=None), *rows]))
    put(tmp_path / "stream", f"2.{kind}", WRITERS[kind]([row(20), row(21)]))
    table = pl.DataFrame(schema=SCHEMA)
    source = Source("events", table, time="time", prepare=lambda r: r.unique(maintain_order=True))
    cleaned = FeatureView("cleaned", USER, source, FEATURES).compile(tmp_path)
    store, form = loaded(cleaned), FORM.get(kind, "json")
    Ingest(store, [cleaned], stream(tmp_path, cleaned, form), batch=3).run()
    assert_oracle(store, cleaned, [*rows, row(20), row(21)])
    first, later = view(tmp_path), FeatureView("later", USER, SOURCE, FEATURES).compile(tmp_path)
    bulk_load(store, first, [], START)
    Ingest(store, [first], stream(tmp_path, first, form), batch=4).turn()
    bulk_load(store, later, [], START)
    Ingest(store, [first, later], stream(tmp_path, first, form), batch=7).run()
    for each in (first, later):
        assert_oracle(store, each, [*rows, *rows, row(20), row(21)])
    letters = [(letter.file, letter.row) for letter in letters_in(tmp_path)]
    assert letters == [(f"1.{kind}", 10)]


DAMAGED = {
    "1.parquet": parquet([row(i) for i in range(9)])[:-30],
    "1.avro": avro([row(i) for i in range(30)])[:-5],
    "1.pb": pb([row(0), row(1)]) + b"\x20abc",
    "2.parquet": b"",
    "2.avro": b"",
    "1.jsonl": jsonl([row(i) for i in range(9)])[:-4],  # within the last object
    "2.jsonl": jsonl([row(0), b"", b'{"user": "']).rstrip(b"\n"),
    "3.jsonl": jsonl([row(0), row(1), b'{"user": 1, "amount": 2.']).rstrip(b"\n"),
    "0.jsonl": jsonl([row(0), b'{"user": ' + b"[" * 200_000]).rstrip(b"\n"),
    "3.avro": avro([row(i) for i in range(30)]) + b"\x80",  # cut within the number of a block's records
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_stops_its_partition_alone(tmp_path: Path, name: str) -> None:
    write_schemas(tmp_path)
    damaged = put(tmp_path / "stream" / "a", name, DAMAGED[name])
    put(tmp_path / "stream" / "a", "4.jsonl", jsonl([row(90)]))
    put(tmp_path / "stream" / "b", "1.jsonl", jsonl([row(1), b"no", row(2)]))
    put(tmp_path / "stream", "1.jsonl", jsonl([row(3)]))
    each = view(tmp_path)
    store = loaded(each)
    worker = Ingest(store, [each], stream(tmp_path, each, FORM["pb"]), batch=2)
    with pytest.raises(StuckError, match=name):
        worker.run()
    state = read_state(store, each)
    assert (state.position("b").name, state.position("").name) == ("1.jsonl", "1.jsonl")
    assert state.position("a").name != "4.jsonl"
    assert list(worker.measures.stuck) == ["a"]
    assert 'bedplate_ingest_stuck_partitions{source="events"} 1' in metrics_text([worker.measures])
    worker.measure_lag()
    assert worker.measures.partitions["b"].lag == 0  # of the others it is known what is left
    kind, taken = name.partition(".")[2], state.position("a").at
    put(damaged.parent, name, WRITERS[kind]([row(10 + i) for i in range(40)]))
    left = Ingest(store, [each], stream(tmp_path, each, FORM["pb"])).run()
    assert (left.files, left.events) == (2, 40 - taken + 1)
    assert read_state(store, each).position("a").name == "4.jsonl"


def test_blanks_that_begin_a_line_are_no_row(tmp_path: Path) -> None:
    put(tmp_path / "stream", "1.jsonl", jsonl([row(0), b""]) + b" \t")
    each = view()
    store = loaded(each)
    Ingest(store, [each], stream(tmp_path, each)).run()
    put(tmp_path / "stream", "1.jsonl", jsonl([row(0), b""]) + b" \t" + jsonl([row(1)]))
    with pytest.raises(StuckError, match="has 3 rows, and was taken in to its end when it had 2"):
        Ingest(store, [each], stream(tmp_path, each)).run()


def test_a_letter_that_is_still_wrong_is_told_before_any_is_taken(tmp_path: Path) -> None:
    put(tmp_path / "stream", "1.jsonl", jsonl([b"no"] * 5))
    each = view()
    store = loaded(each)
    Ingest(store, [each], stream(tmp_path, each)).run()
    [path] = (tmp_path / "letters").glob("*.jsonl")
    mend(tmp_path, {("1.jsonl", i): row(i) if i != 3 else {"user": None} for i in range(5)})
    with pytest.raises(DataError, match=r"1 of 5 letters are still wrong, the first is the one of row 3 of 1\."):
        Ingest(store, [each], LetterStream(path, each, store), batch=2, late=True).run()
    assert read_state(store, each).events == 0
    mend(tmp_path, {("1.jsonl", i): row(i) for i in range(5)})
    letters = LetterStream(path, each, store)
    worker = Ingest(store, [each], letters, batch=2, late=True)
    worker.turn()
    assert (len(letters), [letter.row for letter in letters.withheld()]) == (5, [2, 3, 4])
    worker.run()
    assert_oracle(store, each, [row(i) for i in range(5)])


def test_a_name_that_is_too_long_for_the_store_stops_its_partition_alone(tmp_path: Path) -> None:
    put(tmp_path / "stream" / ("a" * 240), f"{'b' * 240}.jsonl", jsonl([row(0), b"no"]))
    put(tmp_path / "stream" / ("c" * 240), f"{'d' * 150}.jsonl", jsonl([row(1), b"no"]))
    each = view()
    with open_store("lmdb:online", tmp_path) as store:
        bulk_load(store, each, [], START)
        with pytest.raises(StuckError, match="have more than 400 bytes"):
            Ingest(store, [each], stream(tmp_path, each)).run()
        assert_oracle(store, each, [row(1)])
    with pytest.raises(ConfigError, match="the path is not UTF-8"):
        FileStream(tmp_path / "\udcff", each)


def test_a_folder_may_have_any_name_and_letters_are_replayed_beside_it(tmp_path: Path) -> None:
    each = view()
    for folder in ("replay", "letters"):
        put(tmp_path / "stream" / folder, "1.jsonl", jsonl([row(0), b"no", row(2)]))
    store = loaded(each)
    for taken in (2, 0, 0):
        Ingest(store, [each], stream(tmp_path, each)).run()
        mend(tmp_path, {(f"{folder}/1.jsonl", 1): row(1) for folder in ("replay", "letters")})
        assert replay(tmp_path, store, each) == taken
        assert_oracle(store, each, [row(i) for i in range(3)] * 2)


def test_all_partitions_that_can_not_go_on_are_named(tmp_path: Path) -> None:
    for part in "abc":
        put(tmp_path / "stream" / part, "1.parquet", b"no")
    each = view()
    with pytest.raises(StuckError, match=r"(?s)a/1.parquet.*2 more that can't: .*b/1.parquet, .*c/1.parquet"):
        Ingest(loaded(each), [each], stream(tmp_path, each)).run()


def test_a_file_with_rows_that_the_load_had_stops_its_partition_alone(tmp_path: Path) -> None:
    put(tmp_path / "stream" / "a", "1.jsonl", jsonl([row(-5), b"no"]))
    put(tmp_path / "stream" / "b", "1.jsonl", jsonl([row(1)]))
    each = view()
    store = loaded(each)
    with pytest.raises(StuckError, match="it would count twice"):
        Ingest(store, [each], stream(tmp_path, each)).run()
    assert_oracle(store, each, [row(1)])


def test_what_is_no_file_of_a_stream_is_told(tmp_path: Path) -> None:
    put(tmp_path / "stream", "1.jsonl", jsonl([row(1)]))
    # The last two names are no UTF-8.
    for name in (
        "2.csv",
        "a/3.txt",
        "a/deep/4.jsonl",
        ".hidden",
        "5.jsonl.tmp",
        "a/.6.jsonl",
        "7\udcff.jsonl",
        "\udcff/x",
    ):
        (tmp_path / "stream" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stream" / name).write_bytes(b"")
    each = view()
    worker = Ingest(loaded(each), [each], stream(tmp_path, each))
    assert worker.run().files == 1
    assert worker.measures.strangers == ("2.csv", "7\\udcff.jsonl", "\\udcff", "a/3.txt", "a/deep")


@pytest.mark.parametrize("kind", FORMS)
def test_a_file_that_has_grown_is_told_and_not_passed_over(tmp_path: Path, kind: str) -> None:
    write_schemas(tmp_path)
    rows = [row(i) for i in range(5)]
    put(tmp_path / "stream", f"1.{kind}", WRITERS[kind](rows))
    each, form = view(tmp_path), FORM.get(kind, "json")
    store = loaded(each)
    Ingest(store, [each], stream(tmp_path, each, form)).run()
    put(tmp_path / "stream", f"1.{kind}", WRITERS[kind]([*rows, row(5)]))
    with pytest.raises(StuckError, match="has 6 rows, and was taken in to its end when it had 5"):
        Ingest(store, [each], stream(tmp_path, each, form)).run()
    put(tmp_path / "stream", f"1.{kind}", WRITERS[kind](rows))
    put(tmp_path / "stream", f"2.{kind}", WRITERS[kind]([row(5)]))
    Ingest(store, [each], stream(tmp_path, each, form)).run()
    assert_oracle(store, each, [*rows, row(5)])


def test_avro_is_read_by_its_own_schema_or_checked_against_one(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    put(tmp_path / "stream", "1.avro", avro([row(1)], amount="int"))
    each = view(tmp_path)
    for form in ("json", FORM["avro"]):
        store = loaded(each)
        Ingest(store, [each], stream(tmp_path, each, form)).run()
        assert_oracle(store, each, [row(1)])
    put(tmp_path / "stream", "2.avro", avro([row(2, amount="2")], amount="string"))
    with pytest.raises(StuckError, match="is not of the schema"):
        Ingest(store, [each], stream(tmp_path, each, FORM["avro"])).run()


def test_messages_need_a_form_and_a_form_must_be_one(tmp_path: Path) -> None:
    put(tmp_path / "stream", "1.pb", pb([row(1)]))
    each = view(tmp_path)
    with pytest.raises(StuckError, match="--format protobuf:FILE:MESSAGE"):
        Ingest(loaded(each), [each], stream(tmp_path, each)).run()
    with pytest.raises(ConfigError, match="expected json, avro:FILE"):
        stream(tmp_path, each, "xml")
    (tmp_path / "e.txt").write_text("no descriptors")
    with pytest.raises(
        ConfigError, match=r"--format protobuf:e\.txt:E: can't read the schema: it is no descriptor set"
    ):
        stream(tmp_path, each, "protobuf:e.txt:E")


def test_an_event_ahead_of_the_clock_waits_in_the_store_as_history_has_it(tmp_path: Path) -> None:
    put(tmp_path / "stream", "1.jsonl", jsonl([row(1), row(2, user=None), row(3, time=START + 400 * DAY)]))
    each = view()
    store = loaded(each)
    worker = Ingest(store, [each], stream(tmp_path, each), clock=lambda: START + DAY)
    assert worker.run().watermark == START + MINUTE
    assert (worker.measures.ahead, worker.measures.letters) == (1, 1)
    assert_oracle(store, each, [row(1), row(3, time=START + 400 * DAY)])


def test_a_letter_of_another_directory_of_the_same_names_is_another(tmp_path: Path) -> None:
    each = view()
    for folder in ("one", "two"):
        put(tmp_path / folder / "stream", "1.jsonl", jsonl([f'"{folder}"'.encode()]))
        store = loaded(each)
        Ingest(store, [each], FileStream(tmp_path / folder / "stream", each, tmp_path / "letters")).run()
    assert sorted(letter.payload for letter in letters_in(tmp_path)) == ['"one"', '"two"']


def test_letters_of_names_that_are_long_or_odd_are_written_once(tmp_path: Path) -> None:
    names = ["[a]*?.jsonl", f"{'ü' * 120}.jsonl", "a-b.jsonl"]
    for name in names:
        put(tmp_path / "stream" / "p", name, jsonl([b"no"]))
    for _ in range(2):  # of which the second has forgotten what it did
        each = view()
        Ingest(loaded(each), [each], stream(tmp_path, each)).run()
    assert sorted(letter.file for letter in letters_in(tmp_path)) == sorted(f"p/{name}" for name in names)


def test_letters_that_can_not_be_written_end_the_worker_with_nothing_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "stream", "1.jsonl", jsonl([row(1), b"no", row(2)]))
    (tmp_path / "letters").write_text("a file where the folder would be")
    each = view()
    store = loaded(each)
    with pytest.raises(StoreError, match=r"letters: can't write the dead letters: .*\n  make room or choose another"):
        Ingest(store, [each], stream(tmp_path, each)).run()
    assert read_state(store, each).events == 0
    (tmp_path / "letters").unlink()
    Ingest(store, [each], stream(tmp_path, each)).run()
    assert_oracle(store, each, [row(1), row(2)])
    assert [letter.row for letter in letters_in(tmp_path)] == [1]


def test_a_letter_in_base64_is_mended_by_its_payload(tmp_path: Path) -> None:
    put(tmp_path / "stream", "1.jsonl", jsonl([b"\xff"]))
    each = view()
    store = loaded(each)
    Ingest(store, [each], stream(tmp_path, each)).run()
    [path] = (tmp_path / "letters").glob("*.jsonl")
    [letter] = read_letters(path)
    assert letter.base64 == "/w=="
    mended = msgspec.structs.replace(letter, payload=msgspec.json.encode(row(1)).decode())
    path.write_bytes(msgspec.json.encode(mended))
    assert replay(tmp_path, store, each) == 1
    assert_oracle(store, each, [row(1)])


def test_a_sum_beyond_64_bits_goes_aside_from_the_view_of_the_sum(tmp_path: Path) -> None:
    rows = [row(0, amount=2**62), row(1), row(3, amount=2**62)]
    put(tmp_path / "stream", "1.parquet", parquet(rows))
    each, other = view(), FeatureView("counts", USER, SOURCE, {"n": Count()}).compile()
    store = loaded(each, other)
    done = Ingest(store, [each, other], stream(tmp_path, each)).run()
    assert_oracle(store, each, [rows[1]])
    assert done.events == 3  # a view took in each
    alone = loaded(each)
    assert Ingest(alone, [each], stream(tmp_path, each)).run().events == 1
    aside = {letter.row: msgspec.json.decode(letter.payload) for letter in letters_in(tmp_path)}
    assert aside == {0: rows[0], 2: rows[2]}
    assert_oracle(store, other, rows)


events = st.lists(
    st.tuples(
        st.integers(-50, 300),  # minutes: late ones, and out of order
        st.sampled_from(["good", "good", "good", "twice", *POISON, b"{", b"", b'{"user": "x"}', b"\xff"]),
        st.sampled_from(["", "a", "b"]),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(events=events, batch=st.integers(1, 12), cuts=st.integers(1, 9), kind=st.sampled_from(FORMS))
def test_equals_history_without_the_poison_and_after_replay_with_it(
    tmp_path_factory: pytest.TempPathFactory, events: list[Any], batch: int, cuts: int, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("stream")
    write_schemas(folder)
    held: dict[str, list[Any]] = {}
    meant: dict[tuple[str, int], dict[str, Any]] = {}
    good = list[dict[str, Any]]()
    for number, (at, drawn, partition) in enumerate(events):
        written = held.setdefault(partition, [])
        whole = row(at, amount=number, user=number % 3)
        what = POISON[0] if isinstance(drawn, bytes) and kind != "jsonl" else drawn
        if what == b"":
            written.append(b"")
        elif isinstance(what, str):
            copies = 2 if what == "twice" else 1
            written += [whole] * copies
            good += [whole] * copies
        else:
            name = f"{len(written) // cuts:04}.{kind}"
            meant[f"{partition}/{name}" if partition else name, len(written) % cuts] = whole
            written.append(what if isinstance(what, bytes) else whole | what)
    for partition, rows in held.items():
        for begin in range(0, len(rows), cuts):
            put(folder / "stream" / partition, f"{begin // cuts:04}.{kind}", WRITERS[kind](rows[begin : begin + cuts]))
    (folder / "stream").mkdir(exist_ok=True)
    each, form = view(folder), FORM.get(kind, "json")
    store = loaded(each)
    Ingest(store, [each], stream(folder, each, form), batch=batch, late=True).run()
    assert_oracle(store, each, good)
    assert {(letter.file, letter.row) for letter in letters_in(folder)} == meant.keys()
    mend(folder, meant)
    assert [replay(folder, store, each, form) for _ in range(2)] == [len(meant), 0]
    assert_oracle(store, each, [*good, *meant.values()])
