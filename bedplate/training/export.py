"""Export: a trained network as an artifact (`features.artifact`), which is served without training code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bedplate.batch import Batch, TextLookup
from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.features.signature import Described, Signature
from bedplate.models.base import Model, RetrievalModel
from bedplate.training.graph import served, served_tensors, to_onnx
from bedplate.training.packing import CatalogueVectors, Exported, GoldenBatch, check_place, write_artifact
from bedplate.training.tensors import to_tensors
from bedplate.types import Array


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
    check_place(folder, golden)
    return write_artifact(
        exported_of(model), encoder, folder, features=features, golden=golden, catalogue=catalogue, models=models
    )


def exported_of(model: Model) -> Exported:
    """The graph of a trained network; see `graph.to_onnx`."""
    return Exported(to_onnx(model, served_tensors(model)), partial(served, model))
