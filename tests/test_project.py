"""A project: what loading finds, what a mistake in a file says, and lookups that are what the oracle says."""

from __future__ import annotations

import importlib
import os
import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from small_retail import is_same, make_project

from bedplate import Count, Project, Service
from bedplate.canonical import string_ids
from bedplate.errors import (
    AheadError,
    BedplateError,
    ConfigError,
    DataError,
    DefinitionError,
    NotFoundError,
    StoreError,
)
from bedplate.features.view import FeatureView
from bedplate.offline.reference import Reference
from bedplate.online.fetch import OnlineReader
from bedplate.online.memory import MemoryStore
from bedplate.sources.base import TIME
from bedplate.types import DAY, to_micros

SHOP = """\
import polars as pl
from bedplate import *
T = 1767225600000000  # 2026-01-01

orders = Source(
    "orders",
    pl.DataFrame({"user": [1, 2, 1], "price": [1.0, 2.0, 4.0], "time": [T + 100, T + 200, T + 300]}),
    time="time",
)
user = Entity("user", key="user")
spending = FeatureView("spending", user, orders, {"sum": Sum("price"), "n": Count(windows="1d")})
"""


def project(folder: Path, config: str = "", **files: str) -> Path:
    """Writes a project of these files; each may be loaded again after a change."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bedplate.toml").write_text(config)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def mistake(folder: Path, **files: str) -> BedplateError:
    with pytest.raises(BedplateError) as caught:
        Project(project(folder, **files))
    return caught.value


def test_two_projects_may_have_files_of_one_name(tmp_path: Path) -> None:
    a = Project(project(tmp_path / "a", sources=SHOP, features="from sources import spending"))
    b = Project(project(tmp_path / "b", sources=SHOP.replace("spending", "buying"), features="from sources import *"))
    again = Project(tmp_path / "a")
    assert [list(p.views) for p in (a, b, again)] == [["spending"], ["buying"], ["spending"]]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = project(tmp_path, sources=SHOP, features="from sources import spending")
    assert list(Project(folder).views) == ["spending"]
    project(tmp_path, sources=SHOP.replace("spending", "spending_of_users"), features="from sources import *")
    assert list(Project(folder).views) == ["spending_of_users"]


def test_a_changed_file_of_a_package_is_read_again(tmp_path: Path) -> None:
    """Also of a folder that is a package without a file of its own; a library's module is loaded once."""
    tmp_path = tmp_path / "site-packages" / "project"
    for folder in ("named_here", "deep/inner", ".venv/site-packages/lib"):
        (tmp_path / folder).mkdir(parents=True)
    text = SHOP.replace('"spending"', "NAME").replace(
        "import polars", "from named_here.name import NAME\nimport polars"
    )
    (tmp_path / "named_here" / "name.py").write_text(
        "from deep.inner.name import NAME\nimport lib\nlib.times.append(NAME)\n"
    )
    (tmp_path / "named_here" / "late.py").write_text("")
    (tmp_path / ".venv/site-packages/lib/__init__.py").write_text("times = []\n")
    project(tmp_path, features=f"import sys\nsys.path.append({str(tmp_path / '.venv/site-packages')!r})\n{text}")
    try:
        for name in ("first", "second_one"):
            (tmp_path / "deep/inner/name.py").write_text(f"NAME = '{name}'\n")
            assert list(Project(tmp_path).views) == [name]
            importlib.import_module("named_here.late")  # as a function of a definition does when it is called
            assert sys.modules["named_here"].late is sys.modules["named_here.late"]
        assert sys.modules["lib"].times == ["first", "second_one"]
    finally:
        sys.path.remove(str(tmp_path / ".venv/site-packages"))
        sys.path.remove(str(tmp_path / ".venv/site-packages"))


