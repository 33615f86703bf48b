"""The answers of a service, as clients read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from bedplate.online.fallback import Degraded

Key: TypeAlias = int | str


class Answer(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The answer to `recommend` and `rank`.

    Attributes:
        ids: of the items: best first, or in the order of the candidates.
        scores: the ranking model's, one for each id. JSON has no NaN: a score that is none is null.
        models: the version of each model that took part, by its part.
        time: the time that the features are of, microseconds.
        sources: of `recommend` with several sources of candidates: the one that each item counts for.
        propensities: of `recommend` with exploration: the probability with which each item was taken for its place,
            given those above. Their product is that of the whole list.
        seed: of `recommend` with exploration: the request with this seed gives this answer again.
        unknown: keys of which the store knows nothing, by entity: no feature of theirs has a value other than zero.
        reason: why `recommend` gives no item, where it gives none; see `empty_reason`.
        degraded: the views whose values are not as they should be, because the store is slow, down or behind; and the
            steps, as `step.NAME`, that were late or failed.
        behind_seconds: for each view that was read how long before the time asked for its stream was last known to be
            taken in; a live worker keeps it at seconds.
        trace: the milliseconds of each step, where the request asks.
    """

    ids: Sequence[Key]
    scores: Sequence[float | None]
    models: Mapping[str, str]
    time: int
    sources: Sequence[str] = ()
    propensities: Sequence[float] = ()
    seed: int | None = None
    unknown: dict[str, list[Key]] = {}
    reason: str | None = None
    degraded: dict[str, Degraded] = {}
    behind_seconds: dict[str, float] = {}
    trace: dict[str, float] | None = None


class Vectors(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The answer to `embed`.

    Attributes:
        vectors: of the request, one, null where it is not finite; or of each item, null where the index has none.
        models: the version of the model, by its part.
        time: the time that the request's features are of, microseconds; left out for items.
        unknown: as of `Answer`.
        degraded: as of `Answer`.
        behind_seconds: as of `Answer`.
        trace: as of `Answer`.
    """

    vectors: Sequence[Sequence[float] | None]
    models: Mapping[str, str]
    time: int | None = None
    unknown: dict[str, list[Key]] = {}
    degraded: dict[str, Degraded] = {}
    behind_seconds: dict[str, float] = {}
    trace: dict[str, float] | None = None


class Similar(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The answer to `similar`.

    Attributes:
        ids: of the items nearest to the one asked for, nearest first.
        scores: the cosine of the angle between its vector and theirs.
        models: the version of the model whose index was searched, by its part.
    """

    ids: Sequence[Key]
    scores: Sequence[float]
    models: Mapping[str, str]


def empty_reason(items: int | None, candidates: int) -> str:
    """Why an answer of `recommend` holds nothing.

    Args:
        items: how many the catalogue has, where the service has a retrieval only.
        candidates: how many were found, those that are excluded left out.

    >>> empty_reason(500, 200), empty_reason(500, 0)
    ('the filters let none of 200 candidates through', 'all 500 items of the catalogue are excluded')
    """
    if candidates:
        return f"the filters let none of {candidates:,} candidates through"
    if items is None:
        return "no source brings a candidate that is not excluded"
    return f"all {items:,} items of the catalogue are excluded" if items else "the catalogue holds no item"
