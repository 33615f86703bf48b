"""Faults for tests to find: each makes the steps of a store, in this process, less than atomic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import msgspec

from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore

Commit: TypeAlias = Callable[[OnlineStore, Changes], None]


def _plant(store: OnlineStore, steps: Callable[[Changes], Sequence[Changes]]) -> None:
    """Lets the store take several steps in place of one."""
    kind: Any = type(store)
    commit: Commit = kind.commit

    def planted(self: OnlineStore, changes: Changes) -> None:
        for step in steps(changes):
            commit(self, step)

    kind.commit = planted


def _parts(changes: Changes) -> tuple[Changes, Changes]:
    """The rows, and all else."""
    rows = [put for put in changes.puts if put[0].startswith(keys.ROWS)]
    others = [put for put in changes.puts if not put[0].startswith(keys.ROWS)]
    return replace(changes, puts=rows, deletes=[], drops=[]), replace(changes, puts=others)


def _is_of_view(changes: Changes) -> bool:
    """Whether both rows and the state of a view change."""
    return {keys.ROWS, keys.STATES} <= {key[:1] for key, _ in changes.puts}


def _two_commits(changes: Changes) -> Sequence[Changes]:
    return _parts(changes) if _is_of_view(changes) else [changes]


def _state_first(changes: Changes) -> Sequence[Changes]:
    if not _is_of_view(changes):
        return [changes]
    rows, others = _parts(changes)
    return [others, replace(rows, expects=[])]


def _position_apart(changes: Changes) -> Sequence[Changes]:
    before = dict(changes.expects)
    for number, (key, value) in enumerate(changes.puts):
        if key.startswith(keys.STATES) and before.get(key) and _is_of_view(changes):
            state = msgspec.json.decode(value, type=dict[str, Any])
            old = msgspec.json.decode(before[key], type=dict[str, Any])
            behind = key, msgspec.json.encode(state | {"positions": old.get("positions", {})})
            first = replace(changes, puts=[*changes.puts[:number], behind, *changes.puts[number + 1 :]])
            return [first, Changes([(key, value)], expects=[behind])]
    return [changes]


def _no_expects(changes: Changes) -> Sequence[Changes]:
    return [replace(changes, expects=[])]


PLANTED: dict[str, Callable[[OnlineStore], None]] = {
    "rows, then the state": lambda store: _plant(store, _two_commits),
    "the state, then rows": lambda store: _plant(store, _state_first),
    "the position later": lambda store: _plant(store, _position_apart),
    "nothing expected": lambda store: _plant(store, _no_expects),
}
"""By what they do; each is planted in a store's class."""
