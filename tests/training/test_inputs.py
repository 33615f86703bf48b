"""The summary of a run's training data, and the drift between two of them."""

from __future__ import annotations

import numpy as np
import pytest

from bedplate.batch import Batch, Column, Dense, Embedding, Ids, Ragged
from bedplate.features.encoding import Bag, Category, Encoding, Number, Sequence, Vector
from bedplate.metrics.stability import stability_index
from bedplate.training.inputs import InputSummary, Watcher, drift_between

ENCODINGS: dict[str, Encoding] = {
    "n": Number(),
    "c": Category(),
    "candidate": Category(),
    "list": Sequence(Category()),
    "bag": Bag(),
    "vector": Vector(),
}


def batch(rng: np.random.Generator, rows: int, shift: float = 0.0, share: float = 0.3) -> Batch:
    lengths = rng.integers(0, 4, rows)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    ids = Ids((rng.random(offsets[-1]) < share).astype(np.int64), None, {0: "mug", 1: "pot"})
    item: dict[str, Column] = {
        "n": Dense(rng.normal(shift, 1, rows), rng.random(rows) > 0.1),
        "c": Ids((rng.random(rows) < share).astype(np.int64), None, {0: "mug", 1: "pot"}),
        "bag": Ragged(ids, offsets),
        "vector": Embedding(np.full((rows, 4), 1.0 + shift, np.float32)),
    }
    request: dict[str, Column] = {"list": Ragged(ids, offsets)}
    labels = {"liked": (rng.random(rows) < share).astype(np.float32), "late": np.full(rows, np.nan, np.float32)}
    return Batch(
        request, item, np.arange(rows + 1), np.zeros(rows, np.int64), np.arange(rows), rng.integers(0, 9, rows), labels
    )


def summaries(seed: int, shift: float = 0.0, share: float = 0.3) -> dict[str, InputSummary]:
    rng, watcher = np.random.default_rng(seed), Watcher(ENCODINGS, 4)
    batches = [batch(rng, 5000, shift, share) for _ in range(4)]
    assert list(watcher.watch(batches)) == batches
    return {name: sample.summary() for name, sample in watcher._samples.items()}


def test_a_summary_is_small_and_says_what_there_was() -> None:
    found = summaries(1)
    n, c = found["n"], found["c"]
    assert (n.kind, len(n.points)) == ("number", 201)
    assert n.absent == pytest.approx(0.1, abs=0.01)
    assert n.mean == pytest.approx(0.0, abs=0.03)
    assert n.points[100] == pytest.approx(0.0, abs=0.05)
    assert (c.kind, c.distinct) == ("category", 2)
    assert c.shares == {"mug": pytest.approx(0.7, abs=0.02), "pot": pytest.approx(0.3, abs=0.02)}
    assert set(found["bag"].shares) == set(found["list"].shares) == {"mug", "pot"}
    assert found["candidate"].distinct == 9
    assert found["vector"].points[0] == pytest.approx(2.0)


def test_equal_data_have_no_drift_and_other_data_as_much_as_their_density_says() -> None:
    base, again, other = summaries(1), summaries(2), summaries(3, shift=1.0, share=0.6)
    for name in ENCODINGS:
        assert drift_between(base[name], base[name]) == pytest.approx(0.0, abs=1e-12), name
        assert drift_between(base[name], again[name]) < 0.02, name
    # Of two normal distributions a standard deviation apart the divergence is 1; of ten bins somewhat less.
    assert 0.6 < drift_between(base["n"], other["n"]) < 1.0
    exact = stability_index(np.array([0.7, 0.3]), np.array([0.4, 0.6]))
    assert drift_between(base["c"], other["c"]) == pytest.approx(exact, rel=0.1)
    assert drift_between(base["vector"], other["vector"]) > 5
    assert drift_between(base["n"], base["c"]) is None


def test_a_value_that_most_rows_share_is_a_bin_of_its_own() -> None:
    def of(share: float) -> InputSummary:
        rng, watcher = np.random.default_rng(4), Watcher({"n": Number()}, 1)
        values = np.where(rng.random(20_000) < share, 0.0, rng.exponential(1, 20_000))
        zeros = np.zeros(20_000, np.int64)
        list(watcher.watch([Batch({"n": Dense(values)}, {}, np.arange(20_001), zeros, zeros, zeros)]))
        return watcher._samples["n"].summary()

    exact = stability_index(np.array([0.8, 0.2]), np.array([0.6, 0.4]))
    assert drift_between(of(0.8), of(0.6)) == pytest.approx(exact, rel=0.15)
    assert drift_between(of(0.8), of(0.8)) == 0.0


def test_what_became_absent_is_drift() -> None:
    there = InputSummary("number", 100, 0.0, 1.0, (1.0,) * 201)
    gone = InputSummary("number", 100, 1.0)
    half = InputSummary("number", 100, 0.5, 1.0, (1.0,) * 201)
    assert drift_between(there, gone) > 5
    assert 0.5 < drift_between(there, half) < drift_between(there, gone)
    assert drift_between(there, InputSummary("number", 0, 0.0)) is None
