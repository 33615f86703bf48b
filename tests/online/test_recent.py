"""The rows seen last, beside a dictionary that keeps everything; and a process that ends while a read never does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bedplate.features.reader import Read
from bedplate.online.base import Values
from bedplate.online.recent import RecentRows

VIEWS: list[Any] = [SimpleNamespace(id="one"), SimpleNamespace(id="two")]
PAIRS = st.tuples(st.integers(-3, 3), st.integers(0, 1))
STEPS = st.lists(
    st.lists(st.tuples(st.integers(0, 1), st.lists(PAIRS, max_size=5)), min_size=1, max_size=3), max_size=90
)


def read_of(view: int, keys: list[tuple[int, int]]) -> Read:
    return Read(VIEWS[view], [], np.array(keys, np.int64).reshape(-1, 2), np.zeros(len(keys), np.int64))


@given(steps=STEPS)
def test_each_key_has_the_row_and_the_time_it_was_seen_with_last(steps: list[list[tuple[int, list[tuple[int, int]]]]]):
    recent, expected = RecentRows(10_000_000), {}
    for now, step in enumerate(steps):
        reads = [read_of(view, keys) for view, keys in step]
        rows: list[bytes] = []
        for at, (view, keys) in enumerate(step):
            for key in keys:
                # Of a key that is read twice in one step the store gives the same row.
                row = b"" if key[1] else f"{now:04}{view}{key[0]:+03}".encode()
                rows.append(row)
                expected[view, key] = row, float(now), at
        recent.remember(reads, Values([*rows, *(b"state" for _ in reads)]), list(range(len(reads))), float(now))
    every = [(a, b) for a in range(-3, 4) for b in (0, 1)]
    for view in (0, 1):
        rows, seen, watermarks = recent.recall(read_of(view, every))
        for key, row, time, watermark in zip(every, rows, seen.tolist(), watermarks.tolist(), strict=True):
            if (view, key) in expected:
                assert (row, time, watermark) == expected[view, key]
            else:
                assert (row, time == time) == (b"", False)


def test_a_busy_server_files_few_of_its_large_reads_and_all_small_ones():
    recent = RecentRows(1_000_000_000)

    def see(first: int, count: int, now: float) -> Read:
        read = read_of(0, [(key, 0) for key in range(first, first + count)])
        recent.remember([read], Values([*(b"row" for _ in range(count)), b"state"]), [7], now)
        return read

    def is_known(read: Read) -> bool:
        return recent.recall(read)[0] == [b"row"] * len(read.keys)

    assert is_known(see(0, 500, 1.0))
    filed = next(i for i in range(1, 10_000) if not is_known(see(500 * i, 500, 1.0)))
    assert filed > 1
    assert is_known(see(-30, 30, 1.0))
    assert is_known(see(10_000_000, 500, 10.0))


SILENT = """
import sys
sys.path.insert(0, {tests!r})
from troubled_store import TroubledStore
from bedplate.online.guard import GuardedStore, UnansweredError
from bedplate.online.memory import MemoryStore

store = TroubledStore(MemoryStore())
store.mood = "silent"
try:
    GuardedStore(store, 0.05).read_many([b"a"])
except UnansweredError:
    print("no answer in time")
"""


def test_a_read_that_never_ends_does_not_keep_its_process_alive():
    program = SILENT.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "no answer in time\n"
