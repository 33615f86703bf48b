"""KServe's model server, with the Open Inference Protocol's binary tensors and JSON. See peer_scoring.py."""

from __future__ import annotations

import logging

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from peer_scoring import PORT, WORKERS, Scorer

logging.disable(logging.INFO)  # it writes three lines a request otherwise


class Ranker(Model):
    def __init__(self) -> None:
        super().__init__("ranker")
        self.scorer = Scorer()
        self.ready = True

    def load(self) -> bool:
        return True

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        scores = self.scorer.run({i.name: i.as_numpy() for i in payload.inputs})
        output = InferOutput("score", list(scores.shape), "FP32")
        binary = payload.parameters is not None and "binary_data_output" in payload.parameters
        output.set_data_from_numpy(scores, binary_data=binary)
        return InferResponse(payload.id or "0", self.name, [output])


if __name__ == "__main__":
    ModelServer(http_port=PORT, workers=WORKERS, enable_grpc=False, enable_latency_logging=False).start([Ranker()])
