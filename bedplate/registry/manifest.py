"""The manifest of a model version: which data, definitions, code, config and seeds made it, and every file it holds."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from bedplate.canonical import digest, to_json
from bedplate.errors import ArtifactError, DataError
from bedplate.features.checks import check_finite
from bedplate.metrics.rates import LabelRate

MANIFEST_NAME = "manifest.json"
SEAL_NAME = "manifest.blake2b"
"""The hash of the manifest, beside it: the manifest holds those of all other files."""
MANIFEST_FORMAT = 1
CONTINUED = "continued"
"""Where a run's config and a version's keep from what it was continued, as its `parent`, and how."""
QUANTIZED = "quantized"
"""Where the config of an int8 variant keeps what it was made `of`, and what was measured."""
MODEL_OF = "model of "
"""How the definition of a feature that a model makes is named, beside which is the version."""
_CHUNK = 1 << 20
_GIT_SECONDS = 20


class Git(msgspec.Struct, frozen=True):
    """The state of the code.

    Attributes:
        commit: the full hash of the commit, or None where it isn't known.
        dirty: whether tracked files differed from the commit or files were not tracked; None where it isn't known.
        reason: why the commit isn't known.
    """

    commit: str | None = None
    dirty: bool | None = None
    reason: str | None = None


class Environment(msgspec.Struct, frozen=True):
    """Where it ran: the versions of Python and of every installed library, and the platform."""

    python: str
    platform: str
    libraries: dict[str, str]


class FileRecord(msgspec.Struct, frozen=True):
    """One file of an artifact: BLAKE2b of its content (20 bytes in hexadecimal) and its size in bytes."""

    blake2b: str
    bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a model version. `gather` fills the facts of the process; the registry fills the rest.

    Attributes:
        format: the version of this layout.
        model: the model's name; filled by the registry.
        version: from 1, without gaps; filled by the registry.
        created: when it was registered, microseconds since the epoch; filled by the registry.
        run: the id of the run that made it, or None; filled by the registry.
        git: the state of the code.
        definitions: the id of each definition behind it, by kind and name: `dataset baskets`, `spine`, `label bought`,
            `negatives`, `split`, `view sales`, and `feature sales.spend_7d` for each feature that it was trained on.
        sources: the snapshot of each source that was read, by the source's name.
        config: the job's config, any JSON.
        seeds: each seed, by its use.
        environment: Python, platform and libraries.
        metrics: final metrics; null is not a number.
        files: every file of the artifact but the manifest, by its path in the folder; filled by the registry.
        parents: the model versions this one depends on, as `name:version`: those that make its features, the one that
            it was continued from, and of an int8 variant the one that it was made of.
        trained_until: the time up to which the model knows what happened, microseconds: the last label that its
            training and validation saw. None where that is not known.
        learnt_until: the time of the last request that its weights were fitted on, microseconds; validation, which is
            later, only chose among them. None where that is not known.
        label_rates: how often the label that it predicts was positive, by split; empty where that is not known.
    """

    format: int = MANIFEST_FORMAT
    model: str = ""
    version: int = 0
    created: int = 0
    run: str | None = None
    git: Git
    definitions: dict[str, str]
    sources: dict[str, str]
    config: dict[str, Any]
    seeds: dict[str, int]
    environment: Environment
    metrics: dict[str, float | None]
    files: dict[str, FileRecord] = {}
    parents: tuple[str, ...] = ()
    trained_until: int | None = None
    learnt_until: int | None = None
    label_rates: dict[str, LabelRate] = {}

    @property
    def read(self) -> tuple[str, ...]:
        """Those of the parents that make its features; the others gave their weights, and are read no more."""
        weights = (_stated(self.config, CONTINUED, "parent"), _stated(self.config, QUANTIZED, "of"))
        features = {of for name, of in self.definitions.items() if name.startswith(MODEL_OF)}
        return tuple(parent for parent in self.parents if parent not in weights or parent in features)

    def content_id(self) -> str:
        """The id of what makes the model what it is: files, definitions, sources, config, seeds and parents.

        Two versions with equal ids are the same model; when, where and in which run it was made doesn't count.
        """
        parts = (self.files, self.definitions, self.sources, self.config, self.seeds, self.parents)
        return digest(msgspec.to_builtins(parts))


def _stated(config: Mapping[str, Any], part: str, name: str) -> Any:
    """A value of a part of a config, if there is one."""
    found: Any = config.get(part)
    return found.get(name) if isinstance(found, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def gather(
    root: Path,
    *,
    definitions: Mapping[str, str],
    sources: Mapping[str, str],
    config: Any,
    seeds: Mapping[str, int],
    metrics: Mapping[str, float],
    parents: Iterable[str] = (),
    trained_until: int | None = None,
    learnt_until: int | None = None,
    label_rates: Mapping[str, LabelRate] = MappingProxyType({}),
) -> Manifest:
    """A manifest with the facts of this process: the environment, and the git state of the folder `root`.

    Args:
        root: the project's folder.
        definitions: the id of each definition behind the model, by kind and name.
        sources: the snapshot id of each source that was read.
        config: the job's config: a `msgspec.Struct`, a dataclass or a mapping that JSON can hold.
        seeds: each seed, by its use.
        metrics: final metrics.
        parents: model versions this one depends on, as `name:version`.
        trained_until: the time up to which the model knows what happened, microseconds.
        learnt_until: the time of the last request that its weights were fitted on, microseconds.
        label_rates: how often the label that it predicts was positive, by split.

    Raises:
        DataError: the config can't be written as a JSON object.
    """
    return Manifest(
        git=git_state(root),
        definitions=dict(definitions),
        sources=dict(sources),
        config=plain_config(config, "manifest"),
        seeds=dict(seeds),
        environment=environment(),
        metrics={k: float(v) for k, v in metrics.items()},
        parents=tuple(parents),
        trained_until=trained_until,
        learnt_until=learnt_until,
        label_rates=dict(label_rates),
    )


def plain_config(config: Any, where: str) -> dict[str, Any]:
    """A job's config as plain JSON values.

    >>> plain_config({"layers": (64, 32)}, "")
    {'layers': [64, 32]}

    Raises:
        DataError: it can't be written as a JSON object, or holds a number that is not finite.
    """
    try:
        check_finite(msgspec.to_builtins(config), "config", where, DataError)
        return msgspec.json.decode(to_json(config), type=dict[str, Any])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the config, a {type(config).__name__}, can't be written as a JSON object: {error}", where=where
        ) from error


