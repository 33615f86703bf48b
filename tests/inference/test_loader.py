"""A version is loaded once for all who need it."""

from __future__ import annotations

from pathlib import Path

import pytest
import shop

from bedplate.errors import ConfigError, NotFoundError
from bedplate.features.graph import FeatureGraph
from bedplate.inference.artifact import load_artifact
from bedplate.inference.loader import Loader
from bedplate.oip.model_config import model_config
from bedplate.process import MOST_PER_CORE, cores
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
from bedplate.serving.load import load_pipeline


def test_a_version_is_loaded_once_and_closed_by_the_last(registry: Registry) -> None:
    loader = Loader(registry)
    first, second = loader.load("ranker@champion"), loader.load("ranker:1")
    assert first is second
    assert loader.loaded == ("ranker:1",)
    loader.release(first)
    assert loader.load("ranker") is first
    loader.release(first)
    loader.release(first)
    assert loader.loaded == ()
    loader.release(first)  # once too often does nothing
    assert loader.load("ranker:1") is not first


def test_more_threads_than_the_machine_can_bear_are_refused(registry: Registry) -> None:
    most = MOST_PER_CORE * cores()
    assert Loader(registry, most).loaded == ()
    for refused in (
        lambda: Loader(registry, most + 1),
        lambda: load_artifact(registry.get("ranker:1"), most + 1),
    ):
        with pytest.raises(
            ConfigError, match=rf"the number of threads is {most + 1}, expected at most {most}: 8 for each"
        ):
            refused()


def test_several_versions_are_loaded_at_once(tmp_path: Path, features: FeatureGraph) -> None:
    registry = shop.register(tmp_path, features)
    shop.write_ranker(tmp_path / "other", features, scale=2.0)
    facts = gather(tmp_path, definitions={}, sources={}, config={}, seeds={}, metrics={})
    registry.register("ranker", tmp_path / "other", manifest=facts)
    loader = Loader(registry)
    one, two = loader.load("ranker:1"), loader.load("ranker:2")
    assert loader.loaded == ("ranker:1", "ranker:2")
    assert [a.model.version for a in (one, two)] == ["1", "2"]


def test_a_version_that_is_not_there_is_not_held(registry: Registry) -> None:
    loader = Loader(registry)
    with pytest.raises(NotFoundError):
        loader.load("ranker:9")
    assert loader.loaded == ()


def test_a_pipeline_shares_what_is_loaded(registry: Registry, features: FeatureGraph) -> None:
    loader = Loader(registry)
    held = loader.load("ranker@champion")
    pipeline = load_pipeline(
        shop.service(), features, shop.Oracle(features), registry, clock=lambda: shop.NOW, loader=loader
    )
    assert pipeline.models["ranking"] is held


def test_what_is_decided_about_sharing_calls_is_said(registry: Registry) -> None:
    said: list[str] = []
    model = Loader(registry, delay=0.001, say=said.append).load("ranker:1").model
    assert (model.batcher is not None) == ("requests share a call" in model.calls)
    assert said == ([] if model.batcher is None else [f"model 'ranker:1': {model.calls}"])
    assert model_config(model, ["1"])["parameters"] == {"calls": {"string_value": model.calls}}


def test_nothing_is_shared_where_no_request_may_wait(registry: Registry) -> None:
    said: list[str] = []
    artifact = Loader(registry, say=said.append).load("ranker:1")
    assert artifact.model.batcher is None
    assert not artifact.model.calls
    assert not said
