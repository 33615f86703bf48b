"""Run by Feast's Python for feature_server.py: an online store in SQLite, filled, for `feast serve`.

    .venv-feast/bin/python benchmarks/feast_online.py FOLDER FEATURES

FOLDER has rows.parquet: a row a user with `user`, `event_timestamp` and the features. Makes FOLDER/repo.
"""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from pathlib import Path

warnings.simplefilter("ignore")

import pandas as pd  # noqa: E402
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType  # noqa: E402
from feast.types import Float64  # noqa: E402

CONFIG = """
project: benchmark
registry: registry.db
provider: local
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""


def main(folder: Path, features: int) -> None:
    repo = folder / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(CONFIG)
    store = FeatureStore(repo_path=str(repo))
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    view = FeatureView(
        name="rows",
        entities=[user],
        ttl=timedelta(days=3650),
        schema=[Field(name=f"f{i}", dtype=Float64) for i in range(features)],
        source=FileSource(path=str(folder / "rows.parquet"), timestamp_field="event_timestamp"),
    )
    store.apply([user, view])
    store.write_to_online_store("rows", df=pd.read_parquet(folder / "rows.parquet"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
