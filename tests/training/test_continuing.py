"""Continuing from a version on new data: which rows are learnt, what is recorded, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import retraining_project as small
import torch

from bedplate import Job, Project, TimeSplit
from bedplate.cli.main import run as command
from bedplate.datasets.loader import Loader
from bedplate.datasets.rolling import RollingSplit
from bedplate.errors import ArtifactError, DataError, DefinitionError, NotFoundError
from bedplate.training import profile_limits
from bedplate.training.checkpoint import BEST, load_state, save_state
from bedplate.training.continuing import Beginning, Continuation
from bedplate.training.evaluate import predict
from bedplate.training.inheritance import Parent
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.run import Trained, train


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion of its first 40 days, and 46 days of data by now."""
    folder = small.make(tmp_path_factory.mktemp("continuing") / "project", 40)
    assert command(["apply", "--project", str(folder)]) == 0
    assert command(["train", "ranker", "--promote", "--project", str(folder)]) == 0
    small.write(folder, 46)
    assert command(["apply", "--project", str(folder)]) == 0
    return folder


@pytest.fixture
def project(grown: Path, tmp_path: Path) -> Project:
    return Project(shutil.copytree(grown, tmp_path / "project"))


def go_on(project: Project, *settings: str, rows: str = "since", **options: object) -> Trained:
    registry = project.registry
    job = project.find(Job, "ranker").with_settings(settings)
    continued = Continuation.of(registry.get("ranker"), rows)  # pyright: ignore[reportArgumentType]
    dataset, features = project.load("pages"), project.graph.features
    return train(job, dataset, features, registry, project.root, continued=continued, **options)  # pyright: ignore[reportArgumentType]