def test_a_file_that_was_renamed_is_forgotten(tmp_path: Path) -> None:
    folder = project(tmp_path, features=SHOP)
    assert list(Project(folder).views) == ["spending"]
    (folder / "features.py").rename(folder / "datasets.py")
    assert list(Project(folder).views) == ["spending"]
    (folder / "datasets.py").write_text("")
    assert list(Project(folder).views) == []


def test_a_file_that_is_changed_twice_within_a_second_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that a file of definitions imports; Python would take what it compiled of the first."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    shop = SHOP.replace("import polars", "from names import NAME\nimport polars").replace('"spending"', "NAME")
    for name, feature in (("first", "sum"), ("other", "all")):
        project(tmp_path, features=shop.replace('"sum"', f'"{feature}"'), names=f'NAME = "{name}"\n')
        for file in tmp_path.glob("*.py"):
            os.utime(file, (1_800_000_000, 1_800_000_000))
        (view,) = Project(tmp_path).views.values()
        assert (view.name, next(iter(view.features))) == (name, f"{name}.{feature}")


def test_files_share_definitions_in_any_order(tmp_path: Path) -> None:
    folder = project(tmp_path, features=SHOP, service="import features\nfrom features import spending as again\n")
    (folder / "bedplate.toml").write_text('[project]\ndefinitions = ["service.py", "features.py"]')
    loaded = Project(folder)
    assert list(loaded.views) == ["spending"]
    assert loaded.definitions.places["view 'spending'"] == "features.py:11"


def test_definitions_in_lists_count(tmp_path: Path) -> None:
    text = SHOP + 'more = [FeatureView(f"v{i}", user, orders, {"n": Count(windows=f"{i}h")}) for i in (1, 2)]\n'
    assert list(Project(project(tmp_path, features=text)).views) == ["spending", "v1", "v2"]


def test_a_variable_that_is_no_definition_may_hold_anything(tmp_path: Path) -> None:
    """Even what raises when its name is asked for, as a text wrapper does whose file was taken from it."""
    text = SHOP + "import io\nlog = io.TextIOWrapper(io.BytesIO())\nlog.detach()\n"
    assert list(Project(project(tmp_path, features=text)).views) == ["spending"]


def test_an_empty_project_is_one(tmp_path: Path) -> None:
    loaded = Project(project(tmp_path))
    assert loaded.apply() == []
    with pytest.raises(NotFoundError, match=r"the project defines no service\n  define a Service in service.py"):
        loaded.find(Service)


def test_definitions_of_other_kinds_are_found_by_name(tmp_path: Path) -> None:
    service = 'from bedplate import Service\n{} = Service("{}", ranking="m@champion", item="user")\n'
    folder = project(tmp_path, features=SHOP, service=service.format("a", "shop"))
    assert Project(folder).find(Service).name == "shop"
    project(folder, service=service.format("a", "shop") + service.format("b", "feed"))
    loaded = Project(folder)
    assert loaded.find(Service, "feed").name == "feed"
    with pytest.raises(NotFoundError, match=r"defines 2 services\n  name one of: shop, feed"):
        loaded.find(Service)
    with pytest.raises(NotFoundError, match=r"no service is named 'fed'\n.*did you mean 'feed'"):
        loaded.find(Service, "fed")


FAILING = [
    ("x = 1\nimport bedplate\ny = (\n", "features.py:3", "SyntaxError: '(' was never closed"),
    ("x = 1\n\nraise ValueError('no')\n", "features.py:3", "ValueError: no"),
    ("def make():\n    return {}['a']\n\nx = make()\n", "features.py:2", "KeyError: 'a'"),
    ("import sys\nsys.exit(0)\n", "features.py:2", "SystemExit: 0"),
    ("from bedplate import Conut\n", "features.py:1", "Conut"),
    ("import sources\n", "sources.py:2", "NameError: name 'b' is not defined"),
]


@pytest.mark.parametrize(("text", "place", "message"), FAILING)
def test_a_file_that_fails_is_named_with_its_line(tmp_path: Path, text: str, place: str, message: str) -> None:
    error = mistake(tmp_path, features=text, sources="x = 1\ny = b\n")
    assert isinstance(error, DefinitionError)
    assert error.where == place
    assert message in str(error)


