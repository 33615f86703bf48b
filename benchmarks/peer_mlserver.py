"""MLServer, whose REST API takes JSON only: the binary form is base64 in an element of BYTES. See peer_scoring.py."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from peer_scoring import PORT, WORKERS, Scorer


class Ranker(MLModel):
    async def load(self) -> bool:
        self.scorer = Scorer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        first = payload.inputs[0]
        if first.name == "body":
            scores = np.frombuffer(self.scorer.base64(first.data[0], int(first.parameters.length)), np.float32)
        else:
            scores = self.scorer.run({i.name: NumpyCodec.decode_input(i) for i in payload.inputs})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)])


async def main() -> None:
    logging.disable(logging.INFO)
    settings = Settings(
        host="127.0.0.1", http_port=PORT, grpc_port=PORT + 1, metrics_port=PORT + 2, metrics_endpoint=None,
        parallel_workers=WORKERS if WORKERS > 1 else 0, debug=False, access_log=False, use_structured_logging=False,
    )  # fmt: skip
    await MLServer(settings).start([ModelSettings(name="ranker", implementation=Ranker)])


if __name__ == "__main__":
    asyncio.run(main())
