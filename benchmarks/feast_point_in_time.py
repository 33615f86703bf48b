"""Run by Feast's Python for point_in_time.py: a training set from one of its offline stores.

    .venv-feast/bin/python benchmarks/feast_point_in_time.py FOLDER STORE FEATURES

FOLDER has rows.parquet and labels.parquet; STORE is `dask` (Feast's default) or `duckdb`. Writes STORE.parquet there,
and prints seconds of importing and of the work, and the peak of memory.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

warnings.simplefilter("ignore")
began = time.perf_counter()

import pandas as pd  # noqa: E402
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig  # noqa: E402
from feast.types import Float64  # noqa: E402

IMPORTED = time.perf_counter() - began


def main(folder: Path, engine: str, features: int) -> None:
    from record import peak_bytes

    config = RepoConfig(
        project="benchmark",
        registry=str(folder / f"{engine}.db"),
        provider="local",
        offline_store={"type": engine},
        online_store=None,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    user = Entity(name="user", join_keys=["user"])
    view = FeatureView(
        name="rows",
        entities=[user],
        ttl=timedelta(days=365),
        schema=[Field(name=f"f{i}", dtype=Float64) for i in range(features)],
        source=FileSource(path=str(folder / "rows.parquet"), timestamp_field="event_timestamp"),
    )
    store.apply([user, view])
    began = time.perf_counter()
    labels = pd.read_parquet(folder / "labels.parquet")
    found = store.get_historical_features(labels, features=[f"rows:f{i}" for i in range(features)]).to_df()
    seconds = time.perf_counter() - began
    found.to_parquet(folder / f"{engine}.parquet")
    print(json.dumps({"import_s": IMPORTED, "seconds": seconds, "peak_bytes": peak_bytes(), "rows": len(found)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
