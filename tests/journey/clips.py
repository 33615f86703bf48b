"""A small project with entity tables, links and a feature made by a model: short videos, their creators, and who plays
them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from bedplate.types import DAY, to_micros

START = to_micros("2026-01-01")
DAYS = 80
VIDEOS, CREATORS, USERS = 40, 6, 30
COUNTRIES = ["de", "fr", "pe"]
TABLES = ("plays", "follows", "videos", "users", "countries")

FEATURES = """
import polars as pl

from bedplate import Count, DerivedFeature, Entity, FeatureView, Last, LastN, Mean, Source
from bedplate.features.links import Link
from bedplate.features.model import ModelFeature

user = Entity("user", key="user_id")
video = Entity("video", key="video_id")
creator = Entity("creator", key="creator_id")
country = Entity("country", key="country")

plays = Source("plays", "data/plays.parquet", time="time")
follows = Source("follows", "data/follows.parquet", time="time")
videos = Source("videos", "data/videos.parquet", time="from", valid_to="to", deleted="gone")
users = Source("users", "data/users.parquet", time="from")
countries = Source("countries", "data/countries.parquet", time="from")

views = [
    FeatureView("played", video, plays, {"n": Count(windows="7d"), "seconds": Mean("seconds", windows="7d")}),
    FeatureView("videos", video, videos, ["creator_id", "length", "title"]),
    FeatureView("users", user, users, ["country"]),
    FeatureView("creators", creator, follows, {"followers": Count(windows="28d")}),
    FeatureView("fans", [user, creator], follows, {"n": Count(), "ways": LastN("way", 2)}),
    FeatureView("countries", country, countries, ["price"]),
]
links = [
    Link("video_creator", "videos.creator_id", creator),
    Link("user_country", "users.country", country),
]
reach = DerivedFeature("reach", pl.col("video_creator.creators.followers_28d") * pl.col("user_country.countries.price"))
quality = ModelFeature(
    "quality",
    model="quality@champion",
    inputs=["played.n_7d", "videos.length", "video_creator.creators.followers_28d", "user_country.countries.price"],
)
surprise = DerivedFeature("surprise", pl.col("quality") - 0.5)
"""

DATASETS = """
from datetime import datetime

import polars as pl
from features import follows, plays, user, video, creator

from bedplate import Count, Dataset, Label, Spine, Sum, TimeSplit

liked = Label("liked", [user, video], plays, Sum("liked"), within="1d", at_least=1)


def spine(first, last):
    when = pl.col("time").is_between(datetime.fromisoformat(first), datetime.fromisoformat(last), closed="left")
    return Spine(plays, request="page", entities=user, item=video, where=when)


early = Dataset(
    "early",
    spine=spine("2026-01-03", "2026-02-05"),
    labels=liked,
    features=["played.*", "videos.length", "video_creator.creators.*", "user_country.*"],
    split=TimeSplit(validation="2026-01-25", test="2026-02-01", gap="1d"),
    batch_items=512,
)
late = Dataset(
    "late",
    spine=spine("2026-02-05", "2026-04-01"),
    labels=liked,
    features=["quality", "surprise", "reach", "video_creator.fans.n", "user_country.*", "played.n_7d"],
    split=TimeSplit(validation="2026-03-01", test="2026-03-10", gap="1d"),
    batch_items=512,
)
"""

TRAIN = """
from bedplate import DCNConfig, Job, LogisticConfig, Number, TrainerConfig

fast = TrainerConfig(epochs=2, metric="log_loss", learning_rate=0.01)
quality_job = Job(
    "quality",
    dataset="early",
    model=DCNConfig(label="liked", layers=(16,), rank=0),
    inputs={
        "played.n_7d": Number(),
        "videos.length": Number(),
        "video_creator.creators.followers_28d": Number(log=True),
        "user_country.countries.price": Number(),
    },
    trainer=fast,
    golden=2,
)
ranker = Job(
    "ranker",
    dataset="late",
    model=LogisticConfig(label="liked"),
    inputs={
        "surprise": Number(),
        "reach": Number(),
        "video_creator.fans.n": Number(),
        "user_country.countries.price": Number(),
        "played.n_7d": Number(),
    },
    trainer=fast,
    golden=2,
)
"""

SERVICE = """
from bedplate import Service

