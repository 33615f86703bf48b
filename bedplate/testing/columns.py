"""Columns as plain values, and whether two of them are equal as parity counts it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from bedplate.batch import Column, Ids, Ragged


def plain(column: Column) -> list[Any]:
    """The values of a column: None where there is none, lists for lists and vectors, texts where they are known."""
    if isinstance(column, Ragged):
        values = plain(column.values)
        return [values[int(a) : int(b)] for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]
    values: list[Any] = column.values.tolist()
    if isinstance(column, Ids) and column.texts is not None:
        there = [True] * len(values) if column.present is None else column.present.tolist()
        return [column.texts[v] if t else None for v, t in zip(values, there, strict=True)]
    if column.present is None:
        return values
    return [v if t else None for v, t in zip(values, column.present.tolist(), strict=True)]


def mismatches(got: Mapping[str, Column], expected: Mapping[str, Column]) -> list[str]:
    """What differs, one line a feature: values, nulls, lengths of lists. Floats are compared at float32 precision.

    >>> from bedplate.batch import Dense
    >>> mismatches({"a": Dense(np.array([1.0, 2.0]))}, {"a": Dense(np.array([1.0, 3.0]))})
    ['a: 1 of 2 rows differ, the first is row 1: got 2.0, expected 3.0']
    """
    lines = [f"{name}: missing" for name in expected if name not in got]
    for name in (n for n in expected if n in got):
        ours, theirs = plain(got[name]), plain(expected[name])
        if len(ours) != len(theirs):
            lines.append(f"{name}: {len(ours)} rows, expected {len(theirs)}")
            continue
        rows = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not _equal(a, b)]
        if rows:
            at = rows[0]
            lines.append(
                f"{name}: {len(rows)} of {len(ours)} rows differ, the first is row {at}: "
                f"got {ours[at]!r}, expected {theirs[at]!r}"
            )
    return lines


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        ours, theirs = cast("list[Any]", a), cast("list[Any]", b)
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=float(np.finfo(np.float32).eps), abs_tol=1e-9)
    return bool(a == b)
