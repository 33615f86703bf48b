"""A resident version on disk: the packed rows of one view as its store had them, with cells, in files that are mapped.

    <folder>/<view id>/current.json            which version is read, and when the store was last seen to hold it
    <folder>/<view id>/<version>/manifest.json  see `Manifest`
                                records.bin    [rows + 1, width] int64, see `resident_cells`; last that of a missing key
                                slots.bin      int32, the open-addressing table from keys to rows, -1: empty
                                offsets.bin    [rows + 2] int64, where each packed row begins in
                                words.bin      int64, the packed rows, see `codec`

A version is written aside, flushed and renamed, and never changed. `current.json` is replaced whole, after that. An old
version is deleted while others may still have it mapped: its pages stay until nobody needs them.
"""

from __future__ import annotations

import mmap
import shutil
import zlib
from pathlib import Path
from typing import TypeVar, final

import msgspec
import numpy as np

from bedplate.errors import StoreError
from bedplate.features.view import CompiledView
from bedplate.files import write_atomic
from bedplate.online.codec import FORMAT
from bedplate.types import Array, Int64s

RESIDENT_FORMAT = 1
"""The version of these files' form."""

FILES = {"records": np.int64, "slots": np.int32, "offsets": np.int64, "words": np.int64}
"""The files of a version, and what is in them."""

_CHUNK = 1 << 22

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


@final
class FileFacts(msgspec.Struct, frozen=True):
    """What a file must be: its size in bytes, and the CRC-32 of its content."""

    bytes: int
    crc: int


@final
class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version is.

    Attributes:
        format: of the files and of the packed rows.
        view: the view's name.
        view_id: its id.
        features: the ids of the features that have cells, by full name.
        state: the view's state in the store, before its rows were read: JSON.
        watermark: until when its stream was known to be taken in, microseconds; the rows hold all of that, or more.
        time: as of when cells were computed, microseconds.
        until: before which all cells hold, microseconds.
        rows: how many keys there are.
        files: by name.
    """

    format: tuple[int, int]
    view: str
    view_id: str
    features: dict[str, str]
    state: str
    watermark: int
    time: int
    until: int
    rows: int
    files: dict[str, FileFacts]

    def fits(self, view: CompiledView) -> bool:
        """Whether it is of this view, with features that are computed as they are now."""
        ids = {name: view.features[name].id if name in view.features else "" for name in self.features}
        return (self.format, self.view_id, self.features) == ((RESIDENT_FORMAT, FORMAT), view.id, ids)


@final
class Current(msgspec.Struct, frozen=True):
    """Which version is read.

    Attributes:
        version: its number.
        checked: the last time at which the store held just this, microseconds.
        crc: the CRC-32 of its manifest, which has those of its files.
    """

    version: int
    checked: int
    crc: int


@final
class Mapped:
    """A version in memory. Any number of processes share its pages.

    Args:
        folder: of the version.
        crc: of its manifest.

    Attributes:
        manifest: what it is.
        records: as in the file, [rows + 1, width].
        slots: as in the file.
        offsets: as in the file.
        words: as in the file.

    Raises:
        FileNotFoundError: the version is gone.
        StoreError: a file is damaged, or another version of Bedplate wrote it.
    """

    __slots__ = ("manifest", "offsets", "records", "slots", "words")

    def __init__(self, folder: Path, crc: int) -> None:
        self.manifest = read_manifest(folder, crc)
        found = {name: _mapped(folder / f"{name}.bin", name, self.manifest.files.get(name)) for name in FILES}
        self.records = found["records"].reshape(self.manifest.rows + 1, -1)
        self.slots, self.offsets, self.words = found["slots"], found["offsets"], found["words"]

    def packed(self, rows: Int64s) -> tuple[Int64s, Int64s]:
        """The packed rows at `rows` [n], and offsets [n + 1]."""
        from bedplate.online.resident_kernels import copy_rows

        ends: Int64s = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.offsets[rows + 1] - self.offsets[rows], out=ends[1:])
        out = np.empty(ends[-1], np.int64)
        copy_rows(self.words, self.offsets, rows, ends, out)
        out.flags.writeable = False
        return out, ends


@final
class SizedWriter:
    """Writes arrays to a new file, one after the other.

    Args:
        path: the file.

    Attributes:
        bytes: how many were written.

    Raises:
        OSError: it can't be written.
    """

    __slots__ = ("_crc", "_file", "bytes")

    def __init__(self, path: Path) -> None:
        self._file, self._crc, self.bytes = path.open("xb"), 0, 0

    def add(self, values: Array) -> None:
        """Appends an array."""
        data = np.ascontiguousarray(values).tobytes()
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self.bytes += len(data)

    def close(self) -> FileFacts:
        """Ends the file; what it is."""
        self._file.close()
        return FileFacts(self.bytes, self._crc)


def read_current(folder: Path) -> Current | None:
    """Which version of a view's folder is read; None: there is none.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        return _decoded(folder / "current.json", (folder / "current.json").read_bytes(), Current)
    except FileNotFoundError:
        return None


def read_manifest(folder: Path, crc: int) -> Manifest:
    """What the version in a folder is.

    Raises:
        FileNotFoundError: it is gone.
        StoreError: it is damaged, or another version of Bedplate wrote it.
    """
    path = folder / "manifest.json"
    content = path.read_bytes()
    _check_crc(path, zlib.crc32(content), crc)
    return _decoded(path, content, Manifest)


def write_current(folder: Path, current: Current) -> None:
    """Says from now on which version is read, and deletes those before the one that was read until now.

    Raises:
        OSError: it can't be written.
    """
    before = read_current(folder)
    write_atomic(folder / "current.json", msgspec.json.encode(current))
    # Who has just read the old name must find the old version.
    kept = {current.version, current.version if before is None else before.version}
    for path in folder.iterdir():
        if path.name.isdigit() and int(path.name) < current.version and int(path.name) not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _decoded(path: Path, content: bytes, kind: type[_Struct]) -> _Struct:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, f"it is not what was written: {error}") from error


def _check_crc(path: Path, got: int, expected: int) -> None:
    if got != expected:
        raise _damaged(path, f"its CRC-32 is {got:08x}, expected {expected:08x}")


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        what, where=str(path), hint="delete the view's folder, then run: bedplate online refresh; the store has it all"
    )


def _mapped(path: Path, name: str, facts: FileFacts | None) -> Array:
    with path.open("rb") as file:
        size = path.stat().st_size
        if facts is None or size != facts.bytes:
            raise _damaged(path, f"it has {size:,} bytes, expected {0 if facts is None else facts.bytes:,}")
        if not size:
            return np.zeros(0, FILES[name])
        pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    # Reading all of it once brings it into memory too, before the first request needs it.
    crc = 0
    for begin in range(0, size, _CHUNK):
        crc = zlib.crc32(pages[begin : begin + _CHUNK], crc)
    _check_crc(path, crc, facts.crc)
    return np.frombuffer(pages, FILES[name])
