"""DeepFM (Guo et al. 2017) on seven ids, one fused table, as a model of a project's own."""

import itertools

import torch
from ctr_data import EMBEDDING, LAYERS, RATE
from features import ctr
from torch import nn

from bedplate import Category, Job, TrainerConfig
from bedplate.layers.embedding import FusedEmbedding
from bedplate.layers.factorization import pair_sum
from bedplate.models.base import seeded
from bedplate.models.binary import BinaryModel, probability
from bedplate.models.config import BinaryConfig


class DeepFM(BinaryModel):
    class Config(BinaryConfig, frozen=True):
        embedding: int = EMBEDDING
        layers: tuple[int, ...] = LAYERS

    def __init__(self, config, layout):
        super().__init__(config, layout)
        fields = layout.request_ids + layout.item_ids
        with seeded(config.seed):
            self.table = FusedEmbedding(layout.rows, config.embedding + 1)  # the last column is of the first order
            widths = (config.embedding * fields, *config.layers)
            parts = [p for a, b in itertools.pairwise(widths) for p in (nn.Linear(a, b), nn.ReLU())]
            self.deep = nn.Sequential(*parts, nn.Linear(widths[-1], 1))

    def forward(self, batch):
        of_request = batch["request_ids"].index_select(0, batch["request_of_item"])
        found = self.table(torch.cat((of_request, batch["item_ids"]), dim=1))
        vectors, first = found.split((found.shape[-1] - 1, 1), dim=-1)
        flat = vectors.flatten(1)
        logit = first.sum(dim=(1, 2)) + pair_sum(flat.view(vectors.shape)) + self.deep(flat).squeeze(1)
        return {"logit": logit, "score": probability(logit)}


columns = ("users.user", "users.age", "users.gender", "users.occupation", "items.genre", "items.decade")
job = Job(
    "deepfm",
    dataset=ctr,
    model=DeepFM.Config("label"),
    inputs={"candidate": Category()} | {c: Category() for c in columns},
    trainer=TrainerConfig(epochs=1, learning_rate=RATE, weight_decay=0.0, patience=99, checkpoint_every=10**9),
)
