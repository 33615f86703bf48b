"""A circuit that stops asking what fails: after some failures in a row nobody asks for a while, then one tries."""

from __future__ import annotations

from typing import final


@final
class Circuit:
    """Opens after some failures in a row; while it is open, one call in each pause tries whether all is well again.

    Args:
        most: failures in a row that open it.
        pause: how long nobody asks then, in the unit of the times that the methods get.

    >>> circuit = Circuit(2, 1.0)
    >>> circuit.failed(0.0), circuit.failed(0.1), circuit.lets_through(0.5), circuit.lets_through(1.2)
    (False, True, False, True)
    """

    __slots__ = ("_failures", "_most", "_pause", "_until")

    def __init__(self, most: int, pause: float) -> None:
        self._most, self._pause = most, pause
        self._failures, self._until = 0.0, 0.0

    @property
    def is_closed(self) -> bool:
        """Whether everybody may ask."""
        return self._failures < self._most

    def lets_through(self, now: float) -> bool:
        """Whether this call may ask."""
        if self._failures < self._most:
            return True
        if now < self._until:
            return False
        self._until = now + self._pause  # the others go on without while this one tries
        return True

    def failed(self, now: float, weight: float = 1.0) -> bool:
        """A call failed; whether this failure has opened the circuit.

        Args:
            now: when.
            weight: how much of a failure it was, from 0 to 1: a call that got less than its usual time says less.

        >>> circuit = Circuit(1, 1.0)
        >>> circuit.failed(0.0, 0.5), circuit.is_closed, circuit.failed(0.1, 0.5), circuit.is_closed
        (False, True, True, False)
        """
        was_closed = self.is_closed
        self._failures += weight
        if self.is_closed:
            return False
        self._until = now + self._pause
        return was_closed

    def succeeded(self) -> bool:
        """A call was answered; whether the circuit was open."""
        was_open = self._failures >= self._most
        self._failures = 0.0
        return was_open
