"""A registered model version: a folder that no longer changes, and the manifest that says what it is."""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import final

from bedplate.errors import ArtifactError, ConfigError
from bedplate.files import fsync_dir
from bedplate.registry.manifest import (
    MANIFEST_NAME,
    SEAL_NAME,
    FileRecord,
    Manifest,
    check_seal,
    copy_hashed,
    file_record,
)

log = logging.getLogger("bedplate.registry")

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
ALIAS_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
_READ_ONLY = 0o444


@final
@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model version.

    Attributes:
        name: the model.
        version: from 1.
        path: its folder: the artifact's files, `manifest.json` and `manifest.blake2b`.
        manifest: what made it.
        aliases: the aliases it holds at the time of the look-up.
    """

    name: str
    version: int
    path: Path
    manifest: Manifest
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"

    def verify(self) -> None:
        """Reads every file and compares it with the manifest, and that with its own hash.

        A version that was registered before manifests had a hash has none: the log says so.

        Raises:
            ArtifactError: a file is missing, changed or was added; the message names it.
        """
        where = f"model '{self}'"
        found = {path.relative_to(self.path).as_posix(): path for path in regular_files(self.path)}
        hint = f"the folder {self.path} was changed by hand; restore it, or register the model again from its run"
        if not check_seal(self.path, where, hint):
            log.warning("%s: its manifest has no hash, as those of older versions; changes of it are not found", where)
        for name in (MANIFEST_NAME, SEAL_NAME):
            found.pop(name, None)
        for name, expected in self.manifest.files.items():
            path = found.pop(name, None)
            if path is None:
                raise ArtifactError(f"the file '{name}' is missing", where=where, hint=hint)
            try:
                got = file_record(path)
            except OSError as error:
                raise ArtifactError(f"the file '{name}' can't be read: {error.strerror}", where=where) from error
            if got != expected:
                raise ArtifactError(
                    f"the file '{name}' has changed: {got.bytes} bytes with hash {got.blake2b[:12]}, "
                    f"expected {expected.bytes} bytes with hash {expected.blake2b[:12]}",
                    where=where,
                    hint=hint,
                )
        if found:
            raise ArtifactError(f"the file '{min(found)}' is not in the manifest", where=where, hint=hint)


def parse_reference(reference: str) -> tuple[str, int | str | None]:
    """The model of `name`, `name:3` or `name@champion`, and the version, the alias or None.

    >>> parse_reference("ranker"), parse_reference("ranker:3"), parse_reference("ranker@champion")
    (('ranker', None), ('ranker', 3), ('ranker', 'champion'))

    Raises:
        ConfigError: it has another form.
    """
    name, mark, rest = reference.partition("@" if "@" in reference else ":")
    which = int(rest) if mark == ":" and rest.isascii() and rest.isdigit() else rest
    good = not mark or (isinstance(which, int) if mark == ":" else ALIAS_PATTERN.fullmatch(rest) is not None)
    if NAME_PATTERN.fullmatch(name) is None or not good:
        raise ConfigError(f"got '{reference}', expected a model", hint="write NAME, NAME:VERSION or NAME@ALIAS")
    return name, which if mark else None


def check_name(name: str, what: str, pattern: re.Pattern[str]) -> None:
    """Checks the name of a model or of an alias.

    Raises:
        ConfigError: it can't be a folder's name, or would be read as something else.
    """
    if pattern.fullmatch(name) is None:
        first = "a letter" if pattern is ALIAS_PATTERN else "a letter or digit"
        raise ConfigError(
            f"got '{name}' as the name of {what}", hint=f"use letters, digits, '_', '-' and '.', {first} first"
        )


def regular_files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted.

    Raises:
        ArtifactError: there is a link, a socket or another thing that is not a file or a folder.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise ArtifactError(
                    "it is neither a file nor a folder", where=str(path), hint="put the content there, not a link"
                )
    return sorted(found)


def copy_artifact(folder: Path, target: Path) -> dict[str, FileRecord]:
    """Copies an artifact into an empty folder, flushed to the disk and read-only, and returns each file's hash.

    Raises:
        ArtifactError: the artifact is not a folder, is empty, or holds a link or a manifest of its own.
        OSError: a file can't be read or written.
    """
    if not folder.is_dir():
        raise ArtifactError("the artifact is not a folder", where=str(folder))
    records: dict[str, FileRecord] = {}
    made = {target}
    for path in regular_files(folder):
        name = path.relative_to(folder)
        if name.as_posix() in (MANIFEST_NAME, SEAL_NAME):
            raise ArtifactError(
                "the artifact holds a manifest already",
                where=str(path),
                hint="the registry writes it; take the file away or give it another name",
            )
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        made.update(p for p in copy.parents if p.is_relative_to(target))
        records[name.as_posix()] = copy_hashed(path, copy)
        copy.chmod(_READ_ONLY)
    if not records:
        raise ArtifactError("the artifact's folder is empty", where=str(folder))
    for parent in made:
        fsync_dir(parent)
    return records
