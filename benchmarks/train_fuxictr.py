"""FuxiCTR's part of `train_peers.py`, run by a Python that has it: FOLDER USERS ITEMS EPOCHS FORMAT.

It gets ids that are encoded already, so its own preparation is not counted. DeepFM is made of its layers, as its model
zoo does; the training loop and the loaders are its own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
from ctr_data import BATCH, COLUMNS, EMBEDDING, LAYERS, RATE, sizes, splits
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel


class DeepFM(BaseModel):
    def __init__(self, feature_map, folder):
        super().__init__(feature_map, "DeepFM", model_root=folder, metrics=["AUC", "logloss"], verbose=0)
        self.embedding = FeatureEmbedding(feature_map, EMBEDDING)
        self.fm = FactorizationMachine(feature_map)
        self.mlp = MLP_Block(EMBEDDING * len(COLUMNS), list(LAYERS), "ReLU", 1)
        self.seconds = 0.0
        self.compile("adam", "binary_crossentropy", RATE)
        self.reset_parameters()

    def forward(self, inputs):
        x = self.get_inputs(inputs)
        vectors = self.embedding(x)
        return {"y_pred": self.output_activation(self.fm(x, vectors) + self.mlp(vectors.flatten(start_dim=1)))}

    def eval_step(self):
        """Not counted as training."""
        began = time.perf_counter()
        super().eval_step()
        self.seconds -= time.perf_counter() - began


def main(folder: Path, users: int, items: int, epochs: int, form: str) -> None:
    torch.manual_seed(0)
    frame = pl.read_parquet(folder / "rows.parquet")
    paths = {}
    for name, (first, last) in splits(len(frame)).items():
        part = frame[first:last].select((pl.col(COLUMNS) + 1).cast(pl.Int64), pl.col("label").cast(pl.Float64))
        paths[name] = str(folder / f"fuxictr-{name}.{form}")
        if form == "npz":
            np.savez(paths[name], **{c: part[c].to_numpy() for c in part.columns})
        else:
            part.write_parquet(paths[name])
    known = FeatureMap("ctr", str(folder))
    for name, count in sizes(users, items).items():
        known.features[name] = {"type": "categorical", "vocab_size": count + 1, "padding_idx": 0, "source": ""}
    known.labels, known.num_fields, known.default_emb_dim = ["label"], len(COLUMNS), EMBEDDING
    known.set_column_index()
    (folder / "ctr").mkdir(exist_ok=True)
    model = DeepFM(known, str(folder))
    train, validation, test = RankDataLoader(
        known, "both", paths["train"], paths["validation"], paths["test"], BATCH, data_format=form
    )
    began = time.perf_counter()
    model.fit(train, epochs=epochs, validation_data=validation)
    seconds = model.seconds + time.perf_counter() - began
    rows = epochs * train.num_samples
    print(json.dumps({"rows": rows, "seconds": seconds, "auc": model.evaluate(test)["AUC"]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5])
