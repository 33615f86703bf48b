"""The git branches of a project: what was built on one of them is needed as long as it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import final

from bedplate.errors import StoreError

_SECONDS = 10
_HEADS = "refs/heads/"
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_CEILING_DIRECTORIES")
"""What a git hook sets to speak of its own repository, which need not be the project's."""


@final
@dataclass(frozen=True, slots=True)
class Branches:
    """The branches of the repository that holds a project.

    Attributes:
        current: the branch that is checked out, also before its first commit; empty where none is.
        there: all of them, the current one included.
        commit: the commit that is checked out where no branch is.
    """

    current: str
    there: frozenset[str]
    commit: str = ""


def has_repository(root: Path) -> bool:
    """Whether the folder, or one that it is in, is a git repository's.

    >>> has_repository(Path("/"))
    False
    """
    folder = root.resolve()
    return any(os.path.lexists(place / ".git") for place in (folder, *folder.parents))


def branches_of(root: Path) -> Branches | None:
    """The branches of the repository that holds `root`; None: there is no repository.

    >>> branches_of(Path("/")) is None
    True

    Raises:
        StoreError: there is a repository, and git is missing, fails, or takes too long.
    """
    if not has_repository(root):
        return None
    there = frozenset(_git(root, "for-each-ref", "--format=%(refname:lstrip=2)", _HEADS).stdout.splitlines())
    head = _git(root, "symbolic-ref", "--quiet", "HEAD", fine=(0, 1))
    if head.returncode == 0:
        current = head.stdout.strip().removeprefix(_HEADS)
        return Branches(current, there | {current})
    return Branches("", there, _git(root, "rev-parse", "--verify", "HEAD").stdout.strip())


def is_reachable(root: Path, commit: str) -> bool:
    """Whether a branch or tag of the repository that holds `root` has the commit in its history.

    Raises:
        StoreError: git can't tell.
    """
    said = _git(root, "for-each-ref", "--count=1", f"--contains={commit}", fine=(0, 129))
    if said.returncode and "no such commit" not in said.stderr and "malformed object name" not in said.stderr:
        raise _unknown(root, said.stderr)
    return said.returncode == 0 and bool(said.stdout.strip())


def _git(root: Path, *words: str, fine: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    git = shutil.which("git")
    if git is None:
        raise _unknown(root, "there is no 'git' on the PATH")
    kept = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        said = subprocess.run(
            [git, "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={**kept, "LC_ALL": "C", "GIT_DISCOVERY_ACROSS_FILESYSTEM": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise _unknown(root, f"git took more than {_SECONDS} s") from error
    except OSError as error:
        raise _unknown(root, str(error)) from error
    if said.returncode not in fine:
        raise _unknown(root, said.stderr)
    return said


def _unknown(root: Path, why: str) -> StoreError:
    first = next(iter(why.strip().splitlines()), "git failed and did not say why")
    return StoreError(
        f"can't tell which git branches there are: {first}",
        where=str(root),
        hint=f"make 'git -C {root} branch' work for this user, or give up all that was applied there: "
        f"bedplate offline gc --forget {root}",
    )
