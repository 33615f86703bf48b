"""BentoML: an ASGI application mounted in its service as binary form, its own API of arrays as JSON.

See peer_scoring.py. Run by `bentoml serve peer_bentoml:Ranker`.
"""

import bentoml
import numpy as np
from peer_scoring import WORKERS, Scorer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

app = Starlette()


@bentoml.service(workers=WORKERS, logging={"access": {"enabled": False}}, metrics={"enabled": False})
@bentoml.asgi_app(app, path="/raw")
class Ranker:
    def __init__(self) -> None:
        self.scorer = Scorer()
        app.routes.append(Route("/binary", self.binary, methods=["POST"]))

    async def binary(self, request: Request) -> Response:
        length = int(request.headers["inference-header-content-length"])
        return Response(self.scorer.binary(await request.body(), length), media_type="application/octet-stream")

    @bentoml.api
    def columns(
        self,
        request_dense: np.ndarray,
        request_ids: np.ndarray,
        item_dense: np.ndarray,
        item_ids: np.ndarray,
        request_of_item: np.ndarray,
    ) -> np.ndarray:
        names = ("request_dense", "request_ids", "item_dense", "item_ids", "request_of_item")
        arrays = (request_dense, request_ids, item_dense, item_ids, request_of_item)
        return self.scorer.run(dict(zip(names, arrays, strict=True)))
