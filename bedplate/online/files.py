"""A stream of files: a directory to which files are appended; its subdirectories are partitions.

Files hold rows as the source's table does, in Parquet, JSON, Avro or Protobuf, and are taken in by the order of their
names. A writer of files writes aside (a name that begins with "." or ends with ".tmp") and renames, and gives each file
a name after those before it in its directory. The partition of the directory itself has an empty name.

A row that can't be taken in goes to the dead letters; a file that can't be read stops its partition.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import final

from bedplate.errors import DataError, reason
from bedplate.features.view import CompiledView
from bedplate.online.file_rows import SUFFIXES, FileForms, Form, Piece
from bedplate.online.letters import Letter, write_letters
from bedplate.online.origins import of_directory
from bedplate.online.streams import MicroBatch, Origin, Position, Stream, StuckError
from bedplate.sources.base import UNREADABLE

_TABLES = {
    "a Delta": "_delta_log",
    "an Iceberg": "metadata/*.metadata.json",
    "a Lance": "_versions",
}
"""By what the folder of a table is known."""


@final
class FileStream(Stream):
    """The files of a directory.

    Args:
        directory: where the files appear.
        view: a compiled view of the source whose rows they hold. Where the source has a cleaning step a whole file is
            one micro-batch, as the step may look at several rows.
        letters: the directory of dead letters; None: a row that can't be taken in is an error.
        form: of the payloads, see `FileForms`.

    Attributes:
        letters_written: rows that could not be taken in so far.
        strangers: what is in the directory, as last listed, and has no name of a stream's file.

    Raises:
        ConfigError: the form is wrong.
    """

    def __init__(self, directory: Path, view: CompiledView, letters: Path | None = None, form: str = "json") -> None:
        self._directory, self._view, self._letters = directory, view, letters
        self._forms = FileForms(view, form)
        self.letters_written = 0
        self._files: dict[str, list[str]] = {}
        self._origin: Origin | None = None
        self._facts: dict[tuple[str, Path], tuple[int, int, int]] = {}

    @property
    def name(self) -> str:
        """The directory."""
        return str(self._directory)

    def partitions(self) -> Sequence[str]:
        """The directory and its subdirectories, the files in them listed anew.

        Raises:
            DataError: it can't be read, or is the folder of a table: its files have no names that say which came first,
                and some hold old rows.
        """
        for kind, sign in _TABLES.items():
            if any(self._directory.glob(sign)):
                raise DataError(
                    f"it is {kind} table, and a stream is a directory to which files are appended",
                    where=self.name,
                    hint="write new rows to a directory of their own as well; or load the table's newest state: "
                    "bedplate apply, then bedplate materialize --replace",
                )
        entries = [p for p in _entries(self._directory) if _is_whole(p)]
        folders = [p for p in entries if p.is_dir() and _is_text(p.name)]
        self._files, strangers = (
            {"": _files(entries)},
            [_shown(p) for p in entries if p not in folders and not _is_file(p)],
        )
        for folder in folders:
            inside = [p for p in _entries(folder) if _is_whole(p)]
            self._files[folder.name] = found = _files(inside)
            strangers += [f"{folder.name}/{_shown(p)}" for p in inside if p.name not in found]
        self.strangers = strangers
        return list(self._files)

    @property
    def origin(self) -> Origin:
        """By the marker in the directory."""
        self._origin = self._origin or of_directory(self._directory)
        return self._origin

    def all_partitions(self) -> Sequence[str]:
        """As last listed."""
        return list(self._files)

    def check(self, partition: str, reached: Position, completed: Collection[str], until: int) -> None:
        """Raises `StuckError` where a file that is in in part is gone, or one has grown or would be passed over."""
        names, folder = self._files.get(partition, []), self._directory / partition
        if reached.name and reached.name not in completed and reached.name not in names and folder.is_dir():
            # It may have come, and another worker begun with it, since the files were listed.
            names = self._files[partition] = _files(_entries(folder))
        if reached.name and reached.name not in completed and reached.name not in names:
            raise StuckError(
                f"the file is gone, of which only {reached.at:,} rows were taken in",
                where=str(folder / reached.name),
                hint="put it back, then run again",
            )
        skipped = next((n for n in names if n < reached.name and n not in completed), None)
        if skipped is not None:
            raise StuckError(
                f"the file appeared after '{reached.name}' was taken in, which comes after it by name",
                where=str(folder / skipped),
                hint="give it a name after all others: files are taken in by the order of their names",
            )
        if reached.name in names and reached.name in completed:
            self._check_grown(folder / reached.name, reached.at)

    def _check_grown(self, path: Path, taken: int) -> None:
        """Raises `StuckError` where a file has more rows than it had when it was taken in to its end."""
        try:
            rows = self._size(path)
        except (DataError, *UNREADABLE):  # it is in, so nothing else about it matters
            return
        if rows > taken:
            raise StuckError(
                f"the file has {rows:,} rows, and was taken in to its end when it had {taken:,}: it has grown",
                where=str(path),
                hint=f"put the rows from {taken:,} on into a file with a later name and move this one away; files are "
                "written aside and renamed when they are whole",
            )

    def read(
        self, partition: str, after: Position, before: Position | None, rows: int, completed: Collection[str] = ()
    ) -> MicroBatch | None:
        """The rows that follow in the file at work, or the first ones of the next file."""
        path, at = self._next(partition, after, completed)
        if path is None:
            return None
        most = None if self._view.view.source.prepare is not None else rows
        with _sticking(path):
            stop = before.at if before is not None and before.name == path.name else None
            piece = self._forms.of(path).read(path, at, most, stop)
            if self._letters is None:
                for row, (why, _, _) in sorted(piece.wrong.items()):
                    raise DataError(f"row {row:,}: {why}", hint="repair the file or move it away, then run again")
        return MicroBatch(
            partition=partition,
            begin=after,
            end=Position(path.name, piece.end),
            rows=piece.frame,
            where=str(path),
            row=lambda row: f"row {piece.rows[row]:,}",
            newest=lambda: self._newest_time(path),
            completes=(path.name,) if piece.is_end else (),
            refuse=self._refusing(f"{partition}/{path.name}" if partition else path.name, piece),
        )

    def _refusing(self, file: str, piece: Piece) -> Callable[[Mapping[int, str]], Collection[str]] | None:
        """What keeps rows of a piece aside, see `MicroBatch.refuse`."""
        letters = self._letters
        if letters is None:
            return None

        def refuse(further: Mapping[int, str]) -> Collection[str]:
            found: dict[int, tuple[str, bytes, Form]] = dict(piece.wrong)
            numbers = sorted(further)
            for number, payload in zip(numbers, piece.as_json(numbers), strict=True):
                found[piece.rows[number]] = further[number], payload, "json"
            stream = self.origin.id
            written = [Letter.of_row(stream, file, row, *found[row]) for row in sorted(found)]
            if written:
                self.letters_written += write_letters(letters, written)
            return [letter.name for letter in written]

        return refuse

    def lag(self, partition: str, after: Position) -> int:
        """The rows of the files after a position."""
        left = [self._directory / partition / n for n in self._files.get(partition, []) if n >= after.name]
        total = 0
        for path in left:
            with _sticking(path):
                total += self._size(path) - (after.at if path.name == after.name else 0)
        return total

    def has(self, partition: str) -> bool:
        """Whether the subdirectory was there when they were listed last."""
        return partition in self._files

    def close(self) -> None:
        """Nothing is held open."""

    def _next(self, partition: str, after: Position, completed: Collection[str]) -> tuple[Path | None, int]:
        """The file to read from, and from which row."""
        folder = self._directory / partition
        for name in self._files.get(partition, []):
            if name < after.name or (name == after.name and name in completed):
                continue
            return folder / name, 0 if name > after.name else after.at
        return None, 0

    def _size(self, path: Path) -> int:
        """How many rows a file has."""
        return self._fact("size", path, lambda: self._forms.of(path).count(path))

    def _newest_time(self, path: Path) -> int:
        """The greatest time in a file at which an event could be known, apart from a delay; -1 if it has no event."""
        with _sticking(path):
            return self._fact("newest", path, lambda: self._forms.of(path).newest(path))

    def _fact(self, name: str, path: Path, find: Callable[[], int]) -> int:
        """What is remembered about a file as it is now."""
        status = path.stat()
        known = self._facts.get((name, path))
        if known is None or known[1:] != (status.st_mtime_ns, status.st_size):
            known = self._facts[name, path] = find(), status.st_mtime_ns, status.st_size
        return known[0]


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir(), key=lambda p: p.name)
    except OSError as error:
        raise DataError(f"can't read the directory: {error}", where=str(directory)) from error


def _is_whole(path: Path) -> bool:
    """Whether nobody writes it aside."""
    return not path.name.startswith(".") and not path.name.endswith(".tmp")


def _is_file(path: Path) -> bool:
    return path.suffix in SUFFIXES and _is_text(path.name) and path.is_file()


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8: another one can be no part of a position or a letter."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path) -> str:
    return path.name.encode(errors="backslashreplace").decode()


def _files(entries: Sequence[Path]) -> list[str]:
    return [p.name for p in entries if _is_whole(p) and _is_file(p)]


@contextlib.contextmanager
def _sticking(path: Path) -> Generator[None]:
    """What is wrong with a file stops its partition."""
    try:
        with naming(path):
            yield
    except DataError as error:
        raise StuckError(error.message, where=error.where, hint=error.hint) from error


@contextlib.contextmanager
def naming(place: Path | str) -> Generator[None]:
    """Says in errors about data which file or part of a stream they are about."""
    try:
        yield
    except DataError as error:
        where = f"{place}: {error.where}" if error.where else str(place)
        kind = StuckError if isinstance(error, StuckError) else DataError
        raise kind(error.message, where=where, hint=error.hint) from error
    except UNREADABLE as error:
        raise DataError(
            f"can't read the file: {reason(error)}",
            where=str(place),
            hint="repair it or move it away, then run again; files are written aside and renamed when they are whole",
        ) from error
