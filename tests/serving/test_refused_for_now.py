"""What can't be answered now says in how many seconds to ask again, whatever it is and over every protocol."""

from __future__ import annotations

from typing import Any

import echo
import grpc
import msgspec
import pytest
import shop
from test_http import Raw, get

from bedplate.errors import StoreError
from bedplate.http.message import Limits, Request, Response, error_response
from bedplate.serving import finders
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.service_app import App
from bedplate.serving.steps import Recent


def after(response: Any) -> Any:
    return dict(response.headers).get(b"Retry-After")


def test_no_source_of_candidates_answered(registry: Any, features: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App()
    sources = [Recent("customers.bought", 3)]
    app.open(shop.pipeline(registry, features, retrieval=None, candidates=sources, exclude=[], filters=[], top=3))

    def fail(*_: Any) -> Any:
        raise StoreError("the store is gone")

    monkeypatch.setattr(finders.RecentFinder, "find", fail)
    response: Any = app.handle(Request("POST", "/recommend", {}, b'{"customer": 3}'))
    assert (response.status, after(response)) == (503, b"1")
    assert msgspec.json.decode(response.body)["error"] == "no source of candidates answered"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/rank"),
        ("GET", "/"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/ranker/ready"),
        ("POST", "/v2/models/ranker/infer"),
    ],
)
def test_a_service_that_is_loading(method: str, path: str) -> None:
    response: Any = App().handle(Request(method, path, {}, b"{}"))
    assert (response.status, after(response)) == (503, b"1")


@pytest.mark.parametrize(("method", "path"), [("GET", "/healthz"), ("POST", "/v1/features")])
def test_a_feature_server_that_is_loading(method: str, path: str) -> None:
    response: Any = FeatureApp().handle(Request(method, path, {}, b"{}"))
    assert (response.status, after(response)) == (503, b"1")


@pytest.mark.parametrize(
    ("app", "path", "what"),
    [
        (App(), "/rank", "models"),
        (App(), "/v2/models/ranker/infer", "models"),
        (FeatureApp(), "/v1/features", "features"),
    ],
)
def test_what_could_not_be_loaded_and_is_tried_again(app: App | FeatureApp, path: str, what: str) -> None:
    loading: Any = app.handle(Request("POST", path, {}, b"{}"))
    assert f"the {what} are still loading".encode() in loading.body
    app.retry()
    failed: Any = app.handle(Request("POST", path, {}, b"{}"))
    assert (failed.status, after(failed)) == (503, b"1")
    assert f"the {what} can't be loaded".encode() in failed.body


def test_too_many_connections() -> None:
    with shop.running(lambda _: Response(200, b""), limits=Limits(connections=1)) as server, Raw(server) as first:
        first.send(get())
        assert first.response()[0] == 200
        with Raw(server) as second:
            status, headers, _ = second.response()
    assert (status, headers["retry-after"]) == (503, "1")


def test_a_call_over_grpc(pipeline: Any, registry: Any) -> None:
    app, repository = echo.served(registry, pipeline)
    repository.is_open = False
    with echo.running_grpc(app, repository) as target, grpc.insecure_channel(target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=20)
    error: Any = caught.value
    assert (error.code().name, dict(error.trailing_metadata())["retry-after"]) == ("UNAVAILABLE", "1")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 500, 504])
def test_what_asking_again_does_not_help_does_not_say_so(status: int) -> None:
    assert after(error_response(status, "no")) is None
