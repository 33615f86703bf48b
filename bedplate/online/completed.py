"""What a view has wholly taken in of the partitions of a stream, such as files, by name.

The names are read once; then a name that is not among them is asked for, so that a step of another worker costs as many
reads as there are names to it, however many files there were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import OnlineStore


@final
class Completed:
    """The names of one partition; a name is in it once it was taken in.

    Args:
        store: the store.
        prefix: what the keys of the names begin with.
        known: names that are in it.
    """

    __slots__ = ("_absent", "_known", "_prefix", "_store")

    def __init__(self, store: OnlineStore, prefix: bytes, known: Iterable[str] = ()) -> None:
        self._store, self._prefix, self._known = store, prefix, set(known)
        self._absent: set[str] = set()

    def __contains__(self, name: object) -> bool:
        """Whether a name was taken in, as of the last `forget_absent`."""
        if name in self._known:
            return True
        if name in self._absent or not isinstance(name, str):
            return False
        is_there = bool(self._store.read_many([self._prefix + name.encode()]).data)
        (self._known if is_there else self._absent).add(name)
        return is_there

    def __iter__(self) -> Iterator[str]:
        """The names that are known."""
        return iter(self._known)

    def __len__(self) -> int:
        """How many names are known."""
        return len(self._known)

    def add(self, names: Iterable[str]) -> None:
        """Adds names that were taken in."""
        self._known.update(names)

    def forget_absent(self) -> None:
        """Names that were not in it may be by now."""
        self._absent.clear()


@final
class CompletedNames:
    """The names of a view, by partition.

    Args:
        store: the store, whose names are read.
        view: compiled view.
    """

    __slots__ = ("_names", "_prefix", "_store")

    def __init__(self, store: OnlineStore, view: CompiledView) -> None:
        self._store, self._prefix = store, keys.files_of(view)
        found: dict[str, list[str]] = {}
        for key, _ in store.scan(self._prefix):
            if not key.startswith(keys.LETTER, len(self._prefix)):
                partition, _, name = key[len(self._prefix) :].decode().rpartition("/")
                found.setdefault(partition, []).append(name)
        self._names = {partition: self._of(partition, names) for partition, names in found.items()}

    def of(self, partition: str) -> Completed:
        """The names of a partition."""
        if partition not in self._names:
            self._names[partition] = self._of(partition)
        return self._names[partition]

    def forget_absent(self) -> None:
        """The view's state has changed: names that were not in it may be by now."""
        for names in self._names.values():
            names.forget_absent()

    def key(self, partition: str, name: str) -> bytes:
        """The key of a name."""
        return self._prefix + (f"{partition}/{name}" if partition else name).encode()

    def _of(self, partition: str, names: Iterable[str] = ()) -> Completed:
        return Completed(self._store, self.key(partition, ""), names)
