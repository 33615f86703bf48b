"""The wide table's part of `new_feature_train.py`: FOLDER BUILD LOOP, in a process of its own.

BUILD makes a table of all features and the labels as a Parquet file: `duckdb` by running totals that ASOF joins read
back, the fastest of the ways of `offline_windows.py`; `polars` by running totals and `join_asof`; `one` joins the new
feature alone to the table that is there, by DuckDB. LOOP trains on the file: `loader` by a DataLoader over tensors,
`slices` by slices of shuffled tensors without one, which is about as fast as a loop of one's own gets; `none` does not
train.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import torch
from new_feature_data import BATCH, EMBEDDING, EPOCHS, ITEMS, LAYERS, NEW, RATE, SPLITS, THERE, TOTALS
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bedplate.aggregations.window import Window
from bedplate.metrics.bootstrap import binary_sums, estimates
from bedplate.types import Array

FEATURES = THERE | NEW


def totals_of(features: Mapping[str, tuple[str, str]]) -> list[str]:
    """The running totals that features are made of."""
    needed = {part for total, _ in features.values() for part in (("spent", "n") if total == "price" else (total,))}
    return [total for total in TOTALS if total in needed]


def query(folder: Path, rows: str, kept: str, features: Mapping[str, tuple[str, str]]) -> str:
    """SQL that joins features to the rows of a file, of which some columns are kept."""
    at = {w: i for i, w in enumerate(dict.fromkeys(w for _, w in features.values()))}
    tails = {w: f"(l.time - {x.length} - (l.time - {x.length}) % {x.hop})" for w in at for x in [Window.of(w)]}
    joins = " ".join(
        f"ASOF LEFT JOIN totals a{i} ON a{i}.user = l.user AND a{i}.time < {tails[w]}" for w, i in at.items()
    )

    def span(total: str, window: str) -> str:
        if total == "price":
            return f"{span('spent', window)} / nullif({span('n', window)}, 0)"
        return f"(coalesce(b.{total}, 0) - coalesce(a{at[window]}.{total}, 0))"

    needed = totals_of(features)
    columns = ", ".join(f"{span(*parts)} AS {name}" for name, parts in features.items())
    each = ", ".join(f"{TOTALS[t][0]} AS {t}" for t in needed)
    running = ", ".join(f"sum({t}) OVER w AS {t}" for t in needed)
    return f"""WITH sums AS (SELECT user, time, {each} FROM '{folder}/events.parquet' GROUP BY user, time),
        totals AS MATERIALIZED (SELECT user, time, {running} FROM sums
        WINDOW w AS (PARTITION BY user ORDER BY time ROWS UNBOUNDED PRECEDING))
        SELECT {kept}, {columns} FROM '{folder}/{rows}' l
        ASOF LEFT JOIN totals b ON b.user = l.user AND b.time < l.time {joins}"""


def with_duckdb(folder: Path, text: str) -> None:
    connection = duckdb.connect(config={"threads": 2})
    connection.execute(f"COPY ({text}) TO '{folder}/wide.parquet' (FORMAT parquet)")


def all_by_duckdb(folder: Path) -> None:
    with_duckdb(folder, query(folder, "rows.parquet", "l.*", FEATURES))


def new_by_duckdb(folder: Path) -> None:
    with_duckdb(folder, query(folder, "there.parquet", "l.*", NEW))


def there_by_duckdb(folder: Path) -> None:
    """The table before the edit."""
    with_duckdb(folder, query(folder, "rows.parquet", "l.*", THERE))


def all_by_polars(folder: Path) -> None:
    events = pl.read_parquet(folder / "events.parquet").sort("user", "time", maintain_order=True)
    running = {t: made.cum_sum().over("user") for t, (_, made) in TOTALS.items()}
    totals = events.select("user", at="time", **running)
    found = pl.read_parquet(folder / "rows.parquet").sort("user", "time")

    def joined(rows: pl.DataFrame, begin: pl.Expr, names: list[str], suffix: str) -> pl.DataFrame:
        """Totals before a time, in the order of the rows, which is the same for each window."""
        asked = rows.select("user", begin=begin)
        before = asked.join_asof(
            totals.select("user", "at", *names),
            left_on="begin",
            right_on="at",
            by="user",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        return before.select(pl.col(names).fill_null(0).name.suffix(suffix))

    parts = [found, joined(found, pl.col("time"), list(TOTALS), "")]
    for window in dict.fromkeys(w for _, w in FEATURES.values()):
        names = totals_of({f: parts for f, parts in FEATURES.items() if parts[1] == window})
        begin = pl.col("time") - Window.of(window).length
        parts.append(joined(found, begin - begin % Window.of(window).hop, names, f"@{window}"))

    def span(total: str, window: str) -> pl.Expr:
        if total == "price":
            return pl.when(span("n", window) > 0).then(span("spent", window) / span("n", window))
        return pl.col(total) - pl.col(f"{total}@{window}")

    columns = [span(*parts).alias(name) for name, parts in FEATURES.items()]
    pl.concat(parts, how="horizontal").select(*found.columns, *columns).write_parquet(folder / "wide.parquet")


BUILDS = {"duckdb": all_by_duckdb, "polars": all_by_polars, "one": new_by_duckdb, "there": there_by_duckdb}


class Ranker(nn.Module):
    """The model of `new_feature_data.JOB`, on a table of its own."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.table = nn.Embedding(ITEMS, EMBEDDING)
        nn.init.normal_(self.table.weight, std=0.05)  # type: ignore[arg-type]
        widths = (numbers + EMBEDDING, *LAYERS)
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        return self.deep(torch.cat((numbers, self.table(ids)), dim=1)).squeeze(1)


