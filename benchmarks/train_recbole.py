"""RecBole's part of `train_peers.py`, run by a Python that has it: FOLDER USERS ITEMS EPOCHS.

Its DeepFM, trainer and loaders; reading its files and making them into its dataset is not counted. A user who is in no
row is added to its table of users, so that it embeds as many as the others do.
"""

from __future__ import annotations

import json
import sys
import time
from logging import ERROR, getLogger
from pathlib import Path

import numpy as np
import polars as pl
from ctr_data import BATCH, COLUMNS, EMBEDDING, JUDGED, LAYERS, RATE, TRAINED
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.context_aware_recommender.deepfm import DeepFM
from recbole.trainer import Trainer
from recbole.utils import init_seed


# The names that NumPy 2 has dropped and RecBole asks for.
for name, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
    setattr(np, name, kind)


class Timed(Trainer):
    seconds = 0.0

    def _train_epoch(self, *args, **options):
        began = time.perf_counter()
        loss = super()._train_epoch(*args, **options)
        self.seconds += time.perf_counter() - began
        return loss


def main(folder: Path, users: int, epochs: int) -> None:
    data = folder / "ctr"
    data.mkdir(exist_ok=True)
    frame = pl.read_parquet(folder / "rows.parquet")
    kinds = {c: "token" for c in COLUMNS} | {"time": "float", "label": "float"}
    named = frame.select(pl.col(c).alias(f"{c}:{kind}") for c, kind in kinds.items())
    named.write_csv(data / "ctr.inter", separator="\t")
    if users > len(frame):
        pl.DataFrame({"user:token": range(users)}).write_csv(data / "ctr.user", separator="\t")
    settings = {
        "data_path": str(folder),
        "load_col": {"inter": list(kinds)} | ({"user": ["user"]} if users > len(frame) else {}),
        "USER_ID_FIELD": "user",
        "ITEM_ID_FIELD": "item",
        "TIME_FIELD": "time",
        "LABEL_FIELD": "label",
        "eval_args": {
            "split": {"RS": [TRAINED, JUDGED, 1 - TRAINED - JUDGED]},
            "order": "TO",
            "group_by": "none",
            "mode": "labeled",
        },
        "metrics": ["AUC", "LogLoss"],
        "valid_metric": "AUC",
        "epochs": epochs,
        "train_batch_size": BATCH,
        "eval_batch_size": BATCH,
        "embedding_size": EMBEDDING,
        "mlp_hidden_size": list(LAYERS),
        "dropout_prob": 0.0,
        "learning_rate": RATE,
        "use_gpu": False,
        "show_progress": False,
        "checkpoint_dir": str(folder / "recbole"),
        "state": "ERROR",
    }
    sys.argv = sys.argv[:1]
    config = Config(model="DeepFM", dataset="ctr", config_dict=settings)
    getLogger().setLevel(ERROR)
    init_seed(0, True)
    train, validation, test = data_preparation(config, create_dataset(config))
    trainer = Timed(config, DeepFM(config, train.dataset))
    trainer.fit(train, validation, saved=True, show_progress=False)
    auc = trainer.evaluate(test, load_best_model=False)["auc"]
    print(json.dumps({"rows": epochs * len(train.dataset), "seconds": trainer.seconds, "auc": float(auc)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4]))
