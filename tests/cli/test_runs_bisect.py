"""`bedplate runs bisect` on a project whose features and trainer changed between two runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.cli import bench
from bedplate.cli.main import run
from bedplate.registry.registry import Registry
from bedplate.training.report import Status

FEATURES = """\
from bedplate import Count, Dataset, Entity, FeatureView, Label, Source, Spine, Sum, TimeSplit

plays = Source("plays", "plays*.parquet", time="time", delay="1m")
user, video = Entity("user", key="user"), Entity("video", key="video")
users = FeatureView("users", user, plays, {"n": Count(windows="28d")})
videos = FeatureView("videos", video, plays, {"likes": Sum("liked", windows="28d")})
pages = Dataset(
    "pages",
    spine=Spine(plays, request="page", entities=user, item=video),
    labels=Label("liked", [user, video], plays, Sum("liked"), within="1m", at_least=1),
    features=[users, videos],
    split=TimeSplit(validation="2026-02-10", test="2026-02-20", gap="1d"),
    batch_requests=100,
)
"""
TRAIN = """\
from features import pages
from bedplate import Job, LogisticConfig, Number, TrainerConfig

inputs = {"users.n_28d": Number(), "videos.likes_28d": Number()}
trainer = TrainerConfig(epochs=1, metric="auc", learning_rate=0.05)
ranker = Job("ranker", dataset=pages, model=LogisticConfig("liked"), inputs=inputs, trainer=trainer, golden=1)
"""
Call = Callable[..., tuple[int, str, str]]


def plays(rows: int = 1200) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    times = 1_767_225_600_000_000 + np.sort(rng.integers(0, 60 * 86_400_000_000, rows))
    video, user = rng.integers(0, 20, rows), rng.integers(0, 60, rows)
    liked = (rng.random(rows) < 0.1 + 0.04 * video).astype(int)
    return pl.DataFrame({"page": np.arange(rows), "user": user, "video": video, "liked": liked, "time": times})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run A; then the likes no longer count what was liked, which is another code, and run B with another rate."""
    root = tmp_path_factory.mktemp("bisect") / "shop"
    root.mkdir()
    for name, content in (("bedplate.toml", ""), ("features.py", FEATURES), ("train.py", TRAIN)):
        (root / name).write_text(content)
    (root / ".gitignore").write_text(".bedplate\n__pycache__\n*.parquet\n")
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    plays().write_parquet(root / "plays.parquet")
    for likes, words in (('Sum("liked"', []), ('Sum("user"', ["trainer.learning_rate=0.02"])):
        (root / "features.py").write_text(FEATURES.replace('{"likes": Sum("liked"', f'{{"likes": {likes}'))
        subprocess.run([*git, "add", "*.py", ".gitignore", "bedplate.toml"], check=True)
        subprocess.run([*git, "commit", "-qm", "state"], check=True)
        assert run(["apply", "--project", str(root)]) == 0
        assert run(["train", "ranker", *words, "--project", str(root)]) == 0
    return root


@pytest.fixture
def call(project: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def execute(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["runs", "bisect", "ranker:1", "ranker:2", "--project", str(project), "--seeds", "1", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return execute


def test_the_change_is_attributed_and_every_run_is_made_once(
    project: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = json.loads(call("--plan", "--json")[1])
    assert [f["name"] for f in plan["factors"]] == ["code", "trainer"]
    assert [(e["experiment"], e["state"]) for e in plan["experiments"]] == [
        ("A with code of B", "to train"), ("A with trainer of B", "to train"), ("A, seeds + 1", "to train"),
    ]  # fmt: skip

    def stopping() -> Callable[[Status], None]:
        def show(status: Status) -> None:
            if status.batch == 2:
                raise KeyboardInterrupt

        return show

    with monkeypatch.context() as patched:
        patched.setattr(bench, "on_stderr", stopping)
        assert call()[0] == 130
    registry = Registry(project / ".bedplate" / "registry")
    (begun,) = registry.runs("ranker.bisect")
    assert begun.status == "interrupted"
    code, out, err = call("--json")
    assert code == 0, err
    found = json.loads(out)
    assert registry.run(begun.id).status == "finished", "it was gone on with"
    effects = {e["factor"]["name"]: e["effect"]["auc"] for e in found["effects"]}
    assert effects["code"]["high"] < 0, "a feature that knows the likes no longer does"
    assert abs(effects["trainer"]["mean"]) < abs(effects["code"]["mean"]) / 3
    assert found["total"]["auc"]["mean"] == pytest.approx(sum(e["mean"] for e in effects.values()))
    assert found["unswapped"] == []
    made = len(registry.runs())
    assert made == 2 + 3
    code, out, err = call("--metric", "auc")
    assert (code, len(registry.runs())) == (0, made)
    assert "train" not in [line.rpartition(" ")[2] for line in err.splitlines()]
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert rows["code"].endswith("within the noise of seeds"), "of two runs hardly anything is known of it"
    assert "swapped alone" in out
    _, out, _ = call("--metric", "auc", "--seeds", "0")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert rows["code"].endswith("differs")
    assert "noise of seeds: not known" in out
    assert call("--metric", "acu")[0] == 4


def test_data_that_moved_on_are_said_to_be_gone(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "shop"
    shutil.copytree(project, root)
    plays(1201).write_parquet(root / "plays.parquet")
    assert run(["apply", "--project", str(root)]) == 0
    capsys.readouterr()
    assert run(["runs", "bisect", "ranker:1", "ranker:2", "--plan", "--json", "--project", str(root)]) == 0
    states = {e["state"] for e in json.loads(capsys.readouterr().out)["experiments"] if not e["run"]}
    (state,) = {state.rpartition(" ")[0] for state in states}
    assert state == (
        "can't be made: the data of A are no longer there: source 'plays' is in another state now and can't be read in "
        "that of snapshot"
    )


def test_data_that_grew_by_a_file_are_read_as_they_were(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[str] = []
    for name in ("same", "grown"):
        root = tmp_path / name
        shutil.copytree(project, root)
        if name == "grown":
            later = plays().with_columns(pl.col("time") + 90 * 86_400_000_000, pl.col("page") + 1200)
            later.write_parquet(root / "plays-later.parquet")
            assert run(["apply", "--project", str(root)]) == 0
        capsys.readouterr()
        words = ["runs", "bisect", "ranker:1", "ranker:2", "--json", "--seeds", "2", "--project", str(root)]
        assert run(words) == 0
        parts = json.loads(capsys.readouterr().out)
        assert not [reason for effect in parts["effects"] for reason in effect["reasons"]]
        found.append(json.dumps([parts["noise"], [effect["effect"] for effect in parts["effects"]]]))
        assert len(Registry(root / ".bedplate" / "registry").runs("ranker.bisect")) == 4
    assert found[0] == found[1]


def test_code_and_inputs_that_changed_together_are_said_to_be_one(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "shop"
    shutil.copytree(project, root)
    for name in ("features.py", "train.py"):
        renamed = (
            (root / name).read_text().replace('"likes"', '"liked"').replace("videos.likes_28d", "videos.liked_28d")
        )
        (root / name).write_text(renamed)
    for words in (["apply"], ["train", "ranker"]):
        assert run([*words, "--project", str(root)]) == 0
    capsys.readouterr()
    assert run(["runs", "bisect", "ranker:1", "ranker:3", "--plan", "--project", str(root)]) == 0
    out = capsys.readouterr().out
    assert "the code of B does not have the inputs of A: the input 'videos.likes_28d' is not a feature" in out
