"""Windows: how far back an aggregation looks, and the boundary that its far end snaps to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from bedplate.errors import DefinitionError
from bedplate.types import DAY, HOUR, MINUTE, format_duration, parse_duration


def default_hop(length: int) -> int:
    """The hop of a window that sets none: 5 minutes below 12 hours, 1 hour below 12 days, else 1 day.

    >>> [format_duration(default_hop(parse_duration(w))) for w in ("1h", "12h", "12d")]
    ['5m', '1h', '1d']
    """
    if length < 12 * HOUR:
        return 5 * MINUTE
    return HOUR if length < 12 * DAY else DAY


@final
@dataclass(frozen=True, slots=True)
class Window:
    """A window of `length` at time `t` covers events with `floor(t - length, hop) <= time < t`.

    The near end is exact, the far end is snapped down to a multiple of the hop since the epoch. `hop="exact"` does not
    snap; it needs `bound`, the number of a key's latest events that are kept for it online, and then covers at most the
    last `bound` events of the view, in history and online alike.

    Attributes:
        length: microseconds.
        hop: microseconds; 0 for exact.
        bound: events; None unless exact.

    >>> Window.of("7d")
    Window(length=604800000000, hop=3600000000, bound=None)
    >>> Window.of("7d").label, Window.of("1h", hop="exact", bound=100).text
    ('7d', '1h (exact, last 100 events)')
    """

    length: int
    hop: int
    bound: int | None = None

    def __post_init__(self) -> None:
        """Checks the sizes, and that an exact window, and only that, has a bound."""
        for part, size in (
            ("length", self.length),
            ("hop", self.hop),
            ("bound", 0 if self.bound is None else self.bound),
        ):
            if not isinstance(size, int) or isinstance(size, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(
                    f"got the {part} {size!r}, expected a whole number",
                    where="window",
                    hint='Window.of takes texts, for example Window.of("7d", hop="1h")',
                )
        if self.length <= 0 or self.hop < 0:
            raise DefinitionError(
                f"got length {self.length} and hop {self.hop}, expected a length above zero", where="window"
            )
        if (self.hop == 0) != (self.bound is not None) or (self.bound is not None and self.bound <= 0):
            raise DefinitionError(
                "an exact window, and only an exact one, declares how many events it may hold",
                where=f"window {format_duration(self.length)}",
                hint='for example Window.of("1h", hop="exact", bound=200)',
            )

    @staticmethod
    def of(length: str, hop: str | None = None, bound: int | None = None) -> Window:
        """A window from texts such as `"7d"`; `hop` is a duration, `"exact"`, or None for `default_hop`.

        Raises:
            DefinitionError: a text is not a duration, the hop is longer than the window, or the bound does not go with
                the hop.
        """
        micros = _duration(length, "window")
        if hop is None:
            return Window(micros, default_hop(micros), bound)
        if isinstance(hop, str) and hop == "exact":  # pyright: ignore[reportUnnecessaryIsInstance]
            return Window(micros, 0, bound)
        snapped = _duration(hop, "hop")
        if snapped > micros:
            raise DefinitionError(
                f"the hop {hop} is longer than the window {length}, which would mostly cover what is before it",
                where="window",
                hint=f'for example Window.of("{length}", hop="{format_duration(min(micros, default_hop(micros)))}")',
            )
        return Window(micros, snapped, bound)

    @property
    def label(self) -> str:
        """The suffix of a feature's name, such as `7d`."""
        return format_duration(self.length)

    @property
    def text(self) -> str:
        """The window and its hop for a person to read."""
        if self.bound is not None:
            return f"{self.label} (exact, last {self.bound} events)"
        return f"{self.label} (hop {format_duration(self.hop)})"

    def start(self, time: int) -> int:
        """The first event time that the window at `time` covers.

        >>> Window(length=10, hop=4).start(15)
        4
        """
        start = time - self.length
        return start - start % self.hop if self.hop else start

    def form(self) -> dict[str, int | None]:
        """The canonical form."""
        return {"length": self.length, "hop": self.hop, "bound": self.bound}


def _duration(text: str, where: str) -> int:
    """Microseconds of a window's length or hop."""
    if isinstance(text, str) and text.strip().startswith("-"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(
            f"got '{text}', expected a length above zero",
            where=where,
            hint=f'a window looks back already: write "{text.strip()[1:].strip()}"; a Label looks forward',
        )
    return parse_duration(text, where=where, error=DefinitionError)


WindowLike: TypeAlias = "str | Window"


def windows_of(windows: WindowLike | Sequence[WindowLike] | None) -> tuple[Window | None, ...]:
    """The windows of an aggregation; None means one window over all history.

    Raises:
        DefinitionError: none, two of the same length, or something else than a window.
    """
    if windows is None:
        return (None,)
    listed = list(windows) if isinstance(windows, Sequence) and not isinstance(windows, str) else [windows]
    result = tuple(w if isinstance(w, Window) else Window.of(w) for w in listed)
    labels = [w.label for w in result]
    if not result or len(set(labels)) != len(labels):
        raise DefinitionError(f"got windows {labels}, expected one or more of different lengths", where="windows")
    return result
