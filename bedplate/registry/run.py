"""Runs: a folder of plain files for each job, written while it goes on and readable with any tool.

    runs/<id>/run.json        what it is: name, status, config, code, process, times, last metrics
    runs/<id>/metrics.jsonl   one line a value, appended: {"step":1,"name":"loss","value":0.5,"time":1700000000000000}
    runs/<id>/artifact/       what it made

A metric is one `write` to the system: it costs some microseconds, and a killed process loses none that was logged.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, final

import msgspec

from bedplate.canonical import to_json
from bedplate.clock import Clock
from bedplate.errors import DataError, StoreError
from bedplate.files import write_atomic
from bedplate.process import process_alive, process_token
from bedplate.registry.manifest import Git

RUN_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
ARTIFACT_NAME = "artifact"

SEARCHED = "searched"
"""Where the config of a trial's run keeps of which study it is: `{"study": ID, "trial": NAME}`."""

Status: TypeAlias = Literal["running", "finished", "failed", "interrupted", "damaged"]
EndStatus: TypeAlias = Literal["finished", "failed", "interrupted"]


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `run.json` holds.

    Attributes:
        id: the folder's name; ids sort by time of start.
        name: what the job is called; many runs share one.
        status: as last written; `StoredRun.status` knows whether a running one is still there.
        config: the job's config, any JSON.
        definitions: the id of each definition that it uses, by kind and name (`Manifest.definitions`).
        sources: the snapshot of each source that it reads, by the source's name.
        git: the state of the code.
        started: microseconds since the epoch.
        ended: microseconds since the epoch, or None while it runs.
        host: the machine.
        pid: the process.
        process: its unambiguous name (`bedplate.process`).
        metrics: the last value of each metric, or the one that `Run.conclude` was given; null is not a number.
        error: why it failed.
    """

    id: str
    name: str
    status: Status
    config: dict[str, Any]
    definitions: dict[str, str] = {}
    sources: dict[str, str] = {}
    git: Git
    started: int
    ended: int | None = None
    host: str
    pid: int
    process: str
    metrics: dict[str, float | None] = {}
    error: str | None = None


class Point(msgspec.Struct, frozen=True):
    """A metric's value at a step, and when it was logged (microseconds since the epoch)."""

    step: int
    value: float
    time: int


class _Line(msgspec.Struct, frozen=True):
    step: int
    name: str
    # JSON has no infinities and no NaN: they are written as text.
    value: float | Literal["nan", "inf", "-inf"]
    time: int


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(_Line)


