"""A model version, loaded and proven: files as they were registered, and the golden scores reproduced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np

from bedplate.batch import Batch
from bedplate.errors import ArtifactError, RequestError, suggest
from bedplate.features import artifact as files
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import TensorSpec
from bedplate.features.signature import Signature
from bedplate.inference.indices import Indices
from bedplate.inference.model import Model, ScoringSide, place_of
from bedplate.inference.retrieval import Catalogue
from bedplate.process import check_per_core
from bedplate.registry.version import ModelVersion
from bedplate.runtimes.base import Opening, open_runtime
from bedplate.types import Array


@final
@dataclass(frozen=True, slots=True)
class Artifact:
    """A model with what it takes to feed it.

    Attributes:
        model: what runs.
        signature: what it reads and gives.
        encoder: makes its tensors of a batch.
        catalogue: the retrieval index, where the artifact has one.
        trained_until: the time up to which the model knows what happened, microseconds; None: that is not known.
        folder: where it was loaded from.
        item_side: runs it with rows of candidates that are known from earlier requests; None: all are computed.
    """

    model: Model
    signature: Signature
    encoder: Encoder
    catalogue: Catalogue | None = None
    trained_until: int | None = None
    folder: Path | None = None
    item_side: ScoringSide | None = None

    def golden(self) -> list[files.Golden]:
        """The golden requests, read again."""
        return [] if self.folder is None else files.read_golden(self.folder)

    def run(self, batch: Batch, output: str) -> Any:
        """An output of the model for a batch."""
        return self.model.run(self.tensors(batch), [output])[0]

    def score(self, batch: Batch, output: str) -> Any:
        """As `run`, with the side of the candidates of earlier requests where it is kept."""
        if self.item_side is None:
            return self.run(batch, output)
        return self.item_side.run(self.tensors(batch), [output])[0]

    def tensors(self, batch: Batch) -> dict[str, Array]:
        """What the model takes, of a batch."""
        tensors = self.encoder.encode(batch)
        return {name: tensors[name] for name in self.model.inputs}

    def require(self, output: str) -> None:
        """Checks that the model gives an output.

        Raises:
            ArtifactError: it doesn't: the model is of another kind.
        """
        if output not in self.model.outputs:
            raise ArtifactError(
                f"the model has no output '{output}'",
                where=self.model.place,
                hint=suggest(output, self.model.outputs, "outputs"),
            )


def load_artifact(version: ModelVersion, threads: int = 1) -> Artifact:
    """Loads a registered model: its files are unchanged, and its golden scores are reproduced.

    Args:
        version: from the registry.
        threads: of a call of the model, at most 8 for each core.

    Raises:
        ArtifactError: a file is missing or changed, the graph takes other tensors than the signature says, or a
            golden score is not reproduced (`features.artifact`).
        ConfigError: there are too many threads.
    """
    version.verify()
    opened = open_artifact(version.path, version.name, str(version.version), threads)
    return replace(opened, trained_until=version.manifest.trained_until)


def open_artifact(folder: Path, name: str, version: str, threads: int = 1) -> Artifact:
    """Loads the artifact in a folder and reproduces its golden scores.

    Args:
        folder: as `features.artifact` describes it.
        name: of the model.
        version: of the model.
        threads: of a call of the model, at most 8 for each core.

    Raises:
        ArtifactError: as `load_artifact`.
        ConfigError: there are too many threads.
    """
    check_per_core(threads, "the number of threads", place_of(name, version))
    signature, encoder = Signature.load(folder), Encoder.load(folder / files.ENCODER)
    spec = files.RuntimeSpec.load(folder)
    opening = Opening(folder / spec.file, place_of(name, version), threads, spec.options)
    model = Model(open_runtime(spec.runtime, opening), name, version)
    _check_tensors(model, signature)
    model.indices = Indices(encoder.layout, model.inputs)
    _reproduce(model, folder, spec.absolute)
    return Artifact(model, signature, encoder, _catalogue(folder, model), folder=folder)


def _check_tensors(model: Model, signature: Signature) -> None:
    for kind, said, found in (
        ("input", signature.tensors, model.inputs),
        ("output", signature.outputs, model.outputs),
    ):
        expected = {t.name: _form(t) for t in said}
        got = {t.name: _form(t) for t in found.values()}
        wrong = [n for n in sorted(expected.keys() | got.keys()) if expected.get(n) != got.get(n)]
        if wrong:
            raise ArtifactError(
                f"the graph's {kind} '{wrong[0]}' is {got.get(wrong[0], 'missing')}, "
                f"the signature says {expected.get(wrong[0], 'nothing')}",
                where=model.place,
            )


def _form(tensor: TensorSpec) -> str:
    # The graph's own names of free sizes may differ.
    return f"{tensor.dtype} [{', '.join('?' if isinstance(d, str) else str(d) for d in tensor.shape)}]"


def _reproduce(model: Model, folder: Path, absolute: float) -> None:
    for i, golden in enumerate(files.read_golden(folder)):
        place = f"{model.place}, golden request {i}"
        names = list(golden.outputs)
        if golden.inputs.keys() != model.inputs.keys() or not golden.outputs.keys() <= model.outputs.keys():
            raise ArtifactError(f"it holds {[*golden.inputs, *names]}, which are not the graph's tensors", where=place)
        try:
            got = model.run(golden.inputs, names)
        except RequestError as error:
            raise ArtifactError(error.message, where=place) from error
        files.compare(golden.outputs, dict(zip(names, got, strict=True)), place, absolute)


def _catalogue(folder: Path, model: Model) -> Catalogue | None:
    if not (folder / files.RETRIEVAL).is_dir():
        return None
    keys, vectors = _array(folder / files.KEYS, "int64", 1), _array(folder / files.VECTORS, "float32", 2)
    place = f"{model.place}, retrieval index"
    texts: Sequence[str] | None = None
    if (folder / files.TEXTS).exists():
        try:
            texts = msgspec.json.decode((folder / files.TEXTS).read_bytes(), type=list[str])
        except files.UNREADABLE as error:
            raise ArtifactError(f"the texts can't be read: {error}", where=place) from error
    widths = {t.shape[-1] for t in model.outputs.values()}
    if vectors.shape[1] not in widths:
        raise ArtifactError(f"the vectors have {vectors.shape[1]} numbers, the graph gives {widths}", where=place)
    return Catalogue(keys, vectors, texts, place)


def _array(path: Path, dtype: str, ndim: int) -> Array:
    try:
        array: Array = np.load(path, allow_pickle=False)
    except files.UNREADABLE as error:
        raise ArtifactError(f"the array can't be read: {error}", where=str(path)) from error
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise ArtifactError(f"got {array.dtype} {array.shape}, expected {ndim} axes of {dtype}", where=str(path))
    return array
