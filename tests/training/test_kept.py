"""Rows that stay in memory: every batch is the loader's, and a request is joined once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest
import torch
from dataset_world import built, drawing, loaded, shop_dataset, shop_graph, shop_source
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.datasets.blocks import WHOLE, Part, Stretch, unbounded
from bedplate.datasets.loader import Loader
from bedplate.datasets.split import SPLITS
from bedplate.errors import ConfigError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Bag, Category, Encoding, Number, Sequence
from bedplate.features.fitting import fit
from bedplate.models.batch import TensorBatch
from bedplate.models.config import DCNConfig
from bedplate.models.dcn import DCN
from bedplate.training.config import TrainerConfig
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.kept import Kept
from bedplate.training.prefetch import Ahead, Waiting, prefetched
from bedplate.training.source import Encoded, TensorSource
from bedplate.training.stages import LOAD, unwatched
from bedplate.training.trainer import Trainer

ENOUGH = 10**8
SOURCE = shop_source(4, 300)
INPUTS: dict[str, Encoding] = {
    "user.n_1d": Number(),
    "user.kind": Category(),
    "item.price_1d": Number(),
    "candidate": Category(),
    "pair.n": Number(),
}
LISTS: dict[str, Encoding] = {"user.recent": Sequence(Category(), length=2)}
BAGS: dict[str, Encoding] = {"user.recent": Bag(length=2)}
FOLDER = TemporaryDirectory()
HISTORY = built(Path(FOLDER.name), shop_dataset(SOURCE).compile(shop_graph(SOURCE)).views)
PLAIN, DRAWN, FEW = (
    loaded(dataset, SOURCE, HISTORY)
    for dataset in (
        shop_dataset(SOURCE),
        shop_dataset(SOURCE, drawing(SOURCE)),
        shop_dataset(SOURCE, batch_items=None, batch_requests=3),
    )
)


class Joined:
    """Counts the rows that are joined."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, stage: str, seconds: float, rows: int) -> None:
        self.rows += rows if stage == LOAD else 0


def fitted(dataset, inputs: dict[str, Encoding]) -> Encoder:
    return fit(inputs, islice(Loader(dataset, "train").epoch(0, 0), 50))


def read(source: TensorSource, stretch: Stretch, threads: int = 1, watch=unwatched) -> list[TensorBatch]:
    with prefetched(partial(source.blocks, stretch, watch=watch), Ahead(threads=threads), Waiting()) as ready:
        return list(ready)