def prepared(path: Path) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """By split the numbers, standardised and with a column that says where there is one, the ids and the labels."""
    frame = pl.read_parquet(path).sort("time")
    times, columns = frame["time"].to_numpy(), list[Array]()
    is_train = times < SPLITS[0]
    for name in FEATURES:
        column = frame[name].cast(pl.Float64)
        there, values = column.is_not_null().to_numpy(), np.log1p(column.fill_null(0.0).to_numpy())
        known = values[is_train & there]
        columns.append(np.where(there, (values - known.mean()) / known.std(), 0.0).astype(np.float32))
        if not there.all():
            columns.append(there.astype(np.float32))
    numbers = torch.from_numpy(np.stack(columns, axis=1))
    ids, labels = torch.from_numpy(frame["item"].to_numpy()), torch.from_numpy(frame["label"].to_numpy()).float()
    bounds = [0, *np.searchsorted(times, SPLITS).tolist(), len(frame)]
    parts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    return {n: (numbers[p], ids[p], labels[p]) for n, p in zip(("train", "validation", "test"), parts, strict=True)}


def batches(parts: tuple[Tensor, Tensor, Tensor], loop: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    if loop == "loader":
        yield from DataLoader(TensorDataset(*parts), BATCH, shuffle=True)  # type: ignore[misc]
        return
    for rows in torch.randperm(len(parts[0])).split(BATCH):
        yield parts[0][rows], parts[1][rows], parts[2][rows]


def scores(model: Ranker, parts: tuple[Tensor, Tensor, Tensor]) -> Array:
    with torch.no_grad():
        found = [
            torch.sigmoid(model(a, b)) for a, b in zip(parts[0].split(65_536), parts[1].split(65_536), strict=True)
        ]
    return torch.cat(found).double().numpy()


def main(folder: Path, build: str, loop: str) -> None:
    torch.manual_seed(0)
    laps = {"imported": time.perf_counter()}
    BUILDS[build](folder)
    laps["build"] = time.perf_counter()
    if loop == "none":
        print(json.dumps({"parts": {}}))
        return
    data = prepared(folder / "wide.parquet")
    laps["read"] = time.perf_counter()
    model = Ranker(data["train"][0].shape[1])
    optimizer, loss_of = torch.optim.Adam(model.parameters(), lr=RATE), nn.BCEWithLogitsLoss()
    for _ in range(EPOCHS):
        for numbers, ids, labels in batches(data["train"], loop):
            optimizer.zero_grad()
            loss_of(model(numbers, ids), labels).backward()
            optimizer.step()
        scores(model, data["validation"])
    laps["train"] = time.perf_counter()
    judged, labels = scores(model, data["test"]), data["test"][2].numpy()
    of_test = binary_sums(judged, labels, np.ones(len(labels)), np.arange(len(labels)))
    found = estimates({"auc": of_test["auc"]})["auc"]
    laps["judge"] = time.perf_counter()
    parts = {after: laps[after] - laps[before] for before, after in itertools.pairwise(laps)}
    print(json.dumps({"parts": parts, "auc": (found.mean, found.low, found.high)}), flush=True)
    sums = pl.read_parquet(folder / "wide.parquet", columns=list(FEATURES)).sum().row(0)
    print(json.dumps({"sums": sums, "rows": len(labels)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
