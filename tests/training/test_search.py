"""`bedplate search`: trials that are runs, ended early where they fall behind, gone on with after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import polars as pl
import pytest
import retraining_project as small

from bedplate import Job, Project, Registry
from bedplate.cli.main import run as command
from bedplate.errors import ConfigError, DefinitionError
from bedplate.training import searching
from bedplate.training.search import Choice, Int, Log, Search, Uniform
from bedplate.training.study import Found as Found_
from bedplate.training.study import Trial

SEARCH = """
from bedplate.training import searching
from bedplate.training.search import Choice, Int, Log, Search

rates = {"trainer.learning_rate": Log(1e-3, 1e-1), "model.rank": Int(2, 6), "model.layers": Choice(((8,), (8, 4)))}
wider = Search("wider", job=ranker, space=rates, trials=5, pruner="none")
bad = {"trainer.learning_rate": Choice((1e-9, 3e-2)), "trainer.embedding_learning_rate": Choice((1e-9, 5e-2))}
early = Search("early", job=ranker, space=bad, trials=9)
"""
Found = dict[str, Any]


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.make(tmp_path_factory.mktemp("search") / "project", 40, small.TRAIN + SEARCH)
    assert command(["apply", "--project", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(applied: Path, tmp_path: Path) -> Path:
    return shutil.copytree(applied, tmp_path / "project")


@pytest.fixture
def search(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Found]:
    def run(*words: str) -> Found:
        capsys.readouterr()
        assert command(["search", *words, "--json", "--project", str(folder)]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def registry(folder: Path) -> Registry:
    return Project(folder).registry


def test_a_study_has_its_trials_their_importance_and_the_best_against_the_default(
    folder: Path, search: Callable[..., Found]
) -> None:
    found = search("wider")
    assert [t["state"] for t in found["trials"]] == ["complete"] * 5
    assert (found["metric"], found["lower_is_better"]) == ("log_loss", True)
    best = min(found["trials"], key=lambda t: t["value"])
    assert found["best"] == best
    assert set(found["importance"]) == {"trainer.learning_rate", "model.rank", "model.layers"}
    assert sum(found["importance"].values()) == pytest.approx(1)
    was, now, difference = (found["difference"]["log_loss"][part] for part in ("a", "b", "difference"))
    assert (was["mean"], now["mean"]) == pytest.approx((found["default"]["value"], best["value"]), rel=1e-5)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    runs = {run.id: run for run in registry(folder).runs("ranker")}
    assert set(runs) == {found["default"]["run"], *(t["run"] for t in found["trials"])}
    assert registry(folder).models() == []
    # A trial is what the job is with the trial's settings.
    job = Project(folder).find(Job, "ranker").with_settings(best["settings"])
    assert runs[best["run"]].record.config["model"] == json.loads(json.dumps(job.form()["model"]))
    stored = folder / ".bedplate" / "registry" / "studies" / "wider" / found["id"] / "study.json"
    assert json.loads(stored.read_bytes()) == found
    # Run again, it has its trials; asked for more, it makes those that are missing.
    assert search("wider") == found
    more = search("wider", "--trials", "6")
    assert more["trials"][:5] == found["trials"]
    assert len(registry(folder).runs("ranker")) == 7


def test_trials_that_fall_behind_are_ended_early(folder: Path, search: Callable[..., Found]) -> None:
    found = search("early")
    pruned = [t for t in found["trials"] if t["state"] == "pruned"]
    assert pruned
    for trial in pruned:
        assert "1e-9" in " ".join(trial["settings"])
        assert 1 <= trial["validations"] < 2 + 1
        assert registry(folder).run(trial["run"]).status == "finished"


def test_after_kill_9_other_processes_go_on_with_the_same_trials(folder: Path, search: Callable[..., Found]) -> None:
    script = Path(__file__).with_name("run_killed.py")
    # In the second trial, before what it predicts is kept; the default's are kept first.
    words = [script, "bedplate.training.trial:write_predictions", "3", "search", "wider", "--trials", "3"]
    process = subprocess.run(
        [sys.executable, *map(str, words), "--project", str(folder)], capture_output=True, text=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    before = {run.id: run for run in registry(folder).runs("ranker")}
    assert sorted(run.status for run in before.values()) == ["finished", "finished", "interrupted"]
    found = search("wider", "--trials", "3", "--processes", "2")
    assert [t["state"] for t in found["trials"]] == ["complete"] * 3
    first = found["trials"][:2]
    assert {found["default"]["run"], *(t["run"] for t in first)} == set(before)
    assert [before[t["run"]].record.config["settings"] for t in first] == [t["settings"] for t in first]
    assert [run.status for run in registry(folder).runs("ranker")] == ["finished"] * 4


def test_a_job_without_a_search_has_the_usual_one(folder: Path, search: Callable[..., Found]) -> None:
    found = search("ranker", "--trials", "1")
    assert [s.partition("=")[0] for s in found["trials"][0]["settings"]] == [
        "trainer.learning_rate",
        "trainer.embedding_learning_rate",
        "trainer.weight_decay",
        "model.dropout",
    ]
    assert found["importance"] == {}


def found_of(own: float, *trials: tuple[str, float | None], metric: str = "log_loss", lower: bool = True) -> Any:
    tried = [
        Trial(number=i, state=state, settings=["model.rank=3"], run=f"r{i}", value=value)
        for i, (state, value) in enumerate(trials)
    ]
    done = [t for t in tried if t.value is not None]
    best = (min if lower else max)(done, key=lambda t: t.value, default=None)  # type: ignore[arg-type, return-value]
    default = Trial(number=-1, state="complete", settings=[], run="d", value=own)
    return Found_(
        name="wider", id="i", job="ranker", metric=metric, lower_is_better=lower, trials=tried, importance={},
        best=best, default=default,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "says", "says_not"),
    [
        (
            found_of(0.5, ("complete", 0.4)),
            "the best, trial 0: bedplate train ranker model.rank=3",
            "no trial is better",
        ),
        (
            found_of(0.5, ("complete", 0.6), ("complete", 0.5)),
            "no trial is better than the job's own choices: log_loss 0.5, the best trial 1 has log_loss 0.5",
            "bedplate train",
        ),
        (found_of(0.5, ("complete", 0.4), metric="auc", lower=False), "no trial is better", "bedplate train"),
        (found_of(0.5, ("complete", 0.6), metric="auc", lower=False), "bedplate train ranker", "still running"),
        (
            found_of(0.5, ("complete", 0.4), ("running", None)),
            "1 still running in other processes: what follows is of those that have ended",
            "no trial is better",
        ),
        (
            msgspec.structs.replace(found_of(0.5, ("complete", 0.4)), default=None),
            "trial 0: log_loss 0.4; the job's own choices have not been tried to the end",
            "bedplate train",
        ),
    ],
)
def test_what_to_do_with_the_best_depends_on_what_it_is_better_than(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    found: Any,
    says: str,
    says_not: str,
) -> None:
    monkeypatch.setattr(searching, "open_study", lambda *_: SimpleNamespace(run=lambda *_: found))
    assert command(["search", "wider", "--project", str(folder)]) == 0
    out = capsys.readouterr().out
    assert says in out
    assert says_not not in out


TREES = """
from bedplate.models.estimators import LightGBMConfig, SklearnConfig, XGBoostConfig

