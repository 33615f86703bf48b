"""A model of a project's own: its config, its code as a definition behind the version, its mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from bedplate import Category, Job, LogisticConfig, Project
from bedplate.cli.main import run
from bedplate.errors import ConfigError, DefinitionError, NotFoundError, StoreError
from bedplate.layers.inputs import InputVectors
from bedplate.models.binary import BinaryModel
from bedplate.models.config import BinaryConfig, DCNConfig, ModelConfig
from bedplate.models.dcn import DCN
from bedplate.training.evidence import code_of

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
FILES = {"features.py", "train.py", "wide.py", "stars.py"}


class Tiny(BinaryModel):
    class Config(BinaryConfig, frozen=True):
        width: int = 4

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self.vectors = InputVectors(layout, 2)
        self.net = nn.Linear(self.vectors.item_width, 1)

    def forward(self, batch):
        return {"logit": self.net(self.vectors.item(batch)).squeeze(1)}


class Lost(BinaryConfig, frozen=True):
    pass


def job(**options):
    return Job("tiny", **{"dataset": "d", "model": Tiny.Config("label"), "inputs": {"candidate": Category()}} | options)


def test_a_config_inside_its_model_is_of_that_model():
    assert job().model_class is Tiny
    assert job(model=LogisticConfig("label")).model_class.__name__ == "Logistic"
    assert job().form()["model"] == {
        "class": "Tiny.Config",
        "label": "label",
        "seed": 0,
        "correct_sampling": False,
        "width": 4,
    }
    assert job().with_settings(["model.width=8"]).model == Tiny.Config("label", width=8)


def test_a_class_made_of_another_model_is_trained_as_itself():
    class Variant(Tiny):
        pass

    class Wider(Tiny):
        class Config(Tiny.Config, frozen=True):
            depth: int = 2

    class Crossed(DCN):
        pass

    class Same(Tiny):
        Config = Tiny.Config

    for kind in (Variant, Wider, Crossed, Same):
        made = job(model=kind.Config("label"))
        assert made.model_class is kind
        assert made.form()["model"]["class"] == f"{kind.__name__}.Config"
    assert job(model=Variant.Config("label", width=7)).with_settings(["model.width=8"]).model.width == 8
    assert job(model=Wider.Config("label")).form()["model"]["depth"] == 2
    assert (job().model_class, job(model=DCNConfig("label")).model_class) == (Tiny, DCN)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.widht=8", r"Tiny.Config has no field 'widht'\n  did you mean 'width'"),
        ("model.width=wide", r"'width' of Tiny.Config: Expected `int`"),
        ("model.seed=-1", "Tiny.Config: seed is -1, expected at least 0"),
        ("model.label=", "Tiny.Config: got no label"),
    ],
)
def test_mistakes_of_its_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        job().with_settings([setting])


def test_a_config_of_no_model_is_refused():
    with pytest.raises(DefinitionError, match=r"job 'tiny': model: got Lost, which is the config of no model"):
        job(model=Lost("label"))
    with pytest.raises(DefinitionError, match="expected ModelConfig"):
        job(model={"label": "label"})
    assert ModelConfig("label").implemented_by == ""


def test_the_code_behind_a_version_is_that_of_the_projects_own_models():
    (name,) = code_of(job())
    assert name == "model Tiny"
    assert code_of(job()) == code_of(job(model=Tiny.Config("label", width=8)))
    assert code_of(job(model=LogisticConfig("label"))) == {}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "project"
    folder.mkdir()
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(text)
    (folder / "bedplate.toml").write_text('project.definitions = ["features.py", "train.py", "wide.py"]\n')
    assert {p.name for p in folder.glob("*.py")} == FILES
    Project(folder).apply()
    return folder


def test_a_job_is_found_by_its_file(project):
    loaded = Project(project)
    assert loaded.find(Job, "wide.py").name == loaded.find(Job, "wide.py:wide").name == "wide"
    assert loaded.find(Job, "somewhere/train.py:ranker").name == "ranker"
    with pytest.raises(NotFoundError, match=r"features\.py defines no job"):
        loaded.find(Job, "features.py")
    with pytest.raises(NotFoundError, match="no job is named 'wide'"):
        loaded.find(Job, "train.py:wide")


def test_a_run_is_not_resumed_with_other_code(project, capfd):
    command = [sys.executable, "-m", "bedplate", "train", "wide", "--json", "--project", str(project)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"model": "wide"' in first.stdout
    (found,) = [r for r in registry_runs(project) if r.record.name == "wide"]
    assert any(name == "model Wide" for name in found.record.definitions)
    text = (project / "wide.py").read_text()
    (project / "wide.py").write_text(text.replace("nn.ReLU()", "nn.Tanh()"))
    second = run(["train", "wide", "--resume", found.id, "--project", str(project)])
    (project / "wide.py").write_text(text)
    assert second == StoreError.exit_code
    assert "model Wide" in capfd.readouterr().err


def registry_runs(project):

    return Project(project).registry.runs()
