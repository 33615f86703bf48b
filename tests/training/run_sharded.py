"""A process of a training with sharded tables: its arguments are those of `run_parallel.py`."""

from __future__ import annotations

import json
import sys

import run_parallel
import torch
from torch import nn

from bedplate.layers.embedding import FusedEmbedding
from bedplate.layers.inputs import InputVectors
from bedplate.models.base import seeded
from bedplate.models.binary import BinaryModel
from bedplate.models.config import BinaryConfig
from bedplate.training.sharding import ShardedTables


class Tables(BinaryModel):
    """Tables: looked up several times, under two names, not trained, not read; `wrong` is what can't be sharded."""

    class Config(BinaryConfig, frozen=True):
        wrong: str = ""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self.wrong = config.wrong
        with seeded(config.seed):
            self.vectors = InputVectors(layout, 4)
            width, rows = (3 if self.wrong == "width" else 8), (1 if self.wrong == "rows" else layout.rows)
            self.more = FusedEmbedding(rows, width)
            self.again = self.more
            self.fixed = FusedEmbedding(layout.rows, 4).requires_grad_(False)
            self.unused = FusedEmbedding(50, 4)
            if self.wrong == "tied":
                self.unused.weight = self.vectors.embedding.weight
            self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        ids = batch["item_ids"]
        more = self.more(ids + 1 if self.wrong == "other" else ids) + self.again(ids) ** 2
        read = self.more.weight[0].sum() if self.wrong == "reading" else 0.0
        return {
            "logit": self.vectors.rows(batch).sum(dim=1)
            + (more.flatten(1).sum(dim=1) + self.bias) * (1 + self.fixed(ids).flatten(1).sum(dim=1))
            + read
        }

    def loss(self, outputs, batch):
        penalty = self.more.weight.square().sum() if self.wrong == "penalty" else 0.0
        return super().loss(outputs, batch) + penalty


WRONG = "width", "rows", "other", "reading", "penalty", "tied"
EXPLODING = {"embedding_learning_rate": 3e38}
PLAIN = Tables.Config("label")
run_parallel.JOBS |= {
    "tables": (Tables, PLAIN, {"warmup": 3}, run_parallel.Uneven(5)),
    "three": (Tables, PLAIN, {"accumulate": 3}, run_parallel.Uneven(5)),
    **{f"wrong {w}": (Tables, Tables.Config("label", wrong=w), {}, run_parallel.Source(3)) for w in WRONG},
    "exploding": (Tables, PLAIN, EXPLODING | {"checkpoint_every": 9}, run_parallel.Source(3)),
    "exploding, saved": (Tables, PLAIN, EXPLODING, run_parallel.Source(3)),
    "wrong compiled": (Tables, PLAIN, {"compile": "eager"}, run_parallel.Source(3)),
}
TOGETHER = [name for name in run_parallel.JOBS if name not in ("slow", "hung", *run_parallel.WRONG)]


def shard(model, config, folder, operation):
    """Sharded tables; how many rows this process has of each is written down."""
    tables = ShardedTables(model, config, folder, operation)
    (folder / f"rows-{torch.distributed.get_rank()}").write_text(
        json.dumps({name: len(one.weights) for name, one in tables._shards.items()})
    )
    return tables


if __name__ == "__main__":
    sys.exit(run_parallel.main(*sys.argv[1:], shard=shard))