def test_a_syntax_error_in_an_imported_file_names_that_file(tmp_path: Path) -> None:
    error = mistake(tmp_path, features="from sources import x\n", sources="x = 1\nif x\n")
    assert error.where == "sources.py:2"
    project(tmp_path, sources="x = 1\nif x: pass\n\n")
    assert list(Project(tmp_path).views) == []


WRONG = [
    (
        'bad = FeatureView("bad", user, orders, {"p": Sum("pric")})',
        "features.py:12: view 'bad', feature 'p'",
        "unknown column 'pric' in an aggregation\n  did you mean 'price'?",
    ),
    (
        'bad = FeatureView("bad", Entity("user", key="usr"), orders, {"n": Count()})',
        "features.py:12: view 'bad'",
        "the key column 'usr' of entity 'user' is not in source 'orders'\n  did you mean 'user'?",
    ),
    (
        'names = Source("names", pl.DataFrame({"user": ["a"], "s": ["b"], "time": [1]}), time="time")\n'
        'bad = FeatureView("bad", user, names, {"n": Count()})',
        "features.py:13: view 'bad'",
        "entity 'user' has string keys here and int64 keys in view 'spending'",
    ),
    (
        'texts = Source("texts", pl.DataFrame({"user": [1], "s": ["b"], "time": [1]}), time="time")\n'
        'bad = FeatureView("bad", user, texts, {"s": Sum("s")})',
        "features.py:13: view 'bad', feature 's'",
        "string",
    ),
    (
        'late = Source("late", pl.DataFrame({"user": [1], "when": [1]}), time="wen")\n'
        'bad = FeatureView("bad", user, late, {"n": Count()})',
        "features.py:12: source 'late'",
        "no time column 'wen'\n  did you mean 'when'?",
    ),
    (
        'bad = FeatureView("bad", user, orders, {"n": Label("n", user, orders, Count())})',
        "features.py:12: view 'bad'",
        "feature 'n' is a Label, expected an aggregation\n  a Label looks forward in time",
    ),
    (
        'bad = DerivedFeature("bad", pl.col("spending.smu") + 1)',
        "features.py:12: derived feature 'bad'",
        "unknown feature 'spending.smu'\n  did you mean 'spending.sum'?",
    ),
    (
        'a = DerivedFeature("a", pl.col("b") + 1)\nb = DerivedFeature("b", pl.col("a") + 1)',
        "features.py:12: derived feature 'a'",
        "the definitions form a cycle: a -> b -> a",
    ),
    (
        'bad = FeatureView("bad", user, orders, {"p": Last(pl.col("price").str.to_lowercase())})',
        "features.py:12: view 'bad', feature 'p'",
        "fails",
    ),
    (
        'bad = DerivedFeature("bad", pl.col("spending.sum").str.to_lowercase())',
        "features.py:12: derived feature 'bad'",
        "fails",
    ),
    (
        '\ntwin = FeatureView("spending", user, orders, {"m": Count()})',
        "features.py:13",
        "two views are named 'spending'\n  the other is in features.py:11",
    ),
    (
        'twin = Source("orders", pl.DataFrame({"user": [1], "time": [1]}), time="time")',
        "features.py:12",
        "two sources are named 'orders'\n  the other is in features.py:5",
    ),
    (
        'a = DerivedFeature("a", pl.col("spending.sum"))\nb = DerivedFeature("a", pl.col("spending.n_1d"))',
        "features.py:13",
        "two derived features are named 'a'\n  the other is in features.py:12",
    ),
    (
        'at, buys = Entity("at", key="time"), Label("buys", user, orders, Count(), within="1d")\n'
        'd = Dataset("d", spine=Spine(orders, request="time", entities=user, item=at), labels=buys,\n'
        '    features=["spending.sun"], split=TimeSplit("2020-01-01", "2020-02-01", gap="1d"))',
        "features.py:13: dataset 'd': features",
        "unknown feature 'spending.sun'\n  did you mean 'spending.sum'?",
    ),
    (
        'at, buys = Entity("at", key="time"), Label("buys", user, orders, Count(), within="1d")\n'
        'd = Dataset("d", spine=Spine(orders, request="time", entities=user, item=at), labels=buys,\n'
        '    features=[buys], split=TimeSplit("2020-01-01", "2020-02-01", gap="1d"))',
        "features.py:13: dataset 'd': features",
        "got a Label, expected a feature, a view or a name\n  a Label looks forward in time",
    ),
]


