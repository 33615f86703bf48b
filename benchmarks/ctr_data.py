"""Click data shaped like MovieLens-100K, for the peers' training loops and ours: the same rows, columns and split."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl

START = 1_700_006_400_000_000
SECOND = 1_000_000
CATEGORIES = {"age": 7, "gender": 2, "occupation": 21, "genre": 19, "decade": 9}
"""How many values each attribute of a user or an item has."""
OF_USER, OF_ITEM = ("age", "gender", "occupation"), ("genre", "decade")
COLUMNS = ("user", "item", *CATEGORIES)
"""What every model reads: seven ids."""
LAYERS = tuple(int(width) for width in os.environ.get("CTR_LAYERS", "64,64").split(","))
EMBEDDING, BATCH, RATE = 16, 4096, 1e-3
"""Of every model: DeepFM (Guo et al. 2017) with one bias, without dropout and batch normalisation."""
TRAINED, JUDGED = 0.8, 0.1


def sizes(users: int, items: int) -> dict[str, int]:
    """How many values each column can have."""
    return {"user": users, "item": items} | CATEGORIES


def splits(rows: int) -> dict[str, tuple[int, int]]:
    """The first row of each split and the row after its last, by time."""
    first, second = int(rows * TRAINED), int(rows * (TRAINED + JUDGED))
    return {"train": (0, first), "validation": (first, second), "test": (second, rows)}


def write(folder: Path, rows: int, users: int, items: int) -> None:
    """Writes `rows.parquet`, in order of time, `users.parquet` and `items.parquet`.

    What a user likes depends on attributes of both sides and on the item. Where there are more users than rows, the
    table of users has those who are in a row.
    """
    draw = np.random.default_rng(1)
    people = {c: draw.integers(0, CATEGORIES[c], users) for c in OF_USER}
    things = {c: draw.integers(0, CATEGORIES[c], items) for c in OF_ITEM}
    user, item = draw.integers(0, users, rows), (items * draw.beta(0.5, 2.0, rows)).astype(np.int64)
    taste = {c: draw.normal(size=(n, 4)) for c, n in CATEGORIES.items()}
    sides = [sum(taste[c][side[c][key]] for c in side) for side, key in ((people, user), (things, item))]
    liked = draw.normal(size=items)[item] + 0.4 * np.sum(sides[0] * sides[1], axis=1)
    label = (draw.random(rows) < 1 / (1 + np.exp(-liked))).astype(np.int64)
    pl.DataFrame(
        {"row": np.arange(rows), "user": user, "item": item}
        | {c: side[c][key] for side, key in ((people, user), (things, item)) for c in side}
        | {"time": START + 3600 * SECOND + np.arange(rows) * SECOND, "label": label}
    ).write_parquet(folder / "rows.parquet")
    for name, side, count in (("user", people, users), ("item", things, items)):
        table = pl.DataFrame({name: np.arange(count)} | side).with_columns(time=pl.lit(START))
        if count > rows:
            table = table[np.unique(user)]
        table.write_parquet(folder / f"{name}s.parquet")
