"""`bedplate.toml`: defaults, resolved paths, and an error that names the place for everything that can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bedplate.config import load_config
from bedplate.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    (folder / "bedplate.toml").write_text(text)
    return folder


def test_every_key_has_a_default(tmp_path: Path) -> None:
    for name in ("service.py", "features.py", "other.py"):
        (tmp_path / name).touch()
    config = load_config(write(tmp_path, ""))
    assert config.root == tmp_path
    assert config.name == tmp_path.name
    assert config.definitions == (tmp_path / "features.py", tmp_path / "service.py")
    assert config.offline_path == tmp_path / ".bedplate/offline"
    assert config.online_url == f"lmdb:{tmp_path}/.bedplate/online"
    assert config.registry_path == tmp_path / ".bedplate/registry"
    assert config.engine_url == "local"
    assert config.memory == 2_000_000_000


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5 gb", 1_500_000_000), ("800MB", 800_000_000)])
def test_a_budget_of_memory(tmp_path: Path, text: str, size: int) -> None:
    assert load_config(write(tmp_path, f'[offline]\nmemory = "{text}"')).memory == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('offline.memory = "lots"', "got 'lots', expected a number and MB or GB"),
        ('offline.memory = "100MB"', "expected at least 500MB"),
        ("offline.memory = 2", "got an integer, expected a string"),
        ('memory = "2GB"', r"unknown key 'memory'(.|\n)*belongs into \[offline\]"),
    ],
)
def test_a_budget_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.py").touch()
    (tmp_path / "a.py").touch()
    text = """
        project = { name = "shop", definitions = ["b.py", "a.py"] }
        offline.path = "/data/offline"
        online.url = "memory:"
        registry.path = "../registry"
        engine.url = "local"
    """
    config = load_config(write(tmp_path, text))
    assert config.name == "shop"
    assert config.definitions == (tmp_path / "b.py", tmp_path / "a.py")
    assert config.offline_path == Path("/data/offline")
    assert config.online_url == "memory:"
    assert config.registry_path == tmp_path / "../registry"


def test_paths_are_absolute_wherever_the_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'online.url = "lmdb:store"')
    monkeypatch.chdir(tmp_path)
    config = load_config(Path())
    monkeypatch.chdir("/")
    assert config.offline_path == tmp_path / ".bedplate/offline"
    assert config.online_url == f"lmdb:{tmp_path}/store"
    assert config.name == tmp_path.name


def test_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEDPLATE_ONLINE_URL", "memory:")
    assert load_config(write(tmp_path, "")).online_url.startswith("lmdb:")


@pytest.mark.parametrize(
    ("text", "where", "message", "hint"),
    [
        ("[projct]", "bedplate.toml", "unknown table 'projct'", "did you mean 'project'?"),
        ("name = 'x'", "bedplate.toml", "unknown key 'name'", "tables: engine, offline, online, project, registry"),
        ("offline = 'x'", "bedplate.toml: offline", "got a string, expected a table", None),
        ("[offline]\npth = 'x'", "bedplate.toml: offline.pth", "unknown key", "did you mean 'path'?"),
        ("[offline]\npath = 3", "bedplate.toml: offline.path", "got an integer, expected a string", None),
        ("[offline]\npath = ' '", "bedplate.toml: offline.path", "got ' ', expected a path", None),
        ("[registry]\npath = 2026-01-01", "bedplate.toml: registry.path", "got a date, expected a string", None),
        ("[project]\nname = true", "bedplate.toml: project.name", "got a boolean, expected a string", None),
        ("[project]\nname = ''", "bedplate.toml: project.name", "got an empty name", None),
        ("[project]\ndefinitions = 'a'", "project.definitions", "got a string, expected a list", None),
        ("[project]\ndefinitions = [1]", "project.definitions: an entry", "got an integer, expected a string", None),
        (
            "[project]\ndefinitions = ['feature.py']",
            "definitions",
            "no file 'feature.py'",
            "did you mean 'features.py'?",
        ),
        ("[project]\ndefinitions = ['features.py', 'features.py']", "definitions", "is listed twice", None),
        ("[online]\nurl = 'lmbd:x'", "bedplate.toml: online.url", "expected lmdb:PATH or memory:", "mean 'lmdb'?"),
        ("[online]\nurl = 'lmdb'", "bedplate.toml: online.url", "expected lmdb:PATH or memory:", "mean 'lmdb'?"),
        ("[online]\nurl = 'lmdb:'", "bedplate.toml: online.url", "expected a path", None),
        ("[online]\nurl = 'memory:x'", "bedplate.toml: online.url", "expected nothing after 'memory:'", None),
        ("[engine]\nurl = 'locl'", "bedplate.toml: engine.url", "expected local", "did you mean 'local'?"),
        ("[project]\nname =\n", "bedplate.toml:2", "not valid TOML", None),
        ("[project]\n[project]\n", "bedplate.toml:2", "not valid TOML", None),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, where: str, message: str, hint: str | None) -> None:
    (tmp_path / "features.py").touch()
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    error = caught.value
    assert error.where is not None
    assert error.where.startswith(str(tmp_path / "bedplate.toml"))
    assert error.where.endswith(where)
    assert message in error.message
    assert error.hint == hint if hint is None else hint in (error.hint or "")


def test_a_folder_without_a_project_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no bedplate\.toml in this folder") as caught:
        load_config(tmp_path)
    assert "bedplate init DIR" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match=r"no bedplate\.toml"):
        load_config(tmp_path / "missing")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bedplate.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="byte 8 is not UTF-8"):
        load_config(tmp_path)
    (tmp_path / "bedplate.toml").unlink()
    (tmp_path / "bedplate.toml").mkdir()
    with pytest.raises(ConfigError, match="can't read the file: Is a directory"):
        load_config(tmp_path)
