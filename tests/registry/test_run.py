"""Runs: folders that are written while a job goes on, whatever ends it."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bedplate.errors import ConfigError, DataError, NotFoundError, StoreError
from bedplate.registry.registry import Registry
from bedplate.types import to_micros


def test_a_run_is_plain_files(registry: Registry) -> None:
    with registry.start_run("train", {"rate": 0.1, "layers": (8, 4)}) as run:
        run.log_metrics(0, {"loss": 0.9, "auc": 0.5})
        run.log_metrics(1, {"loss": 0.7})
        (run.artifact / "model").write_bytes(b"weights")
    record = json.loads((run.folder / "run.json").read_text())
    assert record["name"] == "train"
    assert record["status"] == "finished"
    assert record["config"] == {"rate": 0.1, "layers": [8, 4]}
    assert record["metrics"] == {"loss": 0.7, "auc": 0.5}
    assert record["ended"] > record["started"]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["name"], line["value"]) for line in lines] == [
        (0, "loss", 0.9),
        (0, "auc", 0.5),
        (1, "loss", 0.7),
    ]


def test_metrics_are_there_as_soon_as_they_are_logged(registry: Registry) -> None:
    run = registry.start_run("train", {})
    run.log_metrics(3, {"loss": np.float32(0.5), "worst": math.inf, "broken": math.nan})
    run.log_metrics(1, {"loss": 1})
    stored = registry.run(run.id)
    assert stored.status == "running"
    metrics = stored.metrics()
    assert [(p.step, p.value) for p in metrics["loss"]] == [(1, 1.0), (3, 0.5)]
    assert metrics["worst"][0].value == math.inf
    assert math.isnan(metrics["broken"][0].value)
    assert list(metrics) == ["loss", "worst", "broken"]
    run.finish()
    assert registry.run(run.id).record.metrics == {"loss": 1.0, "worst": None, "broken": None}


def test_what_a_run_ended_with_is_in_its_record_and_not_among_the_values_by_step(registry: Registry) -> None:
    with registry.start_run("train", {}) as run:
        for step, loss in enumerate([0.9, 0.5, 0.7]):
            run.log_metrics(step, {"loss": loss, "auc": 0.5, "broken": 1.0})
        run.conclude({"loss": 0.5, "broken": math.nan})
    stored = registry.run(run.id)
    assert stored.record.metrics == {"loss": 0.5, "auc": 0.5, "broken": None}
    assert [(p.step, p.value) for p in stored.metrics()["loss"]] == [(0, 0.9), (1, 0.5), (2, 0.7)]


def test_what_was_logged_of_later_steps_is_taken_back(registry: Registry) -> None:
    with registry.start_run("train", {}) as run:
        for step, loss in enumerate([0.9, math.nan, 0.7]):
            run.log_metrics(step, {"loss": loss} | ({"auc": 0.5} if step == 2 else {}))
        run.take_back(2)
        assert len(registry.run(run.id).metrics()["loss"]) == 3
        run.take_back(1)
        assert [p.step for p in registry.run(run.id).metrics()["loss"]] == [0, 1]
        run.log_metrics(4, {"late": 1.0})
    stored = registry.run(run.id)
    assert stored.record.metrics == {"loss": None, "late": 1.0}
    assert {name: [p.step for p in points] for name, points in stored.metrics().items()} == {
        "loss": [0, 1],
        "late": [4],
    }
    with pytest.raises(StoreError, match="has ended"):
        run.take_back(0)


def test_how_a_run_ends(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError), registry.start_run("train", {}) as failed:
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt), registry.start_run("train", {}) as interrupted:
        raise KeyboardInterrupt
    with registry.start_run("train", {}) as early:
        early.finish("failed", "stopped by the guard")
    found = {run.id: (run.status, run.record.error) for run in registry.runs()}
    assert found == {
        failed.id: ("failed", "ZeroDivisionError: division by zero"),
        interrupted.id: ("interrupted", None),
        early.id: ("failed", "stopped by the guard"),
    }


def test_a_run_that_has_ended_takes_nothing_more(registry: Registry) -> None:
    run = registry.start_run("train", {})
    run.finish()
    with pytest.raises(StoreError, match="has ended"):
        run.log_metrics(0, {"loss": 1.0})
    with pytest.raises(StoreError, match="ended already, as finished"):
        run.finish("failed")


def test_what_is_no_number_is_refused_whole(registry: Registry) -> None:
    run = registry.start_run("train", {})
    with pytest.raises(DataError, match="metric 'bad' is a str"):
        run.log_metrics(0, {"good": 1.0, "bad": "x"})  # type: ignore[dict-item]
    assert registry.run(run.id).metrics() == {}
    with pytest.raises(DataError, match="JSON object"):
        registry.start_run("train", [1])
    with pytest.raises(DataError, match="JSON object"):
        registry.start_run("train", {"f": object()})
    with pytest.raises(ConfigError, match="a run"):
        registry.start_run("a/b", {})
    run.finish()


def test_runs_of_one_second_are_listed_newest_first(tmp_path: Path) -> None:
    microseconds = itertools.count(to_micros("2026-01-01"))
    registry = Registry(tmp_path / "registry", clock=lambda: next(microseconds))
    ids = [registry.start_run("train", {}).record.id for _ in range(6)]
    assert [run.id for run in registry.runs()] == ids[::-1]


def test_runs_are_listed_newest_first_and_found_by_their_beginning(registry: Registry) -> None:
    for name in ("train", "tune", "train"):
        registry.start_run(name, {}).finish()
    ids = [run.id for run in registry.runs()]
    assert ids == sorted(ids, reverse=True)
    assert [run.id for run in registry.runs("train")] == [ids[0], ids[2]]
    assert registry.runs(status="failed") == []
    assert len(registry.runs(status="finished")) == 3
    assert registry.run(ids[1][:-3]).id == ids[1]
    with pytest.raises(ConfigError, match="3 runs begin with '2026'"):
        registry.run("2026")
    with pytest.raises(NotFoundError, match="no run 'zzz'"):
        registry.run("zzz")
    with pytest.raises(NotFoundError, match="no run ''"):
        registry.run("")


_DIE = """
import os, signal, sys
from pathlib import Path
from bedplate.registry.registry import Registry
from bedplate.types import to_micros
run = Registry(Path(sys.argv[1])).start_run("train", {"rate": 1})
run.log_metrics(0, {"loss": 2.0})
run.log_metrics(1, {"loss": 1.0})
print(run.id, flush=True)
sys.stdin.readline() if len(sys.argv) > 2 else os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_died_is_interrupted_and_can_be_resumed(
    registry: Registry, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("-c", _DIE, str(registry.root))
    out, _ = process.communicate(timeout=60)
    stored = registry.run(out.strip())
    assert (stored.status, stored.died) == ("interrupted", True)
    assert [p.value for p in stored.metrics()["loss"]] == [2.0, 1.0]
    with (stored.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":2,"na')
    assert len(registry.run(stored.id).metrics()["loss"]) == 2, "an incomplete line was never logged"
    with registry.resume_run(stored.id) as run:
        assert registry.run(stored.id).status == "running"
        run.log_metrics(1, {"loss": 1.5})
        run.log_metrics(2, {"loss": 0.5})
    again = registry.run(stored.id)
    assert (again.status, again.died) == ("finished", False)
    assert [(p.step, p.value) for p in again.metrics()["loss"]] == [(0, 2.0), (1, 1.5), (2, 0.5)]
    assert again.record.started == stored.record.started
    with pytest.raises(StoreError, match="the run is finished"):
        registry.resume_run(stored.id)


def test_a_run_that_goes_on_elsewhere_cannot_be_resumed(registry: Registry) -> None:
    run = registry.start_run("train", {})
    with pytest.raises(StoreError, match="the run is running"):
        registry.resume_run(run.id)
    record = msgspec.structs.replace(run.record, process="00000000-00000000-00000000-1-1", host="other")
    run.finish()
    (run.folder / "run.json").write_bytes(msgspec.json.encode(record))
    assert registry.run(run.id).status == "running", "another machine's process can't be seen from here"


def test_a_damaged_run_is_shown_as_damaged(registry: Registry) -> None:
    run = registry.start_run("train", {})
    run.finish()
    (run.folder / "run.json").write_bytes(b"{")
    (stored,) = Registry.rebuild(registry.root).runs()
    assert stored.status == "damaged"
    assert "run.json" in (stored.record.error or "")
    with pytest.raises(StoreError, match="the run is damaged"):
        registry.resume_run(run.id)


def test_a_damaged_metric_names_its_line(registry: Registry) -> None:
    run = registry.start_run("train", {})
    run.log_metrics(0, {"loss": 1.0})
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(StoreError, match="line 2 is damaged"):
        registry.run(run.id).metrics()
    run.finish()


def test_the_git_state_is_that_of_the_project(registry: Registry, tmp_path: Path) -> None:
    run = registry.start_run("train", {}, project=tmp_path)
    assert run.record.git.commit is None
    assert run.record.git.reason == "not in a git repository"
    run.finish()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_config_holds_no_number_that_would_become_null(registry: Registry, value: float) -> None:
    with pytest.raises(DataError, match=rf"config\.trainer\.rates\[1\] is {value}, expected a finite number"):
        registry.start_run("train", {"trainer": {"rates": (0.5, value)}})
    assert registry.runs() == []
