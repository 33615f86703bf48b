"""The features that a project defined at a git revision: its files of then, loaded in a process of their own.

Run as a program, with the folder of those files, the project's folder (where tables are) and the file for the answer.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, final

import msgspec

from bedplate.errors import BedplateError, ConfigError, DefinitionError, NotFoundError

if TYPE_CHECKING:
    from bedplate.features.view import Feature

_SECONDS = 300


@final
class _Answer(msgspec.Struct):
    """What the process found: the features as JSON, or what failed."""

    features: msgspec.Raw = msgspec.Raw(b"[]")
    message: str | None = None
    where: str | None = None
    hint: str | None = None


@final
class Revision(msgspec.Struct, frozen=True):
    """A commit, and where the project is in its repository.

    Attributes:
        name: as the user gave it.
        commit: its full hash.
        prefix: the project's folder from the root of the repository; empty or ending in a slash.
    """

    name: str
    commit: str
    prefix: str

    @property
    def text(self) -> str:
        """The revision for a person to read."""
        short = self.commit[:10]
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"


def find_revision(root: Path, name: str) -> Revision:
    """The commit that a revision names, in the repository that a project is in.

    Raises:
        ConfigError: git is not installed, or the project is in no repository.
        NotFoundError: the repository has no such revision.
    """
    inside = _git(root, "rev-parse", "--show-prefix")
    if inside.returncode:
        raise ConfigError(
            "the project is in no git repository", where=str(root), hint="diff compares with a commit: git init"
        )
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found.returncode:
        known = _git(root, "for-each-ref", "--format=%(refname:short)", "--count=12").stdout.decode().split()
        raise NotFoundError(
            f"no revision '{name}'", where=str(root), hint=f"branches and tags: {', '.join(known) or 'none'}"
        )
    return Revision(name, found.stdout.decode().strip(), inside.stdout.decode().rstrip("\n"))


def features_at(root: Path, revision: Revision) -> Mapping[str, Feature]:
    """The features that the project in a folder defined at a revision, by name.

    The definitions run in a process of their own, in a temporary folder; tables are those that are there now.

    Raises:
        NotFoundError: the project was not there at that revision.
        DefinitionError: its definitions don't load.
    """
    from bedplate.features.view import Feature

    place = f"the project at {revision.text}"
    with tempfile.TemporaryDirectory(prefix="bedplate-diff-") as temporary:
        folder, answer = Path(temporary, "project"), Path(temporary, "features.json")
        extract(root, revision, folder)
        if not (folder / "bedplate.toml").is_file():
            raise NotFoundError("it had no bedplate.toml yet", where=place, hint="name a later revision")
        package = str(Path(__file__).parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        words = [sys.executable, "-P", "-m", "bedplate.cli.revision", str(folder), str(root), str(answer)]
        try:
            done = subprocess.run(
                words,
                check=False,
                capture_output=True,
                timeout=_SECONDS,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
        except subprocess.TimeoutExpired:
            raise DefinitionError(f"its definitions did not load in {_SECONDS} s", where=place) from None
        if not answer.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise DefinitionError(f"its definitions don't load: {said[-1] if said else 'no answer'}", where=place)
        found = msgspec.json.decode(answer.read_bytes(), type=_Answer)
    if found.message is not None:
        where = f"{place}: {found.where}" if found.where else place
        raise DefinitionError(found.message, where=where, hint=found.hint)
    return {f.name: f for f in msgspec.json.decode(found.features, type=list[Feature])}


def extract(root: Path, revision: Revision, folder: Path) -> None:
    """Writes the files that a project had at a revision into a new folder.

    Raises:
        NotFoundError: the project was not there.
    """
    tree = f"{revision.commit}:{revision.prefix.rstrip('/')}"
    archive = _git(root, "archive", "--format=zip", tree, top=True)
    if archive.returncode:
        said = archive.stderr.decode(errors="replace").strip()
        raise NotFoundError(
            f"the project was not there: {said}", where=f"the project at {revision.text}", hint="name a later revision"
        )
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as files:
        files.extractall(folder)


def _git(root: Path, *words: str, top: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Runs git in the project's folder, or at the root of its repository."""
    program = shutil.which("git")
    if program is None:
        raise ConfigError("git is not installed", where="bedplate diff")
    at = root
    if top:
        at = Path(os.fsdecode(_git(root, "rev-parse", "--show-toplevel").stdout.rstrip(b"\n")))
    return subprocess.run([program, "-C", str(at), *words], check=False, capture_output=True)


def main(folder: str, root: str, answer: str) -> None:
    """Loads the definitions in a folder and writes their features, or what failed."""
    from bedplate.config import load_config
    from bedplate.definitions import load_definitions

    try:
        with contextlib.redirect_stdout(sys.stderr):
            graph = load_definitions(load_config(Path(folder))).graph(Path(root))
        result = _Answer(msgspec.Raw(msgspec.json.encode(list(graph.features.values()))))
    except BedplateError as error:
        result = _Answer(message=error.message, where=error.where, hint=error.hint)
    Path(answer).write_bytes(msgspec.json.encode(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
