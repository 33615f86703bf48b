"""LightGBM: a model's text file, as `Booster.save_model` writes it, run by the library itself."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, final

import numpy as np

from bedplate.errors import ArtifactError
from bedplate.runtimes.base import Opening, Runtime
from bedplate.runtimes.trees import TreeRuntime, option, read
from bedplate.types import Array

# The library has no complete types.
_lightgbm: Any = importlib.import_module("lightgbm")

_END = b"\nend of trees"  # the library takes a file that was cut off before for one with fewer trees


@final
class LightGBMRuntime(TreeRuntime):
    """A booster. Satisfies `Runtime`; see `open_runtime`."""

    platform: ClassVar[str] = "lightgbm_text"

    def __init__(self, booster: Any, raw: bool, opening: Opening) -> None:
        self._booster, self._raw, self._threads = booster, raw, opening.threads
        super().__init__(booster.num_feature(), booster.num_model_per_iteration(), "float64", opening)

    def score(self, matrix: Array) -> Array:
        """The prediction, or the sum of the leaves with the option `raw`."""
        return np.asarray(self._booster.predict(matrix, raw_score=self._raw, num_threads=self._threads), np.float64)


def open_runtime(opening: Opening) -> Runtime:
    """The booster of a text file. The option `raw` (false) gives sums of leaves instead of predictions.

    Raises:
        ArtifactError: the file can't be read, is cut off, or is no model.
    """
    raw, content = option(opening, "raw", False, ["raw"]), read(opening.path)
    try:
        if not content.startswith(b"tree") or _END not in content:
            raise ValueError("it is no text model, or is cut off")
        booster = _lightgbm.Booster(model_str=content.decode())
    except (_lightgbm.basic.LightGBMError, ValueError) as error:
        raise ArtifactError(f"the trees can't be loaded: {error}", where=opening.place) from error
    return LightGBMRuntime(booster, raw, opening)
