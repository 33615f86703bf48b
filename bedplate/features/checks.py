"""Checks of configs that are structs, whose constructors check nothing by themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args, get_origin

import msgspec

from bedplate.errors import BedplateError, ConfigError, suggest

_MOST = 2**63 - 1
"""The largest whole number that libraries and files take."""


def check_types(config: msgspec.Struct, place: str, error: type[BedplateError] = ConfigError) -> None:
    """Checks that every field holds what it is declared to hold: whole numbers of at most 64 bits, others finite.

    Raises:
        BedplateError: one does not; of the class asked for.

    >>> class Size(msgspec.Struct):
    ...     width: int
    >>> check_types(Size("wide"), "size")
    Traceback (most recent call last):
    bedplate.errors.ConfigError: size: width is 'wide': expected `int`, got `str`
    """
    for field in msgspec.structs.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, msgspec.Struct):
            continue
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as invalid:
            said = str(invalid)
            hint = one_of(value, field.type)
            raise error(f"{field.name} is {value!r}: {said[:1].lower()}{said[1:]}", where=place, hint=hint) from None
        if isinstance(value, int) and not -_MOST - 1 <= value <= _MOST:
            raise error(f"{field.name} is {value}, expected a number of 64 bits, at most {_MOST}", where=place)
        check_finite(value, field.name, place, error)


def check_finite(value: Any, name: str, place: str, error: type[BedplateError] = ConfigError) -> None:
    """Checks that no number of a value is NaN or infinite: in JSON it would become null, which nothing can read back.

    Args:
        value: what is to be written: numbers, texts, mappings and sequences.
        name: what a message calls it.
        place: where it is.
        error: the class of the error.

    Raises:
        BedplateError: one is; of the class asked for.

    >>> check_finite({"rates": [0.5, float("inf")]}, "options", "runtime")
    Traceback (most recent call last):
    bedplate.errors.ConfigError: runtime: options.rates[1] is inf, expected a finite number
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{name} is {value}, expected a finite number", where=place)
    if isinstance(value, Mapping):
        for key, part in cast("Mapping[Any, Any]", value).items():
            check_finite(part, f"{name}.{key}", place, error)
    elif isinstance(value, list | tuple):
        for i, part in enumerate(cast("list[Any]", value)):
            check_finite(part, f"{name}[{i}]", place, error)


def one_of(value: Any, kind: Any) -> str | None:
    """A hint with the values that a field takes, the nearest one first; None where it takes any of its type.

    >>> one_of("cosin", Literal["constant", "cosine"])
    "did you mean 'cosine'?"
    >>> one_of("cosin", str) is None
    True
    """
    return suggest(str(value), get_args(kind), "values") if get_origin(kind) is Literal else None


def check_least(
    config: msgspec.Struct, names: str, least: float, place: str, error: type[BedplateError] = ConfigError
) -> None:
    """Checks that numbers are not below a bound.

    Args:
        config: the struct.
        names: its fields, with spaces between.
        least: the bound.
        place: what a message calls the struct.
        error: the class of the error.

    Raises:
        BedplateError: one is; of the class asked for.
    """
    for name in names.split():
        value = getattr(config, name)
        if not value >= least:
            raise error(f"{name} is {value}, expected at least {least:g}", where=place)