clips = Service("clips", ranking="ranker@champion", item="video")
"""


def _when(days: np.ndarray) -> pl.Series:
    return pl.Series((START + days * DAY).astype(np.int64)).cast(pl.Datetime("us"))


def tables() -> dict[str, pl.DataFrame]:
    """The rows of every table, in order of time."""
    draw = np.random.default_rng(11)
    n = 3000
    video, user = draw.integers(0, VIDEOS, n), draw.integers(0, USERS, n)
    days = np.sort(draw.random(n)) * DAYS
    plays = pl.DataFrame(
        {
            "page": np.arange(n) // 3,
            "user_id": user[np.arange(n) // 3 * 3],
            "video_id": [f"v{i}" for i in video],
            "seconds": np.round(draw.random(n) * 60, 1),
            "liked": (draw.random(n) < 0.1 + 0.6 * (video % 2)).astype(np.int64),
            "time": _when(days),
        }
    )
    m = 900
    follows = pl.DataFrame(
        {
            "user_id": draw.integers(0, USERS, m),
            "creator_id": (draw.random(m) ** 2 * CREATORS).astype(np.int64),
            "way": np.array(["page", "search"])[draw.integers(0, 2, m)],
            "time": _when(np.sort(draw.random(m)) * DAYS),
        }
    )
    k = 4 * VIDEOS
    begin = np.sort(np.concatenate((draw.random(VIDEOS) * 2, draw.random(k - VIDEOS) * DAYS)))
    ends = np.where(draw.random(k) < 0.3, begin + draw.random(k) * 20, np.nan)
    numbers = np.concatenate((draw.permutation(VIDEOS), draw.integers(0, VIDEOS, k - VIDEOS)))
    videos = pl.DataFrame(
        {
            "video_id": [f"v{i}" for i in numbers],
            "creator_id": pl.Series(draw.integers(0, CREATORS, k)).scatter(np.flatnonzero(draw.random(k) < 0.1), None),
            "length": np.round(10 + 50 * draw.random(k)),
            "title": [f"title {i}" for i in range(k)],
            "gone": draw.random(k) < 0.1,
            "from": _when(begin),
            "to": pl.Series([None if np.isnan(e) else int(START + e * DAY) for e in ends]).cast(pl.Datetime("us")),
        }
    )
    u = 2 * USERS
    users = pl.DataFrame(
        {
            "user_id": np.concatenate((np.arange(USERS), draw.integers(0, USERS, USERS))),
            "country": pl.Series(np.array([*COUNTRIES, "xx"])[draw.integers(0, 4, u)]).replace("xx", None),
            "from": _when(np.concatenate((np.zeros(USERS), np.sort(draw.random(USERS)) * DAYS))),
        }
    )
    countries = pl.DataFrame(
        {
            "country": COUNTRIES * 2,
            "price": [1.0, 2.0, 0.5, 1.5, 2.5, 0.25],
            "from": _when(np.array([0, 0, 0, 40, 42, 70.0])),
        }
    )
    found = {"plays": plays, "follows": follows, "videos": videos, "users": users, "countries": countries}
    return {name: found[name] for name in TABLES}


def time_column(frame: pl.DataFrame) -> str:
    """The column of a table's event time."""
    return "time" if "time" in frame.columns else "from"


def make_project(folder: Path) -> Path:
    """Makes the project, with all rows of every table in its data."""
    (folder / "data").mkdir(parents=True)
    for name, frame in tables().items():
        frame.write_parquet(folder / "data" / f"{name}.parquet")
    (folder / "bedplate.toml").write_text('[project]\nname = "clips"\n')
    for name, text in (("features", FEATURES), ("datasets", DATASETS), ("train", TRAIN), ("service", SERVICE)):
        (folder / f"{name}.py").write_text(text)
    return folder
