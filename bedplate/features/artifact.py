"""The artifact: a model's folder, which the export writes and the server reads without training code.

    signature.json             what the model reads and gives (`signature.Signature`)
    model.onnx                 the graph; takes the signature's tensors, gives its outputs
    tables.bin                 its large embedding tables (`tables`), where it has some
    runtime.json               `RuntimeSpec`: which runtime runs which file, where it is not ONNX Runtime and model.onnx
    encoder/                   `Encoder.save`: from feature columns to the tensors (and `request_of_item`)
    golden/requests.json       golden requests as ids: a list of `GoldenRequest`
    golden/<i>.npz             for each of them the encoded tensors as `input.<tensor>` and outputs as `output.<name>`
    retrieval/keys.npy         [M] int64: the catalogue, where the graph gives a vector to search it with
    retrieval/vectors.npy      [M, d] float32: the candidate's vectors; the score is the inner product
    retrieval/texts.json       the text behind each key, in the order of the keys; only where keys are strings

Golden outputs are those of the trained model itself. A loader must reproduce them from the golden tensors before it
serves: each value `x` to within `GOLDEN_RELATIVE * |x| + GOLDEN_ABSOLUTE`, or the absolute bound that the artifact of
a quantised model states in its `runtime.json`.
"""

from __future__ import annotations

import io
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, final

import msgspec
import numpy as np

from bedplate.errors import ArtifactError
from bedplate.features.checks import check_finite
from bedplate.types import Array

GRAPH = "model.onnx"
TABLES = "tables.bin"
RUNTIME = "runtime.json"
ENCODER = "encoder"
GOLDEN = "golden"
GOLDEN_INDEX = "golden/requests.json"
RETRIEVAL = "retrieval"
KEYS = "retrieval/keys.npy"
VECTORS = "retrieval/vectors.npy"
TEXTS = "retrieval/texts.json"

SCORE = "score"
"""The output of a ranking model: [candidates], larger is better."""
QUERY = "query"
"""The output of a model for retrieval: [requests, width], the vector with which the catalogue is searched."""
MATRIX = "matrix"
"""What trees take: [rows, columns] float32 with NaN where a value is missing."""

UNREADABLE = (
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    msgspec.MsgspecError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)
"""What reading a damaged file of arrays or JSON may raise: NumPy parses a header as Python, and a damaged zip archive
may seem to be encrypted or of a newer version."""

GOLDEN_RELATIVE = 1e-5
"""The largest relative difference of a value that counts as reproduced: float32 sums in another order."""
GOLDEN_ABSOLUTE = 5e-7
"""What may be added to it. Runtimes approximate the logistic function with an absolute error: over the 230,000 test
scores of each of the example's models, torch and ONNX Runtime differ by at most 1.7e-7, whatever the score's size."""


@final
class RuntimeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What runs the model.

    Attributes:
        runtime: the name of a runtime (`serving.runtime`).
        file: what it loads, a path in the artifact.
        options: of that runtime.
        absolute: how far a golden output may be off; more than `GOLDEN_ABSOLUTE` where the model was quantised within
            this bound.
    """

    runtime: str = "onnx"
    file: str = GRAPH
    options: dict[str, Any] = {}
    absolute: float = GOLDEN_ABSOLUTE

    def write(self, folder: Path) -> None:
        """Writes it into an artifact's folder.

        Raises:
            ConfigError: a number is NaN or infinite.
        """
        for name in ("options", "absolute"):
            check_finite(getattr(self, name), name, RUNTIME)
        (folder / RUNTIME).write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, folder: Path) -> RuntimeSpec:
        """The one of an artifact.

        Raises:
            ArtifactError: it is damaged, or names a file outside the artifact.
        """
        path = folder / RUNTIME
        try:
            spec = msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except UNREADABLE as error:
            raise ArtifactError(f"it can't be read: {error}", where=str(path)) from error
        file = PurePosixPath(spec.file)
        if not spec.file or file.is_absolute() or ".." in file.parts:
            raise ArtifactError(f"got the file '{spec.file}', expected a path in the artifact", where=str(path))
        return spec


@final
class GoldenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One golden batch as ids.

    Attributes:
        file: its tensors, in the folder `golden`.
        request_ids: [R].
        times: [R] microseconds.
        request_keys: [R] each, by the name of the request's entity; empty where the export did not know them.
        offsets: [R + 1].
        candidates: [N] keys.
    """

    file: str
    request_ids: list[int]
    times: list[int]
    request_keys: dict[str, list[int]]
    offsets: list[int]
    candidates: list[int]


