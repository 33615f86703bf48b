"""Model versions: registering, finding, checking, and what it came from."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bedplate.errors import ArtifactError, ConfigError, NotFoundError, StoreError
from bedplate.registry.manifest import Manifest, file_record
from bedplate.registry.registry import Registry

Make = Callable[..., Path]


def test_a_version_holds_a_copy_and_its_manifest(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    folder = artifact(model=b"weights", encoders__country=b"vocabulary")
    run = registry.start_run("train", {})
    found = registry.register("ranker", folder, manifest=manifest, run_id=run.id)
    assert (found.name, found.version, str(found), found.aliases) == ("ranker", 1, "ranker:1", ())
    assert (found.path / "encoders" / "country").read_bytes() == b"vocabulary"
    got = found.manifest
    assert (got.model, got.version, got.run) == ("ranker", 1, run.id)
    assert got.created > run.record.started
    assert got.files == {n: file_record(folder / n) for n in ("encoders/country", "model")}
    assert msgspec.structs.replace(got, model="", version=0, created=0, run=None, files={}) == manifest
    found.verify()
    assert (folder / "model").exists(), "the original stays where it is"


def test_versions_count_up_and_equal_content_is_the_same_version(
    registry: Registry, artifact: Make, manifest: Manifest
) -> None:
    first = registry.register("ranker", artifact(model=b"1"), manifest=manifest)
    second = registry.register("ranker", artifact(model=b"2"), manifest=manifest)
    again = registry.register("ranker", artifact(model=b"1"), manifest=msgspec.structs.replace(manifest, metrics={}))
    assert (first.version, second.version, again) == (1, 2, first)
    assert registry.versions("ranker") == [1, 2]
    other_data = msgspec.structs.replace(manifest, sources={"orders": "s-2"})
    assert registry.register("ranker", artifact(model=b"1"), manifest=other_data).version == 3
    assert registry.register("tower", artifact(model=b"1"), manifest=manifest).version == 1


def test_a_damaged_version_can_be_registered_again(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    first = registry.register("ranker", artifact(), manifest=manifest)
    (first.path / "model").unlink()
    second = registry.register("ranker", artifact(), manifest=manifest)
    assert second.version == 2
    second.verify()


def test_registered_files_are_read_only(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    found = registry.register("ranker", artifact(), manifest=manifest)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in found.path.iterdir()}
    assert modes == {"model": 0o444, "manifest.json": 0o444, "manifest.blake2b": 0o444}


def test_references(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    for content in (b"1", b"2"):
        registry.register("ranker", artifact(model=content), manifest=manifest)
    registry.promote("ranker", 1)
    registry.promote("ranker", 1, "candidate")
    versions = [
        registry.get("ranker"),
        registry.get("ranker@champion"),
        registry.get("ranker:1"),
        registry.get("ranker", 1),
        registry.get("ranker", "1"),
        registry.get("ranker", "candidate"),
    ]
    assert [v.version for v in versions] == [1] * 6
    assert versions[0].aliases == ("candidate", "champion")
    assert registry.get("ranker", 2).aliases == ()


@pytest.mark.parametrize(
    ("reference", "which", "error", "text"),
    [
        ("rankr", None, NotFoundError, "did you mean 'ranker'?"),
        ("zzz", None, NotFoundError, "models: ranker"),
        ("ranker", 9, NotFoundError, "versions: 1"),
        ("ranker", None, NotFoundError, "bedplate models promote ranker 1"),
        ("ranker@best", None, NotFoundError, "bedplate models promote ranker 1 --alias best"),
        ("ranker:x", None, ConfigError, "NAME:VERSION"),
        ("ranker@", None, ConfigError, "NAME@ALIAS"),
        ("../ranker", None, ConfigError, "NAME"),
        ("../ranker", 1, ConfigError, "letters"),
        ("ranker", "../x", ConfigError, "letters"),
    ],
)
def test_a_missing_or_malformed_reference_says_what_there_is(
    registry: Registry,
    artifact: Make,
    manifest: Manifest,
    reference: str,
    which: int | str | None,
    error: type[Exception],
    text: str,
) -> None:
    registry.register("ranker", artifact(), manifest=manifest)
    with pytest.raises(error) as caught:
        registry.get(reference, which)
    assert text in str(caught.value)


def test_a_misspelt_alias_gets_a_suggestion(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    registry.register("ranker", artifact(), manifest=manifest)
    registry.promote("ranker", 1)
    with pytest.raises(NotFoundError, match="did you mean 'champion'"):
        registry.get("ranker@champon")


def _change(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"WEIGHTS")


def _flip(path: Path) -> None:
    """Another digit in a number that is read and is no hash: the file stays a manifest."""
    path.chmod(0o644)
    text = path.read_bytes()
    at = text.index(b",", text.index(b'"created": ')) - 1
    path.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda p: _change(p / "model"), "the file 'model' has changed"),
        (lambda p: (p / "model").unlink(), "the file 'model' is missing"),
        (lambda p: _flip(p / "manifest.json"), "the file 'manifest.json' has changed: its hash is"),
        (lambda p: _change(p / "manifest.blake2b"), "the file 'manifest.json' has changed: .* expected WEIGHTS"),
        (lambda p: (p / "added").write_bytes(b""), "the file 'added' is not in the manifest"),
        (lambda p: (p / "link").symlink_to("model"), "link"),
    ],
)
def test_verify_names_the_file_that_is_wrong(
    registry: Registry, artifact: Make, manifest: Manifest, damage: Callable[[Path], None], text: str
) -> None:
    found = registry.register("ranker", artifact(), manifest=manifest)
    damage(found.path)
    with pytest.raises(ArtifactError, match=text):
        registry.get("ranker", 1).verify()


def test_a_version_of_before_manifests_had_hashes_is_loaded_and_says_so(
    registry: Registry, artifact: Make, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    found = registry.register("ranker", artifact(), manifest=manifest)
    found.verify()
    assert not caplog.messages
    (found.path / "manifest.blake2b").unlink()
    registry.get("ranker", 1).verify()
    [said] = caplog.messages
    assert "model 'ranker:1': its manifest has no hash" in said


def test_a_version_without_its_folder_or_manifest_is_an_artifact_error(
    registry: Registry, artifact: Make, manifest: Manifest
) -> None:
    found = registry.register("ranker", artifact(), manifest=manifest)
    (found.path / "manifest.json").chmod(0o644)
    for content in (b"{", b'{"model": 1}', b"\xff\xfe"):
        (found.path / "manifest.json").write_bytes(content)
        with pytest.raises(ArtifactError, match="damaged"):
            registry.get("ranker", 1)
    newer = msgspec.json.encode(msgspec.structs.replace(found.manifest, format=99))
    (found.path / "manifest.json").write_bytes(newer)
    with pytest.raises(ArtifactError, match="newer version of bedplate"):
        registry.get("ranker", 1)
    shutil.rmtree(found.path)
    with pytest.raises(ArtifactError, match="folder of version 1 of model 'ranker' is gone") as caught:
        registry.get("ranker", 1)
    assert "models promote ranker VERSION; no other version is there" in str(caught.value)
    other = registry.register("ranker", artifact(model=b"other"), manifest=manifest)
    with pytest.raises(ArtifactError, match=f"versions that are there: {other.version}$"):
        registry.get("ranker", 1)


def test_what_is_no_artifact_is_refused_and_nothing_stays(
    registry: Registry, artifact: Make, manifest: Manifest, tmp_path: Path
) -> None:
    linked = artifact(model=b"1")
    (linked / "link").symlink_to("model")
    piped = artifact(model=b"1")
    os.mkfifo(piped / "pipe")
    empty = tmp_path / "empty"
    empty.mkdir()
    bad = {
        "not a folder": tmp_path / "absent",
        "empty": empty,
        "holds a manifest": artifact(**{"manifest.json": b"{}"}),
        "not a link": linked,
        "neither a file nor a folder": piped,
    }
    for text, folder in bad.items():
        with pytest.raises(ArtifactError, match=text):
            registry.register("ranker", folder, manifest=manifest)
    with pytest.raises(NotFoundError, match="no run 'r1'"):
        registry.register("ranker", artifact(), manifest=manifest, run_id="r1")
    with pytest.raises(ConfigError, match="a model"):
        registry.register("a/b", artifact(), manifest=manifest)
    assert registry.models() == []
    assert [p for p in (registry.root / "models").rglob("*") if p.is_file()] == []


def test_models_in_a_list(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    for name, content in (("tower", b"1"), ("ranker", b"1"), ("ranker", b"2")):
        registry.register(name, artifact(model=content), manifest=manifest)
    registry.promote("ranker", 1)
    ranker, tower = registry.models()
    assert (ranker.name, ranker.versions, ranker.latest, ranker.aliases) == ("ranker", 2, 2, {"champion": 1})
    assert ranker.metrics == {"auc": 0.75}
    assert (tower.name, tower.versions, tower.latest, tower.aliases) == ("tower", 1, 1, {})


def test_metrics_that_are_no_numbers_are_null(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    diverged = msgspec.structs.replace(manifest, metrics={"loss": float("nan")})
    assert registry.register("ranker", artifact(), manifest=diverged).manifest.metrics == {"loss": None}


def test_lineage_reaches_the_sources_of_the_parents(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    tower_manifest = msgspec.structs.replace(manifest, sources={"orders": "s-0", "products": "p-1"})
    registry.register("tower", artifact(model=b"t"), manifest=tower_manifest)
    registry.promote("tower", 1)
    with registry.start_run("train", {}) as run:
        child = msgspec.structs.replace(manifest, parents=("tower@champion",))
        registry.register("ranker", artifact(), manifest=child, run_id=run.id)
    found = registry.lineage("ranker:1")
    assert found.run is not None
    assert (found.run.name, found.run.status) == ("train", "finished")
    assert [(p.model, p.version) for p in found.parents] == [("tower", 1)]
    assert found.all_sources() == {"orders": {"s-1", "s-0"}, "products": {"p-1"}}
    assert found.tree().splitlines() == [
        f"ranker:1  registered {found.tree().splitlines()[0].split()[-1]}",
        f"├─ run: {run.id} (train, finished)",
        "├─ code: 0123abcd",
        "├─ view sales: aa11",
        "├─ features: 1",
        "│  └─ sales.spend_7d: bb22",
        "├─ source orders: snapshot s-1",
        "└─ model tower:1  registered 2026-01-01T00:00:01Z",
        "   ├─ run: none",
        "   ├─ code: 0123abcd",
        "   ├─ view sales: aa11",
        "   ├─ features: 1",
        "   │  └─ sales.spend_7d: bb22",
        "   ├─ source orders: snapshot s-0",
        "   └─ source products: snapshot p-1",
    ]
    shutil.rmtree(run.folder)
    assert "no longer there" in registry.lineage("ranker:1").tree()
    with pytest.raises(NotFoundError, match="towr"):
        registry.register("ranker", artifact(), manifest=msgspec.structs.replace(manifest, parents=("towr:1",)))


def test_a_path_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"give another path in bedplate\.toml"):
            Registry(path)


def test_a_registry_is_opened_by_a_path_or_a_text(tmp_path: Path) -> None:
    assert Registry(str(tmp_path / "r")).root == Registry(tmp_path / "r").root == tmp_path / "r"
