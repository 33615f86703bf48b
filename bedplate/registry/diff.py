"""What differs between two runs in what they are made of: config, code, definitions, snapshots, environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast, final

import msgspec

from bedplate.registry.manifest import Environment, Git

_SECONDS = 20
_STATES = {"A": "added", "D": "removed", "M": "changed", "R": "renamed", "C": "copied", "T": "changed"}


@final
class Change(msgspec.Struct, frozen=True):
    """Something that two runs have in different forms; None: the one has none of it."""

    name: str
    a: Any = None
    b: Any = None


@final
class CodeDiff(msgspec.Struct, frozen=True):
    """How the code of two runs differs.

    Attributes:
        a: the state of the first.
        b: of the second.
        files: each changed file of the project's folder, as `changed features.py`; None where git can't tell.
        note: what is not known of it, and why; empty: nothing.
    """

    a: Git
    b: Git
    files: tuple[str, ...] | None
    note: str = ""


def changes(a: Mapping[str, Any], b: Mapping[str, Any], without: Collection[str] = ()) -> list[Change]:
    """What differs between two mappings, by path.

    >>> changes({"model": {"rank": 8, "layers": [4]}, "seed": 1}, {"model": {"rank": 16, "layers": [4]}})
    [Change(name='model.rank', a=8, b=16), Change(name='seed', a=1, b=None)]
    """
    one, other = (by_path({k: v for k, v in side.items() if k not in without}) for side in (a, b))
    names = dict.fromkeys((*one, *other))
    return [Change(n, one.get(n), other.get(n)) for n in names if one.get(n, _MISSING) != other.get(n, _MISSING)]


_MISSING = object()


def by_path(values: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """The values of nested mappings, each by its path.

    >>> by_path({"model": {"rank": 8}, "seed": 1})
    {'model.rank': 8, 'seed': 1}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= by_path(cast("Mapping[str, Any]", value), f"{start}{name}.")
        else:
            found[f"{start}{name}"] = value
    return found


def environment_changes(a: Environment | None, b: Environment | None) -> list[Change] | None:
    """What differs between two environments, libraries by their names; None where one is not known."""
    if a is None or b is None:
        return None
    own = [Change(name, getattr(a, name), getattr(b, name)) for name in ("python", "platform")]
    return [change for change in own if change.a != change.b] + changes(a.libraries, b.libraries)


def code_changes(root: Path, a: Git, b: Git) -> CodeDiff:
    """How the code of two runs differs, as the repository of the project's folder knows it now."""
    dirty = [which for which, git in (("A", a), ("B", b)) if git.dirty]
    note = f"{' and '.join(dirty)} had changes that were not committed, which are not in this list" if dirty else ""
    unknown = [f"of {which} ({git.reason})" for which, git in (("A", a), ("B", b)) if git.commit is None]
    if a.commit is None or b.commit is None:
        return CodeDiff(a, b, None, f"the commit is not known {' and '.join(unknown)}")
    if a.commit == b.commit:
        return CodeDiff(a, b, (), note)
    answer = _git(root, "diff", "--name-status", "-z", "--relative", a.commit, b.commit, "--", ".")
    if isinstance(answer, str):
        return CodeDiff(a, b, None, f"git can't compare the commits: {answer}")
    return CodeDiff(a, b, tuple(_files(answer)), note)


def _files(answer: bytes) -> list[str]:
    parts, found, at = [os.fsdecode(part) for part in answer.split(b"\0")], list[str](), 0
    while at + 1 < len(parts):
        state, several = _STATES.get(parts[at][:1], parts[at]), parts[at][:1] in ("R", "C")
        names = parts[at + 1 : at + (3 if several else 2)]
        found.append(f"{state} {' to '.join(names)}")
        at += 1 + len(names)
    return found


def _git(root: Path, *words: str) -> bytes | str:
    """What git says, or why it says nothing."""
    program = shutil.which("git")
    if program is None:
        return "git is not installed"
    command = [program, "--no-optional-locks", "-C", str(root), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_SECONDS, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"git did not answer: {error}"
    if done.returncode:
        return done.stderr.decode(errors="replace").strip().partition("\n")[0] or f"git ended with {done.returncode}"
    return done.stdout
