"""PostgreSQL tables on a real server: one state, exact values, only the columns that are needed, and no secrets."""

from __future__ import annotations

import gc
import itertools
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from postgres import PASSWORD, Server

from bedplate.errors import DataError, DefinitionError
from bedplate.sources.base import Source
from bedplate.sources.events import read_events
from bedplate.sources.postgresql import PostgreSQLTable, open_table
from bedplate.types import to_micros

ROWS = """
CREATE TABLE {name} (n int8 PRIMARY KEY, time timestamptz, x float8, word text);
INSERT INTO {name} VALUES (1, '2026-01-01', 0.5, 'a'), (2, '2026-01-02', NULL, 'b'), (3, '2026-01-03', 2.5, NULL)
"""
names = itertools.count()


@pytest.fixture
def name(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table of three rows."""
    monkeypatch.setenv("SHOP", server.uri())
    name = f"rows_{next(names)}"
    for statement in ROWS.format(name=name).split(";"):
        server.execute(statement)
    return name


def table(name: str, **options) -> PostgreSQLTable:
    return PostgreSQLTable(name, env="SHOP", **options)


def numbers(rows: pl.LazyFrame) -> list[int]:
    return rows.select("n").collect()["n"].to_list()


def test_a_state_is_pinned_when_it_is_first_looked_at(server, name):
    pinned = table(name)
    rows = pinned.scan()
    before = pinned.snapshot()
    server.execute(f"INSERT INTO {name} (n) VALUES (4)", f"UPDATE {name} SET x = 9", f"DELETE FROM {name} WHERE n = 1")
    assert (pinned.snapshot(), numbers(pinned.scan()), numbers(rows)) == (before, [1, 2, 3], [1, 2, 3])
    assert pinned.scan().collect()["x"].to_list() == [0.5, None, 2.5]
    now = table(name)
    assert (now.snapshot().rows, numbers(now.scan())) == (3, [2, 3, 4])
    assert now.snapshot().id != before.id


def test_the_id_is_that_of_the_content(server, name):
    first = table(name).snapshot()
    changes = [
        (f"UPDATE {name} SET x = 2 WHERE n = 1", f"UPDATE {name} SET x = 0.5 WHERE n = 1"),
        (f"UPDATE {name} SET word = '' WHERE n = 3", f"UPDATE {name} SET word = NULL WHERE n = 3"),
        (f"INSERT INTO {name} (n) VALUES (4)", f"DELETE FROM {name} WHERE n = 4"),
        (f"ALTER TABLE {name} ADD more int4", f"ALTER TABLE {name} DROP more"),
        (f"ALTER TABLE {name} ALTER word TYPE varchar(9)", f"ALTER TABLE {name} ALTER word TYPE text"),
    ]
    ids = [first.id]
    for change, back in changes:
        server.execute(change)
        ids.append(table(name).snapshot().id)
        gc.collect()  # an open state keeps others from altering the table
        server.execute(back)
        assert table(name).snapshot() == first
        gc.collect()
    assert len(set(ids)) == len(ids)
    server.execute(f"VACUUM FULL {name}")
    assert table(name).snapshot() == first


def test_columns_that_are_not_named_change_nothing(server, name):
    narrow = table(name, columns=["time", "n"])
    before = narrow.snapshot()
    assert list(narrow.schema()) == ["n", "time"]
    server.execute(f"UPDATE {name} SET x = x + 1, word = 'c'")
    assert table(name, columns=["n", "time"]).snapshot() == before
    del narrow
    gc.collect()
    server.execute(f"ALTER TABLE {name} DROP word", f"ALTER TABLE {name} ADD more int4")
    assert table(name, columns=["n", "time"]).snapshot() == before


def test_the_server_gets_what_is_asked_for_and_no_more(server, name):
    """The statements are written down by the server itself."""
    server.execute("ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
    rows = table(name).scan()
    query = rows.filter(pl.col("time") >= datetime(2026, 1, 2, tzinfo=UTC), pl.col("word") == "it's").select("n")
    assert query.collect()["n"].to_list() == []
    assert rows.filter(pl.col("n") * 2 > 4).select("n").collect()["n"].to_list() == [3]
    source = Source("rows", table(name), time="time")
    inside = source.during(rows, to_micros("2026-01-02"), to_micros("2026-01-03"))
    assert source.events(rows).filter(inside).select("n").collect()["n"].to_list() == [2]
    server.execute("ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")
    asked = [line for line in server.log.read_text().splitlines() if f"FROM {name}" in line and "ORDER BY" in line]
    conditions = "\"word\" COLLATE \"C\" = 'it''s'", "\"time\" >= '2026-01-02T00:00:00+00:00'::timestamptz"
    assert any(all(c in line for c in conditions) for line in asked)
    ranged = (
        '("time" >= \'2026-01-02T00:00:00+00:00\'::timestamptz OR "time" IS NULL)',
        '("time" < \'2026-01-03T00:00:00+00:00\'::timestamptz OR "time" IS NULL)',
    )
    assert any(all(c in line for c in ranged) for line in asked)
    assert all('"x"' not in line for line in asked)
    assert any(f'SELECT "n" AS "n" FROM {name} ORDER BY "n"' in line for line in asked)


def test_texts_are_compared_by_their_bytes_as_here(server, name):
    server.execute(f"INSERT INTO {name} (n, word) VALUES (4, 'Z'), (5, 'ä'), (6, E'\\\\'), (7, '''; --')")
    rows = table(name).scan()
    frame = rows.collect()
    for value in ("Z", "\\", "'; --", "\0"):
        for condition in (pl.col("word") == value, pl.col("word") > value):
            assert numbers(rows.filter(condition)) == numbers(frame.lazy().filter(condition)), (value, str(condition))


def test_every_type_has_a_form(server, name, monkeypatch):
    server.execute(
        f"CREATE TYPE mood_{name} AS ENUM ('good', 'bad')",
        f"CREATE DOMAIN money_{name} AS numeric(12, 3)",
        f"""CREATE TABLE types_{name} (n int4 PRIMARY KEY, whole numeric(38, 0), free numeric, price money_{name},
            mood mood_{name}, id uuid, data json, more jsonb, took interval, at time, code char(4), short varchar(4),
            amounts numeric[], ids uuid[], counts int8[], number oid, address inet)""",
        f"""INSERT INTO types_{name} VALUES (1, 12345678901234567890123456789012345678, 0.25, 123456789.125, 'bad',
            'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{{"a": 1}}', '{{"b": 2}}', '1 day', '10:30', 'ab', 'cd',
            '{{1.5, NULL}}', '{{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}}', '{{9007199254740993}}', 4294967295, '::1')""",
        f"INSERT INTO types_{name} (n) VALUES (2)",
    )
    rows = table(f"types_{name}")
    types = {c: str(t) for c, t in rows.schema().items() if c in ("whole", "free", "price", "number", "counts", "mood")}
    assert types == {
        "whole": "Decimal(precision=38, scale=0)",
        "free": "Float64",
        "price": "Decimal(precision=12, scale=3)",
        "mood": "String",
        "counts": "List(Int64)",
        "number": "Int64",
    }
    full, empty = rows.scan().collect().to_dicts()
    assert all(value is None for column, value in empty.items() if column != "n")
    shown = {c: str(v) for c, v in full.items()}
    assert shown["whole"] == "12345678901234567890123456789012345678"
    assert shown["price"] == "123456789.125"
    assert (shown["free"], shown["mood"], shown["data"], shown["more"]) == ("0.25", "bad", '{"a": 1}', '{"b": 2}')
    assert (shown["took"], shown["at"], shown["code"], shown["short"]) == ("1 day", "10:30:00", "ab  ", "cd")
    assert (shown["amounts"], shown["counts"], shown["number"]) == ("[1.5, None]", "[9007199254740993]", "4294967295")
    assert shown["id"] == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    assert shown["address"].startswith("::1")
    assert rows.snapshot().rows == 2


def test_rows_come_in_the_order_of_the_key_or_of_named_columns(server, name):
    server.execute(f"UPDATE {name} SET x = 1", f"UPDATE {name} SET x = 0 WHERE n = 3")
    assert numbers(table(name).scan()) == [1, 2, 3]
    by_x = table(name, order=["x"])
    found = numbers(by_x.scan())
    assert found[0] == 3
    server.execute(f"UPDATE {name} SET word = word")
    assert numbers(table(name, order=["x"]).scan()) == found
    assert by_x.snapshot().id != table(name).snapshot().id


def test_a_key_of_several_columns_and_names_that_need_quotes(server, name):
    server.execute(
        f'CREATE SCHEMA "My {name}"',
        f'CREATE TABLE "My {name}"."Rows" ("A b" int4, "c""d" text, PRIMARY KEY ("c""d", "A b"))',
        f"""INSERT INTO "My {name}"."Rows" VALUES (2, 'x'), (1, 'y'), (1, 'x')""",
    )
    rows = table(f'"My {name}"."Rows"')
    assert rows.scan().collect().rows() == [(1, "x"), (2, "x"), (1, "y")]
    assert rows.row_name(1) == 'the row with c"d = x and A b = 2'
    assert rows.row_name(3) == "row 3"


def test_a_view_needs_an_order(server, name):
    server.execute(f"CREATE VIEW view_{name} AS SELECT n, x FROM {name} WHERE n > 1")
    with pytest.raises(DefinitionError, match=r"no primary key, so its rows have no order\n  name the columns"):
        table(f"view_{name}").schema()
    assert numbers(table(f"view_{name}", order=["n"]).scan()) == [2, 3]
    with pytest.raises(DefinitionError, match=r"no column 'm'"):
        table(f"view_{name}", order=["m"]).schema()


def test_an_early_end_leaves_no_connection(server, name):
    server.execute(f"INSERT INTO {name} SELECT i FROM generate_series(10, 200000) i")
    rows = table(name)
    assert rows.scan().head(2).collect()["n"].to_list() == [1, 2]
    gc.collect()
    count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{}%' AND pid <> pg_backend_pid()"
    assert server.value(count.format(f"FROM {name}")) == 1
    del rows
    gc.collect()
    assert server.value(count.format(f"FROM {name}")) == 0


def give_up(server: Server) -> None:
    """The server ends transactions that wait, as it does after ten minutes."""
    waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    server.execute(waiting)


def test_a_state_that_the_server_gave_up_is_taken_again_while_it_is_the_same(server, name):
    rows = table(name)
    before = rows.snapshot()
    give_up(server)
    server.execute(f"ALTER TABLE {name} SET (fillfactor = 90)")  # nothing keeps others from it
    assert numbers(rows.scan()) == [1, 2, 3]
    give_up(server)
    server.execute(f"DELETE FROM {name} WHERE n = 2")
    with pytest.raises(
        DataError, match=r"the table moved on: 3 rows when it was first looked at, now 2 rows\n  run it"
    ):
        rows.scan().collect()
    assert rows.snapshot() == before
    gc.collect()
    assert server.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") == 0


def test_the_server_is_told_to_give_a_state_up(server, name, monkeypatch):
    rows = table(name)
    with monkeypatch.context() as soon:
        soon.setattr("bedplate.sources.postgresql._KEPT", "50ms")
        rows.snapshot()
    ended = "SELECT count(*) FROM pg_stat_activity, pg_sleep(0.1) WHERE state LIKE 'idle in transaction%'"
    assert any(server.value(ended) == 0 for _ in range(50))
    assert numbers(rows.scan()) == [1, 2, 3]


def test_urls(server, name, monkeypatch, tmp_path):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    host = f"postgresql://owner@127.0.0.1:{server.port}/postgres"
    expected = table(name).snapshot()
    for url in (
        f"{host}?table={name}",
        f"{host}?application_name=me&table={name}",
        f"postgresql:?table={name}&env=SHOP",
    ):
        assert Source("s", url, time="time").table(tmp_path).snapshot() == expected
    narrow = open_table(f"{host}?table={name}&columns=n,time&order=time,n", tmp_path, "source 's'")
    assert (list(narrow.schema()), numbers(narrow.scan())) == (["n", "time"], [1, 2, 3])
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(server.port))
    monkeypatch.setenv("PGUSER", "owner")
    monkeypatch.setenv("PGDATABASE", "postgres")
    assert PostgreSQLTable(name).snapshot() == expected
    for url, message in (
        (host, "the URL names no table"),
        (f"{host}?table=", "the option 'table' has no value"),
        (f"{host}?table=a&table=b", "the option 'table' has several values"),
    ):
        with pytest.raises(DefinitionError, match=message):
            open_table(url, Path(), "source 's'")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://owner:secret@127.0.0.1/shop",
        "postgresql://owner:@127.0.0.1/shop",
        "postgresql://127.0.0.1/shop?password=secret",
        "postgresql://127.0.0.1/shop?sslpassword=secret",
    ],
)
def test_a_definition_holds_no_password(url):
    for make in (
        lambda: PostgreSQLTable("t", url=url),
        lambda: open_table(f"{url}{'&' if '?' in url else '?'}table=t", Path(), ""),
    ):
        with pytest.raises(DefinitionError, match="the URL holds a password") as caught:
            make()
        assert "secret" not in str(caught.value)
        assert "PGPASSWORD" in str(caught.value)


def test_two_servers_and_servers_of_another_kind_are_refused():
    with pytest.raises(DefinitionError, match="got url and env, expected one"):
        PostgreSQLTable("t", url="postgresql://db/shop", env="SHOP")
    with pytest.raises(DefinitionError, match="a URL of another kind"):
        PostgreSQLTable("t", url="mysql://db/shop")


def wrong(server: Server) -> list[tuple[str, str, str]]:
    """The URL of a server, what is wrong with it, and what to do."""
    with_name = "postgresql://reader:{}@127.0.0.1:{}/{}"
    return [
        (with_name.format("unknown%20word", server.port, "postgres"), "password authentication failed", "PGPASSWORD"),
        (with_name.format("unknown%20word", 1, "postgres"), "Connection refused", "check that the server is up"),
        (with_name.format("pw", server.port, "nowhere"), 'database "nowhere" does not exist', "check that the server"),
        ("host=127.0.0.1 password='unknown word' port=x", "invalid integer value", "check that the server is up"),
        ("postgresql//reader:unknown%20word@db", "the URL of the server is not valid", "check that the server is up"),
    ]


def test_what_is_wrong_with_a_server_is_said_without_secrets(server, name, monkeypatch):
    server.execute("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'pw'")
    for uri, message, hint in wrong(server):
        monkeypatch.setenv("SHOP", uri)
        with pytest.raises(DataError) as caught:
            table(name).rooted(Path(), "source 's'").schema()
        said = str(caught.value)
        assert message in said
        assert hint in said
        assert caught.value.where == f"source 's': postgresql:{name}"
        assert "word" not in said.replace("password", "").replace("PGPASSWORD", "")
        assert caught.value.__cause__ is None
    monkeypatch.delenv("SHOP")
    with pytest.raises(DataError, match="the environment variable SHOP is not set"):
        table(name).schema()


def test_a_table_that_may_not_be_read_is_an_error(server, name, monkeypatch):
    server.execute("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'pw'")
    monkeypatch.setenv("SHOP", server.uri("reader", "pw"))
    with pytest.raises(DataError, match=r"permission denied for table .*\n  ask for the right to read it: GRANT"):
        table(name).snapshot()
    for unknown in ("nowhere", "no.where", "rows; DROP TABLE rows", "rows WHERE n = 1", ""):
        with pytest.raises(DataError, match="can't read the table: "):
            table(unknown).schema()


def test_a_column_that_was_dropped_meanwhile_is_an_error(server, name):
    rows = table(name)
    rows.schema()
    server.execute(f"ALTER TABLE {name} DROP x")
    with pytest.raises(DataError, match=r"column .*x.* does not exist\n  the columns of the table were changed"):
        rows.snapshot()


def test_times_beyond_what_is_accepted_are_named(server, name):
    server.execute(f"UPDATE {name} SET time = 'infinity' WHERE n = 2")
    source = Source("s", table(name), time="time")
    rows = source.table()
    with pytest.raises(DataError, match="the row with n = 2 has time "):
        read_events(source, rows.scan(), [pl.col("n")], keys={}, place="view 'v'", name=rows.row_name)
