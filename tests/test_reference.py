"""docs/reference.md names every argument of what a project's files define, and every key of bedplate.toml."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import bedplate
from bedplate import config

PAGE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
FITTED = {"Number": {"mean", "scale", "presence", "nan"}, "Vector": {"width", "presence"}}
NAMES = [
    "Count",
    "Sum",
    "Mean",
    "Min",
    "Max",
    "CountDistinct",
    "Last",
    "LastN",
    "TimeSince",
    "Source",
    "Label",
    "Dataset",
    "Number",
    "Category",
    "Sequence",
    "Bag",
    "DCNConfig",
    "LogisticConfig",
    "TwoTowerConfig",
    "TrainerConfig",
    "Job",
    "Retrieval",
    "Service",
]
ELSEWHERE = {
    "ApproxCountDistinct": "bedplate.aggregations.sketches",
    "Attribute": "bedplate.aggregations.attribute",
    "Context": "bedplate.features.context",
    "DecayedCount": "bedplate.aggregations.decay",
    "DecayedMean": "bedplate.aggregations.decay",
    "DecayedSum": "bedplate.aggregations.decay",
    "DerivedFeature": "bedplate.features.derived",
    "First": "bedplate.aggregations.ordered",
    "Histogram": "bedplate.aggregations.counts",
    "LightGBMConfig": "bedplate.models.estimators",
    "Link": "bedplate.features.links",
    "ModelFeature": "bedplate.features.model",
    "PromotionRules": "bedplate.training.promotion",
    "Quantile": "bedplate.aggregations.sketches",
    "Rate": "bedplate.aggregations.ratio",
    "Ratio": "bedplate.aggregations.ratio",
    "SklearnConfig": "bedplate.models.estimators",
    "RollingSplit": "bedplate.datasets.rolling",
    "Search": "bedplate.training.search",
    "StdDev": "bedplate.aggregations.moments",
    "TopK": "bedplate.aggregations.counts",
    "Variance": "bedplate.aggregations.moments",
    "Vector": "bedplate.features.encoding",
    "XGBoostConfig": "bedplate.models.estimators",
    "Thompson": "bedplate.serving.steps",
    "Softmax": "bedplate.serving.steps",
    "Recent": "bedplate.serving.steps",
    "Quota": "bedplate.serving.steps",
    "Popular": "bedplate.serving.steps",
    "Given": "bedplate.serving.steps",
    "Epsilon": "bedplate.serving.steps",
    "Diversity": "bedplate.serving.steps",
}
"""Names of other modules than `bedplate`."""


def section(heading: str) -> str:
    return PAGE.partition(f"### {heading}\n")[2].partition("\n#")[0]


def rows(heading: str) -> dict[str, str]:
    """The second cell of each row (a default) by the first."""
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", section(heading), re.MULTILINE))


@pytest.mark.parametrize("name", [*NAMES, *ELSEWHERE])
def test_every_argument_is_listed_with_its_default(name: str) -> None:
    module = importlib.import_module(ELSEWHERE[name]) if name in ELSEWHERE else bedplate
    parameters = inspect.signature(getattr(module, name)).parameters.values()
    shown: dict[str, Any] = {
        p.name: "required" if p.default is p.empty else f"`{p.default!r}`".replace("<factory>", "{}")
        for p in parameters
        if p.name not in FITTED.get(name, set())
    }
    assert rows(name) == shown


def test_every_key_of_the_configuration_is_listed() -> None:
    keys = {f"{table}.{key}" for table, keys in config._KEYS.items() for key in keys}
    assert set(rows("bedplate.toml")) == keys


def test_every_aggregation_encoding_and_config_is_on_the_page() -> None:
    from bedplate.aggregations.base import Aggregation
    from bedplate.models.config import ModelConfig

    public = [k for n in bedplate.__all__ if n != "Trainer" and isinstance(k := getattr(bedplate, n), type)]
    found = {k.__name__ for k in public if issubclass(k, Aggregation)}
    found |= {k.__name__ for k in public if k.__module__ == "bedplate.features.encoding"}
    found |= {k.__name__ for k in public if issubclass(k, ModelConfig)}
    assert len(found) == 16
    assert found <= set(NAMES)
