"""History: what training reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bedplate.batch import Column
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView
from bedplate.types import Int64s


class History(Reader, Protocol):
    """Reads the past of a view as of any time, and, for labels, what came after it."""

    def ahead(
        self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s, within: int
    ) -> Mapping[str, Column]:
        """The values over `time <= event < time + within`, whatever windows and delay the view declares.

        Args:
            view: the compiled view; its aggregations have no windows.
            names: full names of features of the view.
            keys: [n, entities] int64.
            times: [n] int64 microseconds.
            within: microseconds.
        """
        ...

    def end(self, view: CompiledView) -> int:
        """The greatest time of the view's events, microseconds; what is later is not known yet."""
        ...

    def known(self, view: CompiledView) -> int:
        """When the last of the view's events could be known, apart from a delay; microseconds."""
        return self.end(view)