def git_state(root: Path) -> Git:
    """The commit of the repository that holds `root`, and whether the work tree differs from it.

    Where there is no git, no repository or no commit, the commit is None and `reason` says why.

    >>> git_state(Path("/")).commit is None
    True
    """
    git = shutil.which("git")
    if git is None:
        return Git(reason="git is not installed")
    command = [git, "--no-optional-locks", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Git(reason=f"git did not answer: {error}")
    if answer.returncode != 0:
        missing = "not a git repository" in answer.stderr
        return Git(reason="not in a git repository" if missing else f"git failed: {answer.stderr.strip()}")
    lines = answer.stdout.splitlines()
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    if commit == "(initial)":
        return Git(reason="the repository has no commit")
    return Git(commit=commit, dirty=any(not line.startswith("#") for line in lines))


@functools.cache
def environment() -> Environment:
    """Python, platform and every installed library with its version, as this process first found them.

    >>> environment().libraries["msgspec"] == msgspec.__version__
    True
    """
    found = [known for d in importlib.metadata.distributions() if (known := _name_and_version(d)) is not None]
    return Environment(platform.python_version(), platform.platform(), dict(sorted(found)))


def _name_and_version(library: importlib.metadata.Distribution) -> tuple[str, str] | None:
    """None: it is what an installation that was broken off has left behind."""
    try:
        told = library.metadata  # read and parsed once, as `name` and `version` do each
    except FileNotFoundError:  # of newer versions of this module, which other libraries put into its place
        return None
    return (told["Name"], told["Version"]) if {"Name", "Version"} <= {*told} else None


def file_record(path: Path) -> FileRecord:
    """The hash and the size of a file.

    Raises:
        OSError: the file can't be read.
    """
    hasher, size = hashlib.blake2b(digest_size=20), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            size += len(chunk)
    return FileRecord(hasher.hexdigest(), size)


def copy_hashed(source: Path, target: Path) -> FileRecord:
    """Copies a file, flushes the copy to the disk, and returns the hash and the size of what was copied.

    Raises:
        OSError: the source can't be read, the copy is there already, or it can't be written.
    """
    hasher, size = hashlib.blake2b(digest_size=20), 0
    with source.open("rb") as read, target.open("xb") as write:
        while chunk := read.read(_CHUNK):
            hasher.update(chunk)
            write.write(chunk)
            size += len(chunk)
        write.flush()
        os.fsync(write.fileno())
    return FileRecord(hasher.hexdigest(), size)


def encode_manifest(manifest: Manifest) -> bytes:
    """The text of `manifest.json`: sorted keys, indented, so that people and `diff` can read it."""
    return msgspec.json.format(to_json(manifest), indent=2) + b"\n"


def seal(content: bytes) -> bytes:
    """The text of the file that holds the hash of a manifest's text.

    >>> seal(b"{}")[:6]
    b'a22cbf'
    """
    return hashlib.blake2b(content, digest_size=20).hexdigest().encode() + b"\n"


def check_seal(folder: Path, where: str, hint: str) -> bool:
    """Checks that the manifest in a folder is what was written; whether that can be told: there is a hash.

    Raises:
        ArtifactError: it is not, or a file can't be read.
    """
    try:
        content = (folder / MANIFEST_NAME).read_bytes()
        written = (folder / SEAL_NAME).read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ArtifactError(f"the manifest can't be read: {error.strerror}", where=where) from error
    if seal(content) != written:
        got, expected = seal(content)[:12].decode(), written[:12].decode("ascii", "replace")
        raise ArtifactError(
            f"the file '{MANIFEST_NAME}' has changed: its hash is {got}, expected {expected} of '{SEAL_NAME}'",
            where=where,
            hint=hint,
        )
    return True


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact's folder.

    Raises:
        ArtifactError: it is not there, can't be read, or was written by a newer version of Bedplate.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise ArtifactError(
            "there is no manifest", where=str(path), hint="a model's folder holds one: restore it"
        ) from None
    except OSError as error:
        raise ArtifactError(f"the manifest can't be read: {error.strerror}", where=str(path)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"the manifest is damaged: {error}", where=str(path), hint="register the model again from its run"
        ) from error
    if manifest.format > MANIFEST_FORMAT:
        raise ArtifactError(
            f"the manifest has format {manifest.format}, this version reads up to {MANIFEST_FORMAT}",
            where=str(path),
            hint="install a newer version of bedplate",
        )
    return manifest
