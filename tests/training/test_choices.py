"""What libraries and the registry refuse is said before any data is read and before there is a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import retraining_project as small

from bedplate import Project, Registry
from bedplate.cli.main import run as command

TRAIN = (
    small.TRAIN
    + """
from bedplate import LogisticConfig
from bedplate.models.estimators import LightGBMConfig, SklearnConfig, XGBoostConfig

logi = Job("logi", dataset=pages, model=LogisticConfig("liked"), inputs=inputs, trainer=quick)
trees = Job("trees", dataset=pages, model=LightGBMConfig("liked", rounds=4), inputs=inputs)
deep = Job("deep", dataset=pages, model=XGBoostConfig("liked", rounds=4), inputs=inputs)
woods = Job("woods", dataset=pages, model=SklearnConfig("liked"), inputs=inputs)
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small.make(tmp_path / "project", 40, TRAIN)


def untouched(folder: Path) -> bool:
    config = Project(folder).config
    return not config.offline_path.exists() and Registry(config.registry_path).runs() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["woods", "model.estimator=sklearn.linear_model:Logistic"], "sklearn.linear_model"),
        (["woods", "model.estimator=sklaern:X"], "sklaern"),
        (["woods", 'model.params={"c": 1}'], "LogisticRegression has no parameter 'c'"),
        (["trees", 'model.params={"min_leaf": 1}'], "min_leaf"),
        (["deep", 'model.params={"min_leaf": 1}'], "min_leaf"),
        (["logi", "trainer.compile=inductr"], "compile is 'inductr', which is no backend of torch.compile"),
    ],
)
@pytest.mark.parametrize("how", ["train", "retrain"])
def test_what_a_library_does_not_know_is_refused_before_data_is_read(
    how: str, words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([how, *words, "--project", str(folder)]) == 2
    assert said in capsys.readouterr().err
    assert untouched(folder)


def test_what_sharded_tables_can_not_do_is_refused_before_data_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "ranker", "--processes", "2", "--sharding", "torchrec", "trainer.compile=eager"]
    assert command([*words, "--project", str(folder)]) == 2
    assert "compile is 'eager', and lookups of sharded tables can't be compiled" in capsys.readouterr().err
    assert untouched(folder)


def test_a_network_does_not_go_on_from_an_estimator_nor_an_estimator_from_anything(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["apply", "--project", str(folder)]) == 0
    assert command(["train", "trees", "--project", str(folder)]) == 0
    small.write(folder, 41)  # whoever reads it now fails: its indexes are not built
    for job, said in (
        ("logi", "job 'logi': 'trees:1' is an estimator, of LightGBMConfig: it has no weights that the network of Log"),
        ("woods", "job 'woods': a SklearnConfig is trained from the beginning, and should go on from 'trees:1'"),
    ):
        capsys.readouterr()
        assert command(["train", job, "--continue", "trees:1", "--project", str(folder)]) == 2
        assert said in capsys.readouterr().err
    assert [run.record.name for run in Project(folder).registry.runs()] == ["trees"]


@pytest.mark.parametrize("champion", [False, True])
def test_an_estimator_is_not_retrained_from_its_champion(
    champion: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if champion:
        assert command(["apply", "--project", str(folder)]) == 0
        assert command(["train", "trees", "--promote", "--project", str(folder)]) == 0
    small.write(folder, 41)
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    capsys.readouterr()
    assert command(["retrain", "trees", "--continue", "--dry-run", "--project", str(folder)]) == 2
    said = "'trees:1'" if champion else "its champion"
    assert f"a LightGBMConfig is trained from the beginning, and should go on from {said}" in capsys.readouterr().err
    after = {path.relative_to(folder) for path in folder.rglob("*")}
    made = {p for p in after - before if "__pycache__" not in p.parts}
    assert all(p.parts[:2] == (".bedplate", "registry") for p in made if len(p.parts) > 1), "no index was built"
    assert not [p for p in made if p.name == "run.json"], "no run was begun"


def test_the_choices_of_every_job_that_is_right_are_taken(folder: Path) -> None:
    from bedplate import Job
    from bedplate.training.choices import check_choices

    project = Project(folder)
    for name in ("ranker", "logi", "trees", "deep", "woods"):
        check_choices(project.find(Job, name))
    check_choices(project.find(Job, "logi").with_settings(["trainer.compile=eager"]))
