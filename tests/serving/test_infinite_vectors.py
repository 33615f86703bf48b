"""A request whose vector holds NaN or infinity is not answered with whatever items stand first in memory."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import shop

from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request, Response
from bedplate.inference.artifact import Artifact
from bedplate.registry.registry import Registry
from bedplate.serving.finders import QUERY
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App
from bedplate.serving.steps import Popular, Retrieval

OPEN: dict[str, Any] = {"exclude": [], "filters": []}


@pytest.fixture(params=[np.nan, np.inf])
def damaged(
    request: pytest.FixtureRequest, several: Pipeline, alone: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Query towers give one number that is none, once the service has started."""
    usual = Artifact.run

    def run(self: Artifact, batch: Any, output: str) -> Any:
        found = usual(self, batch, output)
        if output == QUERY:
            found[:, 1] = request.param
        return found

    monkeypatch.setattr(Artifact, "run", run)


def ask(pipeline: Pipeline, path: str, accept: bytes = b"*/*", **asked: Any) -> Response:
    app = App()
    app.open(pipeline)
    answer = app.handle(Request("POST", path, {b"accept": accept}, msgspec.json.encode(asked)))
    assert isinstance(answer, Response)
    return answer


@pytest.fixture
def several(registry: Registry, features: FeatureGraph) -> Pipeline:
    sources = [Popular("products.sold", count=4), Retrieval("towers@champion", count=8)]
    return shop.pipeline(registry, features, retrieval=None, candidates=sources, **OPEN)


@pytest.fixture
def alone(registry: Registry, features: FeatureGraph) -> Pipeline:
    return shop.pipeline(registry, features, **OPEN)


def test_the_other_sources_bring_candidates_and_the_answer_says_so(several: Pipeline, damaged: None) -> None:
    answer = msgspec.json.decode(ask(several, "/recommend", customer=3, count=12).body)
    assert set(answer["sources"]) == {"popular"}
    assert len(answer["ids"]) == 4
    assert answer["degraded"]["step.candidates"]["why"] == "retrieval: not finite"


def test_where_there_is_no_other_source_it_is_an_error_that_asking_again_does_not_help(
    alone: Pipeline, damaged: None
) -> None:
    answer = ask(alone, "/recommend", customer=3)
    assert answer.status == 500
    assert b"Retry-After" not in dict(answer.headers)
    found = msgspec.json.decode(answer.body)
    assert found["error"] == "the vector of the request holds NaN or infinity, expected finite numbers"
    assert found["where"].startswith("model 'towers")


def test_embed_gives_no_vector_and_says_why(alone: Pipeline, damaged: None) -> None:
    answer = msgspec.json.decode(ask(alone, "/embed", customer=3).body)
    assert answer["vectors"] == [None]
    assert answer["degraded"]["step.embed"]["why"] == "not finite"
    arrow = ask(alone, "/embed", b"application/vnd.apache.arrow.stream", customer=3)
    frame = pl.read_ipc_stream(io.BytesIO(arrow.body))
    assert frame.schema == {"vector": pl.List(pl.Float32)}
    assert frame["vector"].to_list() == [None]