few = {"rounds": 4, "evaluate_every": 2}
judged = TrainerConfig(metric="log_loss")
leafy = Job("leafy", dataset=pages, model=LightGBMConfig("liked", **few), inputs=inputs, trainer=judged)
deep = Job("deep", dataset=pages, model=XGBoostConfig("liked", **few), inputs=inputs, trainer=judged)
plain = Job("plain", dataset=pages, model=SklearnConfig("liked"), inputs=inputs, trainer=judged)
"""


@pytest.mark.parametrize(("name", "size"), [("leafy", "model.leaves"), ("deep", "model.depth")])
def test_the_usual_search_of_trees_is_of_their_choices(
    folder: Path, search: Callable[..., Found], name: str, size: str
) -> None:
    (folder / "train.py").write_text(small.TRAIN + TREES)
    found = search(name, "--trials", "2")
    assert [t["state"] for t in found["trials"]] == ["complete"] * 2
    for trial in found["trials"]:
        names = [s.partition("=")[0] for s in trial["settings"]]
        assert names == ["model.learning_rate", size, "model.subsample", "model.colsample"]


def test_another_estimator_needs_a_search_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train.py").write_text(small.TRAIN + TREES)
    assert command(["search", "plain", "--project", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "job 'plain': there is no usual search of a SklearnConfig" in err
    assert "define a Search of it, for example with space={'model.params.C': Log(0.01, 100)}" in err


def test_what_is_wrong_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--project", str(folder)]
    assert command(["search", "wide", *where]) == 4
    assert "no search or job is named 'wide'" in capsys.readouterr().err
    assert command(["search", "wider", "--processes", "100000", *where]) == 2
    assert "bedplate search: --processes is 100,000, expected at most" in capsys.readouterr().err
    text = small.TRAIN + SEARCH.replace('"model.rank"', '"model.ranks"')
    (folder / "train.py").write_text(text)
    assert command(["search", "wider", *where]) == 2
    assert "did you mean 'rank'?" in capsys.readouterr().err


def test_one_class_is_refused_before_a_trial(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = small.plays(40).with_columns(
        liked=pl.when(pl.col("time") < small.BEGIN + 24 * small.DAY).then("liked").otherwise(0)
    )
    rows.write_parquet(folder / "plays.parquet")
    assert command(["apply", "--project", str(folder)]) == 0
    assert command(["search", "wider", "--project", str(folder)]) == 3
    said = "label 'liked' is 0 in all 350 rows of the split 'validation', expected both 0 and 1"
    assert said in capsys.readouterr().err
    assert registry(folder).runs() == []


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "5 trials of 0 choices"),
        ({"rank": Int(1, 2)}, "expected model.NAME or trainer.NAME"),
        ({"model.rank": Int(4, 4)}, "got 4 to 4, expected low below high"),
        ({"trainer.learning_rate": Log(0.0, 1.0)}, "expected low below high, low above 0"),
        ({"model.dropout": Uniform(0.5, 0.1)}, "got 0.5 to 0.1"),
        ({"model.layers": Choice(((8,),))}, "got 1 values, expected at least 2"),
    ],
)
def test_a_wrong_space_is_refused_when_it_is_defined(space: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        Search("s", job="ranker", space=space, trials=5)


def test_another_space_metric_or_seed_is_another_study_and_more_trials_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "Study", lambda folder, *_: folder.name)  # no storage is needed for its id
    project = Project(folder)
    job, data = project.find(Job, "ranker"), project.load("pages")

    def opened(**changed: Any) -> Any:
        search = Search("s", **{"job": "ranker", "space": {"model.rank": Int(2, 6)}, "trials": 3, **changed})
        return searching.open_study(search, job, data, project.graph.features, registry(folder), project.root)

    ids = [opened()]
    assert opened(trials=9) == ids[0]
    for changed in ({"space": {"model.rank": Int(2, 7)}}, {"metric": "auc"}, {"seed": 1}, {"pruner": "none"}):
        ids.append(opened(**changed))
    assert len(set(ids)) == 5
    kept = sorted(path.parent.name for path in (registry(folder).root / "studies" / "s").glob("*/encoder"))
    assert kept == sorted(ids), "each has its own encoder"
    with pytest.raises(ConfigError, match="'rank' of DCNConfig"):
        opened(space={"model.rank": Choice((2, "many"))})