def this_process() -> dict[str, Any]:
    """The fields of a `RunRecord` that say which process it is."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "process": process_token()}


def write_record(folder: Path, record: RunRecord) -> None:
    """Writes `run.json`, whole or not at all.

    Raises:
        OSError: it can't be written; the old one is untouched.
    """
    write_atomic(folder / RUN_NAME, encode_record(record))


def encode_record(record: RunRecord) -> bytes:
    """The text of `run.json`: sorted keys, indented."""
    return msgspec.json.format(to_json(record), indent=2) + b"\n"


def read_record(folder: Path) -> RunRecord:
    """Reads `run.json`; where it can't be read, a record with the status `damaged` that says why."""
    try:
        return msgspec.json.decode((folder / RUN_NAME).read_bytes(), type=RunRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        nothing = Git(reason="run.json can't be read")
        return RunRecord(
            id=folder.name,
            name="",
            status="damaged",
            config={},
            git=nothing,
            started=0,
            host="",
            pid=0,
            process="",
            error=f"{folder / RUN_NAME}: {error}",
        )


def stored_run(folder: Path, record: RunRecord) -> StoredRun:
    """A run whose record comes from the index, which may be behind `run.json` where the run's process was killed."""
    stale = record.status in ("running", "damaged") and folder.is_dir()
    return StoredRun(folder, read_record(folder) if stale else record)


@final
class Run:
    """A run that is going on in this process; `Registry.start_run` opens one.

    As a context manager it ends the run: as finished, as interrupted (Ctrl-C) or as failed with the error's text.

    Attributes:
        folder: the run's folder; jobs may put files of their own there.
    """

    def __init__(self, folder: Path, record: RunRecord, clock: Clock, index: Callable[[RunRecord], None]) -> None:
        self.folder = folder
        self._record = record
        self._clock = clock
        self._index = index
        self._last: dict[str, float | None] = dict(record.metrics)
        path = folder / METRICS_NAME
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        content = path.read_bytes()
        os.ftruncate(self._file, content.rfind(b"\n") + 1)

    @property
    def id(self) -> str:
        """The run's id."""
        return self._record.id

    @property
    def record(self) -> RunRecord:
        """What `run.json` holds."""
        return self._record

    @property
    def artifact(self) -> Path:
        """The folder for what the run makes; there from the start."""
        return self.folder / ARTIFACT_NAME

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the values of one step; some microseconds, and safe against a kill once it returns.

        A value logged again for the same name and step replaces the earlier one when the metrics are read, so that a
        run resumed from a checkpoint may log some steps twice.

        Args:
            step: from 0; any counting the job likes (batches, epochs).
            values: numbers by name; NaN and infinities are kept.

        Raises:
            DataError: a value is not a number.
            StoreError: the run has ended, or the disk is full.
        """
        if self._file is None:
            raise StoreError("the run has ended", where=f"run '{self.id}'", hint="resume it with Registry.resume_run")
        now, lines, last = self._clock(), list[bytes](), dict[str, float | None]()
        for name, value in values.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise DataError(
                    f"metric '{name}' is a {type(value).__name__}, expected a number", where=f"run '{self.id}'"
                ) from None
            plain = math.isfinite(number)
            lines.append(
                _ENCODER.encode({"step": step, "name": name, "value": number if plain else str(number), "time": now})
            )
            last[name] = number if plain else None
        content = b"".join(line + b"\n" for line in lines)
        self._append(self._file, content)
        self._last.update(last)

    def take_back(self, step: int) -> None:
        """Forgets the values of later steps: a job that goes on from a checkpoint may never come to them again.

        Args:
            step: the last one whose values stay.

        Raises:
            StoreError: the run has ended, can't be written, or a line of its metrics is damaged.
        """
        if self._file is None:
            raise StoreError("the run has ended", where=f"run '{self.id}'", hint="resume it with Registry.resume_run")
        path = self.folder / METRICS_NAME
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for number, line in enumerate(lines, 1) if _decoded(path, number, line).step <= step]
        if len(kept) == len(lines):
            return
        try:
            write_atomic(path, b"".join(kept))
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise self._unwritable(error) from error
        os.close(self._file)
        self._file = file
        found = (_DECODER.decode(line) for line in kept)
        self._last = {line.name: None if isinstance(line.value, str) else line.value for line in found}

    def conclude(self, values: Mapping[str, float]) -> None:
        """Says what the run ended with, such as the metrics of its best step: what `finish` writes into its record.

        Nothing is added to the values by step; what is logged later replaces it.

        Args:
            values: numbers by name; the last value that was logged stands for a name that is not here.
        """
        self._last.update({name: float(v) if math.isfinite(v) else None for name, v in values.items()})

    def _append(self, file: int, content: bytes) -> None:
        try:
            written = os.write(file, content)
        except OSError as error:
            raise self._unwritable(error) from error
        if written != len(content):
            os.ftruncate(file, os.fstat(file).st_size - written)
            raise self._unwritable(OSError(28, "No space left on device"))

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"the run can't be written: {error.strerror}",
            where=str(self.folder),
            hint="free some space on the disk, or check the folder's mode; what was logged before is unharmed",
        )

    def finish(self, status: EndStatus = "finished", error: str | None = None) -> None:
        """Ends the run: flushes its metrics to the disk and writes the status, the time and the metrics it ended with.

        Raises:
            StoreError: the run has ended already, or can't be written.
        """
        if self._file is None:
            raise StoreError(f"the run has ended already, as {self._record.status}", where=f"run '{self.id}'")
        record = msgspec.structs.replace(
            self._record, status=status, ended=self._clock(), metrics=self._last, error=error
        )
        try:
            os.fsync(self._file)
            write_record(self.folder, record)
        except OSError as failure:
            raise self._unwritable(failure) from failure
        os.close(self._file)
        self._file, self._record = None, record
        self._index(record)

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the run unless `finish` did."""
        if self._file is None:
            return
        if error is None:
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.finish("interrupted")
        else:
            self.finish("failed", f"{type(error).__name__}: {error}")


@final
class StoredRun:
    """A run as it stands in the registry, running or not.

    Attributes:
        folder: its folder.
        record: what its `run.json` holds.
    """

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder = folder
        self.record = record

    @property
    def id(self) -> str:
        """The run's id."""
        return self.record.id

    @property
    def status(self) -> Status:
        """The status; a run whose process died is `interrupted`, whatever it last wrote."""
        if self.record.status == "running" and not process_alive(self.record.process):
            return "interrupted"
        return self.record.status

    @property
    def died(self) -> bool:
        """Whether its process went away without ending the run."""
        return self.record.status == "running" and self.status == "interrupted"

    @property
    def artifact(self) -> Path:
        """The folder of what the run made."""
        return self.folder / ARTIFACT_NAME

    def metrics(self) -> dict[str, list[Point]]:
        """Every metric's values by step, in the order the names were first logged; of a step logged twice the last.

        Raises:
            StoreError: a complete line is damaged; the last line may be incomplete and is left out then.
        """
        path = self.folder / METRICS_NAME
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
        found: dict[str, dict[int, Point]] = {}
        for number, text in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
            line = _decoded(path, number, text)
            found.setdefault(line.name, {})[line.step] = Point(line.step, float(line.value), line.time)
        return {name: [points[step] for step in sorted(points)] for name, points in found.items()}


def _decoded(path: Path, number: int, text: bytes) -> _Line:
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"line {number} is damaged: {error}", where=str(path), hint="take the line out by hand"
        ) from error
