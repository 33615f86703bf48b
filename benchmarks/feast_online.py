"""Run by Feast's Python for feature_server.py and online_feast.py: online stores, filled, and reads of them by the SDK.

    .venv-feast/bin/python benchmarks/feast_online.py FOLDER FEATURES PORT

FOLDER has rows.parquet: a row a user with `user`, `event_timestamp` and the features. Makes FOLDER/sqlite and
FOLDER/redis, repositories for `feast serve`; the Redis server listens at PORT. Then it says `ready` and answers each
line of input, `{"store": "sqlite", "users": [1, 2]}`, with the milliseconds of `get_online_features`, those of
`to_dict` after it, and the values, [features, users].
"""

from __future__ import annotations

import gc
import json
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import pandas as pd  # noqa: E402
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType  # noqa: E402
from feast.types import Float64  # noqa: E402

CONFIG = """
project: benchmark
registry: registry.db
provider: local
online_store: {store}
entity_key_serialization_version: 3
"""
STORES = {"sqlite": "{{type: sqlite, path: online.db}}", "redis": "{{type: redis, connection_string: '127.0.0.1:{}'}}"}


def filled(folder: Path, features: int, config: str) -> FeatureStore:
    """A repository in a folder, its store filled."""
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(CONFIG.format(store=config))
    store = FeatureStore(repo_path=str(folder))
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    rows = folder.parent / "rows.parquet"
    view = FeatureView(
        name="rows",
        entities=[user],
        ttl=timedelta(days=3650),
        schema=[Field(name=f"f{i}", dtype=Float64) for i in range(features)],
        source=FileSource(path=str(rows), timestamp_field="event_timestamp"),
    )
    store.apply([user, view])
    store.write_to_online_store("rows", df=pd.read_parquet(rows))
    return store


def answer(store: FeatureStore, names: list[str], users: list[int]) -> dict[str, Any]:
    """One read, measured."""
    asked = [{"user": user} for user in users]
    begin = time.perf_counter()
    found = store.get_online_features(names, asked)
    read = time.perf_counter()
    values = found.to_dict()
    end = time.perf_counter()
    columns = [values[name.partition(":")[2]] for name in names]
    return {"read_ms": (read - begin) * 1e3, "to_dict_ms": (end - read) * 1e3, "values": columns}


def main(folder: Path, features: int, port: int) -> None:
    stores = {kind: filled(folder / kind, features, config.format(port)) for kind, config in STORES.items()}
    names = [f"rows:f{i}" for i in range(features)]
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(answer(stores[asked["store"]], names, asked["users"])), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
