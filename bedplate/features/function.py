"""Functions of derived features: arrays in, an array out, row by row; checked when defined and when first used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast, final

import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids, Ragged, texts_of
from bedplate.canonical import string_ids
from bedplate.errors import FAILS, DataError, DefinitionError
from bedplate.features.declared import null_column
from bedplate.stopping import signals_interrupt
from bedplate.types import DAY, Array, Bools, Type

RowFunction: TypeAlias = Callable[..., Any]
"""Takes an array for each input and gives an array of as many rows."""

_RELATIVE = 1e-6
"""How much a float may differ between rows computed together and alone: another order of steps rounds otherwise."""

_PROVEN = 16
"""Rows that are computed alone, too, when a function is first used."""

_FITTING: dict[str, tuple[Type, ...]] = {
    "a number": (Type.FLOAT, Type.INT),
    "a text": (Type.STRING,),
    "a time": (Type.TIME, Type.INT),
    "a vector": (),
}
"""Which types an input of each kind may have; a vector has a type for each width."""

_expected: dict[RowFunction, tuple[str, ...]] = {}
"""The kind of each input, of the functions that say it."""

_STRINGS = ("", "red mug", "Mug", "red  Mug 42", "ünïcode ✓", "a", "Europe/Vienna")
_NUMBERS = (0.0, 1.0, -1.5, 0.25, 48.2, -122.4, 1e6)
_WHOLE = (0, 1, -3, 7, 2**40, 42, 5)


def expects(function: RowFunction, *kinds: str) -> None:
    """Says what a function takes, so that wrong inputs are told by their types before it is tried.

    Args:
        function: the function.
        kinds: for each input "a number", "a text", "a time" or "a vector"; vectors are all of one width.
    """
    _expected[function] = tuple(kinds)


@final
class VectorFunction:
    """A function with its declared output.

    A row in which an input is null is not given to the function: its value is null. So is a NaN or an infinity that the
    function gives, a None among strings, and what a masked array masks.

    Args:
        function: takes one array for each input: numbers and booleans [n] of float64, int64 or bool, times [n] int64
            microseconds, strings [n] objects, vectors [n, width] float32. It must not change them, and each row of what
            it gives must depend on that row alone.
        kind: the type of what it gives, or of the elements of a list.
        is_list: whether it gives lists: a sequence of n sequences.
        place: what a message calls the derived feature.
    """

    __slots__ = ("_function", "_is_list", "_kind", "_place", "_proven")

    def __init__(self, function: RowFunction, kind: Type, is_list: bool, place: str) -> None:
        self._function, self._kind, self._is_list, self._place = function, kind, is_list, place
        self._proven = False

    def check(self, types: Sequence[tuple[str, Type]]) -> None:
        """Runs the function on made-up rows of these types, together and alone.

        Args:
            types: the name and type of each input, in order.

        Raises:
            DefinitionError: it does not take such inputs, fails, gives something else than it declares, or depends on
                other rows.
        """
        shown = ", ".join(f"{name} {kind}" for name, kind in types)
        self._check_expected([kind for _, kind in types], shown)
        arrays = [_sample(kind, i) for i, (_, kind) in enumerate(types)]
        try:
            self._prove(arrays)
        except DataError as error:
            message = f"{error.message}; its inputs are {shown}"
            raise DefinitionError(message, where=error.where, hint=error.hint) from error

    def _check_expected(self, types: Sequence[Type], shown: str) -> None:
        expected = _expected.get(self._function)
        if expected is None:
            return
        name = self._function.__name__
        fits = len(types) == len(expected) and all(
            bool(given.width) if kind == "a vector" else given in _FITTING[kind]
            for given, kind in zip(types, expected, strict=True)
        )
        if not fits:
            raise DefinitionError(
                f"{name} takes {', '.join(expected)}; got {shown}",
                where=self._place,
                hint="name other inputs, in this order",
            )
        if len({t.width for t in types if t.width}) > 1:
            raise DefinitionError(
                f"{name} takes vectors of one width; got {shown}",
                where=self._place,
                hint="the embeddings of one model have one width: is one of them declared with another?",
            )

    def column(self, inputs: Sequence[Column], rows: int) -> Column:
        """The values of n rows.

        Args:
            inputs: columns of length n.
            rows: n.

        Raises:
            DataError: the function fails, or gives something else than it declares.
        """
        there = _present(inputs, rows)
        count = rows if there is None else int(np.count_nonzero(there))
        if not count:
            return null_column(self._kind, rows, is_list=self._is_list)
        chosen = None if there is None else np.flatnonzero(there)
        arrays = [_array(c if chosen is None else c.take(chosen)) for c in inputs]
        if not self._proven and count > 1:
            self._prove([a[:_PROVEN] for a in arrays])
            self._proven = True
        found = self._call(arrays, count)
        return found if there is None else _spread(found, there)

    def _prove(self, arrays: Sequence[Array]) -> None:
        """Checks that rows computed together are what they are alone."""
        rows = len(arrays[0])
        together = self._call(arrays, rows)
        for row in range(rows):
            alone = self._call([a[row : row + 1] for a in arrays], 1)
            if not _same(together.take(np.array([row])), alone):
                shown = ", ".join(repr(a[row].tolist() if isinstance(a[row], np.generic) else a[row]) for a in arrays)
                raise DataError(
                    f"the value of a row depends on other rows: of the inputs ({shown}) it is another when the row is "
                    f"computed alone than among {rows} rows",
                    where=self._place,
                    hint="training computes many rows at once and serving a few; sums and orders over rows are for "
                    "aggregations",
                )

    def _call(self, arrays: Sequence[Array], rows: int) -> Column:
        try:
            with np.errstate(all="ignore"):
                result = self._function(*arrays)
        except BaseException as error:  # SystemExit too: no function ends the program that computes it
            if isinstance(error, KeyboardInterrupt) and signals_interrupt():
                raise
            raise DataError(
                f"the function fails: {type(error).__name__}: {error}",
                where=self._place,
                hint="it must take arrays of its inputs' types, and for a value that it can't use give NaN, None or a "
                "masked value: in serving any may come",
                told=FAILS,
            ) from error
        if self._is_list:
            return _lists(result, self._kind, rows, self._place)
        return _values(result, self._kind, rows, self._place)


def _sample(kind: Type, turn: int) -> Array:
    """Made-up values of a type; those of different inputs don't go together."""
    if kind.width:
        return np.random.default_rng([kind.width, turn]).normal(size=(len(_WHOLE), kind.width)).astype(np.float32)
    values: dict[Type, Array] = {
        Type.FLOAT: np.array(_NUMBERS),
        Type.INT: np.array(_WHOLE, np.int64),
        Type.BOOL: np.array(_WHOLE) > 5,
        Type.TIME: np.arange(len(_WHOLE), dtype=np.int64) * 171 * DAY + 54_321_000_000,
        Type.STRING: np.array(_STRINGS, object),
    }
    return np.roll(values[kind], turn)


