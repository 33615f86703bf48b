"""Training on requests with their candidates, against the same model on rows that repeat the request.

    python benchmarks/request_once.py [--batches 12] [--rounds 3] [--json FILE]

DCN of `train_throughput.py`: 40 requests a batch with 100 candidates each, and a history of 50 products, ages and
prices. Both ways go through `Trainer`, encoding and waiting included, on batches in memory with the same candidates in
the same order and the same first weights; the rows are requests of one candidate, their columns repeated before the
measurement. In turns; the median of the rounds' ratios counts. The mean losses must be equal but for rounding.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import train_throughput
from record import judge, machine, save
from train_throughput import Memory, build, dense, encodings

from bedplate.batch import Batch, Dense, Ids, Ragged
from bedplate.features.encoder import Encoder
from bedplate.features.fitting import fit
from bedplate.training.config import TrainerConfig
from bedplate.training.trainer import Trainer

REQUESTS, CANDIDATES, HISTORY = 40, 100, 50
TARGET, EQUAL = 2.0, 1e-4
"""How many times as fast, and how far the mean losses may be from each other as a share."""


def make_batch(rng: np.random.Generator) -> Batch:
    """Requests of 100 candidates with full histories; a label that has to do with both sides."""
    rows, total = REQUESTS * CANDIDATES, REQUESTS * HISTORY
    history, words = np.arange(REQUESTS + 1) * HISTORY, np.arange(rows + 1) * 4
    products = train_throughput.PRODUCTS
    request = dense(rng, "customer", REQUESTS, 20) | {
        "customer.id": Ids(rng.integers(0, train_throughput.CUSTOMERS, REQUESTS)),
        "customer.country": Ids(rng.integers(0, 40, REQUESTS)),
        "customer.day": Ids(rng.integers(0, 7, REQUESTS)),
        "customer.products": Ragged(Ids(rng.integers(0, products, total)), history),
        "customer.ages": Ragged(Dense(rng.lognormal(size=total)), history),
        "customer.prices": Ragged(Dense(rng.lognormal(size=total)), history),
    }
    item = dense(rng, "product", rows, 16) | {
        "product.class": Ids(rng.integers(0, 400, rows)),
        "product.colour": Ids(rng.integers(0, 20, rows)),
        "product.words": Ragged(Ids(rng.integers(0, train_throughput.WORDS, 4 * rows)), words),
    }
    candidates = rng.integers(0, products, rows)
    return Batch(
        request=request,
        item=item,
        offsets=np.arange(REQUESTS + 1) * CANDIDATES,
        times=np.full(REQUESTS, 10**15),
        request_ids=np.arange(REQUESTS),
        candidates=candidates,
        labels={"bought": (rng.random(rows) < 0.2 + 0.6 * (candidates % 3 == 0)).astype(np.float32)},
    )


def row_wise(batch: Batch) -> Batch:
    """The same candidates as requests of their own."""
    of = batch.request_of_item()
    return Batch(
        request={name: column.take(of) for name, column in batch.request.items()},
        item=batch.item,
        offsets=np.arange(batch.items + 1),
        times=batch.times[of],
        request_ids=np.arange(batch.items),
        candidates=batch.candidates,
        labels=batch.labels,
    )


def trained(encoder: Encoder, batches: list[Batch], config: TrainerConfig) -> tuple[float, float]:
    """Rows a second, and the mean loss of training."""
    model, judged = build("dcn", encoder), Memory(batches[:1])
    with tempfile.TemporaryDirectory() as folder:
        result = Trainer(config).fit(model, encoder, Memory(batches), judged, Path(folder))
    return result.rows_per_second, result.history[-1]["train_loss"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    requests = [make_batch(rng) for _ in range(args.batches)]
    rows = [row_wise(batch) for batch in requests]
    encoder = fit(encodings(), requests)
    config = TrainerConfig(epochs=1)
    trained(encoder, requests[:2], config)
    rounds = [(*trained(encoder, requests, config), *trained(encoder, rows, config)) for _ in range(args.rounds)]
    once, loss, repeated, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"rows/s: {once:,.0f} a request at once, {repeated:,.0f} row by row; mean loss {loss:.6f} and {other:.6f}")
    result = {
        "batches": args.batches,
        "rounds": rounds,
        "rows_per_second": {"request_once": once, "row_wise": repeated},
    }
    ratio = statistics.median(a / b for a, _, b, _ in rounds)
    wanted = {
        "times the rows/s of rows that repeat the request": (ratio, ">=", TARGET),
        "difference of the mean losses, as a share": (abs(loss - other) / other, "<=", EQUAL),
    }
    code = judge(result, wanted)
    save("request_once", machine() | result, args.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