@pytest.mark.parametrize(("text", "where", "message"), WRONG)
def test_a_wrong_definition_is_named_with_its_file(tmp_path: Path, text: str, where: str, message: str) -> None:
    error = mistake(tmp_path, features=SHOP + text + "\n")
    assert isinstance(error, DefinitionError)
    assert error.where == where
    assert message in str(error)


@pytest.fixture(scope="module")
def retail(tmp_path_factory: pytest.TempPathFactory) -> Project:
    loaded = Project(make_project(tmp_path_factory.mktemp("retail") / "project"))
    assert len(loaded.apply()) >= 5
    assert loaded.apply() == []
    return loaded


def asked(retail: Project, name: str, count: int) -> tuple[dict[str, list[Any]], list[int]]:
    """Keys of events, and times at them, just after them and anywhere; one key was never seen."""
    view = retail.view(name)
    events = view.view.source.scan(view.root).collect()
    chance = random.Random(name)
    rows = events[chance.sample(range(len(events)), count)]
    low, high = int(events[TIME].min()) - DAY, int(events[TIME].max()) + 40 * DAY  # type: ignore[arg-type]
    times = [t + chance.choice([0, 0, 1, DAY, 90 * DAY, chance.randrange(low, high) - t]) for t in rows[TIME]]
    keys = {e.name: rows[e.key].to_list() for e in view.view.entities}
    for entity, of_entity in keys.items():
        of_entity[0] = -5 if isinstance(of_entity[0], int) else f"never a {entity}"
    return keys, times


VIEWS = ["customer_lines", "product_lines", "customer_product", "product_returns", "customer_returns"]


@pytest.mark.parametrize("name", VIEWS)
def test_lookups_are_what_the_oracle_says(retail: Project, name: str) -> None:
    view, (keys, times) = retail.view(name), asked(retail, name, 120)
    found = retail.lookup(f"{name}.*", keys, times)
    assert found.columns == [*keys, "time", *view.features]
    oracle = Reference(view)
    encoded = [of_entity if isinstance(of_entity[0], int) else string_ids(of_entity) for of_entity in keys.values()]
    seen = 0
    for row, key, time in zip(found.iter_rows(named=True), zip(*encoded, strict=True), times, strict=True):
        expected = oracle.values(key, time)
        wrong = {n: (row[n], v) for n, v in expected.items() if not is_same(row[n], v)}
        assert not wrong, (key, time)
        seen += any(v not in (None, 0, 0.0, []) for v in expected.values())
    assert seen > 40


def test_derived_features_follow_their_inputs(retail: Project) -> None:
    keys, times = asked(retail, "customer_product", 60)
    names = ["product_lines.price", "customer_lines.price_90d", "product_lines.description"]
    found = retail.lookup(["price_ratio", "words", "weekday", *names], keys, times)
    shown = 0
    for row in found.iter_rows(named=True):
        price, mean, text = (row[n] for n in names)
        assert is_same(row["price_ratio"], None if None in (price, mean) else price / mean)
        assert row["weekday"] == row["time"].isoweekday()
        assert bool(row["words"]) == bool(text)
        shown += row["price_ratio"] is not None
    assert shown > 10
    assert retail.lookup("weekday", {}, "2011-11-06")["weekday"].to_list() == [7]


