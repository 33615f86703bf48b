"""The rate of a label in a split equals that of all its rows, and of a sample where there are many."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_world import drawing, loaded, shop_dataset, shop_source

from bedplate.aggregations.arithmetic import Count
from bedplate.datasets import rates
from bedplate.datasets.labels import Label
from bedplate.datasets.rates import label_rate
from bedplate.datasets.split import SPLITS
from bedplate.errors import NotFoundError
from bedplate.testing.simulator import USER

SOURCE = shop_source(3, 300)


@pytest.mark.parametrize("negatives", [None, drawing(SOURCE)])
def test_it_is_the_mean_of_the_known_labels_of_listed_candidates(negatives: object) -> None:
    dataset = loaded(shop_dataset(SOURCE, negatives), SOURCE)  # pyright: ignore[reportArgumentType]
    for split in SPLITS:
        wanted = dataset.assemble(dataset.requests(split)).labels
        for name in ("again", "paid"):
            known = wanted[name][np.isfinite(wanted[name])]
            found = label_rate(dataset, name, split)
            assert (found.rows, found.positives) == (len(known), pytest.approx(known.sum(dtype=np.float64)))


def test_a_sample_is_spread_over_the_split_and_one_class_alone_is_looked_for_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    often = Label("again", USER, SOURCE, Count(), within="3h", at_least=12)
    dataset = loaded(shop_dataset(SOURCE, labels=often), SOURCE)
    whole = label_rate(dataset, "again", "train")
    assert whole.has_both
    for most in (1, 2, 7):
        monkeypatch.setattr(rates, "REQUESTS", most)
        found = label_rate(dataset, "again", "train")
        assert found.has_both, "a sample of one class says nothing of the others"
        assert found == whole or found.rows < whole.rows
    monkeypatch.setattr(rates, "_AT_ONCE", 3)
    monkeypatch.setattr(rates, "REQUESTS", 10**6)
    assert label_rate(dataset, "again", "train") == whole


def test_an_unknown_label_is_refused() -> None:
    dataset = loaded(shop_dataset(SOURCE), SOURCE)
    with pytest.raises(NotFoundError, match="no label 'agian'\n  did you mean 'again'"):
        label_rate(dataset, "agian", "train")
