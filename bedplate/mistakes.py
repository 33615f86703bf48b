"""Hints for mistakes of Python in definition files: misspelt names and arguments of Bedplate's own classes."""

from __future__ import annotations

import inspect
import re

import bedplate
from bedplate.errors import missing_extra, suggest

_NAME = re.compile(r"cannot import name '(\w+)' from 'bedplate'")
_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def hint_for(error: BaseException) -> str | None:
    """What to do about an error of a definition file, where it is about a public name or an extra of Bedplate's.

    >>> hint_for(ImportError("cannot import name 'Coumt' from 'bedplate' (a file)"))
    "did you mean 'Count'?"
    >>> hint_for(TypeError("Mean.__init__() got an unexpected keyword argument 'window'"))
    "did you mean 'windows'?"
    >>> hint_for(ModuleNotFoundError(name="deltalake"))
    "install it with: pip install 'bedplate[delta]'"
    """
    extra = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
    if extra is not None:
        return extra.hint
    name = _NAME.search(str(error))
    if name is not None:
        return suggest(name[1], bedplate.__all__, "names")
    argument = _ARGUMENT.search(str(error))
    if argument is None or argument[1] not in bedplate.__all__:
        return None
    parameters = inspect.signature(getattr(bedplate, argument[1])).parameters
    return suggest(argument[2], parameters, "arguments")