def test_every_key_that_was_given_is_in_the_table(retail: Project) -> None:
    """In the order given, also where no feature is about the entity: so that the table joins back."""
    keys, times = asked(retail, "customer_product", 20)
    given = {"product": keys["product"], "customer": keys["customer"]}
    whole = retail.lookup("product_lines.price", given, times)
    assert whole.columns == ["product", "customer", "time", "product_lines.price"]
    assert whole["customer"].to_list() == list(keys["customer"])
    alone = retail.lookup("product_lines.price", {"product": keys["product"]}, times)
    assert_frame_equal(whole.drop("customer"), alone)
    assert retail.lookup("weekday", given, times).columns == ["product", "customer", "time", "weekday"]
    with pytest.raises(DataError, match="1 of 'customer'; and 20 times"):
        retail.lookup("product_lines.price", given | {"customer": keys["customer"][:1]}, times)


def test_times_may_be_given_in_many_ways(retail: Project) -> None:
    keys = asked(retail, "customer_lines", 3)[0]["customer"]
    micros = to_micros("2011-06-01")
    expected = retail.lookup("customer_lines.*", keys, [micros] * 3)
    moment = datetime(2011, 6, 1, tzinfo=UTC)
    ways: list[Any] = ["2011-06-01", micros, moment, moment.date(), ["2011-06-01"] * 3, np.full(3, micros)]
    for times in [*ways, pl.Series([moment] * 3), pl.Series([micros] * 3), pl.Series(["2011-06-01"] * 3)]:
        assert_frame_equal(retail.lookup("customer_lines.*", keys, times), expected)
        assert_frame_equal(retail.lookup(["customer_lines.*"], {"customer": pl.Series(keys)}, times), expected)


def test_keys_that_do_not_fit_are_refused(retail: Project) -> None:
    with pytest.raises(DataError, match="got keys of type String, expected int64"):
        retail.lookup("customer_lines.*", ["17850"], "2011-06-01")
    with pytest.raises(DataError, match=r"no keys of 'product'\n.*customer, product"):
        retail.lookup("customer_product.*", [17850], "2011-06-01")
    with pytest.raises(DataError, match=r"unknown entity 'custmer'\n.*did you mean 'customer'"):
        retail.lookup("customer_lines.*", {"custmer": [17850]}, "2011-06-01")
    with pytest.raises(DataError, match="1 of 'customer', 2 of 'product'; and 2 times"):
        retail.lookup("customer_product.*", {"customer": [17850], "product": ["a", "b"]}, "2011-06-01")
    with pytest.raises(DataError, match="2 of 'customer'; and 3 times"):
        retail.lookup("customer_lines.*", [1, 2], ["2011-06-01"] * 3)
    with pytest.raises(NotFoundError, match=r"unknown feature 'customer_lines.sinse'\n.*since"):
        retail.lookup("customer_lines.sinse", [1], 0)


def test_a_project_that_is_not_built_says_what_to_run(tmp_path: Path) -> None:
    loaded = Project(project(tmp_path, features=SHOP))
    with pytest.raises(StoreError, match=r"not built\n.*bedplate apply"):
        loaded.lookup("spending.sum", [1], "2026-01-01")
    store = MemoryStore()
    with pytest.raises(StoreError, match=r"not built\n.*bedplate apply"):
        loaded.materialize(store)
    assert store.scan(b"") == []


