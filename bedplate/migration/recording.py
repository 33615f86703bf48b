"""What a Feast repository defines, as `feast_recorder` records it in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast, final

import msgspec

from bedplate.errors import ConfigError

_PROGRAM = Path(__file__).with_name("feast_recorder.py")


@final
@dataclass(frozen=True, slots=True)
class Name:
    """A name of Feast's that was not called, such as `Float32` or `STRING`."""

    name: str


@final
@dataclass(frozen=True, slots=True)
class Duration:
    """A `timedelta`, in microseconds."""

    micros: int


@final
@dataclass(frozen=True, slots=True)
class Function:
    """A Python function of the repository."""

    name: str
    file: str
    line: int


@final
@dataclass(frozen=True, slots=True)
class Unread:
    """A value that could not be read: of a library that is not installed, or of another type."""

    text: str


Value: TypeAlias = (
    "bool | int | float | str | list[Any] | dict[Any, Any] | Name | Duration | Function | Record | Unread | None"
)
"""A value of an argument."""


@final
@dataclass(slots=True, eq=False)
class Record:
    """A call of one of Feast's names, or what was taken from the result of one.

    Attributes:
        kind: the name that was called; `attribute`, `item` or `call` where it was taken from `base`.
        place: `file:line`, relative to the repository; empty where it is not known.
        base: what it was taken from.
        args: the positional arguments; of an attribute its name, of an item its index.
        kwargs: the named ones.
    """

    kind: str
    place: str
    base: Record | None = None
    args: list[Value] = field(default_factory=list["Value"])
    kwargs: dict[str, Value] = field(default_factory=dict[str, "Value"])

    def text(self, name: str) -> str:
        """An argument that is a text, or an empty one."""
        value = self.kwargs.get(name)
        return value if isinstance(value, str) else ""

    def records(self, name: str) -> list[Record]:
        """The records in an argument that is a list of them."""
        value = self.kwargs.get(name)
        return [v for v in value if isinstance(v, Record)] if isinstance(value, list) else []

    def record(self, name: str) -> Record | None:
        """An argument that is a record."""
        value = self.kwargs.get(name)
        return value if isinstance(value, Record) else None


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be executed to its end."""

    file: str
    line: int | None
    error: str
    message: str


@final
@dataclass(frozen=True, slots=True)
class Recording:
    """What a repository defines.

    Attributes:
        files: the files that were read.
        failures: those that failed.
        missing: libraries that the files import and that are not installed.
        defined: each record that a module has under a name, with this name.
    """

    files: tuple[str, ...]
    failures: tuple[Failure, ...]
    missing: tuple[str, ...]
    defined: tuple[tuple[str, Record], ...]


def record_repository(root: Path, interpreter: str | None = None) -> Recording:
    """Executes the files of a Feast repository, as `feast apply` would, and records what they define.

    Args:
        root: the folder of `feature_store.yaml`.
        interpreter: the Python that executes them; None: this one. What they import should be installed there; Feast
            itself is not needed and not used.

    Raises:
        ConfigError: there is no such interpreter, or the process ended before all files were read.
    """
    python = interpreter or sys.executable
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [python, "-B", str(_PROGRAM), str(root), str(answer)]
        try:
            # What the files print is not what this command says.
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError as error:
            raise ConfigError(f"can't be started: {error.strerror}", where=python, hint="name a Python") from error
        if done.returncode or not answer.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ConfigError(
                f"the files of the repository ended the process with {done.returncode}"
                + (f": {said[-1]}" if said else ""),
                where=str(root),
                hint="all Python files below are executed, as by 'feast apply'; .feastignore leaves some out",
            )
        return _decode(msgspec.json.decode(answer.read_bytes()))


def _decode(content: Mapping[str, Any]) -> Recording:
    entries: list[dict[str, Any]] = content["records"]
    records: list[Record] = [Record(e["kind"], ":".join(map(str, e["place"]))) for e in entries]
    for record, entry in zip(records, entries, strict=True):
        record.base = None if entry["base"] is None else records[entry["base"]]
        record.args = [_value(a, records) for a in entry["args"]]
        record.kwargs = {k: _value(v, records) for k, v in entry["kwargs"].items()}
    return Recording(
        files=tuple(content["files"]),
        failures=tuple(Failure(**f) for f in content["failures"]),
        missing=tuple(content["missing"]),
        defined=tuple((d["variable"], records[int(d["number"])]) for d in content["defined"]),
    )


def _value(raw: Any, records: Sequence[Record]) -> Value:
    if isinstance(raw, list):
        return [_value(v, records) for v in cast("list[Any]", raw)]
    if not isinstance(raw, dict):
        return cast("Value", raw)
    fields = cast("dict[str, Any]", raw)
    match fields["is"]:
        case "name":
            return Name(fields["name"])
        case "record":
            return records[int(fields["number"])]
        case "duration":
            return Duration(fields["micros"])
        case "dict":
            return {k if isinstance(k, str) else repr(k): _value(v, records) for k, v in fields["entries"]}
        case "function":
            return Function(fields["name"], fields["file"], fields["line"])
        case "missing":
            return Unread(fields["name"])
        case _:
            return Unread(fields["text"])
