"""Run by Feast's Python for materialize.py: fills its online store.

    .venv-feast/bin/python benchmarks/feast_materialize.py FOLDER COMPARED STORE

FOLDER has feast.parquet; STORE is the `online_store` of feature_store.yaml, as JSON. Writes the online values of so
many keys to feast_values.parquet there, and prints the seconds of `materialize`, after one of an hour of events that
makes everything ready.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType  # noqa: E402
from feast.types import Float64  # noqa: E402

BEGIN = datetime.fromtimestamp(1_700_006_400, UTC)


def main(folder: Path, compared: int, store_config: dict[str, str]) -> None:
    config = RepoConfig(
        project="benchmark",
        registry=str(folder / f"feast-{store_config['type']}.db"),
        provider="local",
        offline_store={"type": "duckdb"},
        online_store=store_config,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    names = [f"f{i}" for i in range(10)]
    view = FeatureView(
        name="rows",
        entities=[user],
        ttl=timedelta(days=365),
        schema=[Field(name=n, dtype=Float64) for n in names],
        source=FileSource(path=str(folder / "feast.parquet"), timestamp_field="event_timestamp"),
    )
    store.apply([user, view])
    store.materialize(BEGIN, BEGIN + timedelta(hours=1))
    began = time.perf_counter()
    store.materialize(BEGIN, BEGIN + timedelta(days=60))
    seconds = time.perf_counter() - began
    rows = len(pd.read_parquet(folder / "feast.parquet", columns=["user"]))
    users = np.random.default_rng(2).choice(rows, min(compared, rows), replace=False)
    asked = [{"user": int(u)} for u in users]
    found = store.get_online_features([f"rows:{n}" for n in names], asked).to_df()
    found[["user", *names]].to_parquet(folder / "feast_values.parquet")
    print(json.dumps({"seconds": seconds, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
