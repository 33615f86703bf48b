"""Export: a trained model as an artifact (`features.artifact`), which is served without training code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import msgspec
import numpy as np
import torch

from bedplate.batch import Batch, TextLookup
from bedplate.errors import ArtifactError, DataError
from bedplate.features import artifact
from bedplate.features import signature as signatures
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import TensorSpec
from bedplate.features.signature import Described, Signature
from bedplate.files import new_folder
from bedplate.models.base import Model, RetrievalModel
from bedplate.training.graph import Session, served, to_onnx
from bedplate.training.source import to_tensors
from bedplate.types import Array, Float32s, Int64s


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


def catalogue_vectors(
    model: RetrievalModel, encoder: Encoder, catalogue: Iterable[Batch], texts: TextLookup | None = None
) -> CatalogueVectors:
    """The vectors of all candidates.

    Args:
        model: the trained towers.
        encoder: the one it was trained with.
        catalogue: batches whose candidates make up the catalogue, features as of the time that retrieval starts with;
            each candidate once. Requests may be any: nothing of them is read.
        texts: the texts behind keys that are strings.

    Raises:
        DataError: a candidate is there twice, or none is there.
    """
    items = encoder.making({f.tensor for f in encoder.fields if f.level == "item"})
    keys: list[Array] = []
    vectors: list[Array] = []
    model.eval()
    with torch.no_grad():
        for batch in catalogue:
            keys.append(batch.candidates)
            vectors.append(model.item(to_tensors(batch, items)).numpy())
    if not keys:
        raise DataError("the catalogue has no candidates", where="export")
    joined = np.concatenate(keys)
    unique, first = np.unique(joined, return_index=True)
    if len(unique) != len(joined):
        raise DataError(f"{len(joined) - len(unique)} candidates are there twice", where="catalogue")
    return CatalogueVectors(unique, np.concatenate(vectors)[first], texts)


def export(
    model: Model,
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
        model: the trained model.
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
    if folder.exists():
        raise ArtifactError("this is there already", where=str(folder), hint="give each artifact a folder of its own")
    if not golden:
        raise ArtifactError("got no golden request, expected at least one", where="export")
    graph, tensors, outputs = to_onnx(model, _served_tensors(model, encoder))
    kept = encoder.making({t.name for t in tensors})
    signature = msgspec.structs.replace(Signature.of(kept, features, tensors, outputs), models=dict(models or {}))
    session = Session(graph)
    with new_folder(folder) as partial:
        (partial / artifact.GRAPH).write_bytes(graph)
        (partial / signatures.FILE).write_bytes(signature.to_json())
        kept.save(partial / artifact.ENCODER)
        requests: list[artifact.GoldenRequest] = []
        for i, one in enumerate(golden):
            encoded = kept.encode(one.batch)
            inputs = {t.name: encoded[t.name] for t in tensors}
            outcome = artifact.Golden(_request(i, one), inputs, served(model, inputs))
            artifact.compare(outcome.outputs, session.run(inputs), f"export, golden request {i}")
            artifact.write_golden(partial, i, outcome)
            requests.append(outcome.request)
        (partial / artifact.GOLDEN_INDEX).write_bytes(msgspec.json.encode(requests))
        if catalogue is not None:
            _write_catalogue(partial, catalogue)
    return signature


def _served_tensors(model: Model, encoder: Encoder) -> list[TensorSpec]:
    names = {f.tensor for f in encoder.fields if f.level in model.served_levels}
    if "item" in model.served_levels:
        names.add("request_of_item")
    return [t for t in encoder.layout.tensors() if t.name in names]


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
