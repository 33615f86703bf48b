"""Arguments of definitions: one that is missing, unknown or too many is a `DefinitionError` that says what is taken."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from bedplate.errors import DefinitionError, suggest

_Class = TypeVar("_Class", bound=type[Any])

_SHOWN = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


def checks_arguments(made: _Class) -> _Class:
    """Makes a class of definitions refuse a call that does not fit by a `DefinitionError`, as it refuses wrong values.

    >>> @checks_arguments
    ... class Window:
    ...     def __init__(self, length, *, hop=None): ...
    >>> Window(hop="1h")
    Traceback (most recent call last):
    bedplate.errors.DefinitionError: Window: the argument 'length' is missing
      it takes: Window(length, *, hop=...)
    """
    wrapped: Callable[..., None] = made.__init__

    @functools.wraps(wrapped)
    def checked(self: Any, *given: Any, **named: Any) -> None:
        try:
            wrapped(self, *given, **named)
        except TypeError as error:
            refused = _refusal(type(self).__name__, wrapped, given, named)
            if refused is None:
                raise
            raise refused from error

    made.__init__ = checked
    return made


def _refusal(
    name: str, called: Callable[..., None], given: Sequence[Any], named: Mapping[str, Any]
) -> DefinitionError | None:
    """The error for a call whose arguments do not fit; None: they do, and something else is wrong."""
    signature = inspect.signature(called)
    try:
        signature.bind(None, *given, **named)
    except TypeError:
        pass
    else:
        return None
    taken = [p for p in list(signature.parameters.values())[1:] if p.kind in _SHOWN]
    hint = f"it takes: {name}({_text(taken)})"
    unknown = next((n for n in named if n not in {p.name for p in taken}), None)
    if unknown is not None:
        near = suggest(unknown, [p.name for p in taken], "arguments")
        return DefinitionError(f"unknown argument '{unknown}'", where=name, hint=near)
    by_place = [p for p in taken if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(given) > len(by_place):
        message = f"got {len(given)} arguments without a name, expected at most {len(by_place)}"
        return DefinitionError(message, where=name, hint=hint)
    twice = next((p.name for p in by_place[: len(given)] if p.name in named), None)
    if twice is not None:
        return DefinitionError(f"got the argument '{twice}' twice", where=name, hint=hint)
    there = {p.name for p in by_place[: len(given)]} | set(named)
    missing = [f"'{p.name}'" for p in taken if p.default is inspect.Parameter.empty and p.name not in there]
    said = f"the argument {missing[0]} is" if len(missing) == 1 else f"the arguments {' and '.join(missing)} are"
    return DefinitionError(f"{said} missing", where=name, hint=hint)


def _text(parameters: Sequence[inspect.Parameter]) -> str:
    """Parameters as a call shows them: what has a default ends in `=...`, and after `*` all are named."""
    shown: list[str] = []
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        shown.append(parameter.name if parameter.default is inspect.Parameter.empty else f"{parameter.name}=...")
    return ", ".join(shown)
