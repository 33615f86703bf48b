"""`bedplate online verify`: what it prints and exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bedplate.cli.main import run
from bedplate.testing.simulator import START
from bedplate.types import HOUR

FEATURES = """
from bedplate import Count, Entity, FeatureView, Last, Source, Sum

clicks = Source("clicks", "clicks.parquet", time="time")
shop = Entity("shop", key="shop")
of_shop = FeatureView("of_shop", shop, clicks, {"n": Count(), "x": Sum("x"), "kind": Last("kind")})
"""


def clicks(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "shop": [f"shop {i % 3}" for i in range(count)],
            "time": [START + i * HOUR for i in range(count)],
            "x": [1.0 + i for i in range(count)],
            "kind": ["a"] * count,
        }
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bedplate.toml").touch()
    (tmp_path / "features.py").write_text(FEATURES)
    clicks(30).write_parquet("clicks.parquet")
    assert run(["apply"]) == 0
    assert run(["materialize"]) == 0
    return tmp_path


def document(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = run(["online", "verify", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_equal_stores_are_proven(project, capsys):
    code, found = document(capsys)
    assert code == 0
    assert (found["values"], found["differ"], found["differences"], found["causes"]) == (9, 0, [], {})
    assert found["store"] == f"lmdb:{project}/.bedplate/online"
    capsys.readouterr()
    assert run(["online", "verify", "of_shop", "--keys", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["of_shop", "2024-03-02T05:00:00.000001Z", "2", "0", "6", "0", "0"]
    assert lines[-1] == "6 values compared, 0 differ"


def test_differences_name_feature_key_values_and_cause(project, capsys):
    clicks(33).write_parquet("clicks.parquet")
    assert run(["apply"]) == 0
    assert document(capsys)[0] == 0
    code, found = document(capsys, "--at", "2024-03-02T07:30")
    assert (code, found["causes"], found["views"][0]["later"]) == (7, {"worker behind": 4}, 3)
    first = found["differences"][0]
    assert first.pop("evidence").startswith("the store answers as without 1 event of history, 2024-03-02T06:00:00Z")
    assert first.pop("keys") in ({"shop": "shop 0"}, {"shop": "shop 1"})
    assert first["feature"] == "of_shop.n"
    assert (first["online"], first["history"], first["cause"]) == (10, 11, "worker behind")
    capsys.readouterr()
    assert run(["online", "verify", "--at", "2024-03-02T07:30"]) == 7
    printed = capsys.readouterr()
    assert "of_shop.x  shop=shop 0  145     176      worker behind" in printed.out
    assert "shop=shop 1: the store answers as without 1 event" in printed.out
    assert "4 of 9 values differ between the store and history" in printed.err


def test_views_that_are_not_as_defined(project, capsys):
    text = FEATURES + 'other = FeatureView("other", shop, clicks, {"n": Count()})\n'
    (project / "features.py").write_text(text)
    assert run(["apply"]) == 0
    code, found = document(capsys)
    assert (code, [v["cause"] for v in found["views"]]) == (8, ["", "not loaded"])
    (project / "features.py").write_text(text.replace('Sum("x")', 'Sum("x", windows="1d")'))
    assert run(["apply"]) == 0
    code, found = document(capsys, "of_shop")
    assert (code, [v["cause"] for v in found["views"]]) == (7, ["definition changed"])
    capsys.readouterr()
    assert run(["online", "verify"]) == 7
    printed = capsys.readouterr()
    assert "of_shop: definition changed: the store holds version " in printed.out
    assert "the store holds another version of a view" in printed.err
    assert run(["online", "verify", "none"]) == 4
    assert run(["online", "verify", "--at", "noon"]) == 2
