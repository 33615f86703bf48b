"""`bedplate lookup --context`, and what a project says of wrong context and functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from bedplate.cli.main import run

Call = Callable[..., tuple[int, str, str]]

FEATURES = """
import polars as pl
from bedplate import DerivedFeature, Entity, FeatureView, Last, Source
from bedplate.features.context import Context
from bedplate.features.functions import cosine, token_overlap

item = Entity("item", key="item")
source = Source("items", "items.parquet", time="time")
items = FeatureView("items", item, source, {"title": Last("title"), "v": Last("v")})
query, budget, taste = Context("query", str), Context("budget", float), Context("taste", "vector[2]")
member, since = Context("member", bool), Context("since", "timestamp")
overlap = DerivedFeature("overlap", function=token_overlap, inputs=[query, "items.title"], type=float)
alike = DerivedFeature("alike", function=cosine, inputs=[taste, "items.v"], type=float)
rest = DerivedFeature("rest", pl.col("request.budget") * 2)
age = DerivedFeature("age", (pl.col("request.time").dt.epoch("us") - pl.col("request.since")) // 86_400_000_000)
guest = DerivedFeature("guest", ~pl.col("request.member"))
"""


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def project(tmp_path: Path) -> Path:
    pl.DataFrame(
        {"item": [1, 2], "time": [1_700_000_000_000_000] * 2, "title": ["Red mug", "Blue cup"]},
    ).with_columns(v=pl.Series([[1.0, 0.0], [0.0, 1.0]], dtype=pl.Array(pl.Float32, 2))).write_parquet(
        tmp_path / "items.parquet"
    )
    (tmp_path / "bedplate.toml").touch()
    (tmp_path / "features.py").write_text(FEATURES)
    assert run(["apply", "--project", str(tmp_path)]) == 0
    return tmp_path


def test_lookup_takes_context_of_every_type(project: Path, call: Call) -> None:
    names = ("overlap", "alike", "rest", "age", "guest", "items.v")
    given = ("query=red hat", "budget=2.5", "taste=[3, 0]", "since=2024-01-01", "member=false")
    context = [word for text in given for word in ("--context", text)]
    words = ("--key", "item=1", "--key", "item=2", "--time", "2024-01-11", "--project", project, "--json")
    code, out, _ = call("lookup", *names, *context, *words)
    assert code == 0
    first, second = (row["values"] for row in json.loads(out))
    assert first == {"overlap": 0.5, "alike": 1.0, "rest": 5.0, "age": 10, "guest": True, "items.v": [1.0, 0.0]}
    assert (second["overlap"], second["alike"]) == (0.0, 0.0)
    code, out, _ = call("lookup", "rest", "--context", "budget=null", *words)
    assert [row["values"]["rest"] for row in json.loads(out)] == [None, None]
    code, out, said = call("lookup", *names[:5], *words)
    assert (code, out) == (3, "")
    assert "no values of the context 'query', which 'overlap' reads" in said
    assert "--context query=VALUE" in said


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("query", 2, "got 'query', expected NAME=VALUE"),
        ("qeury=x", 2, "unknown context 'qeury'\n  did you mean 'query'?"),
        ("budget=cheap", 2, "got 'cheap', expected a number"),
        ("taste=[1]", 3, r"expected values of type vector[2]"),
        ("member=1", 3, "expected values of type bool"),
        ("since=soon", 3, "soon"),
    ],
)
def test_wrong_context_is_named(project: Path, call: Call, text: str, code: int, message: str) -> None:
    got, _, err = call("lookup", "overlap", "alike", "--key", "item=1", "--context", text, "--project", project)
    assert message in err
    assert got == code


def test_a_mistake_names_the_file_and_line(project: Path, call: Call) -> None:
    (project / "features.py").write_text(FEATURES.replace('inputs=[query, "items.title"]', 'inputs=[query, "items.v"]'))
    code, _, err = call("plan", "--project", project)
    assert code == 2
    assert err.startswith("error: features.py:12: derived feature 'overlap': token_overlap takes a text, a text; got")
    assert "request.query string, items.v vector[2]" in err
    (project / "features.py").write_text(FEATURES.replace('"query", str', '"query", dict'))
    code, _, err = call("plan", "--project", project)
    assert err.startswith("error: features.py:10: context 'query': got the type 'dict'")
    (project / "features.py").write_text(FEATURES.replace('Last("v")', 'Last(pl.col("v").arr.to_list())'))
    code, _, err = call("plan", "--project", project)
    assert "lists of one length are vectors" in err
