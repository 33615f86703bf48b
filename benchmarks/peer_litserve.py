"""LitServe, which takes JSON only: the binary form is base64 in it. See peer_scoring.py."""

from __future__ import annotations

from typing import Any

import litserve
from peer_scoring import PORT, WORKERS, Scorer


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.scorer = Scorer()

    def predict(self, given: dict[str, Any]) -> dict[str, Any]:
        if "body" in given:
            import base64

            return {"body": base64.b64encode(self.scorer.base64(given["body"], given["length"])).decode()}
        return {"scores": self.scorer.columns(given)}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(port=PORT, generate_client_file=False, log_level="error", access_log=False)
