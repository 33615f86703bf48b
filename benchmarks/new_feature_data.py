"""Events, labelled rows and the model of `new_feature_train.py`, for the wide tables and for Bedplate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from bedplate.types import DAY

START = 1_700_006_400_000_000
SPLITS = (START + 45 * DAY, START + 50 * DAY)
"""Where validation and test begin."""
ITEMS, EMBEDDING, LAYERS, BATCH, RATE, EPOCHS = 50_000, 16, (64, 64), 4096, 2e-3, 1
"""Of every model: standardised numbers and an id of the item, two layers, Adam or what the trainer has by default."""
TOTALS = {
    "n": ("count(*)", pl.col("user").is_not_null().cast(pl.Int64)),
    "spent": ("sum(price)", pl.col("price")),
    "buys": ("count(*) FILTER (kind = 2)", (pl.col("kind") == 2).cast(pl.Int64)),
    "quantity": ("sum(quantity)", pl.col("quantity")),
}
"""What wide tables add up over events, as SQL and for Polars."""
THERE = {f"n_{w}": ("n", w) for w in ("1d", "7d", "30d")} | {f"spent_{w}": ("spent", w) for w in ("1d", "7d", "30d")}
THERE |= {"price_7d": ("price", "7d"), "price_30d": ("price", "30d"), "buys_7d": ("buys", "7d")}
NEW = {"quantity_7d": ("quantity", "7d"), "quantity_30d": ("quantity", "30d")}
"""The running total (of `price`: spent over n) and the window of each feature."""

FEATURES = """
import polars as pl
from bedplate import Count, Dataset, Entity, FeatureView, Label, Mean, Source, Spine, Sum, TimeSplit

user, item = Entity("user", key="user"), Entity("item", key="item")
events = Source("events", "events.parquet", time="time")
rows = Source("rows", "rows.parquet", time="time")
users = FeatureView("users", user, events, {
    "n": Count(windows=["1d", "7d", "30d"]),
    "spent": Sum("price", windows=["1d", "7d", "30d"]),
    "price": Mean("price", windows=["7d", "30d"]),
    "buys": Count(windows="7d", where=pl.col("kind") == 2),
    # NEW
})
training = Dataset(
    "training", spine=Spine(rows, request="row", entities=user, item=item),
    labels=Label("label", item, rows, Sum("label"), within="1s", request="row", at_least=1),
    features=["users.*"], split=TimeSplit(VALIDATION, TEST, gap="1s"), batch_requests=BATCH)
"""
EDIT = ("# NEW", '"quantity": Sum("quantity", windows=["7d", "30d"]),')
JOB = """
import itertools

import torch
from features import training
from torch import nn

from bedplate import Category, Job, Number, TrainerConfig
from bedplate.layers.embedding import FusedEmbedding
from bedplate.models.base import seeded
from bedplate.models.binary import BinaryModel, probability
from bedplate.models.config import BinaryConfig


class Ranker(BinaryModel):
    class Config(BinaryConfig, frozen=True):
        embedding: int = EMBEDDING
        layers: tuple[int, ...] = LAYERS

    def __init__(self, config, layout):
        super().__init__(config, layout)
        with seeded(config.seed):
            self.table = FusedEmbedding(layout.rows, config.embedding)
            widths = (layout.request_dense + config.embedding, *config.layers)
            parts = [p for a, b in itertools.pairwise(widths) for p in (nn.Linear(a, b), nn.ReLU())]
            self.deep = nn.Sequential(*parts, nn.Linear(widths[-1], 1))

    def forward(self, batch):
        numbers = batch["request_dense"].index_select(0, batch["request_of_item"])
        logit = self.deep(torch.cat((numbers, self.table(batch["item_ids"]).flatten(1)), dim=1)).squeeze(1)
        return {"logit": logit, "score": probability(logit)}


ranker = Job(
    "ranker", dataset=training, model=Ranker.Config("label"),
    inputs={"candidate": Category()} | {f"users.{n}": Number(log=True) for n in VALUES},
    trainer=TrainerConfig(epochs=EPOCHS, learning_rate=RATE, weight_decay=0.0))
"""


def files(*, is_new: bool) -> dict[str, str]:
    """The project's definitions by file, without or with the new feature."""
    features = FEATURES.replace("VALIDATION", str(SPLITS[0])).replace("TEST", str(SPLITS[1]))
    features = features.replace("BATCH", str(BATCH))
    values = [*THERE, *(NEW if is_new else {})]
    job = JOB.replace("VALUES", repr(values)).replace("LAYERS", repr(LAYERS)).replace("EPOCHS", str(EPOCHS))
    job = job.replace("= EMBEDDING", f"= {EMBEDDING}").replace("RATE", str(RATE))
    return {"features.py": features.replace(*EDIT) if is_new else features, "train.py": job}


def write(folder: Path, events: int, labels: int, users: int) -> None:
    """Writes `events.parquet` and `rows.parquet`; a user's label goes with how much it buys at once, and the item."""
    draw = np.random.default_rng(1)
    weights = draw.pareto(1.2, users) + 1
    weights /= weights.sum()
    user, many = draw.choice(users, events, p=weights), draw.random(users)
    pl.DataFrame(
        {
            "user": user,
            "item": draw.integers(0, ITEMS, events),
            "time": np.sort(START + draw.integers(0, 60 * DAY, events)),
            "price": np.round(draw.gamma(2.0, 20.0, events), 2),
            "quantity": 1 + draw.poisson(4 * many[user]),
            "kind": draw.integers(0, 3, events),
        }
    ).write_parquet(folder / "events.parquet")
    user, item = draw.choice(users, labels, p=weights), draw.integers(0, ITEMS, labels)
    liked = 5 * (many[user] - 0.5) + 0.5 * draw.normal(size=ITEMS)[item]
    pl.DataFrame(
        {
            "row": np.arange(labels),
            "user": user,
            "item": item,
            "time": np.sort(START + draw.integers(10 * DAY, 60 * DAY, labels)),
            "label": (draw.random(labels) < 1 / (1 + np.exp(-liked))).astype(np.int64),
        }
    ).write_parquet(folder / "rows.parquet")