def _present(inputs: Sequence[Column], rows: int) -> Bools | None:
    """[n]: the rows in which every input is there, or None: all."""
    there: Bools | None = None
    for column in inputs:
        if not isinstance(column, Ragged) and column.present is not None:
            there = column.present if there is None else there & column.present
    return None if there is None or bool(there.all()) or not rows else there


def _array(column: Column) -> Array:
    """The values as a function takes them."""
    if isinstance(column, Ids) and column.texts is not None:
        strings = np.empty(len(column), object)
        strings[:] = texts_of(column.texts, column.values.tolist())
        return strings
    if isinstance(column, Ragged):
        raise DataError("got lists, which no function takes", where="derived features")
    return column.values


def _values(result: Any, kind: Type, rows: int, place: str) -> Column:
    """What a function gave as a column of the declared type."""
    if not isinstance(result, np.ndarray):
        raise _wrong(f"a {type(result).__name__}", kind, rows, place)
    array = cast("Array", result)
    mask: Bools | None = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    values: Array = np.asarray(array)
    if values.shape != (rows, *kind.shape):
        raise _wrong(f"an array of shape {list(values.shape)}", kind, rows, place)
    if kind is Type.STRING:
        return _strings(values, mask, rows, place)
    if kind is Type.TIME and values.dtype.kind == "M":
        mask = np.isnat(values) if mask is None else mask | np.isnat(values)
        values = values.astype("datetime64[us]").view(np.int64)
    accepted = {Type.BOOL: "b", Type.INT: "iu", Type.TIME: "i"}.get(kind, "fiub")
    if values.dtype.kind not in accepted:
        raise _wrong(f"an array of {values.dtype}", kind, rows, place)
    values = values.astype(kind.dtype)
    present: Bools | None = None if mask is None else ~mask
    if values.dtype.kind == "f":
        finite = _every(np.isfinite(values), rows)
        present = finite if present is None else finite & _every(present, rows)
    if present is not None:
        values = np.where(present.reshape(rows, *(1 for _ in kind.shape)), values, values.dtype.type(0))
        present = None if present.all() else present
    return Embedding(values, present) if kind.width else Dense(values, present)


