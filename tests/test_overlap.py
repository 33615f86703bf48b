"""Work behind the making of items: in order, never far behind, ended by the first error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bedplate.overlap import overlapped


def test_items_are_worked_on_in_order():
    found: list[int] = []
    overlapped(found.append, range(1000))
    assert found == list(range(1000))


def test_few_items_wait():
    made, ahead = [0], list[int]()

    def items() -> Iterator[int]:
        for i in range(100):
            made[0] = i
            yield i

    overlapped(lambda i: ahead.append(made[0] - i), items())
    assert len(ahead) == 100
    assert max(ahead) <= 2


def test_an_error_of_the_work_ends_it():
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        overlapped(work, items())
    assert len(made) < 10


def test_an_error_of_the_items_ends_it():
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    found: list[int] = []
    with pytest.raises(KeyError, match="two"):
        overlapped(found.append, items())
    assert found in ([], [1])