@final
class Golden(msgspec.Struct, frozen=True):
    """A golden request with its tensors and outputs."""

    request: GoldenRequest
    inputs: dict[str, Array]
    outputs: dict[str, Array]


def write_golden(folder: Path, number: int, golden: Golden) -> None:
    """Writes the tensors of one golden request into an artifact's folder."""
    arrays = {f"input.{n}": a for n, a in golden.inputs.items()} | {f"output.{n}": a for n, a in golden.outputs.items()}
    (folder / GOLDEN).mkdir(exist_ok=True)
    with (folder / GOLDEN / f"{number}.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_golden(folder: Path) -> list[Golden]:
    """The golden requests of an artifact.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    try:
        requests = msgspec.json.decode((folder / GOLDEN_INDEX).read_bytes(), type=list[GoldenRequest])
        found: list[Golden] = []
        for request in requests:
            content = io.BytesIO((folder / GOLDEN / request.file).read_bytes())
            with np.load(content, allow_pickle=False) as arrays:
                inputs = {n.removeprefix("input."): arrays[n] for n in arrays if n.startswith("input.")}
                outputs = {n.removeprefix("output."): arrays[n] for n in arrays if n.startswith("output.")}
            found.append(Golden(request, inputs, outputs))
    except UNREADABLE as error:
        raise ArtifactError(f"the golden requests can't be read: {error}", where=str(folder / GOLDEN)) from error
    return found


def _compare_texts(expected: Array, got: Array, name: str, place: str) -> None:
    pairs = zip(expected.ravel().tolist(), got.ravel().tolist(), strict=True)
    for at, (exact, found) in enumerate(pairs):
        if str(exact) != str(found):
            message = f"output '{name}' differs, value {at} is '{found}', expected '{exact}'"
            raise ArtifactError(message, where=place, hint="the model gives something else than when it was registered")


def compare(
    expected: Mapping[str, Array], got: Mapping[str, Array], place: str, absolute: float = GOLDEN_ABSOLUTE
) -> float:
    """The largest absolute difference between outputs, which may be so much beside `GOLDEN_RELATIVE`.

    Raises:
        ArtifactError: an output is missing, of another shape, or has a value that is not reproduced.

    >>> compare({"score": np.array([0.5])}, {"score": np.array([0.500001])}, "golden") < 1e-5
    True
    """
    largest = 0.0
    for name, values in expected.items():
        if name not in got or got[name].shape != values.shape:
            shape = got[name].shape if name in got else None
            raise ArtifactError(f"output '{name}' has shape {shape}, expected {values.shape}", where=place)
        if values.dtype.kind in "OU":
            _compare_texts(values, got[name], name, place)
            continue
        exact, found = values.astype(np.float64).ravel(), got[name].astype(np.float64).ravel()
        with np.errstate(invalid="ignore"):  # of infinities: what is not finite is not reproduced
            difference = np.abs(exact - found)
        wrong = ~(difference <= GOLDEN_RELATIVE * np.abs(exact) + absolute) | np.isinf(exact)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ArtifactError(
                f"output '{name}' differs by {difference.max():.3g}, value {at} is {found[at]:.8g}, expected "
                f"{exact[at]:.8g} to within {GOLDEN_RELATIVE:g} of it and {absolute:g}",
                where=place,
                hint="the graph, the runtime or the machine computes something else than the trained model",
            )
        largest = max(largest, float(difference.max(initial=0.0)))
    return largest
