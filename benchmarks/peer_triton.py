"""A model of Triton's python backend: tensors to the graph of peer_scoring.py, and its scores back."""

from __future__ import annotations

import triton_python_backend_utils as utils
from peer_scoring import Scorer


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.scorer = Scorer()

    def execute(self, requests: list) -> list:
        answers = []
        for request in requests:
            tensors = {i.name(): i.as_numpy() for i in request.inputs()}
            answers.append(utils.InferenceResponse([utils.Tensor("score", self.scorer.run(tensors))]))
        return answers
