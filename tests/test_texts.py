"""What is remembered of clients' texts is bounded by its bytes."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from bedplate.canonical import string_ids
from bedplate.features.functions import token_overlap
from bedplate.serving.wire import encode_keys
from bedplate.texts import Remembered
from bedplate.types import Type

MB = 1024 * 1024


def ask_keys(first: int) -> None:
    """A request of 1,000 keys that nobody has sent before, as long as a key may be."""
    encode_keys(["\U0001f600" * 1000 + f"{first + i:06}" for i in range(1000)], Type.STRING)


def ask_words(first: int) -> None:
    """Queries that nobody has sent before, as long as a text may be."""
    for query in range(first, first + 10):
        text = " ".join(f"{query * 2000 + word + 65536:x}" for word in range(1350))
        token_overlap(np.array([text], object), np.array(["red mug"], object))


@pytest.mark.parametrize("ask", [ask_keys, ask_words], ids=["keys", "queries"])
def test_long_texts_of_clients_are_not_kept(ask: Callable[[int], None]) -> None:
    ask(0)
    tracemalloc.start()
    for request in range(1, 11):
        ask(request * 1000)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < MB  # the keys alone are 40 MB, and the words of the queries more than 10


def test_what_is_remembered_is_no_more_than_its_bytes_and_what_is_estimated() -> None:
    known = Remembered(lambda text: text * 2, sys.getsizeof, most_bytes=MB, most_of_one=2000)
    tracemalloc.start()
    for i in range(20_000):
        assert known[f"é{i:030}" if i % 2 else f"{i:060}"].endswith(f"{i:030}")
        assert known.held_bytes <= MB
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1.1 * MB
    assert len(known) > 1000
    assert f"{19_998:060}" in known  # the newest stay
    assert f"{0:060}" not in known


def test_short_keys_are_hashed_once_and_long_ones_rightly_too() -> None:
    asked: list[str] = []
    known = Remembered(lambda text: asked.append(text) or len(text), lambda _: 28, most_bytes=1000, most_of_one=300)
    long = "l" * 1000
    assert [known[text] for text in ("a", "a", long, long)] == [1, 1, 1000, 1000]
    assert asked == ["a", long, long]
    assert encode_keys(["POST", long, "é" * 1024], Type.STRING).tolist() == string_ids(["POST", long, "é" * 1024])
