"""A small project whose data grows day by day, to be trained again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

DAY = 86_400_000_000
BEGIN = 1_767_225_600_000_000

FEATURES = """
from bedplate import Count, Dataset, Entity, FeatureView, Label, Source, Spine, Sum
from bedplate.datasets.rolling import RollingSplit

plays = Source("plays", "plays.parquet", time="time", delay="1m")
user, video = Entity("user", key="user"), Entity("video", key="video")
users = FeatureView("users", user, plays, {"likes": Sum("liked", windows="28d"), "n": Count(windows="28d")})
videos = FeatureView("videos", video, plays, {"likes": Sum("liked", windows="28d"), "n": Count(windows="28d")})
pages = Dataset(
    "pages",
    spine=Spine(plays, request="page", entities=user, item=video),
    labels=Label("liked", [user, video], plays, Sum("liked"), within="1m", at_least=1),
    features=[users, videos],
    split=RollingSplit(validation="8d", test="8d", gap="1d"),
    batch_requests=100,
)
"""

TRAIN = """
from features import pages
from bedplate import Category, DCNConfig, Job, Number, TrainerConfig

amount = Number(log=True)
inputs = {"candidate": Category(), "users.likes_28d": amount, "users.n_28d": amount}
inputs |= {"videos.likes_28d": amount, "videos.n_28d": amount}
quick = TrainerConfig(epochs=2, metric="log_loss", learning_rate=0.01)
small = DCNConfig("liked", layers=(8,), rank=4, embedding=4)
ranker = Job("ranker", dataset=pages, model=small, inputs=inputs, trainer=quick)
"""

OWN = """
from typing import ClassVar
import numpy as np
from torch import nn
from features import pages
from bedplate import Category, Job, Number, TrainerConfig
from bedplate.layers.inputs import InputVectors
from bedplate.models.base import Model, seeded
from bedplate.models.config import ModelConfig
from bedplate.training.search import Choice, Search


class Stars(Model):
    class Config(ModelConfig, frozen=True):
        metrics: ClassVar[tuple[str, ...]] = ("rmse", "log_loss")
        directions: ClassVar[dict[str, str]] = {"rmse": "lower"}

    def __init__(self, config, layout):
        super().__init__(config, layout)
        with seeded(config.seed):
            self.vectors = InputVectors(layout, 4)
            self.net = nn.Linear(self.vectors.request_width + self.vectors.item_width, 1)

    def forward(self, batch):
        return {"score": self.net(self.vectors.rows(batch)).squeeze(1)}

    def loss(self, outputs, batch):
        return (outputs["score"] - batch.label("liked")).pow(2).mean()

    def metrics(self, prediction):
        error = prediction.scores - prediction.labels["liked"]
        return {"rmse": float(np.sqrt((error**2).mean())), "log_loss": float(np.abs(error).mean())}


amount = Number(log=True)
inputs = {"candidate": Category(), "videos.likes_28d": amount, "videos.n_28d": amount}
quick = TrainerConfig(epochs=2, metric="rmse", learning_rate=0.01)
ranker = Job("ranker", dataset=pages, model=Stars.Config("liked"), inputs=inputs, trainer=quick)
rates = {"trainer.learning_rate": Choice((1e-9, 2e-2)), "trainer.embedding_learning_rate": Choice((1e-9, 5e-2))}
wider = Search("wider", job=ranker, space=rates, trials=4, pruner="none")
"""
"""A model of a label that is not 0 or 1, judged by metrics of its own."""


def plays(days: int, seed: int = 0, noise: float = 0.0) -> pl.DataFrame:
    """50 requests a day; every two weeks videos come that were never seen before."""
    parts: list[pl.DataFrame] = []
    for day in range(days):
        rng, n = np.random.default_rng([seed, day]), 50
        video = rng.integers(0, 20, n) + 2 * (day // 14)
        liked = (rng.random(n) < np.where(rng.random(n) < noise, 0.5, 0.05 + 0.9 * (video % 4 == 0))).astype(int)
        times = BEGIN + day * DAY + np.sort(rng.integers(0, DAY, n))
        page, user = day * n + np.arange(n), rng.integers(0, 30, n)
        parts.append(pl.DataFrame({"page": page, "user": user, "video": video, "liked": liked, "time": times}))
    return pl.concat(parts)


def write(folder: Path, days: int, **data: float) -> None:
    """Puts so many days of data in place of what is there."""
    aside = folder / "plays.parquet.new"
    plays(days, **data).write_parquet(aside)  # pyright: ignore[reportArgumentType]
    aside.replace(folder / "plays.parquet")


def make(folder: Path, days: int, train: str = TRAIN) -> Path:
    """The project in a new folder."""
    folder.mkdir()
    (folder / "bedplate.toml").touch()
    (folder / "features.py").write_text(FEATURES)
    (folder / "train.py").write_text(train)
    write(folder, days)
    return folder


def with_seen(folder: Path, days: int, gap: tuple[int, int]) -> None:
    """Adds an input of users that is null on the days from the first to before the second of a gap."""
    counts = '"n": Count(windows="28d")})'
    features = FEATURES.replace(counts, '"n": Count(windows="28d"), "seen": Last("seen", windows="2d")})', 1)
    (folder / "features.py").write_text(features.replace("import Count", "import Count, Last"))
    (folder / "train.py").write_text(TRAIN.replace("inputs |=", 'inputs["users.seen_2d"] = amount\ninputs |=', 1))
    first, last = (BEGIN + day * DAY for day in gap)
    known = pl.when((pl.col("time") < first) | (pl.col("time") >= last)).then(pl.col("user") * 1.5)
    plays(days).with_columns(seen=known).write_parquet(folder / "plays.parquet")
