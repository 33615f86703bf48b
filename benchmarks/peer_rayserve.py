"""Ray Serve: a raw body as binary form, JSON as lists. RAY_SERVE_ENABLE_HA_PROXY=1 turns its HAProxy mode on.

See peer_scoring.py.
"""

from __future__ import annotations

import os
import signal

from peer_scoring import PORT, WORKERS, Scorer

# HAProxy's own ports, free ones, so that two servers can run beside each other.
os.environ |= {"RAY_SERVE_HAPROXY_METRICS_PORT": str(PORT + 1), "RAY_SERVE_HAPROXY_STATS_PORT": str(PORT + 2)}

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5})
class Ranker:
    def __init__(self) -> None:
        self.scorer = Scorer()

    async def __call__(self, request: Request) -> Response:
        length = request.headers.get("inference-header-content-length")
        if length is None:
            return JSONResponse({"scores": self.scorer.columns(await request.json())})
        body = self.scorer.binary(await request.body(), int(length))
        return Response(body, media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Ranker.bind())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
