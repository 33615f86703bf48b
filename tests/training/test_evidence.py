"""A version's manifest says what made the model, and a run is only resumed with what it began with."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from small_retail import make_project

from bedplate import Job, Project, Registry
from bedplate.cli.main import run as command
from bedplate.errors import DataError, StoreError
from bedplate.registry.manifest import Manifest
from bedplate.training import report
from bedplate.training.run import Trained, train

TRAIN = """
from datasets import baskets
from bedplate import Category, Job, LogisticConfig, Number, TrainerConfig

small = Job(
    "small",
    dataset=baskets,
    model=LogisticConfig(label="bought"),
    inputs={
        "customer_lines.spend_28d": Number(log=True),
        "product_lines.lines_28d": Number(log=True),
        "product_lines.price": Number(log=True),
        "discount": Number(),
        "weekday": Category(),
    },
    trainer=TrainerConfig(epochs=1, checkpoint_every=1),
    fit_batches=4,
    golden=1,
)
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("evidence") / "first")
    (folder / "train.py").write_text(TRAIN)
    Project(folder).apply()
    return folder


def changed(first: Path, folder: Path, changes: Mapping[str, tuple[str, str]]) -> Project:
    """A copy of the project, its built indexes included, with a text of a file replaced in each of some files."""
    shutil.copytree(first, folder)
    for name, (old, new) in changes.items():
        text = (folder / name).read_text()
        assert old in text, f"{name} has no {old}"
        (folder / name).write_text(text.replace(old, new, 1))
    project = Project(folder)
    project.apply()
    return project


def trained(project: Project, **options: object) -> Trained:
    job, registry = project.find(Job, "small"), Registry(project.root / "registry")
    return train(job, project.load("baskets"), project.graph.features, registry, project.root, **options)


def parts(manifest: Manifest) -> dict[str, object]:
    """Definitions, sources, config and seeds by name."""
    found: dict[str, object] = {**manifest.definitions}
    found |= {f"source {name}": snapshot for name, snapshot in manifest.sources.items()}
    found |= {f"config {name}": value for name, value in manifest.config.items()}
    return found | {f"seed {name}": value for name, value in manifest.seeds.items()}


