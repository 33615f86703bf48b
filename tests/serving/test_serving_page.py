"""docs/serving.md names every field of requests and answers, and every path."""

from __future__ import annotations

import re
from pathlib import Path

import shop

from bedplate.features.graph import FeatureGraph
from bedplate.registry.registry import Registry
from bedplate.serving.service_app import App
from bedplate.serving.steps import Epsilon
from bedplate.serving.wire import Answer

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def listed(heading: str) -> list[str]:
    """The first cells of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [cell.strip("`") for cell in re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)]


def test_every_field_of_a_request_is_on_the_page(registry: Registry, features: FeatureGraph) -> None:
    every = shop.pipeline(registry, features, exploration=Epsilon(0.1))
    schemas = every.wire.describe()
    shown = {n for s in schemas.values() for d in s["$defs"].values() for n in d["properties"]}
    assert set(listed("Fields of a request")) == shown - {"customer"}


def test_every_field_of_an_answer_is_on_the_page() -> None:
    assert listed("Fields of an answer") == list(Answer.__struct_fields__)


def test_every_fixed_path_is_on_the_page(app: App) -> None:
    paths = {path.rstrip("/") or "/" for path in app.paths}
    shown = {p.partition(" ")[2] for p in listed("Other paths")} | set(
        re.findall(r"^## POST (\S+)$", PAGE, re.MULTILINE)
    )
    assert paths == {p for p in shown if "MODEL" not in p}
