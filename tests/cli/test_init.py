"""`bedplate init`: a project that works at once, from a wheel too, and nothing overwritten."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bedplate import FeatureView
from bedplate.cli.main import run
from bedplate.config import load_config

ROOT = Path(__file__).parents[2]


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_minimal_project_has_definitions_that_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / 'my "shop"'
    assert run(["init", str(target)]) == 0
    assert files(target) == [".gitignore", "bedplate.toml", "features.py"]
    config = load_config(target)
    assert config.name == 'my "shop"'
    found = runpy.run_path(str(config.definitions[0]))
    view = next(v for v in found.values() if isinstance(v, FeatureView))
    assert list(view.compile().features) == [
        "purchases.orders_7d",
        "purchases.orders_30d",
        "purchases.spend_7d",
        "purchases.spend_30d",
        "purchases.last_price",
    ]
    assert f"cd '{target}' && bedplate plan" in capsys.readouterr().out


def test_the_defaults_in_the_comments_are_the_defaults(tmp_path: Path) -> None:
    assert run(["init", str(tmp_path / "a")]) == 0
    before = load_config(tmp_path / "a")
    toml = tmp_path / "a" / "bedplate.toml"
    toml.write_text(toml.read_text().replace("# path", "path").replace("# url", "url"))
    assert load_config(tmp_path / "a") == before


def test_an_example_is_copied_without_what_was_built_in_it(tmp_path: Path) -> None:
    target = tmp_path / "retail"
    assert run(["init", "--example", "online_retail", str(target)]) == 0
    copied = files(target)
    assert {"bedplate.toml", "data/online_retail.parquet", "data/README.md"} <= set(copied)
    assert [name for name in copied if "__pycache__" in name or name.startswith(".")] == [".gitignore"]
    assert load_config(target).root == target


def test_an_empty_folder_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inode = tmp_path.stat().st_ino
    monkeypatch.chdir(tmp_path)
    assert run(["init", "."]) == 0
    assert tmp_path.stat().st_ino == inode
    assert files(tmp_path) == [".gitignore", "bedplate.toml", "features.py"]
    assert load_config(tmp_path).name == tmp_path.name


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".hidden").write_text("mine")
    assert run(["init", str(tmp_path)]) == 2
    assert "the folder is not empty, it holds '.hidden'" in capsys.readouterr().err
    assert files(tmp_path) == [".hidden"]
    assert run(["init", str(tmp_path / ".hidden")]) == 2
    assert "it is a file" in capsys.readouterr().err
    assert run(["init", str(tmp_path / ".hidden" / "below")]) == 2
    assert "can't make the project: Not a directory" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    parent = Path("/proc/self") if os.access(locked, os.W_OK) else locked  # root may write anywhere but there
    assert run(["init", str(parent / "shop")]) == 2
    assert f"error: {parent}/" in (err := capsys.readouterr().err)
    assert "can't make the project" in err


def test_an_unknown_example_gets_a_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--example", "online_retial", str(tmp_path / "a")]) == 2
    assert "no example 'online_retial'\n  did you mean 'online_retail'?" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    assert run(["init", "--example", "online_retail", str(tmp_path / "a")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_installed_wheel_holds_the_package_and_the_example(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("bedplate", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('wheels'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120)
    site = tmp_path / "site"
    zipfile.ZipFile(next(source.glob("wheels/*.whl"))).extractall(site)
    expected = {f"bedplate/{name}" for name in files(source / "bedplate")}
    expected |= {f"bedplate/examples/{name}" for name in files(source / "examples")}
    assert set(files(site / "bedplate")) == {name.removeprefix("bedplate/") for name in expected}

    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-P", "-m", "bedplate", "init", "--example", "online_retail", "retail"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("made retail: ")
    original = ROOT / "examples/online_retail/data/online_retail.parquet"
    assert (tmp_path / "retail/data/online_retail.parquet").read_bytes() == original.read_bytes()
