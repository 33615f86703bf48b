"""The facts of a manifest: code, environment, config."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from bedplate.errors import ArtifactError, DataError
from bedplate.registry.manifest import (
    FileRecord,
    Manifest,
    copy_hashed,
    encode_manifest,
    environment,
    file_record,
    gather,
    git_state,
    read_manifest,
)


def _git(folder: Path, *words: str) -> None:
    settings = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *settings, "-C", str(folder), *words], check=True, capture_output=True)


def test_git_state_of_a_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path).reason == "not in a git repository"
    _git(tmp_path, "init", "-q")
    assert git_state(tmp_path).reason == "the repository has no commit"
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "features.py").write_text("1")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "first")
    clean = git_state(tmp_path / "below")
    assert clean.commit is not None
    assert (len(clean.commit), clean.dirty, clean.reason) == (40, False, None)
    (tmp_path / "new.py").write_text("2")
    assert git_state(tmp_path).dirty is True
    (tmp_path / "new.py").unlink()
    (tmp_path / "below" / "features.py").write_text("3")
    assert git_state(tmp_path) == msgspec.structs.replace(clean, dirty=True)


def test_without_git_the_reason_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    state = git_state(tmp_path)
    assert (state.commit, state.dirty, state.reason) == (None, None, "git is not installed")


@dataclass
class _Config:
    layers: tuple[int, ...]
    rate: float


def _gather(root: Path, config: object) -> Manifest:
    return gather(root, definitions={}, sources={}, config=config, seeds={}, metrics={"auc": 1})


def test_gather_takes_any_config_that_json_can_hold(tmp_path: Path) -> None:
    found = _gather(tmp_path, _Config((8, 4), 0.1))
    assert found.config == {"layers": [8, 4], "rate": 0.1}
    assert found.metrics == {"auc": 1.0}
    assert "msgspec" in found.environment.libraries
    for bad in ([1], "text", {"f": object()}):
        with pytest.raises(DataError, match="JSON object"):
            _gather(tmp_path, bad)


class Newer(importlib.metadata.Distribution):
    """What newer finders, of which libraries bring one, make of a folder without metadata."""

    find_spec = staticmethod(lambda *_: None)
    find_distributions = classmethod(lambda cls, context=None: [cls()])

    def read_text(self, filename):
        raise FileNotFoundError(filename)

    def locate_file(self, path):
        raise FileNotFoundError(path)


def test_what_an_installation_that_was_broken_off_left_behind_is_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, metadata in (("nothing", ""), ("part", "Metadata-Version: 2.1\nName: part\n")):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "left-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Newer])
    environment.cache_clear()
    try:
        found = environment().libraries
    finally:
        environment.cache_clear()
    assert not {"nothing", "part", "left"} & {*found}
    assert found["msgspec"] == msgspec.__version__
    assert all(isinstance(part, str) for pair in found.items() for part in pair)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = _gather(tmp_path, {"b": 1, "a": None})
    (tmp_path / "manifest.json").write_bytes(encode_manifest(manifest))
    assert read_manifest(tmp_path) == manifest
    with pytest.raises(ArtifactError, match="no manifest"):
        read_manifest(tmp_path / "absent")


def test_content_id_is_what_makes_the_model(tmp_path: Path) -> None:
    manifest = _gather(tmp_path, {"rate": 1})
    alike = [{"run": "r"}, {"created": 5}, {"metrics": {}}, {"version": 3}, {"model": "x"}]
    for change in alike:
        assert msgspec.structs.replace(manifest, **change).content_id() == manifest.content_id()
    unlike = [
        {"files": {"model": FileRecord("aa", 1)}},
        {"definitions": {"view sales": "aa"}},
        {"sources": {"orders": "s-1"}},
        {"config": {"rate": 2}},
        {"seeds": {"weights": 1}},
        {"parents": ("tower:1",)},
    ]
    ids = {msgspec.structs.replace(manifest, **change).content_id() for change in unlike}
    assert len(ids | {manifest.content_id()}) == len(unlike) + 1


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_copy_has_the_hash_of_its_source(tmp_path: Path, size: int) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(i % 251 for i in range(min(size, 997))) * (size // 997 + 1))
    record = copy_hashed(source, copy)
    assert copy.read_bytes() == source.read_bytes()
    assert record == file_record(source) == file_record(copy)
    assert record.bytes == source.stat().st_size
    with pytest.raises(FileExistsError):
        copy_hashed(source, copy)
