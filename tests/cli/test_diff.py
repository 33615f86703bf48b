"""A feature branch is a git branch: it builds what it adds and nothing else, and `diff` says what it changes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bedplate.batch import Batch, Dense
from bedplate.cli.main import run
from bedplate.features.encoding import Number, TensorSpec
from bedplate.features.fitting import fit
from bedplate.features.signature import Signature
from bedplate.project import Project
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry

Call = Callable[..., tuple[int, str, str]]

FEATURES = """
import polars as pl
from bedplate import Count, DerivedFeature, Entity, FeatureView, Last, Source, Sum

user, item = Entity("user", key="user"), Entity("item", key="item")
clicks = Source("clicks", "data/clicks.parquet", time="time")
activity = FeatureView("activity", user, clicks, {"n": Count(windows="1d"), "spent": Sum("price", windows="7d")})
items = FeatureView("items", item, clicks, {"price": Last("price")})
cheap = DerivedFeature("cheap", pl.col("items.price") < pl.col("activity.spent_7d"))
"""
NEW = 'Last("price")})', 'Last("price"), "sold": Sum("quantity", windows="7d")})'
CHANGED = '"spent": Sum("price", windows="7d")', '"spent": Sum("price", windows="14d")'
WIDER = 'Sum("price", windows="7d")', 'Sum(pl.col("price") * 2, windows="7d")'


def git(folder: Path, *words: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *named, *words], check=True, capture_output=True)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose folder `shop` is the project; its table and its stores are in no commit."""
    shop = tmp_path / "repository" / "shop"
    (shop / "data").mkdir(parents=True)
    count = 400
    frame = pl.DataFrame({"user": pl.int_range(count, eager=True) % 20}).with_columns(
        item=pl.col("user") * 7 % 11,
        time=pl.int_range(count, eager=True) * 3_600_000_000 + 1_700_000_000_000_000,
        price=pl.int_range(count, eager=True) % 13 / 4,
        quantity=pl.int_range(count, eager=True) % 5,
    )
    frame.write_parquet(shop / "data" / "clicks.parquet")
    (shop / "bedplate.toml").write_text(f'[project]\nname = "shop"\n[offline]\npath = "{tmp_path}/offline"\n')
    (shop / "features.py").write_text(FEATURES)
    (shop / ".gitignore").write_text("data\n.bedplate\n__pycache__\n")
    git(shop.parent, "init")
    git(shop.parent, "add", ".")
    git(shop.parent, "commit", "-m", "one")
    return shop.parent


def edit(folder: Path, *changes: tuple[str, str]) -> None:
    path = folder / "shop" / "features.py"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_a_branch_builds_the_new_column_and_nothing_else(repository: Path, tmp_path: Path, call: Call) -> None:
    """Two worktrees share the offline store; the branch trains on every index that main built."""
    assert call("apply", "--project", repository / "shop")[0] == 0
    branch = tmp_path / "branch"
    git(repository, "worktree", "add", "-b", "more", str(branch))
    (branch / "shop" / "data").symlink_to(repository / "shop" / "data")
    edit(branch, NEW)
    before = files(tmp_path / "offline")
    code, out, _ = call("diff", "main", "--project", branch / "shop", "--json")
    shown = json.loads(out)
    assert code == 0
    assert [f["name"] for f in shown["added"]] == ["items.sold_7d"]
    assert (shown["changed"], shown["removed"]) == ([], [])
    (built,) = shown["build"]
    assert (built["view"], built["rows"], built["timeline"]) == ("items", 400, False)
    assert (len(built["columns"]), len(built["reductions"])) == (1, 1)
    assert shown["seconds"] == built["seconds"] > 0
    applied = json.loads(call("apply", "--project", branch / "shop", "--json")[1])
    assert [(b["view"], b["parts"]) for b in applied["built"]] == [("items", 2)]
    after = files(tmp_path / "offline")
    kept = {path: state for path, state in before.items() if "/applied/" not in path}
    assert {path: after[path] for path in kept} == kept
    new = [Path(path).parts for path in after.keys() - before.keys() if "/applied/" not in path]
    arrays = [parts for parts in new if parts[-1].endswith(".npy")]
    assert arrays
    assert [parts for parts in arrays if not {"columns", "reductions"} & {*parts}] == []
    # And back: main needs nothing, nor does a second look at the branch.
    for folder in (repository, branch):
        assert call("apply", "--project", folder / "shop")[1] == "nothing to build\n"
    found = Project(branch / "shop").lookup("items.*", [7], "2023-12-01")
    assert found["items.sold_7d"].to_list() != [None]