def assert_same(got: list[TensorBatch], expected: list[TensorBatch]) -> None:
    """Every bit of every tensor."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert list(one) == list(other)
        assert one.request_ids.tolist() == other.request_ids.tolist()
        assert (one.log_q is None) == (other.log_q is None)
        for mine, theirs in zip(tensors_of(one), tensors_of(other), strict=True):
            assert (mine.dtype, mine.shape, mine.is_contiguous()) == (theirs.dtype, theirs.shape, True)
            assert mine.numpy().tobytes() == theirs.numpy().tobytes()


def tensors_of(batch: TensorBatch) -> Iterator[torch.Tensor]:
    yield from batch.values()
    for named in (batch.labels, batch.known):
        yield from (named[name] for name in sorted(named))
    yield from (batch.weights, batch.candidates)
    if batch.log_q is not None:
        yield batch.log_q


@settings(max_examples=25, deadline=None)
@given(
    dataset=st.sampled_from([PLAIN, FEW]),
    extra=st.sampled_from([LISTS, BAGS, {}]),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
    parts=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 99), st.integers(0, 99), st.sampled_from([WHOLE, Part(1, 3)])),
        min_size=1,
        max_size=5,
    ),
)
def test_batches_are_those_of_the_loader_whichever_were_read_before(dataset, extra, seed, threads, parts) -> None:
    loader, encoder = Loader(dataset, "train"), fitted(dataset, INPUTS | extra)
    kept = Kept.within(ENOUGH, loader, encoder, seed)
    assert kept is not None
    for epoch, first, second, part in parts:
        start, stop = sorted((first % (len(loader) + 1), second % (len(loader) + 1)))
        wanted = Stretch(seed, epoch, start, stop, part)
        assert_same(read(kept, wanted, threads), read(Encoded(loader, encoder), wanted))
    for epoch in (0, 1):
        wanted = Stretch(seed, epoch)
        assert_same(read(kept, wanted, threads), read(Encoded(loader, encoder), wanted))


@pytest.mark.parametrize("dataset", [PLAIN, DRAWN], ids=["listed", "drawn"])
def test_a_request_is_joined_once(dataset) -> None:
    encoder = fitted(dataset, INPUTS)
    for split in SPLITS:
        loader = Loader(dataset, split)
        kept = Kept.within(ENOUGH, loader, encoder, 7)
        if dataset is DRAWN and split == "train":
            assert kept is None, "negatives are drawn anew"
            continue
        assert kept is not None
        for epoch in range(3):
            found = Joined()
            got = read(kept, Stretch(7, epoch), 2, found)
            assert_same(got, read(Encoded(loader, encoder), Stretch(7, epoch)))
            assert found.rows == (0 if epoch else sum(batch.rows for batch in got))


def test_rows_are_kept_only_where_all_have_room() -> None:
    loader, encoder = Loader(PLAIN, "train"), fitted(PLAIN, INPUTS | LISTS)
    kept = Kept.within(ENOUGH, loader, encoder, 0)
    assert kept is not None
    requests, items = len(loader.sizes), int(loader.sizes.sum())
    assert kept.nbytes > 8 * requests * (2 + 2) + 8 * items * 2
    assert Kept.within(kept.nbytes, loader, encoder, 0) is not None
    assert Kept.within(kept.nbytes - 1, loader, encoder, 0) is None
    assert Kept.within(ENOUGH, loader.epoch(0, 0), encoder, 0) is None, "what is no loader has no places"
    with pytest.raises(ConfigError, match="the rows that are kept are of seed 0, got 1"):
        kept.blocks(Stretch(1, 0), unbounded)


def test_nothing_is_joined_where_nothing_may_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loader, encoder = Loader(PLAIN, "train"), fitted(PLAIN, INPUTS)
    monkeypatch.setattr(Loader, "rows", lambda *_: pytest.fail("rows were joined"))
    assert Kept.within(0, loader, encoder, 0) is None


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("stop", [None, 0.5, 1.5, 2.5])
def test_a_training_ends_with_the_same_weights_with_rows_kept_and_not(tmp_path: Path, stop: float | None) -> None:
    loader, validation, encoder = Loader(FEW, "train"), Loader(FEW, "validation"), fitted(FEW, INPUTS | LISTS)
    assert len(loader) >= 4
    config = TrainerConfig(epochs=3, patience=9, evaluate_every=4, checkpoint_every=1, seed=5)

    def trained(name: str, memory: str, show=None) -> dict[str, torch.Tensor]:
        model = DCN(DCNConfig("again", layers=(8,), rank=4, cross_layers=1, dropout=0.3), encoder.layout)
        chosen = msgspec.structs.replace(config, keep_memory=memory)
        return Trainer(chosen, show=show).fit(model, encoder, loader, validation, tmp_path / name).model.state_dict()

    expected = trained("anew", "0MB")
    if stop is not None:

        def interrupt(status) -> None:
            if status.metrics is None and (status.epoch - 1) * len(loader) + status.batch == int(stop * len(loader)):
                raise TrainingInterruptedError("here")

        with pytest.raises(TrainingInterruptedError):
            trained("kept", "512MB", interrupt)
    got = trained("kept", "512MB")
    assert all(torch.equal(got[name], values) for name, values in expected.items())
    assert np.isfinite(sum(float(v.sum()) for v in got.values()))