def _every(there: Bools, rows: int) -> Bools:
    """[n]: whether all of a row's values are there."""
    return np.logical_and.reduce(there.reshape(rows, -1), axis=1) if rows else np.zeros(0, np.bool_)


def _strings(values: Array, mask: Array | None, rows: int, place: str) -> Ids:
    texts: list[Any] = values.tolist()
    if mask is not None:
        texts = [None if gone else text for text, gone in zip(texts, mask.tolist(), strict=True)]
    wrong = next((t for t in texts if t is not None and not isinstance(t, str)), None)
    if wrong is not None:
        raise _wrong(f"a {type(wrong).__name__} among the strings", Type.STRING, rows, place)
    present: Bools = np.array([t is not None for t in texts], np.bool_)
    named = [cast("str", t or "") for t in texts]
    ids = string_ids(named)
    return Ids(np.array(ids, np.int64), None if present.all() else present, dict(zip(ids, named, strict=True)))


def _lists(result: Any, kind: Type, rows: int, place: str) -> Ragged:
    try:
        lists = [[] if one is None else list(one) for one in result]
    except TypeError:
        raise _wrong(f"a {type(result).__name__}", kind, rows, place, is_list=True) from None
    if len(lists) != rows:
        raise _wrong(f"{len(lists)} lists", kind, rows, place, is_list=True)
    flat: Array = np.empty(sum(map(len, lists)), object)
    flat[:] = [value.item() if isinstance(value, np.generic) else value for one in lists for value in one]
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum([len(one) for one in lists], out=offsets[1:])
    if kind is not Type.STRING:
        try:
            flat = flat.astype(kind.dtype, casting="unsafe") if len(flat) else np.zeros(0, kind.dtype)
        except (TypeError, ValueError):
            raise _wrong("lists of other values", kind, rows, place, is_list=True) from None
    inner = _values(flat, kind, len(flat), place)
    if not isinstance(inner, Dense | Ids):
        raise _wrong("lists of vectors", kind, rows, place, is_list=True)
    return Ragged(inner, offsets)


def _wrong(got: str, kind: Type, rows: int, place: str, *, is_list: bool = False) -> DataError:
    shape = f"[{rows}]" if not kind.width else f"[{rows}, {kind.width}]"
    expected = f"{rows} lists of {kind}" if is_list else f"an array {shape} of {kind}"
    return DataError(f"the function gives {got}, expected {expected}", where=place, hint="or declare another type=")


def _spread(column: Column, there: Bools) -> Column:
    """The values of the rows that are there, nulls (empty lists) between them."""
    places = np.maximum(np.cumsum(there) - 1, 0)
    if isinstance(column, Ragged):
        lengths = np.zeros(len(there), np.int64)
        lengths[there] = np.diff(column.offsets)
        return Ragged(column.values, np.concatenate(([0], np.cumsum(lengths))))
    spread = column.take(places)
    present = there if spread.present is None else there & spread.present
    if isinstance(spread, Ids):
        return Ids(spread.values, present, spread.texts)
    zeroed = np.where(
        present.reshape(-1, *(1 for _ in spread.values.shape[1:])), spread.values, spread.values.dtype.type(0)
    )
    return Embedding(zeroed, present) if isinstance(spread, Embedding) else Dense(zeroed, present)


def _same(one: Column, other: Column) -> bool:
    """Whether two columns of one row have the same value."""
    if isinstance(one, Ragged) and isinstance(other, Ragged):
        return bool((one.offsets == other.offsets).all()) and _same(one.values, other.values)
    if isinstance(one, Ragged) or isinstance(other, Ragged):
        return False
    ours = [np.ones(len(c), np.bool_) if c.present is None else c.present for c in (one, other)]
    if not np.array_equal(ours[0], ours[1]):
        return False
    if one.values.dtype.kind == "f":
        return bool(np.allclose(one.values, other.values, rtol=_RELATIVE, atol=1e-12))
    return bool((one.values[ours[0]] == other.values[ours[0]]).all())