def test_diff_lists_what_was_added_changed_and_removed(repository: Path, call: Call) -> None:
    shop = ("--project", repository / "shop")
    assert call("apply", *shop)[0] == 0
    assert call("diff", "main", *shop) == (0, f"no feature differs from main ({commit(repository)})\n", "")
    edit(repository, NEW, CHANGED, ("activity.spent_7d", "activity.spent_14d"), ('"n": Count(windows="1d"), ', ""))
    code, out, err = call("diff", "HEAD", *shop)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"features against HEAD ({commit(repository)})"
    assert [line.split(":")[0] for line in lines[1:7]] == [
        "  - activity.n_1d",
        "  + activity.spent_14d",
        "  - activity.spent_7d",
        "  ~ cheap",
        "  + items.sold_7d",
        "",
    ]
    assert "items" in out
    assert lines[-1].startswith("to build: 1 column, 1 reduction, about ")
    git(repository, "commit", "-am", "two")
    assert call("diff", commit(repository), *shop)[1].startswith(f"no feature differs from {commit(repository)}")
    assert "+ items.sold_7d" in call("diff", "HEAD~1", *shop)[1]


def commit(folder: Path) -> str:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout[:10]


def register(project: Project, names: list[str]) -> Registry:
    """Registers a model that reads these features, and makes it the champion."""
    zeros = np.zeros(1, np.int64)
    given = Batch({n: Dense(np.ones(1)) for n in names}, {}, np.array([0, 1]), zeros, zeros, zeros)
    encoder = fit(dict.fromkeys(names, Number()), [given])
    output = (TensorSpec("score", "float32", ("items",)),)
    signature = Signature.of(encoder, project.graph.features, encoder.layout.tensors(), output)
    folder = project.root / ".bedplate" / "artifact"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "signature.json").write_bytes(signature.to_json())
    registry = project.registry
    manifest = gather(project.root, definitions={}, sources={}, config={}, seeds={}, metrics={})
    version = registry.register("ranker", folder, manifest=manifest)
    registry.promote("ranker", version.version)
    return registry


def test_diff_names_the_models_that_read_what_changed(repository: Path, call: Call) -> None:
    shop = ("--project", repository / "shop")
    project = Project(repository / "shop")
    register(project, ["activity.n_1d"])
    register(project, ["activity.spent_7d", "cheap"])
    edit(repository, NEW)
    assert "models" not in call("diff", "main", *shop, "--check")[1]
    edit(repository, WIDER)
    code, out, err = call("diff", "main", *shop, "--check")
    assert code == 7
    assert "ranker:2 (champion) reads 'activity.spent_7d', which is changed" in err
    table = [line.split() for line in out.partition("models that read")[2].splitlines()[2:]]
    assert table == [
        ["ranker:2", "champion", "activity.spent_7d", "changed"],
        ["ranker:2", "champion", "cheap", "changed"],
    ]
    edit(repository, ('"n": Count(windows="1d"), ', ""))
    shown: Any = json.loads(call("diff", "main", *shop, "--json")[1])
    assert {(m["model"], m["feature"], m["now"]) for m in shown["models"]} == {
        ("ranker:1", "activity.n_1d", "removed"),
        ("ranker:2", "activity.spent_7d", "changed"),
        ("ranker:2", "cheap", "changed"),
    }
    assert [m["aliases"] for m in shown["models"] if m["model"] == "ranker:1"] == [[]]
    assert call("diff", "main", *shop)[0] == 0


LINKED = """
from bedplate.features.context import Context
from bedplate.features.links import Link
from bedplate.features.model import ModelFeature

seller = Entity("seller", key="user")
sellers = FeatureView("sellers", seller, clicks, {"spent": Sum("price", windows="7d")})
by = FeatureView("by", item, clicks, {"user": Last("user")})
link = Link("item_seller", "by.user", seller)
limit = Context("limit", float)
rich = DerivedFeature("rich", pl.col("item_seller.sellers.spent_7d") > pl.col("request.limit"))
quality = ModelFeature("quality", model="quality:1", inputs=["item_seller.sellers.spent_7d"])
"""


def test_diff_knows_links_context_and_features_of_models(repository: Path, call: Call) -> None:
    """What a link reaches is there at the revision too, and so is what is computed of it."""
    shop = ("--project", repository / "shop")
    (repository / "shop" / "features.py").write_text(FEATURES + LINKED)
    git(repository, "commit", "-am", "linked")
    assert call("diff", "main", *shop) == (0, f"no feature differs from main ({commit(repository)})\n", "")
    read = ["item_seller.sellers.spent_7d"]
    register(Project(repository / "shop"), read)
    edit(repository, ('{"spent": Sum("price", windows="7d")})\nby', '{"spent": Sum(pl.col("price") * 2, "7d")})\nby'))
    code, _, err = call("diff", "main", *shop, "--check")
    assert (code, f"ranker:1 (champion) reads '{read[0]}', which is changed" in err) == (7, True)
    shown: Any = json.loads(call("diff", "main", *shop, "--json")[1])
    assert (shown["added"], shown["removed"]) == ([], [])
    changed = {c["new"]["name"] for c in shown["changed"]}
    assert changed == {"sellers.spent_7d", *read, "rich", "quality"}
    assert [m["feature"] for m in shown["models"]] == read