def test_the_online_store_answers_like_history_after_it_is_filled(retail: Project) -> None:
    store, until = MemoryStore(), to_micros("2011-09-01")
    done = retail.materialize(store, until=until)
    assert [(m.view, m.until, m.kept) for m in done] == [(name, until, False) for name in VIEWS]
    for m in done:
        events = retail.view(m.view).view.source.scan(retail.root).filter(pl.col(TIME) < until).collect()
        assert m.events == len(events) > 0 < m.later
    reader = OnlineReader(store)
    for name in VIEWS:
        keys, _ = asked(retail, name, 80)
        times = [until] * 80
        expected = retail.lookup(f"{name}.*", keys, times)
        assert_frame_equal(retail.lookup(f"{name}.*", keys, times, reader), expected, rel_tol=1e-7)
    with pytest.raises(AheadError):
        retail.lookup("product_lines.*", asked(retail, "product_lines", 80)[0], "2011-03-01", reader)
    before = [value for _, value in store.scan(b"r")]
    assert [m.events for m in retail.materialize(store, until=until)] == [m.events for m in done]
    assert [value for _, value in store.scan(b"r")] == before  # under the keys of another generation


def test_all_of_history_is_loaded_unless_a_time_is_given(retail: Project) -> None:
    store = MemoryStore()
    assert [m.view for m in retail.materialize(store, ["product_returns"])] == ["product_returns"]
    with pytest.raises(StoreError, match="run: bedplate materialize"):
        retail.lookup("product_lines.*", ["22386"], "2012-01-01", OnlineReader(store))
    (done,) = retail.materialize(store, ["product_lines", "product_lines"])
    assert (done.until, done.later) == (retail.history.end(retail.view("product_lines")) + 1, 0)
    with pytest.raises(NotFoundError, match=r"no view is named 'product_line'\n.*did you mean 'product_lines'"):
        retail.materialize(store, ["product_line"])


def test_a_project_opens_its_stores_as_itself(tmp_path: Path) -> None:
    shared = f'[online]\nurl = "lmdb:{tmp_path}/shared"\n[registry]\npath = "{tmp_path}/models"\n'
    shops = [
        Project(project(tmp_path / name, f"[project]\nname = '{name}'\n{shared}", features=SHOP)) for name in ("a", "b")
    ]
    for shop in shops:
        shop.apply()
    with shops[0].open_store() as store:
        shops[0].materialize(store)
    with shops[1].open_store() as store, pytest.raises(StoreError, match="'a'"):
        shops[1].materialize(store)  # what the first one loaded is not the second one's
    run = shops[0].registry.start_run("train", {})
    run.finish()
    assert [r.id for r in shops[1].registry.runs()] == [run.id]
    assert shops[0].registry is shops[0].registry


def test_a_store_that_would_be_empty_is_not_opened(tmp_path: Path) -> None:
    opened = Project(project(tmp_path, '[online]\nurl = "memory:"'))
    with pytest.raises(ConfigError, match="'memory:' is gone when the process ends"):
        opened.open_store()


SHOWN = """
rows = {"page": [1, 2], "user": [1, 2], "item": [7, 8], "liked": [0, 1], "time": [T + 150, T + 250]}
shown = Source("shown", pl.DataFrame(rows), time="time")
spine = Spine(shown, request="page", entities=user, item=Entity("item", key="item"))
split = TimeSplit("2026-01-05", "2026-01-09")
pages = Dataset("pages", spine=spine, features=["spending.sum"], split=split)
"""


def test_a_dataset_is_loaded_with_more_features_than_its_own(tmp_path: Path) -> None:
    shop = Project(project(tmp_path, features=SHOP + SHOWN))
    shop.apply()
    assert shop.load("pages").compiled.selected.names == ("spending.sum",)
    assert shop.load("pages", ["spending.n_1d"]).compiled.selected.names == ("spending.sum", "spending.n_1d")
    with pytest.raises(DefinitionError, match=r"features.py:17: .* unknown feature 'spending\.n_2d'"):
        shop.load("pages", ["spending.n_2d"])


def test_views_of_memory_tables_are_built_too(tmp_path: Path) -> None:
    loaded = Project(project(tmp_path, features=SHOP))
    assert [b.view.name for b in loaded.apply()] == ["spending"]
    found = loaded.lookup(
        [loaded.views["spending"].view, "spending.sum"], pl.Series([1, 2, 3]), to_micros("2026-01-01") + 301
    )
    assert found.drop("time").rows() == [(1, 5.0, 2), (2, 2.0, 1), (3, 0.0, 0)]
    assert isinstance(loaded.views["spending"].view, FeatureView)
    assert isinstance(loaded.views["spending"].view.features["n"], Count)


