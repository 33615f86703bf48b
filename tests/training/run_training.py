"""A training run in a process of its own, to be killed: `run_training.py FOLDER SECONDS_A_BATCH [CHECKPOINT_EVERY]`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import torch
from synthetic import Source, make_encoder

from bedplate.errors import BedplateError
from bedplate.models.config import DCNConfig
from bedplate.models.dcn import DCN
from bedplate.training.config import TrainerConfig
from bedplate.training.report import on_stderr
from bedplate.training.trainer import Trainer

CONFIG = TrainerConfig(epochs=3, checkpoint_every=3, patience=9, seed=5)
MODEL = DCNConfig("label", layers=(16,), rank=4, dropout=0.3)
BATCHES = 14


def main(folder: Path, slow: float, checkpoint_every: int) -> int:
    torch.set_num_threads(1)
    encoder = make_encoder()
    model = DCN(MODEL, encoder.layout)
    config = msgspec.structs.replace(CONFIG, checkpoint_every=checkpoint_every)
    trainer = Trainer(config, show=on_stderr())
    sys.stdout.write("started\n")
    sys.stdout.flush()
    try:
        trainer.fit(model, encoder, Source(BATCHES, slow=slow), Source(3, salt=1), folder)
    except BedplateError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    every = int(sys.argv[3]) if len(sys.argv) > 3 else CONFIG.checkpoint_every
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), every))
