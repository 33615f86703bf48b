"""Writing an artifact (`features.artifact`): a graph with its encoder, signature and golden requests."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

import msgspec
import numpy as np

from bedplate.batch import Batch, TextLookup
from bedplate.errors import ArtifactError
from bedplate.features import artifact
from bedplate.features import signature as signatures
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import TensorSpec
from bedplate.features.signature import Described, Signature
from bedplate.features.tables import write_tables
from bedplate.files import new_folder
from bedplate.types import Array, Float32s, Int64s

# The runtime has no types.
_ort: Any = importlib.import_module("onnxruntime")


_NONE: Mapping[str, Float32s] = {}


@final
class Session:
    """A graph in ONNX Runtime; `inputs` names what it takes.

    Args:
        graph: the content of its file.
        folder: where it finds tables that lie in a file.
        tables: those of them that are in memory, and need no file.
    """

    def __init__(self, graph: bytes, folder: Path | None = None, tables: Mapping[str, Float32s] = _NONE) -> None:
        options: Any = _ort.SessionOptions()
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        if tables:
            values = [_ort.OrtValue.ortvalue_from_numpy(array) for array in tables.values()]
            options.add_external_initializers(list(tables), values)
        self._session: Any = _ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs: list[str] = [i.name for i in self._session.get_inputs()]
        self._outputs: list[str] = [o.name for o in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


@final
class Graph(NamedTuple):
    """An exported graph: the content of an ONNX file, the tensors that it takes, and those that it gives.

    Its large tables are by their names in `tables`; in the content they lie in the file `artifact.TABLES`.
    """

    content: bytes
    tensors: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tables: Mapping[str, Float32s] = _NONE


@final
class Exported(NamedTuple):
    """A trained model's graph, and what the model itself gives for the graph's tensors."""

    graph: Graph
    outputs: Callable[[Mapping[str, Array]], Mapping[str, Array]]


@final
@dataclass(frozen=True, slots=True)
class GoldenBatch:
    """Requests that every loader of the model must score alike.

    Attributes:
        batch: a few real requests with their features.
        request_keys: [R] int64 each, by the name of the request's entity, so that a person can ask for them again.
    """

    batch: Batch
    request_keys: Mapping[str, Int64s] = field(default_factory=dict[str, Int64s])


@final
@dataclass(frozen=True, slots=True)
class CatalogueVectors:
    """The candidates' side of a retrieval model.

    Attributes:
        keys: [M] int64, ascending.
        vectors: [M, d] float32.
        texts: the texts behind keys that are strings.
    """

    keys: Int64s
    vectors: Float32s
    texts: TextLookup | None = None


def write_artifact(
    exported: Exported,
    encoder: Encoder,
    folder: Path,
    *,
    features: Mapping[str, Described],
    golden: Sequence[GoldenBatch],
    catalogue: CatalogueVectors | None = None,
    models: Mapping[str, str] | None = None,
) -> Signature:
    """Writes a model's artifact, wholly or not at all.

    Args:
        exported: the model.
        encoder: the one it was trained with; of its features only those that the graph reads are kept.
        folder: the artifact; must not be there yet.
        features: definitions by full name, for the signature.
        golden: requests whose outputs are kept as evidence; at least one.
        catalogue: for a retrieval model.
        models: the model version behind each feature that a model makes, for the signature.

    Raises:
        ArtifactError: the folder is there already, there is no golden request, or the graph computes something else
            than the model.
        DefinitionError: a feature of the encoder has no definition.
    """
    check_place(folder, golden)
    graph = exported.graph
    kept = encoder.making({t.name for t in graph.tensors})
    described = Signature.of(kept, features, graph.tensors, graph.outputs)
    signature = msgspec.structs.replace(described, models=dict(models or {}))
    with new_folder(folder) as partial:
        (partial / artifact.GRAPH).write_bytes(graph.content)
        if graph.tables:
            write_tables(partial / artifact.TABLES, graph.tables)
        session = Session(graph.content, partial.absolute())
        (partial / signatures.FILE).write_bytes(signature.to_json())
        kept.save(partial / artifact.ENCODER)
        requests: list[artifact.GoldenRequest] = []
        for i, one in enumerate(golden):
            encoded = kept.encode(one.batch)
            inputs = {t.name: encoded[t.name] for t in graph.tensors}
            outcome = artifact.Golden(_request(i, one), inputs, dict(exported.outputs(inputs)))
            artifact.compare(outcome.outputs, session.run(inputs), f"export, golden request {i}")
            artifact.write_golden(partial, i, outcome)
            requests.append(outcome.request)
        (partial / artifact.GOLDEN_INDEX).write_bytes(msgspec.json.encode(requests))
        if catalogue is not None:
            _write_catalogue(partial, catalogue)
    return signature


def check_place(folder: Path, golden: Sequence[GoldenBatch]) -> None:
    """Checks that an artifact can be written.

    Raises:
        ArtifactError: the folder is there already, or there is no golden request.
    """
    if folder.exists():
        raise ArtifactError("this is there already", where=str(folder), hint="give each artifact a folder of its own")
    if not golden:
        raise ArtifactError("got no golden request, expected at least one", where="export")


def _request(number: int, golden: GoldenBatch) -> artifact.GoldenRequest:
    batch = golden.batch
    return artifact.GoldenRequest(
        file=f"{number}.npz",
        request_ids=batch.request_ids.tolist(),
        times=batch.times.tolist(),
        request_keys={name: keys.tolist() for name, keys in golden.request_keys.items()},
        offsets=batch.offsets.tolist(),
        candidates=batch.candidates.tolist(),
    )


def _write_catalogue(folder: Path, catalogue: CatalogueVectors) -> None:
    (folder / artifact.RETRIEVAL).mkdir()
    np.save(folder / artifact.KEYS, catalogue.keys, allow_pickle=False)
    np.save(folder / artifact.VECTORS, catalogue.vectors, allow_pickle=False)
    if catalogue.texts is not None:
        texts = [catalogue.texts[key] for key in catalogue.keys.tolist()]
        (folder / artifact.TEXTS).write_bytes(msgspec.json.encode(texts))