def test_a_store_is_loaded_for_a_time_up_to_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, store = Project(project(tmp_path, features=SHOP)), MemoryStore()
    loaded.apply()
    now = to_micros("2026-01-01") + 250
    monkeypatch.setattr("bedplate.materialize.system_clock", lambda: now)
    with pytest.raises(ConfigError, match=r"later than now, 2026-01-01T00:00:00.000250Z\n.*not known yet"):
        loaded.materialize(store, until=now + 1)
    assert [(m.until, m.events, m.later) for m in loaded.materialize(store, until=now)] == [(now, 2, 1)]
    assert [(m.until, m.events, m.later) for m in loaded.materialize(store)] == [(now, 2, 1)]


ASKED = [
    (lambda p: p.lookup(5, [1], 0), DefinitionError, "lookup: got 5, expected features, views or their names"),
    (lambda p: p.lookup(None, [1], 0), DefinitionError, "lookup: got None, expected features"),
    (lambda p: p.lookup([], [1], 0), DefinitionError, "lookup: got no features"),
    (lambda p: p.lookup([5], [1], 0), DefinitionError, "lookup: got a int, expected a feature, a view or a name"),
    (
        lambda p: p.lookup("spendin.*", [1], 0),
        NotFoundError,
        "lookup: unknown view 'spendin'\n  did you mean 'spending'",
    ),
    (lambda p: p.lookup("spending", [1], 0), NotFoundError, "lookup: unknown feature 'spending'"),
    (lambda p: p.lookup("spending.sum", 1, 0), DataError, r"keys of 'user': got 1, expected a list of keys\n.*\[1\]"),
    (lambda p: p.lookup("spending.sum", "a", 0), DataError, "keys of 'user': got 'a', expected a list of keys"),
    (lambda p: p.lookup("spending.sum", None, 0), DataError, "keys of 'user': got None, expected a list of keys"),
    (lambda p: p.lookup("spending.sum", [1, None], 0), DataError, "got 1 null keys, the first at position 1"),
    (
        lambda p: p.lookup("spending.sum", np.array([1], np.uint64), 0),
        DataError,
        "type UInt64, .*\n  cast them to int64",
    ),
    (lambda p: p.lookup("spending.sum", [1, 2], [0, None]), DataError, "lookup: times, position 1: got None"),
    (lambda p: p.lookup("spending.sum", [1], [1.5e15]), DataError, r"lookup: times, position 0: got 15.*\.0"),
    (lambda p: p.lookup("spending.sum", [1], pl.Series([None])), DataError, r"position 0: got no time \(null\)"),
    (
        lambda p: p.lookup("spending.sum", [1], "1960-01-01"),
        DataError,
        "lookup: times: got '1960-01-01', expected a time",
    ),
]


@pytest.mark.parametrize(("ask", "kind", "message"), ASKED, ids=[str(n) for n in range(len(ASKED))])
def test_what_can_not_be_looked_up(tmp_path: Path, ask: Any, kind: type[BedplateError], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}" if message.startswith(("lookup", "keys")) else message):
        ask(Project(project(tmp_path, features=SHOP)))


@pytest.mark.parametrize("unit", ["D", "h", "s", "ms", "us", "ns"])
def test_numpy_datetimes_are_looked_up_at_their_time(tmp_path: Path, unit: str) -> None:
    loaded = Project(project(tmp_path, features=SHOP))
    loaded.apply()
    times = np.array(["2026-01-01", "2026-01-02"], f"datetime64[{unit}]")
    found = loaded.lookup("spending.sum", [1, 1], times)
    assert found["time"].to_list() == [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)]
    assert found["spending.sum"].to_list() == [0.0, 5.0]
