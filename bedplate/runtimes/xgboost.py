"""XGBoost: a model's JSON or UBJSON file, as `Booster.save_model` writes it, run by the library itself."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, final

import numpy as np

from bedplate.errors import ArtifactError
from bedplate.runtimes.base import Opening, Runtime
from bedplate.runtimes.trees import TreeRuntime, option, read
from bedplate.types import Array

# The library has no complete types.
_xgboost: Any = importlib.import_module("xgboost")


@final
class XGBoostRuntime(TreeRuntime):
    """A booster. Satisfies `Runtime`; see `open_runtime`."""

    platform: ClassVar[str] = "xgboost_json"

    def __init__(self, booster: Any, raw: bool, opening: Opening) -> None:
        self._booster, self._kind = booster, "margin" if raw else "value"
        columns = booster.num_features()
        probe = booster.inplace_predict(np.zeros((1, columns), np.float32), predict_type=self._kind)
        super().__init__(columns, int(probe.size), "float32", opening)

    def score(self, matrix: Array) -> Array:
        """The prediction, or the sum of the leaves with the option `raw`."""
        found = self._booster.inplace_predict(matrix, predict_type=self._kind, validate_features=False)
        return np.asarray(found, np.float32)


def open_runtime(opening: Opening) -> Runtime:
    """The booster of a JSON or UBJSON file. The option `raw` (false) gives sums of leaves instead of predictions.

    Raises:
        ArtifactError: the file can't be read or is no model.
    """
    raw, content = option(opening, "raw", False, ["raw"]), read(opening.path)
    if not content.startswith(b"{"):
        raise ArtifactError("the trees are neither JSON nor UBJSON", where=opening.place)
    try:
        booster = _xgboost.Booster({"nthread": opening.threads}, model_file=bytearray(content))
        return XGBoostRuntime(booster, raw, opening)
    except (_xgboost.core.XGBoostError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"the trees can't be loaded: {reason}", where=opening.place) from error
