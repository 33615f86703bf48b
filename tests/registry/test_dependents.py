"""Which versions read a feature of another one: not those that only have its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bedplate.registry.dependents import dependents, views_of_promoted
from bedplate.registry.manifest import Manifest
from bedplate.registry.registry import Registry
from bedplate.registry.version import ModelVersion

Add = Callable[..., ModelVersion]


@pytest.fixture
def add(registry: Registry, artifact: Callable[..., Path], manifest: Manifest) -> Add:
    """Registers a version of a model with these parents, config and definitions."""

    def register(
        name: str, *parents: str, config: dict[str, Any] | None = None, definitions: dict[str, str] | None = None
    ) -> ModelVersion:
        facts = msgspec.structs.replace(
            manifest, parents=parents, config=config or {}, definitions=definitions or {"view sales": "of all"}
        )
        return registry.register(name, artifact(), manifest=facts)

    return register


def continued(parent: str) -> dict[str, Any]:
    return {"continued": {"parent": parent, "rows": "all", "since": None}}


def test_what_was_continued_from_a_version_or_made_smaller_does_not_read_it(registry: Registry, add: Add) -> None:
    add("quality")
    reads = {"view sales": "of all", "model of quality": "quality:1"}
    add("ranker", "quality:1", definitions=reads)
    add("ranker", "quality:1", "ranker:1", config=continued("ranker:1"), definitions=reads)
    small = continued("ranker:1") | {"quantized": {"of": "ranker:2", "most": 0.01}}
    add("ranker", "quality:1", "ranker:1", "ranker:2", config=small, definitions=reads)
    assert dependents(registry, "quality") == {1: ["ranker:1", "ranker:2", "ranker:3"]}
    assert dependents(registry, "ranker") == {}


def test_what_reads_a_version_and_was_continued_from_it_reads_it(registry: Registry, add: Add) -> None:
    add("ranker")
    add("ranker", "ranker:1", config=continued("ranker:1"), definitions={"model of before": "ranker:1"})
    assert dependents(registry, "ranker") == {1: ["ranker:2"]}


def test_parents_of_which_nothing_is_said_are_read(registry: Registry, add: Add) -> None:
    add("tower")
    add("ranker", "tower:1", config={"continued": True, "quantized": [8]})
    assert dependents(registry, "tower") == {1: ["ranker:1"]}


def test_views_that_only_what_a_champion_was_continued_from_has_read_are_not_needed(
    registry: Registry, add: Add
) -> None:
    add("quality", definitions={"view quality": "q"})
    add("ranker", definitions={"view sales": "old"})
    new = {"view sales": "new", "model of quality": "quality:1"}
    add("ranker", "quality:1", "ranker:1", config=continued("ranker:1"), definitions=new)
    registry.promote("ranker", 2)
    assert views_of_promoted(registry) == {"new": "ranker@champion", "q": "ranker@champion"}
