"""The contract suite finds a store that breaks the contract: each fault that is planted in one fails in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest

from bedplate.online.base import PAGE, Changes, OnlineStore
from bedplate.online.memory import MemoryStore
from bedplate.testing.online_store import OnlineStoreContract

TESTS = [name for name in vars(OnlineStoreContract) if name.startswith("test_")]


class _Changed(MemoryStore):
    """A store that takes other steps than it is told to."""

    change: Callable[[Changes], list[Changes]]

    def commit(self, changes: Changes) -> None:
        for i, step in enumerate(type(self).change(changes)):
            if i:
                sleep(0.002)  # others look in between, however busy the machine is
            super().commit(step)


class _Forgetful(MemoryStore):
    """A store whose pages miss rows."""

    def pages(self, prefix: bytes, size: int = PAGE) -> Iterator[list[tuple[bytes, bytes]]]:
        for page in super().pages(prefix, size):
            yield page[:-1] if len(page) > 1 else page


def _changed(change: Callable[[Changes], list[Changes]]) -> type[OnlineStore]:
    return type("Changed", (_Changed,), {"change": staticmethod(change)})


def _halves(changes: Changes) -> list[Changes]:
    middle = len(changes.puts) // 2
    first = replace(changes, puts=changes.puts[:middle])
    return [first, Changes(changes.puts[middle:])] if middle else [changes]


def _unchecked_after_puts(changes: Changes) -> list[Changes]:
    return [Changes(changes.puts), changes]


FAULTS: dict[str, type[OnlineStore]] = {
    "nothing expected": _changed(lambda c: [replace(c, expects=[])]),
    "only the first value expected": _changed(lambda c: [replace(c, expects=c.expects[:1])]),
    "missing values not expected": _changed(lambda c: [replace(c, expects=[e for e in c.expects if e[1]])]),
    "in two halves": _changed(_halves),
    "put before what is expected is looked at": _changed(_unchecked_after_puts),
    "nothing deleted": _changed(lambda c: [replace(c, deletes=[])]),
    "nothing dropped": _changed(lambda c: [replace(c, drops=[])]),
    "deleted after values are put": _changed(lambda c: [replace(c, deletes=[], drops=[]), replace(c, puts=[])]),
    "a put is lost": _changed(lambda c: [replace(c, puts=c.puts[:-1] if len(c.puts) > 1 else c.puts)]),
    "pages miss rows": _Forgetful,
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # a worker may find it by itself
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, tmp_path: Path) -> None:
    class Suite(OnlineStoreContract):
        def open(self, folder: Path) -> OnlineStore:
            return FAULTS[fault]()

    for name in TESTS:
        folder = tmp_path / name
        folder.mkdir()
        try:
            getattr(Suite(), name)(folder)
        except (Exception, pytest.fail.Exception):  # noqa: BLE001  (a fault may show as any error)
            return
    pytest.fail(f"a store with a fault keeps the contract: {fault}")
