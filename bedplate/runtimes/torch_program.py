"""Reading an archive of torch.export without running what is in it.

Such an archive is a zip file with the program as JSON and the weights as plain bytes, and with things that torch would
execute: pickled sample inputs and constants, Python code of guards, names of any function, and sizes as Python
expressions. Samples and guards are left out; whatever else is more than data is refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from bedplate.errors import ArtifactError

_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|prim)\.\w+(\.\w+)?|_operator\.(add|sub|mul|floordiv|mod|neg|eq|ge|gt|le|lt)"
)
"""What a node of a program may call."""
_SIZE = re.compile(
    r"(Symbol\('[a-z]+\d+'(, (positive|nonnegative|integer)=(True|False))*\)"
    r"|Integer|Add|Mul|Pow|Mod|Max|Min|FloorDiv|[-+*/(), ]|\d+)+"
)
"""A size that depends on others."""
_FILES = re.compile(
    r"[^/]+/(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id))"
)


def read_program(path: Path, place: str) -> io.BytesIO:
    """The archive without its samples and guards, for `torch.export.load`.

    Raises:
        ArtifactError: it can't be read, is no such archive, or holds more than data.
    """
    cleaned = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(cleaned, "w", zipfile.ZIP_STORED) as copy:
            for entry in archive.infolist():
                if _FILES.fullmatch(entry.filename) is None:
                    raise _refused(f"the file '{entry.filename}'", place)
                content = archive.read(entry)
                copy.writestr(entry.filename, _cleaned(entry.filename, content, place))
    except (OSError, EOFError, ValueError, RecursionError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"the program can't be read: {error}", where=place) from error
    cleaned.seek(0)
    return cleaned


def _cleaned(name: str, content: bytes, place: str) -> bytes:
    if name.endswith(".pt"):
        return b""
    if not name.endswith(".json"):
        return content
    program: Any = json.loads(content)
    for key, value in _members(program):
        if key == "use_pickle" and value is not False:
            raise _refused("a pickled tensor", place)
        if key == "target" and isinstance(value, str) and _TARGETS.fullmatch(value) is None:
            raise _refused(f"a call of '{value}'", place)
        if key == "expr_str" and (not isinstance(value, str) or _SIZE.fullmatch(value) is None):
            raise _refused(f"the size '{value}'", place)
    if isinstance(program, dict) and "guards_code" in program:
        program["guards_code"] = []
    return json.dumps(program).encode()


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested objects."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            members = cast("dict[str, Any]", one)
            yield from members.items()
            stack.extend(members.values())
        elif isinstance(one, list):
            stack.extend(cast("list[Any]", one))


def _refused(what: str, place: str) -> ArtifactError:
    return ArtifactError(
        f"the program holds {what}, which is more than data",
        where=place,
        hint="save it by torch.export.save, of a module that calls torch's own operators alone",
    )
