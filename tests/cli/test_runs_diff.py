"""`bedplate runs diff`, on runs as training leaves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kept import predicted, times_of

from bedplate.cli.main import run
from bedplate.models.prediction import Prediction
from bedplate.registry.environment import ENVIRONMENT
from bedplate.registry.manifest import Environment, gather
from bedplate.registry.registry import Registry
from bedplate.training.inputs import DATA, DataSummary, InputSummary, SplitRows
from bedplate.training.predictions import write_predictions

Call = Callable[..., tuple[int, str, str]]
NAMES = ("auc", "request_auc", "log_loss", "normalised_entropy", "calibration")


def add(registry: Registry, rank: int, prediction: Prediction | None, moved: float = 0.0) -> str:
    """A run with all that training keeps."""
    config = {"model": {"class": "DCNConfig", "rank": rank, "label": "liked"}, "trainer": {"epochs": 2}, "golden": 4}
    definitions, sources = {"view users": f"v{rank}", "split": "s"}, {"plays": f"snapshot{moved:g}"}
    with registry.start_run("ranker", config, definitions=definitions, sources=sources) as going:
        going.log_metrics(1, {"loss": 0.5 + rank / 100} | {f"test_{name}": 0.5 for name in NAMES})
        points = tuple(np.linspace(moved, 1 + moved, 201).tolist())
        inputs = {
            "users.n": InputSummary("number", 1000, 0.0, 0.5 + moved, points),
            "users.still": InputSummary("category", 1000, 0.0, shares={"mug": 1.0}, distinct=1),
        }
        splits = {"train": SplitRows(800 + rank, 900, 0, 1_000_000), "test": SplitRows(300, 700, 2_000_000, 3_000_000)}
        summary = DataSummary(splits, {"liked": 0.25 + moved}, inputs)
        (going.folder / DATA).write_bytes(msgspec.json.encode(summary))
        (going.folder / ENVIRONMENT).write_bytes(msgspec.json.encode(Environment("3.11", "L", {"numpy": f"2.{rank}"})))
        if prediction is not None:
            write_predictions(going.folder, prediction, times_of(prediction))
        (going.artifact / "model").write_bytes(b"%d" % rank)
        facts = gather(registry.root, definitions={}, sources={}, config={}, seeds={}, metrics={})
        registry.register("ranker", going.artifact, manifest=facts, run_id=going.id)
    return going.id


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "bedplate.toml").touch()
    return Registry(tmp_path / ".bedplate" / "registry")


@pytest.fixture
def call(registry: Registry, capsys: pytest.CaptureFixture[str]) -> Call:
    def execute(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["runs", "diff", *words, "--project", str(registry.root.parents[1])])
        out, err = capsys.readouterr()
        return code, out, err

    return execute


def test_two_runs_that_predicted_the_same_rows(registry: Registry, call: Call) -> None:
    bad, good = predicted(seed=1, noise=2.0), predicted(seed=2, noise=0.1)
    a, b = add(registry, 1, bad), add(registry, 2, good, moved=0.5)
    code, out, err = call(a, b)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in (
        "model.rank 1 2",
        "changed view users",
        "source plays: snapshot snapshot0 and snapshot0.5",
        "train A 801 900 1970-01-01T00:00:00Z 1970-01-01T00:00:01Z",
        "label liked: mean 0.25 and 0.75",
        "numpy 2.1 2.2",
        "metrics of the test split, paired",
    ):
        assert line in lines, out
    assert any(line.startswith("users.n ") for line in lines)
    assert not any(line.startswith("users.still") for line in lines), "it did not move"
    assert any(line.startswith("log_loss ") and line.endswith("] B") for line in lines), out


def test_the_json_has_everything_and_names_of_versions_are_taken(registry: Registry, call: Call) -> None:
    a, b = add(registry, 1, predicted(seed=1)), add(registry, 2, predicted(seed=2))
    code, out, _ = call("ranker:1", "ranker:2", "--json")
    found = json.loads(out)
    assert (code, found["a"], found["b"], found["paired"]) == (0, a, b, True)
    assert found["config"] == [{"name": "model.rank", "a": 1, "b": 2}]
    assert [m["name"] for m in found["metrics"]] == list(NAMES)
    for metric in found["metrics"]:
        assert metric["difference"]["low"] <= metric["difference"]["mean"] <= metric["difference"]["high"]
    assert {"name": "loss", "a": 0.51, "b": 0.52} in found["reported"]
    same = json.loads(call(a, a, "--json")[1])
    assert (same["config"], same["definitions"], same["environment"], same["data"]["splits"]) == ([], [], [], {})
    assert all(m["difference"]["mean"] == 0.0 for m in same["metrics"])


def test_other_rows_are_not_paired_and_it_says_why(registry: Registry, call: Call) -> None:
    a, b = add(registry, 1, predicted(300)), add(registry, 2, predicted(200))
    found = json.loads(call(a, b, "--json")[1])
    assert not found["paired"]
    assert "300 and 200 requests, of which 200 are in both" in found["note"]
    assert all(m["difference"] is None and m["a"]["low"] < m["a"]["mean"] < m["a"]["high"] for m in found["metrics"])
    code, out, err = call(a, b, "--check", "auc")
    assert code == 4
    assert "no paired difference of 'auc'" in err
    assert "can't be paired" in out


def test_runs_without_evidence_still_differ_in_what_they_are_made_of(registry: Registry, call: Call) -> None:
    with registry.start_run("old", {"model": {"rank": 1}}) as old:
        old.log_metrics(1, {"loss": 0.5})
    code, out, _ = call(old.id, add(registry, 2, predicted()))
    assert code == 0
    assert "no intervals: the run has kept no predictions" in out
    assert "drift is not known" in out
    assert "not known: a run before kept none" in out
    other = replace(predicted(), labels={"a": predicted().labels["liked"], "b": predicted().labels["late"]})
    both = json.loads(call(add(registry, 3, other), add(registry, 4, other), "--json")[1])
    assert "which label the scores are of is not known" in both["note"]


def test_a_worse_run_fails_a_check(registry: Registry, call: Call) -> None:
    bad, good = predicted(seed=1, noise=2.0), predicted(seed=2, noise=0.1)
    a, b = add(registry, 1, bad), add(registry, 2, good)
    assert call(a, b, "--check", "log_loss")[0] == 0
    code, _, err = call(b, a, "--check", "log_loss")
    assert code == 7
    assert "is worse in log_loss" in err
    code, _, err = call(a, b, "--check", "calibration")
    assert code == 2, "it can't judge, and would never fail"
    assert "whether a lower or a higher 'calibration' is better is not known" in err
    assert "did you mean 'auc'" in call(a, b, "--check", "au")[2]
    assert call(a, "20990101")[0] == 4
