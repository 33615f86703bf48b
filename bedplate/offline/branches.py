"""The git branches of a project: what was built on one of them is needed as long as it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import final

_SECONDS = 10


@final
@dataclass(frozen=True, slots=True)
class Branches:
    """The branches of the repository that holds a project.

    Attributes:
        current: the branch that is checked out; empty where none is, or there is no repository.
        there: all of them, the current one (or the empty name) included.
    """

    current: str
    there: frozenset[str]


def branches_of(root: Path) -> Branches:
    """The branches of the repository that holds `root`.

    >>> branches_of(Path("/")).current
    ''
    """
    git = shutil.which("git")
    if git is None:
        return Branches("", frozenset([""]))
    words = [git, "-C", str(root), "for-each-ref", "--format=%(HEAD)%(refname:short)", "refs/heads"]
    try:
        answer = subprocess.run(
            words, capture_output=True, text=True, timeout=_SECONDS, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return Branches("", frozenset([""]))
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    current = next((line[1:] for line in lines if line.startswith("*")), "")
    return Branches(current, frozenset([current, *(line[1:] for line in lines)]))
