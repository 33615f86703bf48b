"""Reading features: history and the online store are both a `Reader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from bedplate.batch import Column
from bedplate.features.view import CompiledView
from bedplate.types import Int64s


class Read(NamedTuple):
    """Features of a view to read for n rows.

    Attributes:
        view: the compiled view.
        names: full names of features of the view.
        keys: [n, entities] int64.
        times: [n] int64 microseconds; only events with `time + delay < t` count.
    """

    view: CompiledView
    names: Sequence[str]
    keys: Int64s
    times: Int64s


class Reader(Protocol):
    """Reads the features of a view for keys at times: history or the online store."""

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        """The values of n rows, a column for each name; see `Read`."""
        ...

    def read_all(self, reads: Sequence[Read]) -> Sequence[Mapping[str, Column]]:
        """Several reads, of one state of what is read."""
        return [self.read(*read) for read in reads]
