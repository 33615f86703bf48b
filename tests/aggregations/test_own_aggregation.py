"""An aggregation in a file of a project's own, as docs/history.md shows it; and what the contract suite catches."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count
from bedplate.aggregations.base import OneInput, Output, Reduce, Reduction
from bedplate.batch import Dense
from bedplate.cli.main import run
from bedplate.errors import DefinitionError
from bedplate.online.fetch import OnlineReader
from bedplate.project import Project
from bedplate.testing.aggregation import AggregationContract
from bedplate.types import Type

PAGE = (Path(__file__).parents[2] / "docs" / "history.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
ORDERS = {1: [2.0, 8.0, -1.0], 2: [5.0]}
LAWS = [name for name in dir(AggregationContract) if name.startswith("test_")]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("aggregations.py", "features.py"):
        Path(name).write_text(FILES[name])
    Path("bedplate.toml").touch()
    return tmp_path


def test_it_is_planned_built_looked_up_and_read_online(project, capsys):
    for words in (["plan", "--features"], ["apply"], ["materialize", "--until", "2026-01-06"], ["plan", "--features"]):
        assert run(words) == 0, words
    assert "WeekendShare(" in capsys.readouterr().out
    assert run(["lookup", "purchases.*", "--key", "user=1", "--time", "2026-01-06", "--json"]) == 0
    assert "0.666" in json.dumps(json.loads(capsys.readouterr().out))
    opened = Project(project)
    history = opened.lookup("purchases.*", [1, 2, 3], "2026-01-06")
    assert history["purchases.weekend"].to_list() == [2 / 3, 0.0, None]
    assert history["purchases.typical_7d"].to_list() == pytest.approx([4.0, 5.0, None], abs=1e-12)
    with opened.open_store() as store:
        assert opened.lookup("purchases.*", [1, 2, 3], "2026-01-06", OnlineReader(store)).equals(history)


def test_other_reductions_make_it_another_feature(project):
    """Its file may be changed: what was built or loaded for it as it was is not read for it as it is."""
    before = Project(project)
    before.apply()
    file = project / "aggregations.py"
    file.write_text(file.read_text().replace("Reduce.COUNT, self.weekend", "Reduce.COUNT, self.selection"))
    after = Project(project)
    assert after.view("purchases").id != before.view("purchases").id
    assert [str(line).partition(":")[0] for line in str(after.changes()).splitlines()][:1] == ["~ purchases.weekend"]
    after.apply()
    assert after.lookup("purchases.weekend", [1], "2026-01-06")["purchases.weekend"].to_list() == [1.0]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("some / np.maximum(every, 1)", "1 - some / np.maximum(every, 1)", False),
        ("(UTC). No event: null.", "of the week in UTC. No event: null.", True),
        ("return (Dense(some", "# The share of them.\n        return (Dense(some", True),
    ],
)
def test_another_finalize_makes_it_another_feature_of_the_same_index(project, old, new, same):
    before = Project(project)
    before.apply()
    share = before.graph.features["purchases.weekend"].id
    file = project / "aggregations.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    after = Project(project)
    assert (after.graph.features["purchases.weekend"].id == share) is same
    assert (after.view("purchases").id == before.view("purchases").id) is same
    typical = "purchases.typical_7d"
    assert after.graph.features[typical].id == before.graph.features[typical].id
    assert [line.partition(":")[0] for line in after.changes().lines()] == ([] if same else ["~ purchases.weekend"])
    assert after.apply() == []
    expected = [2 / 3 if same else 1 - 2 / 3]
    assert after.lookup("purchases.weekend", [1], "2026-01-06")["purchases.weekend"].to_list() == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("    known = {1: 2}\n", "'WeekendShare.known' is a dict, which can change"),
        ("    def text(self, table=[]):\n        return table\n", "the default 0 of .* is a list, which can change"),
    ],
)
def test_what_can_change_is_refused_when_it_is_loaded(project, line, message):
    file = project / "aggregations.py"
    file.write_text(file.read_text().replace("    def __init__", f"{line}\n    def __init__", 1))
    with pytest.raises(DefinitionError, match=rf"view 'purchases', feature 'weekend': .*{message}"):
        Project(project)


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory):
    """The page's aggregations as a module of their own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_aggregations.py").write_text(FILES["aggregations.py"])
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("own_aggregations", None)


def load():
    return importlib.import_module("own_aggregations")


class TestGeometricMean(AggregationContract):
    def make(self, windows=None, where=None):
        return load().GeometricMean("price", windows, where)


class TestWeekendShare(AggregationContract):
    def make(self, windows=None, where=None):
        return load().WeekendShare(pl.col("seen"), windows, where)


class Parity(OneInput):
    """An aggregation that is right unless something is done to it: whether the number of values is odd."""

    @property
    def reductions(self):
        return (Reduction(Reduce.COUNT, self.selection),)

    def outputs(self, types):
        return (Output("", Type.INT),)

    def finalize(self, partials, times):
        return (Dense(partials[0].values % 2),)


class Carried(Parity):
    """Remembers what it saw before: one call is not as another."""

    seen = 0

    def finalize(self, partials, times):
        Carried.seen += 1
        return (Dense(partials[0].values + Carried.seen),)


class Careless(Parity):
    """Forgets its condition."""

    def __init__(self, expression, windows=None, where=None):
        super().__init__(expression, windows, None)


class Mistyped(Parity):
    """Says floats and gives integers."""

    def outputs(self, types):
        return (Output("", Type.FLOAT),)


class Nameless(Parity):
    """Has another form each time."""

    made = 0

    def options(self):
        Nameless.made += 1
        return {"made": Nameless.made}


class Clock(Parity):
    """Depends on the place of a key among those that are asked for."""

    def finalize(self, partials, times):
        return (Dense(partials[0].values + range(len(times))),)


def suite_of(kind):
    class Suite(AggregationContract):
        def make(self, windows=None, where=None):
            return kind("price", windows, where)

    return Suite()


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Carried, "test_history_and_online_store_give_the_same"),
        (Carried, "test_partials_of_pieces_merge"),
        (Careless, "test_where_leaves_events_out"),
        (Careless, "test_no_events"),
        (Mistyped, "test_columns_are_of_the_types_that_are_declared"),
        (Nameless, "test_equal_definitions_have_equal_forms"),
        (Clock, "test_many_rows_are_answered_as_few"),
    ],
)
def test_the_suite_catches_what_is_wrong(kind, law, tmp_path):
    check = getattr(suite_of(kind), law)
    with pytest.raises(AssertionError):
        check(*[tmp_path] * (check.__code__.co_argcount - 1))


def test_the_suite_says_that_it_must_be_told_what_to_make():
    with pytest.raises(DefinitionError, match="how its aggregation is made"):
        AggregationContract().make()
    assert len(LAWS) > 10


def test_a_selection_is_narrowed_by_a_second_condition():
    count = Count("price", where=pl.col("flag"))
    both = count.selection.narrowed(pl.col("quantity") > 1, "test")
    assert both.form == Count("price", where=pl.col("flag") & (pl.col("quantity") > 1)).selection.form
    assert count.selection.narrowed(None, "test") is count.selection
