"""Array files that are written piece by piece, and what is written into them, hold what plain code would have made."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.offline import kernels, sums, writing
from bedplate.offline.running import exact_between
from bedplate.offline.sums import write_sums
from bedplate.offline.writing import ArrayWriter, gathered, write_all, write_gathered, write_pieces

TYPES = ["int64", "float64", "float32", "bool", "uint32"]


def values_of(dtype: str, rows: int, width: int | None) -> np.ndarray:
    shape = (rows,) if width is None else (rows, width)
    return np.random.default_rng(rows).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [None, 1, 3])
@pytest.mark.parametrize("order_type", [np.uint32, np.int64])
def test_rows_are_gathered(dtype, width, order_type):
    values = values_of(dtype, 50, width)
    order = np.random.default_rng(1).integers(0, 50, 80).astype(order_type)
    found = gathered(values, order)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values[order])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 95])
@pytest.mark.parametrize("width", [None, 2])
def test_a_gathered_file_is_read_by_numpy(threads, rows, width, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PIECE", 10)
    values = values_of("float64", max(rows, 1), width)
    order = np.random.default_rng(2).permutation(rows).astype(np.uint32)
    write_gathered(tmp_path / "a.npy", values, order, threads)
    found = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert found.dtype == values.dtype
    assert np.array_equal(found, values[order])


def test_pieces_may_be_written_in_any_order(tmp_path):
    writer = ArrayWriter(tmp_path / "a.npy", np.dtype(np.int64), (6,))
    writer.write(4, np.array([4, 5]))
    writer.write(0, np.arange(4))
    writer.write(6, np.array([], np.int64))
    writer.close()
    assert np.load(tmp_path / "a.npy").tolist() == list(range(6))


def test_a_short_write_is_gone_on_with(tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(writing.os, "pwrite", lambda fd, data, at: write(fd, data[: min(len(data), 5)], at))
    write_gathered(tmp_path / "a.npy", np.arange(9.0), np.arange(9)[::-1].copy(), 1)
    assert np.load(tmp_path / "a.npy").tolist() == list(range(8, -1, -1))


def test_an_error_of_a_piece_comes_out(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PIECE", 2)

    def make(first: int, stop: int) -> np.ndarray:
        if first == 4:
            raise ValueError("piece 4")
        return np.arange(first, stop)

    bounds = [(i, i + 2) for i in range(0, 8, 2)]
    for threads in (1, 2):
        with pytest.raises(ValueError, match="piece 4"):
            write_pieces(tmp_path / f"{threads}.npy", np.dtype(np.int64), (8,), bounds, make, threads)


def test_a_system_that_can_not_begin_to_flush_writes_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_begin_flush", None)
    write_gathered(tmp_path / "a.npy", np.arange(5), np.arange(5), 2)
    assert np.load(tmp_path / "a.npy").tolist() == list(range(5))


@pytest.mark.parametrize("most", [1, 3, 10**6])
def test_all_parts_are_written_however_few_bytes_a_write_takes(most, tmp_path, monkeypatch):
    write = os.write

    def writev(descriptor: int, parts: Sequence[memoryview]) -> int:
        return write(descriptor, b"".join(parts)[:most])

    monkeypatch.setattr(writing.os, "writev", writev)
    parts = [b"head", b"", memoryview(b"array"), b"x" * 7]
    with (tmp_path / "file").open("ab", buffering=0) as file:
        write_all(file, parts)
        write_all(file, [])
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


def test_more_parts_than_one_write_takes(tmp_path):
    parts = [bytes([i % 256]) * (i % 5) for i in range(1000)]
    with (tmp_path / "file").open("ab", buffering=0) as file:
        write_all(file, parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 12) | st.integers(0, 300), min_size=1, max_size=12),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32),
)
def test_sums_of_runs_of_keys_are_the_exact_ones(sizes, piece, threads, seed):
    """Keys without values, at the ends too, keys larger than a piece, values of all magnitudes."""
    draw = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    values = draw.choice([-1, 1], starts[-1]) * 10.0 ** draw.uniform(-8, 12, starts[-1])
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "PIECE", piece)
        patch.setattr(writing, "PIECE", piece)
        more = write_sums(Path(folder) / "prefix.npy", values, starts, threads)
        prefix = np.load(Path(folder) / "prefix.npy")
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        expected = [math.fsum(values[start : i + 1]) for i in range(start, stop)]
        assert prefix[start:stop] == pytest.approx(expected, rel=1e-14, abs=1e-18)
        exact = [Fraction(0), *accumulate(map(Fraction, values[start:stop].tolist()))]
        for a, b in ((0, stop - start), (1, stop - start), (2, 3)):
            if a < b <= stop - start:
                high, low = exact_between(
                    prefix, more.get("rests"), values if more else None, start, start + a, start + b
                )
                largest = max(map(abs, exact))
                assert abs(Fraction(float(high)) + Fraction(float(low)) - (exact[b] - exact[a])) <= largest * 2**-95


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=12), st.integers(0, 2**32))
def test_lists_are_put_in_their_places(lists, seed):
    rows = np.random.default_rng(seed).permutation(len(lists)).astype(np.uint32)
    starts = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    values = np.array([v for x in lists for v in x], np.int64).reshape(-1, 1)
    expected = [lists[i] for i in np.argsort(rows)]
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in expected])]).astype(np.int64)
    out = np.empty_like(values)
    kernels.scatter_lists(values, starts, rows, offsets, out)
    assert out[:, 0].tolist() == [v for x in expected for v in x]


@pytest.mark.parametrize("dtype", ["int64", "float64", "uint32"])
@pytest.mark.parametrize("largest", [True, False])
def test_extremes_of_blocks(dtype, largest):
    values = np.random.default_rng(3).integers(0, 50, 333).astype(dtype)
    out = np.empty(-(-len(values) // 10), dtype)
    kernels.block_extremes(values, 10, largest, out)
    blocks = [values[i : i + 10] for i in range(0, len(values), 10)]
    assert out.tolist() == [b.max() if largest else b.min() for b in blocks]


def test_of_zeros_with_both_signs_the_first_is_kept():
    for zeros in ([0.0, -0.0], [-0.0, 0.0]):
        for largest in (True, False):
            out = np.empty(1)
            kernels.block_extremes(np.array(zeros), 10, largest, out)
            assert math.copysign(1, out[0]) == math.copysign(1, zeros[0])
