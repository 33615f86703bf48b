"""Models from elsewhere as artifacts: a file and golden rows in, a folder out that every loader can prove.

The golden outputs are what the model gives here, now, for the golden rows; where their file holds known outputs too,
the model must give those.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np

from bedplate.errors import ArtifactError, ConfigError, DataError, suggest
from bedplate.features import artifact as files
from bedplate.features import signature as signatures
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import TensorSpec
from bedplate.features.signature import Signature
from bedplate.files import new_folder
from bedplate.runtimes.base import Opening, Runtime, open_runtime, runtimes
from bedplate.types import Array

BY_SUFFIX = {
    ".json": "xgboost",
    ".onnx": "onnx",
    ".pt2": "torch",
    ".py": "python",
    ".txt": "lightgbm",
    ".ubj": "xgboost",
}
"""The runtime of a file by its name, where none is given."""


@final
class Brought(msgspec.Struct, frozen=True):
    """A model from elsewhere.

    Attributes:
        file: the model's file; for the runtime `python` the module of the function.
        runtime: the name of a runtime; empty: by the file's suffix.
        options: of the runtime.
    """

    file: Path
    runtime: str = ""
    options: dict[str, Any] = {}

    def chosen(self) -> str:
        """The runtime.

        Raises:
            ConfigError: it is unknown, or the file's name tells none.
        """
        if self.runtime:
            if self.runtime not in runtimes():
                hint = suggest(self.runtime, runtimes(), "runtimes")
                raise ConfigError(f"unknown runtime '{self.runtime}'", where="--runtime", hint=hint)
            return self.runtime
        found = BY_SUFFIX.get(self.file.suffix)
        if found is None:
            known = ", ".join(f"{suffix} {name}" for suffix, name in BY_SUFFIX.items())
            raise ConfigError(f"'{self.file.name}' doesn't say its runtime", hint=f"give --runtime; by suffix: {known}")
        return found


def read_rows(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """The golden rows of a NumPy archive: inputs by name, and known outputs, whose names begin with `output.`.

    Raises:
        DataError: the file can't be read, holds no arrays, or holds pickled objects.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays}
    except files.UNREADABLE as error:
        raise DataError(f"the golden rows can't be read: {error}", where=str(path)) from error
    known = {name.removeprefix("output."): a for name, a in found.items() if name.startswith("output.")}
    inputs = {name: a for name, a in found.items() if not name.startswith("output.")}
    if not inputs or any(not a.ndim or not len(a) for a in inputs.values()):
        raise DataError("it holds no rows", where=str(path), hint="numpy.savez(FILE, **{input: array [rows, ...]})")
    return inputs, known


def write_brought(model: Brought, folder: Path, rows: Mapping[str, Array], known: Mapping[str, Array]) -> Signature:
    """Writes a model's artifact, wholly or not at all.

    Args:
        model: the file and its runtime.
        folder: the artifact; must not be there yet.
        rows: golden rows, an array for each input of the model.
        known: outputs that the model must give for them; may be empty.

    Raises:
        ArtifactError: the folder is there already, the model can't be loaded, gives other outputs than are known, or
            outputs that no loader would reproduce: others each time, NaN or infinity.
        ConfigError: the runtime is unknown.
        RequestError: the model can't run on these rows.
    """
    runtime, place = model.chosen(), f"model '{model.file.name}'"
    if folder.exists():
        raise ArtifactError("this is there already", where=str(folder), hint="give each artifact a folder of its own")
    options = _options_of_function(model, rows, place) if runtime == "python" else model.options
    opened = open_runtime(runtime, Opening(model.file, place, 1, options))
    _check_names(opened, rows, place)
    outputs = dict(zip(opened.outputs, opened.run(rows, list(opened.outputs)), strict=True))
    files.compare(known, outputs, f"{place}, known outputs")
    # Texts are kept as an array of a fixed width: other objects would be pickled.
    outputs = {name: array.astype(str) if array.dtype.hasobject else array for name, array in outputs.items()}
    again = dict(zip(outputs, opened.run(rows, list(outputs)), strict=True))
    files.compare(outputs, again, f"{place}, golden rows a second time")  # as whoever loads it does
    signature = Signature((), tuple(opened.inputs.values()), tuple(opened.outputs.values()))
    name = f"model{model.file.suffix}"
    with new_folder(folder) as partial:
        shutil.copyfile(model.file, partial / name)
        files.RuntimeSpec(runtime, name, options).write(partial)
        (partial / signatures.FILE).write_bytes(signature.to_json())
        Encoder([], {}).save(partial / files.ENCODER)
        request = files.GoldenRequest("0.npz", [], [], {}, [0], [])
        files.write_golden(partial, 0, files.Golden(request, dict(rows), outputs))
        (partial / files.GOLDEN_INDEX).write_bytes(msgspec.json.encode([request]))
    return signature


def _check_names(opened: Runtime, rows: Mapping[str, Array], place: str) -> None:
    if opened.inputs.keys() != rows.keys():
        expected = ", ".join(f"'{t.name}' {t.dtype} {list(t.shape)}" for t in opened.inputs.values())
        got = ", ".join(f"'{name}'" for name in rows)
        raise DataError(f"the golden rows are of {got}, the model takes {expected}", where=place)


def _options_of_function(model: Brought, rows: Mapping[str, Array], place: str) -> dict[str, Any]:
    """The options of a function, with the tensors that it takes and gives as the golden rows show them."""
    from bedplate.runtimes.python import find_function

    reference = str(model.options.get("function", ""))
    if ":" not in reference:
        reference = f"{model.file.stem}:{reference}"
    function, source = find_function(reference, place)
    if source.resolve() != model.file.resolve():
        raise ArtifactError(f"the function '{reference}' is in {source}, not in {model.file}", where=place)
    # As it gets them from requests; texts too, which an archive holds as an array of a fixed width.
    given = function({n: a.astype(object) if a.dtype.kind == "U" else a.copy() for n, a in rows.items()})
    shown = {
        side: [msgspec.to_builtins(_spec(name, np.asarray(array))) for name, array in arrays.items()]
        for side, arrays in (("inputs", rows), ("outputs", given))
    }
    return {"function": reference, **shown}


def _spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name, "object" if array.dtype.kind == "U" else array.dtype.name, ("rows", *array.shape[1:]))