@pytest.fixture(scope="module")
def before(first: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return parts(trained(changed(first, tmp_path_factory.mktemp("before") / "p", {})).version.manifest)


PRICE_VIEW = {"feature product_lines.price", "feature discount", "view product_lines"}
CHANGES = {
    "label": ("datasets.py", 'within="1h"', 'within="2h"', {"label bought"}),
    "negatives": ("datasets.py", "per_positive=1.0", "per_positive=3.0", {"negatives"}),
    "split": ("datasets.py", 'validation="2011-10-17"', 'validation="2011-10-18"', {"split"}),
    "spine": (
        "datasets.py",
        'request="invoice",',
        'request="invoice", where=__import__("polars").col("quantity") > 0,',
        {"spine"},
    ),
    "feature of a view": ("features.py", '"price": Last("price")', '"price": Max("price")', PRICE_VIEW),
    "derived feature": (
        "features.py",
        'pl.col("product_lines.price") / pl.col("product_lines.price_mean_90d")',
        'pl.col("product_lines.price_mean_90d") / pl.col("product_lines.price")',
        {"feature discount"},
    ),
    "config": ("train.py", "epochs=1", "epochs=1, learning_rate=0.01", {"config trainer"}),
    "seed of the trainer": ("train.py", "epochs=1", "epochs=1, seed=7", {"config trainer", "seed trainer"}),
    "seed of the model": ("train.py", 'label="bought"', 'label="bought", seed=7', {"config model", "seed model"}),
    "encoding": ("train.py", '"weekday": Category()', '"weekday": Category(min_count=9)', {"config inputs"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_single_change_is_in_the_manifest_and_nothing_else_is(
    change: str, first: Path, before: dict[str, object], tmp_path: Path
) -> None:
    file, old, new, expected = CHANGES[change]
    after = parts(trained(changed(first, tmp_path / "p", {file: (old, new)})).version.manifest)
    different = {name for name in {**before, **after} if before.get(name) != after.get(name)}
    # The dataset as a whole has an id of its own, which every change of its parts changes.
    of_dataset = {"datasets.py": {"dataset baskets"}, "features.py": {"dataset baskets"}}.get(file, set())
    assert different == expected | of_dataset


def test_what_the_model_does_not_use_leaves_its_manifest_as_it_is(
    first: Path, before: dict[str, object], tmp_path: Path
) -> None:
    unused = 'unused = DerivedFeature("unused", pl.col("product_lines.price") * 2)\nweekday ='
    other = 'other = Dataset("other", spine=baskets.spine, features=["unused"], split=baskets.split)\n'
    project = changed(first, tmp_path / "p", {"features.py": ("weekday =", unused)})
    with (tmp_path / "p" / "datasets.py").open("a") as file:
        file.write(other)
    project = Project(project.root)
    assert "other" in project.datasets
    assert parts(trained(project).version.manifest) == before


def test_the_manifest_names_the_snapshot_that_was_trained_on(first: Path, tmp_path: Path) -> None:
    project = changed(first, tmp_path / "p", {})
    data = project.root / "data" / "online_retail.parquet"
    opened = project.views["product_lines"].view.source.table(project.root).snapshot().id

    def touch(step: str) -> None:
        if step.startswith("train"):
            os.utime(data, ns=(1, 1))

    version = trained(project, progress=touch).version
    assert project.views["product_lines"].view.source.table(project.root).snapshot().id != opened
    assert version.manifest.sources == {"lines": opened, "returns": opened}
    lineage = Registry(project.root / "registry").lineage("small", version.version)
    assert lineage.all_sources() == {"lines": {opened}, "returns": {opened}}


def test_a_dataset_is_of_one_state_of_each_source(first: Path, tmp_path: Path) -> None:
    project = changed(first, tmp_path / "p", {})
    project.load("baskets")
    os.utime(project.root / "data" / "online_retail.parquet", ns=(1, 1))
    with pytest.raises(DataError, match=r"'lines' was read in two states: spine .* index of view"):
        project.load("baskets")


class Killed(Exception):
    pass


def interrupted(project: Project) -> str:
    """The id of a run of the job that broke off."""

    def stop(_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        trained(project, show=stop)
    return Registry(project.root / "registry").runs()[0].id


REFUSED = {
    "label": ("datasets.py", 'within="1h"', 'within="2h"', "dataset baskets, label bought"),
    "negatives": ("datasets.py", 'window="28d"', 'window="14d"', "dataset baskets, negatives"),
    "derived feature": ("features.py", ".dt.weekday()", ".dt.hour()", "dataset baskets, feature weekday"),
    "encoding": ("train.py", '"discount": Number()', '"discount": Number(log=True)', r"inputs\.discount: was .*, is"),
    "model": ("train.py", 'label="bought"', 'label="bought", seed=3', r"model\.seed: was 0, is 3"),
    "trainer": ("train.py", "epochs=1", "epochs=1, learning_rate=0.5", r"trainer\.learning_rate: was 0\.001, is 0\.5"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_run_is_not_resumed_with_something_else(change: str, first: Path, tmp_path: Path) -> None:
    file, old, new, named = REFUSED[change]
    run = interrupted(changed(first, tmp_path / "p", {}))
    text = (tmp_path / "p" / file).read_text()
    (tmp_path / "p" / file).write_text(text.replace(old, new, 1))
    project = Project(tmp_path / "p")
    project.apply()
    with pytest.raises(StoreError, match=f"than it would go on with: {named}"):
        trained(project, resume=run)
    registry = Registry(project.root / "registry")
    assert registry.models() == []
    assert registry.run(run).status == "failed", "the refused run is as it was"


def test_a_run_is_not_resumed_on_other_data(first: Path, tmp_path: Path) -> None:
    run = interrupted(changed(first, tmp_path / "p", {}))
    os.utime(tmp_path / "p" / "data" / "online_retail.parquet", ns=(1, 1))
    project = Project(tmp_path / "p")
    project.apply()
    with pytest.raises(StoreError, match="the snapshot of source lines, the snapshot of source returns"):
        trained(project, resume=run)


def test_a_run_may_be_prolonged_and_is_shown_with_what_made_it(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(changed(first, tmp_path / "p", {}))
    text = (tmp_path / "p" / "train.py").read_text()
    (tmp_path / "p" / "train.py").write_text(
        text.replace("epochs=1", "epochs=2, patience=9").replace("golden=1", "golden=2")
    )
    project = Project(tmp_path / "p")
    version = trained(project, resume=run).version
    assert version.manifest.run == run
    with (tmp_path / "p" / "bedplate.toml").open("a") as file:
        file.write('[registry]\npath = "registry"\n')
    for words in (["models", "show", "small"], ["runs", "show", run]):
        assert command([*words, "--project", str(project.root)]) == 0
        shown = capsys.readouterr().out
        for name, value in version.manifest.definitions.items():
            assert f"{name.removeprefix('feature ')}: {value}" in shown
        assert "features: 5" in shown
        assert f"source lines: snapshot {version.manifest.sources['lines']}" in shown
        assert command([*words, "--json", "--project", str(project.root)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found.get("manifest", found)["definitions"] == version.manifest.definitions


def interrupted_by_the_command(project: Project, monkeypatch: pytest.MonkeyPatch, *settings: str) -> str:
    """Ctrl-C in the first step of `bedplate train`; the id of its run."""
    with monkeypatch.context() as patch:
        patch.setattr(report, "on_stderr", lambda: lambda _: signal.raise_signal(signal.SIGINT))
        assert command(["train", "small", *settings, "--project", str(project.root)]) == 130
    (run,) = project.registry.runs()
    return run.id


def test_a_resumed_run_keeps_the_settings_that_it_began_with(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = changed(first, tmp_path / "p", {})
    run = interrupted_by_the_command(project, monkeypatch, "trainer.epochs=2", "trainer.learning_rate=0.01")
    printed = capsys.readouterr().err
    assert f"error: run '{run}': interrupted after step" in printed
    assert printed.endswith(f"\n  go on with: bedplate train small --resume {run}\n")
    registry = project.registry
    assert registry.run(run).status == "interrupted"
    words = ["train", "small", "--resume", run, "--project", str(project.root)]
    assert command([*words, "trainer.learning_rate=0.5"]) == 5
    assert "trainer.learning_rate: was 0.01, is 0.5\n  start a new run, or go on" in capsys.readouterr().err
    assert command(words) == 0
    config = registry.get("small:1").manifest.config
    assert (config["trainer"]["epochs"], config["trainer"]["learning_rate"]) == (2, 0.01)


def test_a_resumed_run_may_be_told_to_go_on_for_longer(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = changed(first, tmp_path / "p", {})
    run = interrupted_by_the_command(project, monkeypatch, "trainer.learning_rate=0.01")
    assert command(["train", "small", "--resume", run, "trainer.epochs=2", "--project", str(project.root)]) == 0
    config = project.registry.get("small:1").manifest.config
    assert (config["trainer"]["epochs"], config["trainer"]["learning_rate"]) == (2, 0.01)


def test_the_command_gives_a_profile_which_the_run_keeps_and_the_version_is_the_same_as_without(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bedplate.training import profile_limits

    monkeypatch.setattr(profile_limits, "SECONDS", 0.02)
    project = changed(first, tmp_path / "p", {})
    plain = trained(project).version
    with (project.root / "bedplate.toml").open("a") as file:
        file.write('[registry]\npath = "registry"\n')
    words = ["train", "small", "--profile", "--project", str(project.root)]
    assert command([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["new"]) == (plain.version, False)
    kept = project.root / "registry" / "runs" / found["run"] / "profile.json"
    assert json.loads(kept.read_text()) == found["profile"]
    assert {"join", "encode", "forward", "backward"} <= {s["name"] for s in found["profile"]["stages"] if s["limit"]}
