"""The record of what was applied: written whole or not at all, read back as it was, and what changed since."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate import Project
from bedplate.cli.main import run
from bedplate.errors import StoreError
from bedplate.features.applied import read_applied, write_applied
from bedplate.features.diff import diff
from bedplate.features.view import Feature
from bedplate.types import Type

FEATURES = """\
from datetime import datetime
import polars as pl
from bedplate import Count, DerivedFeature, Entity, FeatureView, Last, Source, Sum
frame = pl.DataFrame({"user": [1], "price": [2.0], "time": [datetime(2026, 1, 1)]})
orders = Source("orders", frame, time="time")
user = Entity("user", key="user")
features = {"sum": Sum("price", windows="7d"), "n": Count(), "last": Last("price")}
spending = FeatureView("spending", user, orders, features)
double = DerivedFeature("double", pl.col("spending.last") * 2)
"""
features = st.builds(
    Feature,
    name=st.text(min_size=1, max_size=8),
    type=st.sampled_from(list(Type)),
    is_list=st.booleans(),
    id=st.sampled_from(["a", "b", "c"]),
    text=st.text(max_size=10),
)
graphs = st.lists(features, max_size=6).map(lambda fs: {f.name: f for f in fs})


@given(first=graphs, second=graphs)
def test_a_record_is_read_as_it_was_written(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("record") / "applied" / "p.json"
    assert read_applied(path) is None
    for graph in (first, second):
        write_applied(path, graph)
        assert read_applied(path) == graph
    assert [p.name for p in path.parent.iterdir()] == ["p.json"]


@given(old=graphs, new=graphs)
def test_a_difference_is_what_a_loop_finds(old, new):
    found = diff(old, new)
    names = {f.name for f in (*found.added, *found.removed)} | {b.name for _, b in found.changed}
    for name in {*old, *new}:
        same = name in old and name in new and old[name].id == new[name].id
        assert (name not in names) == same
    assert {f.name for f in found.added} == new.keys() - old.keys()
    assert {f.name for f in found.removed} == old.keys() - new.keys()
    assert bool(found) == bool(names)
    assert len(found.lines()) == len(names)
    back = diff(new, old)
    assert (back.added, back.removed) == (found.removed, found.added)
    assert {(b.name, a.name) for a, b in back.changed} == {(a.name, b.name) for a, b in found.changed}


def test_an_equal_record_is_not_written_again(tmp_path):
    path, graph = tmp_path / "p.json", {"a": Feature("a", Type.INT, False, "1", "Count()")}
    write_applied(path, graph)
    os.utime(path, ns=(5, 5))
    write_applied(path, dict(graph))
    assert path.stat().st_mtime_ns == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"format":1}', "missing required field `features`"),
        (b'{"format":2,"features":[]}', "it has format 2, expected 1"),
        (b'{"format":1,"features":[{"name":3}]}', "Expected `str`"),
        (b"\xff\xfe", "can't read what was applied last"),
        (b'{"format":1,"features":[],"more":1}', "unknown field"),
    ],
)
def test_a_damaged_record_says_what_to_do(tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        read_applied(path)
    assert message in caught.value.message
    assert caught.value.where == str(path)
    assert "bedplate apply" in caught.value.hint
    write_applied(path, {})
    assert read_applied(path) == {}


def test_a_record_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"file/p.json: can't record what was applied: .*\n.*kept"):
        write_applied(tmp_path / "file" / "p.json", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(FEATURES)
    return tmp_path


def plan(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert run(["plan", "--project", str(folder), *options]) == 0
    return capsys.readouterr().out


def test_a_plan_shows_what_changed_since_the_last_apply(folder, capsys):
    assert "changed since" not in plan(folder, capsys)
    assert json.loads(plan(folder, capsys, "--json"))["changes"] is None
    assert run(["apply", "--project", str(folder)]) == 0
    assert "changed since" not in plan(folder, capsys)
    assert json.loads(plan(folder, capsys, "--json"))["changes"] == {"added": [], "removed": [], "changed": []}
    text = FEATURES.replace('"n": Count()', '"n": Count(windows="1d")').replace('"7d"', 'Window.of("7d", hop="1d")')
    text = (
        text.replace("Source, Sum", "Source, Sum, Window")
        .replace("double = ", "twice = ")
        .replace('"double"', '"twice"')
    )
    (folder / "features.py").write_text(text)
    lines = plan(folder, capsys).splitlines()
    begin = lines.index("changed since the last apply")
    assert lines[begin + 1 : begin + 6] == [
        '  - double: float64, col("spending.last") * 2',
        "  - spending.n: int64, Count() over all history",
        "  + spending.n_1d: int64, Count() over 1d (hop 1h)",
        '  ~ spending.sum_7d: Sum(col("price")) over 7d (hop 1h) -> Sum(col("price")) over 7d (hop 1d)',
        '  + twice: float64, col("spending.last") * 2',
    ]
    changes = json.loads(plan(folder, capsys, "--json"))["changes"]
    assert [f["name"] for f in changes["added"]] == ["spending.n_1d", "twice"]
    assert [f["name"] for f in changes["removed"]] == ["spending.n", "double"]
    (change,) = changes["changed"]
    assert change["old"]["name"] == change["new"]["name"] == "spending.sum_7d"
    assert change["old"]["id"] != change["new"]["id"]
    assert run(["apply", "--project", str(folder)]) == 0
    assert "changed since" not in plan(folder, capsys)


def test_an_apply_that_fails_leaves_the_record(folder, capsys):
    assert Project(folder).changes() is None
    Project(folder).apply()
    bad = FEATURES.replace("datetime(2026, 1, 1)]", "None]").replace(
        '"time": [None]', '"time": pl.Series([None], dtype=pl.Date)'
    )
    (folder / "features.py").write_text(bad.replace('"n": Count()', '"m": Count()'))
    assert run(["apply", "--project", str(folder)]) == 3
    changes = Project(folder).changes()
    assert [f.name for f in changes.added] == ["spending.m"]
    assert [f.name for f in changes.removed] == ["spending.n"]


def test_projects_that_share_an_offline_store_have_records_of_their_own(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "bedplate.toml").write_text(f'[offline]\npath = "{folder}/.bedplate/offline"')
    (other / "features.py").write_text(FEATURES.replace('"n": Count()', '"m": Count()'))
    Project(folder).apply()
    assert Project(other).changes() is None
    Project(other).apply()
    assert not Project(folder).changes()
    assert not Project(other).changes()
