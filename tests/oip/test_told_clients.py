"""What clients are told of errors, over HTTP and gRPC: their own words whole, and no paths of the server."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import echo
import pytest
import shop
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from bedplate.errors import ArtifactError, BedplateError, DataError, NotFoundError, StoreError
from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request, Response
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.registry.registry import Registry
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.load import load_pipeline
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App

URL = "https://shop.example/p/17"
NAMED = "/srv/a/b"
SOON = 10**15


def problem(app: App | FeatureApp, path: str, **body: Any) -> tuple[int, str, str | None]:
    """The status, the error and the hint of an answer that comes at once."""
    method = "POST" if body else "GET"
    answer = app.handle(Request(method, path, {}, json.dumps(body).encode() if body else b""))
    assert isinstance(answer, Response)
    said = json.loads(answer.body)
    return answer.status, said["error"], said.get("hint")


@pytest.mark.parametrize("made", [App, lambda: FeatureApp(has_tokens=False)])
def test_an_unknown_path_is_quoted_whole_and_so_is_the_nearest_one(made: Callable[[], App | FeatureApp]) -> None:
    app = made()
    known = "/v1/features" if isinstance(app, FeatureApp) else "/v2/health/ready"
    assert problem(app, f"/base{known}") == (404, f"no path '/base{known}'", f"did you mean '{known}'?")
    _, error, hint = problem(app, "/base/" + "a" * 100_000)
    assert (len(error) < 1100, error.endswith("a...'"), hint is not None) == (True, True, True)


def test_keys_that_are_urls_are_quoted_whole(app: App) -> None:
    assert problem(app, "/similar", item=URL) == (404, f"the index has no item '{URL}'", None)


def test_models_that_are_named_like_paths_are_quoted_whole(pipeline: Pipeline, registry: Registry) -> None:
    application, repository = echo.served(registry, pipeline)
    with echo.running_grpc(application, repository) as target, triton.InferenceServerClient(target) as client:
        for call, said in (
            (lambda: client.get_model_metadata(NAMED), f"no model '{NAMED}' is served"),
            (lambda: client.get_model_metadata("echo", NAMED), f"version '{NAMED}' of model 'echo' is not served"),
            (lambda: client.load_model(NAMED), f"the registry has no model '{NAMED}'"),
        ):
            with pytest.raises(InferenceServerException, match=r"StatusCode\.NOT_FOUND") as caught:
                call()
            assert said in str(caught.value)


class Shelf:
    """Fails to give any model, with what it is told. Satisfies `ModelSource`."""

    def __init__(self, error: BedplateError) -> None:
        self.error, self.is_listed = error, True

    def versions(self) -> Mapping[str, Sequence[str]]:
        if not self.is_listed:
            raise StoreError(self.error.message, where=self.error.where, hint=self.error.hint)
        return {"m": ["1"]}

    def default(self, name: str) -> str:
        return "1"

    def load(self, name: str, version: str) -> Model:
        raise self.error

    def release(self, model: Model) -> None:
        raise AssertionError(model.name)


class Trouble(shop.Oracle):
    """A store that fails at one time."""

    def __init__(self, features: FeatureGraph, error: BedplateError) -> None:
        super().__init__(features)
        self.error = error

    def read(self, view: Any, names: Any, keys: Any, times: Any) -> Any:
        if times[0] == SOON:
            raise self.error
        return super().read(view, names, keys, times)


@pytest.fixture(params=["project", "registry", "temporary"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry) -> Iterator[str]:
    """A folder of the server's: of the project, of the registry, and for what is temporary."""
    with tempfile.TemporaryDirectory(prefix="bedplate-") as temporary:
        places = {"project": tmp_path, "registry": registry.root / "models", "temporary": Path(temporary)}
        yield str(places[request.param])


@pytest.mark.parametrize("kind", [ArtifactError, DataError, NotFoundError, StoreError])
def test_no_folder_of_the_server_reaches_a_client(
    folder: str, kind: type[BedplateError], registry: Registry, features: FeatureGraph
) -> None:
    def error() -> BedplateError:
        text = f"can't read '{folder}/part 1/data.bin', nor file:{folder}/other"
        return kind(text, where=f"{folder}/graph.onnx", hint=f"restore {folder}/data.bin")

    shelf = Shelf(error())
    repository = Repository(shelf, is_controlled=True)
    app = App(repository)
    app.open(load_pipeline(shop.service(), features, Trouble(features, error()), registry, clock=lambda: shop.NOW))
    told = [
        str(problem(app, path, customer=3, time=SOON, **more))
        for path, more in (
            ("/rank", {"candidates": ["P01"]}),
            ("/recommend", {}),
            ("/embed", {}),
        )
    ]
    with shop.running(app.handle) as server:
        told += [asked(server, path) for path in ("models/m/load", "index")]
        shelf.is_listed = False
        told.append(asked(server, "index"))
        shelf.is_listed = True
    with echo.running_grpc(app, repository) as target, triton.InferenceServerClient(target) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("m")
        told += [str(caught.value), str(client.get_model_repository_index())]
        shelf.is_listed = False
        with pytest.raises(InferenceServerException) as caught:
            client.get_model_repository_index()
        told.append(str(caught.value))
    assert all(".../" in text for text in told), told
    assert not any(folder in text or "part 1" in text for text in told), told


def asked(server: Any, path: str) -> str:
    """What is answered of a model repository, as text."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", f"/v2/repository/{path}", b"{}")
    text = connection.getresponse().read().decode()
    connection.close()
    return text
