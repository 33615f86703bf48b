"""A plain PyTorch loop, part of `train_peers.py`: FOLDER USERS ITEMS EPOCHS.

DeepFM on a table per column, Adam, and a DataLoader over tensors that are in memory.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import polars as pl
import torch
from ctr_data import BATCH, COLUMNS, EMBEDDING, LAYERS, RATE, sizes, splits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bedplate.metrics.classification import auc


class DeepFM(nn.Module):
    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, EMBEDDING) for n in counts)
        self.linear = nn.ModuleList(nn.Embedding(n, 1) for n in counts)
        for table in (*self.tables, *self.linear):
            nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]
        widths = (EMBEDDING * len(counts), *LAYERS)
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, ids: Tensor) -> Tensor:
        vectors = torch.stack([table(ids[:, i]) for i, table in enumerate(self.tables)], dim=1)
        first = torch.cat([table(ids[:, i]) for i, table in enumerate(self.linear)], dim=1).sum(dim=1)
        second = 0.5 * (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1)
        return first + second + self.deep(vectors.flatten(1)).squeeze(1)


def main(folder: Path, users: int, items: int, epochs: int) -> None:
    torch.manual_seed(0)
    frame = pl.read_parquet(folder / "rows.parquet")
    ids, labels = (
        torch.from_numpy(frame.select(COLUMNS).to_numpy()),
        torch.from_numpy(frame["label"].to_numpy()).float(),
    )
    parts = {name: slice(*bounds) for name, bounds in splits(len(frame)).items()}
    model = DeepFM(list(sizes(users, items).values()))
    optimizer, loss_of = torch.optim.Adam(model.parameters(), lr=RATE), nn.BCEWithLogitsLoss()
    loader = DataLoader(TensorDataset(ids[parts["train"]], labels[parts["train"]]), BATCH, shuffle=True)
    began, rows = time.perf_counter(), 0
    for _ in range(epochs):
        for batch, label in loader:
            optimizer.zero_grad()
            loss_of(model(batch), label).backward()
            optimizer.step()
            rows += len(batch)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        scores = model(ids[parts["test"]]).double().numpy()
    judged = labels[parts["test"]].numpy()
    print(json.dumps({"rows": rows, "seconds": seconds, "auc": auc(scores, judged)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
