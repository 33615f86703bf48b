"""The encoder of a model that goes on from another one: what both know stays as it was, what is new is fitted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias, cast

import msgspec
import numpy as np

from bedplate.features.encoder import Encoder
from bedplate.features.encoding import CANDIDATE, Bag, Category, Field, Number, Sequence, Vector
from bedplate.features.vocabulary import Vocabulary

Definitions: TypeAlias = Mapping[str, str]
"""The id of each definition behind a model (`Manifest.definitions`)."""

_FREE = frozenset({"length", "min_count", "mean", "scale", "presence", "vocabulary", "of"})
"""What may differ between two encodings of one meaning: how much is kept, and what was fitted."""


def kept_features(parent: Encoder, encoder: Encoder, was: Definitions, now: Definitions) -> frozenset[str]:
    """The features that mean the same to both encoders: of one definition, at one level, encoded in one way.

    Args:
        parent: the encoder that is gone on from.
        encoder: the new one.
        was: the definitions behind the parent.
        now: the definitions behind the new model.
    """
    known = {f.feature: f for f in parent.fields}
    return frozenset(
        f.feature
        for f in encoder.fields
        if f.feature in known
        and _meaning(known[f.feature]) == _meaning(f)
        and (f.feature == CANDIDATE or was.get(f"feature {f.feature}") == now.get(f"feature {f.feature}"))
    )


def carried_encoder(parent: Encoder, fitted: Encoder, kept: Collection[str]) -> Encoder:
    """The encoder to go on with: of kept features the parent's scales and ids, and the ids that are new.

    So a value is encoded as the parent encoded it. A presence column is added where the new data holds the first null;
    ids that the new data does not hold keep their rows.

    Args:
        parent: the encoder that is gone on from.
        fitted: an encoder of all features, fitted on the new data.
        kept: the features that mean the same to both.
    """
    known = {f.feature: f for f in parent.fields}
    fields = [_carried(known[f.feature], f) if f.feature in kept else f for f in fitted.fields]
    shared = shared_vocabularies(parent, fitted, kept)
    vocabularies = {
        name: Vocabulary(np.union1d(parent.vocabularies[name].keys, own.keys)) if name in shared else own
        for name, own in fitted.vocabularies.items()
    }
    return Encoder(fields, vocabularies)


def shared_vocabularies(parent: Encoder, encoder: Encoder, kept: Collection[str]) -> frozenset[str]:
    """The vocabularies whose ids mean the same to both encoders: those of kept features."""
    used = {f.vocabulary for f in encoder.fields if f.feature in kept and f.vocabulary is not None}
    return frozenset(used & set(parent.vocabularies) & set(encoder.vocabularies))


def _meaning(field: Field) -> tuple[object, ...]:
    whole: dict[str, Any] = msgspec.to_builtins(field.encoding)
    element: dict[str, Any] = msgspec.to_builtins(field.element)
    parts = [{k: v for k, v in part.items() if k not in _FREE} for part in (whole, element)]
    return field.level, field.vocabulary, *parts


def _carried(parent: Field, fitted: Field) -> Field:
    encoding, was = fitted.encoding, parent.encoding
    if isinstance(encoding, Sequence):
        element = _carried_element(cast(Sequence, was).of, encoding.of)
        return msgspec.structs.replace(fitted, encoding=msgspec.structs.replace(encoding, of=element))
    return msgspec.structs.replace(fitted, encoding=_carried_element(was, encoding))


def _carried_element(
    was: Number | Category | Bag | Vector | Sequence, now: Number | Category | Bag | Vector
) -> Number | Category | Bag | Vector:
    if isinstance(now, Number) and isinstance(was, Number):
        return msgspec.structs.replace(was, presence=was.presence or now.presence)
    if isinstance(now, Vector) and isinstance(was, Vector):
        return msgspec.structs.replace(now, presence=was.presence or now.presence)
    return now