def test_a_new_link_costs_the_index_that_it_reaches(repository: Path, call: Call) -> None:
    shop = ("--project", repository / "shop")
    text = FEATURES + LINKED.replace('\nlink = Link("item_seller", "by.user", seller)', "")
    (repository / "shop" / "features.py").write_text(text[: text.index("rich =")])
    git(repository, "commit", "-am", "without")
    (repository / "shop" / "features.py").write_text(FEATURES + LINKED)
    shown: Any = json.loads(call("diff", "main", *shop, "--json")[1])
    assert {f["name"] for f in shown["added"]} == {"item_seller.sellers.spent_7d", "rich", "quality"}
    assert [b["view"] for b in shown["build"]] == ["sellers", "by"]
    assert shown["seconds"] > 0


OWN = """
from bedplate.aggregations.arithmetic import scalar
from bedplate.aggregations.base import OneInput, Output, Reduce, Reduction
from bedplate.batch import Dense
from bedplate.types import Type

class Net(OneInput):
    @property
    def reductions(self):
        return (Reduction(Reduce.SUM, self.selection),)

    def outputs(self, types):
        return (Output("", Type.FLOAT),)

    def finalize(self, partials, times):
        return (Dense(scalar(partials[0]).values * 0.8),)

net = FeatureView("net", user, clicks, {"spent": Net("price", "7d")})
"""


def test_another_finalize_is_a_changed_feature_and_no_other_index(repository: Path, call: Call) -> None:
    shop = ("--project", repository / "shop")
    (repository / "shop" / "features.py").write_text(FEATURES + OWN)
    git(repository, "commit", "-am", "own")
    assert call("apply", *shop)[0] == 0
    register(Project(repository / "shop"), ["net.spent_7d"])
    assert call("diff", "main", *shop)[1].startswith("no feature differs")
    edit(repository, ("values * 0.8", "values * 0.81"))
    code, out, err = call("diff", "main", *shop, "--check")
    assert code == 7
    assert "ranker:1 (champion) reads 'net.spent_7d', which is changed" in err
    assert "  ~ net.spent_7d: " in out
    assert "nothing to build" in out
    assert call("apply", *shop)[1] == "nothing to build\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('no')", "features.py:1: RuntimeError: no"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "its definitions don't load: no answer"),
        ("print('loud')\nfrom bedplate import Count, Missing", "cannot import name 'Missing'"),
        (FEATURES.replace('"price"', '"cost"'), "unknown column 'cost'"),
    ],
)
def test_definitions_of_then_that_fail_are_an_error(repository: Path, call: Call, text: str, message: str) -> None:
    (repository / "shop" / "features.py").write_text(text)
    git(repository, "commit", "-am", "broken")
    (repository / "shop" / "features.py").write_text(FEATURES)
    code, _, err = call("diff", "HEAD", "--project", repository / "shop")
    assert code == 2
    assert f"the project at HEAD ({commit(repository)})" in err
    assert message in err
    assert not (repository / "shop" / "__pycache__" / "features.json").exists()


def test_what_can_not_be_compared_is_said(repository: Path, tmp_path: Path, call: Call) -> None:
    shop = repository / "shop"
    code, _, err = call("diff", "mian", "--project", shop)
    assert code == 4
    assert "no revision 'mian'\n  branches and tags: main" in err
    for odd in ("--output=x", "-x", ""):
        assert call("diff", "--project", shop, "--", odd)[0] == 4
    assert not (shop / "x").exists()
    moved = tmp_path / "elsewhere"
    shutil.copytree(shop, moved)
    code, _, err = call("diff", "main", "--project", moved)
    assert code == 2
    assert "the project is in no git repository" in err
    git(repository, "mv", "shop", "store")
    (repository / "store" / "data").mkdir(exist_ok=True)
    shutil.copy(moved / "data" / "clicks.parquet", repository / "store" / "data")
    code, _, err = call("diff", "main", "--project", repository / "store")
    assert code == 4
    assert "the project was not there" in err


def test_without_git_it_says_so(repository: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = call("diff", "main", "--project", repository / "shop")
    assert code == 2
    assert "git is not installed" in err