def test_it_learns_the_rows_that_its_parent_did_not_and_says_from_what_it_came(project: Project) -> None:
    registry = project.registry
    was = registry.get("ranker:1")
    trained = go_on(project)
    dataset, manifest = project.load("pages"), trained.version.manifest
    first, last = dataset.positions("train")
    times = dataset.spine.rows.times[first:last]
    assert was.manifest.learnt_until is not None
    new = int((times > was.manifest.learnt_until).sum())
    assert 0 < new < len(times)
    assert trained.result.steps == 2 * -(-new // 100)
    assert manifest.parents == ("ranker:1",)
    assert manifest.learnt_until == times[-1]
    assert manifest.config["continued"] == {
        "parent": "ranker:1",
        "rows": "since",
        "since": was.manifest.learnt_until + 1,
    }
    assert "model ranker:1" in registry.lineage("ranker", 2).tree()
    everything = go_on(project, rows="all")
    assert everything.result.steps == 2 * -(-len(times) // 100)


def test_before_its_first_step_it_gives_the_scores_of_its_parent(project: Project) -> None:
    registry = project.registry
    # So small a rate changes no float32 weight: what is judged is what it began with.
    trained = go_on(project, "trainer.learning_rate=1e-30", "trainer.embedding_learning_rate=1e-30")
    parent = go_on(project, "trainer.learning_rate=1e-30", "trainer.embedding_learning_rate=1e-30", rows="all")
    test = Loader(project.load("pages"), "test")
    source = Parent(registry, registry.get("ranker:1"), project.find(Job, "ranker"))
    expected = predict(source.model(), source.encoder, test).scores
    for one in (trained, parent):
        np.testing.assert_allclose(predict(one.result.model, one.encoder, test).scores, expected, rtol=1e-6)


def test_weights_that_are_not_those_of_the_version_are_refused(project: Project) -> None:
    registry = project.registry
    path = registry.run(registry.get("ranker:1").manifest.run or "").folder / "checkpoints" / BEST
    state = load_state(path)
    name = next(name for name, weight in state["model"].items() if weight.is_floating_point() and weight.numel() > 8)
    state["model"][name] = state["model"][name] + 0.5
    save_state(path, state)
    with pytest.raises(ArtifactError, match=r"golden request 0 of model 'ranker:1'"):
        go_on(project)
    assert registry.versions("ranker") == [1]


def test_an_interrupted_one_ends_with_the_weights_of_one_that_was_not(project: Project) -> None:
    whole = go_on(project, "trainer.checkpoint_every=1")

    def stop(status: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(TrainingInterruptedError):
        go_on(project, "trainer.checkpoint_every=1", show=stop)
    registry = project.registry
    run = registry.runs("ranker")[0]
    assert run.status == "interrupted"
    shutil.rmtree(registry.run(registry.get("ranker:1").manifest.run or "").folder)  # what it began with it has
    job = project.find(Job, "ranker").with_settings(["trainer.checkpoint_every=1"])
    dataset, features = project.load("pages"), project.graph.features
    resumed = train(job, dataset, features, registry, project.root, resume=run.id)
    assert str(resumed.version) == str(whole.version)
    assert not list(run.folder.rglob("start.pt"))


def test_several_processes_go_on_from_the_weights_of_the_parent_and_are_profiled(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_limits, "SECONDS", 0.02)
    alone = go_on(project)
    words = ["train", "ranker", "--continue", "ranker:1", "--processes", "2", "--profile", "--json"]
    capsys.readouterr()
    assert command([*words, "--project", str(project.root)]) == 0
    found = json.loads(capsys.readouterr().out)
    registry = project.registry
    version = registry.get("ranker", found["version"])
    assert version.manifest.parents == ("ranker:1",)
    assert version.manifest.config["continued"] == alone.version.manifest.config["continued"]
    assert version.manifest.learnt_until == alone.version.manifest.learnt_until
    one, two = (registry.run(run).folder / "checkpoints" / "checkpoint.pt" for run in (alone.run_id, found["run"]))
    states = load_state(one), load_state(two)
    for name, weight in states[0]["model"].items():
        torch.testing.assert_close(states[1]["model"][name], weight, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(states[1]["optimizer"], states[0]["optimizer"], rtol=1e-3, atol=1e-6)
    assert states[1]["progress"]["step"] == alone.result.steps
    stages = {stage["name"]: stage for stage in found["profile"]["stages"]}
    assert stages["exchange"]["seconds"] > 0, "the processes wait for each other"
    assert (registry.run(found["run"]).folder / "profile.json").is_file()


def test_a_missing_run_and_a_split_that_was_seen_are_said(project: Project) -> None:
    registry = project.registry
    champion = registry.get("ranker")
    go_on(project)
    registry.promote("ranker", 2)
    with pytest.raises(DataError, match=r"(?s)no training request .* 'ranker:2' has learnt nothing.*RollingSplit"):
        go_on(project)
    small.write(project.root, 40)
    assert command(["apply", "--project", str(project.root)]) == 0
    with pytest.raises(DataError, match=r"'ranker:2' knows what happened until .* when validation begins"):
        go_on(Project(project.root), rows="all")
    shutil.rmtree(registry.run(champion.manifest.run or "").folder)
    registry.promote("ranker", 1)
    said = r"(?s)model 'ranker:1': the run '.*' that made it.*no longer there.*train from"
    with pytest.raises(NotFoundError, match=said):
        go_on(Project(project.root), rows="all")


OWN = """
import torch
from torch import nn
from bedplate.layers.inputs import InputVectors
from bedplate.models.base import seeded
from bedplate.models.binary import BinaryModel
from bedplate.models.config import BinaryConfig

class Own(BinaryModel):
    class Config(BinaryConfig, frozen=True):
        pass

    def __init__(self, config, layout):
        super().__init__(config, layout)
        with seeded(config.seed):
            self.vectors = InputVectors(layout, 4)
            self.net = nn.Linear(self.vectors.request_width + self.vectors.item_width, 1)
            self.places = nn.Parameter(torch.randn(100, 1))

    def forward(self, batch):
        own = nn.functional.embedding(batch["item_ids"], self.places).flatten(1).sum(1)
        return {"logit": self.net(self.vectors.rows(batch)).squeeze(1) + own}

ranker = Job("ranker", dataset=pages, model=Own.Config("liked"), inputs=inputs, trainer=quick)
"""


def test_a_model_that_looks_new_ids_up_in_its_own_way_is_refused_before_its_first_step(tmp_path: Path) -> None:
    folder = small.make(tmp_path / "project", 40, small.TRAIN.partition("ranker = ")[0] + OWN)
    assert command(["apply", "--project", str(folder)]) == 0
    assert command(["train", "ranker", "--promote", "--project", str(folder)]) == 0
    seen = Project(folder)
    again = go_on(seen, rows="all")  # with the ids that its parent knows it goes on
    assert again.version.manifest.parents == ("ranker:1",)
    small.write(folder, 46)
    assert command(["apply", "--project", str(folder)]) == 0
    with pytest.raises(DefinitionError, match=r"first scores would not be those of the parent.*new ids: . of 'cand"):
        go_on(Project(folder))


@pytest.fixture
def parent(project: Project) -> Callable[[int | None, int | None], Beginning]:
    """What a run begins with that goes on from a version which has learnt and known until some times."""
    registry = project.registry
    own = registry.get("ranker:1")

    def begin(learnt: int | None, trained: int | None) -> Beginning:
        folder = project.root / f"artifact-{learnt}-{trained}"
        folder.mkdir()
        (folder / "weights").write_text(f"{learnt} {trained}")
        manifest = msgspec.structs.replace(own.manifest, learnt_until=learnt, trained_until=trained)
        return Beginning(Continuation.of(registry.register("ranker", folder, manifest=manifest), "all"), registry, {})

    return begin


def test_what_the_parent_knows_counts_as_known(parent: Callable[[int | None, int | None], Beginning]) -> None:
    beginning = parent(50, 100)
    assert beginning.until(10, 20) == (50, 100)
    assert beginning.until(60, 90) == (60, 100)
    assert beginning.until(60, 200) == (60, 200)
    assert parent(None, None).until(10, 20) == (10, 20)


def test_a_parent_may_know_what_was_until_the_split_begins_and_no_request_of_it(
    parent: Callable[[int | None, int | None], Beginning],
) -> None:
    split = TimeSplit(10**15, 2 * 10**15)
    parent(10**15 - 1, 2 * 10**15 - 1).check(split)
    with pytest.raises(DataError, match="when validation begins"):
        parent(10**15, 2 * 10**15 - 1).check(split)
    with pytest.raises(DataError, match="when test begins"):
        parent(10**15 - 1, 2 * 10**15).check(split)


def test_the_command_line_says_what_does_not_go_together(grown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--project", str(grown)]
    assert command(["train", "ranker", "--rows", "all", *where]) == 2
    assert "give --continue too" in capsys.readouterr().err
    assert command(["train", "ranker", "--continue", "ranker", "--resume", "x", *where]) == 2
    assert "leave --continue out" in capsys.readouterr().err
    assert command(["train", "ranker", "--continue", "ranker:7", *where]) == 4


def test_a_rolling_split_moves_with_the_data_and_its_definition_stays() -> None:
    split = RollingSplit(validation="8d", test="7d", gap="1d")
    assert split.at(10**15 + small.DAY).test == split.at(10**15).test + small.DAY
    assert split.at(10**15).form() == TimeSplit(10**15 - 15 * small.DAY, 10**15 - 7 * small.DAY, gap="1d").form()
    with pytest.raises(DefinitionError, match="no time is left"):
        RollingSplit(validation="1d", test="7d", gap="1d")


def test_a_rolling_split_ends_with_the_last_time_whose_labels_are_known(project: Project) -> None:
    dataset = project.load("pages")
    first, last = dataset.positions("test")
    times = dataset.spine.rows.times
    assert len(times) - 3 < last <= len(times)
    end = dataset.split.test + 8 * small.DAY
    assert end == times[-1] - 60_000_000 + 1
    assert times[last - 1] < end
    assert times[first] >= dataset.split.test > times[first - 1]
