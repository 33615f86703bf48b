"""Runs copied to a real MLflow store, read back with its own client."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # as Mirror does, before it imports MLflow
pytest.importorskip("mlflow")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("mlflow")]

from bedplate.cli.main import run  # noqa: E402
from bedplate.errors import UnavailableError  # noqa: E402
from bedplate.registry.mlflow import Mirror, store_uri  # noqa: E402
from bedplate.registry.registry import Registry  # noqa: E402
from bedplate.registry.run import StoredRun  # noqa: E402

CONFIG = {"model": {"class": "DCNConfig", "layers": [64, 32]}, "inputs": {"users.n": {"kind": "number"}}, "odd:§": None}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in a folder, whose tables are made once for all tests."""
    return store_uri("tracking", tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    Mirror(uri)
    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "bedplate.toml").touch()
    return Registry(tmp_path / ".bedplate" / "registry")


def stored(registry: Registry, name: str, status: str = "finished") -> StoredRun:
    going = registry.start_run(name, CONFIG)
    for step in range(50):
        going.log_metrics(step, {"loss": 1 / (step + 1), "test auc@10": math.nan if step == 3 else step / 100})
    (going.folder / "plots").mkdir()
    (going.folder / "plots" / "loss.svg").write_text("<svg/>")
    going.finish(status, "it broke" if status == "failed" else None)  # type: ignore[arg-type]
    return registry.run(going.id)


def only(client: Any, name: str) -> Iterator[Any]:
    experiment = client.get_experiment_by_name(name)
    yield from client.search_runs([experiment.experiment_id])


def test_a_run_is_there_with_all_that_it_is(registry: Registry, uri: str, client: Any) -> None:
    one = stored(registry, "whole")
    done = Mirror(uri).copy(one)
    assert (done.state, done.experiment) == ("made", "whole")
    (found,) = only(client, "whole")
    assert found.info.run_id == done.mlflow_run
    assert (found.info.status, found.info.run_name) == ("FINISHED", one.id)
    assert (found.info.start_time, found.info.end_time) == (one.record.started // 1000, one.record.ended // 1000)
    assert found.data.params == {
        "model.class": "DCNConfig", "model.layers": "[64,32]", "inputs.users.n.kind": "number", "odd:_": "null",
    }  # fmt: skip
    history = client.get_metric_history(done.mlflow_run, "loss")
    assert [(p.step, p.value, p.timestamp) for p in sorted(history, key=lambda p: p.step)] == [
        (p.step, p.value, p.time // 1000) for p in one.metrics()["loss"]
    ]
    assert math.isnan(client.get_metric_history(done.mlflow_run, "test auc_10")[3].value)
    assert found.data.tags["bedplate.run"] == one.id
    assert {f.path for f in client.list_artifacts(done.mlflow_run)} == {"run.json", "plots"}
    place = Path(client.download_artifacts(done.mlflow_run, "run.json"))
    assert json.loads(place.read_text())["id"] == one.id


def test_copying_again_changes_nothing_and_a_cut_off_copy_is_completed(
    registry: Registry, uri: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stored(registry, "again", "failed")
    mirror = Mirror(uri)
    with monkeypatch.context() as cut:
        cut.setattr("bedplate.registry.mlflow._BATCH", 30)
        log, calls = mirror._client.log_batch, []

        def log_batch(*args: Any, **kwargs: Any) -> None:
            calls.append(kwargs)
            if len(calls) == 3:
                raise OSError("the network is gone")
            log(*args, **kwargs)

        cut.setattr(mirror._client, "log_batch", log_batch)
        with pytest.raises(UnavailableError, match="the network is gone"):
            mirror.copy(one)
    (begun,) = only(client, "again")
    assert (begun.info.status, len(client.get_metric_history(begun.info.run_id, "loss"))) == ("RUNNING", 30)
    assert [mirror.copy(one).state, Mirror(uri).copy(one).state] == ["completed", "there"]
    (found,) = only(client, "again")
    assert found.info.run_id == begun.info.run_id
    assert (found.info.status, found.data.tags["bedplate.error"]) == ("FAILED", "it broke")
    for name in ("loss", "test auc_10"):
        assert [p.step for p in sorted(client.get_metric_history(found.info.run_id, name), key=lambda p: p.step)] == [
            *range(50)
        ]


def test_what_a_run_was_resumed_with_is_a_tag(registry: Registry, uri: str, client: Any) -> None:
    """MLflow's parameters can't be changed, and refusing the copy would leave the rest of the run behind."""
    one = stored(registry, "resumed", "interrupted")
    Mirror(uri).copy(one)
    with registry.resume_run(one.id, CONFIG | {"model": {"class": "DCNConfig", "layers": [32]}}):
        pass
    assert Mirror(uri).copy(registry.run(one.id)).state == "completed"
    (found,) = only(client, "resumed")
    assert (found.info.status, found.data.params["model.layers"]) == ("FINISHED", "[64,32]")
    assert {n: v for n, v in found.data.tags.items() if "resumed" in n} == {"bedplate.resumed.model.layers": "[32]"}


def test_the_command_copies_all_runs_in_their_order(
    registry: Registry, uri: str, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [stored(registry, "command").id for _ in range(2)]
    project = str(registry.root.parents[1])
    assert run(["runs", "mirror", "--to", uri, "--json", "--project", project]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(m["run"] for m in found) == sorted(ids)
    assert {m["state"] for m in found} == {"made"}
    assert run(["runs", "mirror", ids[0], "--to", uri, "--project", project]) == 0
    assert "there" in capsys.readouterr().out
    assert len(list(only(client, "command"))) == 2
    assert run(["runs", "mirror", "--project", project]) == 2
    assert "no store is named" in capsys.readouterr().err


def test_a_store_that_does_not_answer_is_said_so(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    one = stored(registry, "nowhere")
    with pytest.raises(UnavailableError, match="MLflow: ") as caught:
        Mirror("http://user:secret@127.0.0.1:9").copy(one)
    assert "secret" not in str(caught.value)
