"""Run by Feast's Python for ingest.py: pushes ready feature values into its SQLite online store.

    .venv-feast/bin/python benchmarks/feast_push.py FOLDER COMPARED

FOLDER has push.parquet. Prints the seconds of `push`, by 5,000 rows, after one push that makes everything ready; and
how many of the online values of so many users are not those that were pushed last.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from feast import (  # noqa: E402
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    ValueType,
)
from feast.data_source import PushMode  # noqa: E402
from feast.types import Float64  # noqa: E402

STEP = 5_000


def main(folder: Path, compared: int) -> None:
    config = RepoConfig(
        project="benchmark",
        registry=str(folder / "feast.db"),
        provider="local",
        offline_store={"type": "duckdb"},
        online_store={"type": "sqlite", "path": str(folder / "feast_online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    rows = pd.read_parquet(folder / "push.parquet")
    names = [c for c in rows.columns if c not in ("user", "event_timestamp")]
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    history = FileSource(path=str(folder / "push.parquet"), timestamp_field="event_timestamp")
    pushed = PushSource(name="pushed", batch_source=history)
    schema = [Field(name=n, dtype=Float64) for n in names]
    view = FeatureView(name="rows", entities=[user], ttl=timedelta(days=3650), schema=schema, source=pushed)
    store.apply([user, view])
    store.push("pushed", rows[:10], to=PushMode.ONLINE)
    began = time.perf_counter()
    for first in range(0, len(rows), STEP):
        store.push("pushed", rows[first : first + STEP], to=PushMode.ONLINE)
    seconds = time.perf_counter() - began
    last = rows.groupby("user").last()
    users = np.random.default_rng(2).choice(last.index.to_numpy(), min(compared, len(last)), replace=False)
    asked = [{"user": int(u)} for u in users]
    found = store.get_online_features([f"rows:{n}" for n in names], asked).to_df()
    wrong = int((found[names].to_numpy(float) != last.loc[found["user"], names].to_numpy(float)).sum())
    print(json.dumps({"seconds": seconds, "events": len(rows), "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
