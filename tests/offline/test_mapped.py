"""Array files: mapped once, and never taken for each other."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bedplate.errors import StoreError
from bedplate.offline.mapped import open_array


def test_a_file_that_is_open_is_not_mapped_again(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    one = open_array(tmp_path / "a.npy")
    assert open_array(tmp_path / "a.npy") is one
    assert one.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(0,), (0, 2), (3, 0)])
def test_an_empty_array_that_is_held_is_not_taken_for_a_later_file_of_its_inode(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.empty(shape, np.int32))
    held = open_array(path)
    assert held.shape == shape
    inode = path.stat().st_ino
    with path.open("wb") as file:  # the same inode, as a deleted file's goes to the next one
        np.save(file, np.arange(5))
    assert path.stat().st_ino == inode
    assert open_array(path).tolist() == [0, 1, 2, 3, 4]
    assert held.shape == shape


def test_a_mapped_array_keeps_its_file_after_it_is_deleted(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    held = open_array(tmp_path / "a.npy")
    (tmp_path / "a.npy").unlink()
    for i in range(50):
        np.save(tmp_path / f"{i}.npy", np.full(5, i))
        assert open_array(tmp_path / f"{i}.npy").tolist() == [i] * 5
    gc.collect()
    assert held.tolist() == [0, 1, 2, 3, 4]


def test_a_file_that_is_not_whole_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(500))
    whole = (tmp_path / "a.npy").read_bytes()
    for part in (b"", whole[:5], whole[:-1]):
        (tmp_path / "b.npy").write_bytes(part)
        with pytest.raises(StoreError, match=r"b\.npy: can't read a column file") as found:
            open_array(tmp_path / "b.npy")
        assert "bedplate apply" in str(found.value)


def test_arrays_and_locks_that_outlive_their_modules_end_in_silence(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    script = f"""
import json, sys
from pathlib import Path
from bedplate.offline import mapped, segment
folder = Path({str(tmp_path)!r})
json.kept = mapped.open_array(folder / "a.npy"), segment.Lock.shared(folder)
sys.kept = json, mapped, segment  # modules that are held are emptied, those that were imported last first
print(json.kept[0].sum(), json.kept[1] is not None)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("10 True\n", "")
