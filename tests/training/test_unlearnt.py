"""Inputs of which nothing can be learnt: the same in all training rows, and something else in later ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import retraining_project as small
from synthetic import ENCODINGS, make_batch, ragged

from bedplate import Project
from bedplate.batch import Batch, Column, Dense, Embedding, Ids
from bedplate.cli.main import run as command
from bedplate.features.encoding import Encoding, Number
from bedplate.training.inputs import Watcher, read_summary
from bedplate.training.unlearnt import Unlearnt, suspects, unlearnt

N, R = 192, 16
NULL, HALF = np.zeros(N, bool), np.arange(N) % 2 == 0
ONES = np.ones(N)
TEXTS = {7: "mug", 8: "cup"}


def found(train: Column, later: Column, name: str = "product.style") -> list[Unlearnt]:
    """What is said of a column of candidates; validation is as training."""
    plain = make_batch(np.random.default_rng(1))
    batches: dict[str, Batch] = {
        split: replace(plain, item={**plain.item, name: column})
        for split, column in (("train", train), ("validation", train), ("test", later))
    }
    inputs: dict[str, Encoding] = {**ENCODINGS, name: ENCODINGS.get(name, Number())}
    return unlearnt(batches, inputs)


@pytest.mark.parametrize(
    ("train", "later", "said", "share"),
    [
        (Dense(ONES, NULL), Dense(ONES, HALF), "null", 0.5),
        (Dense(ONES * np.nan), Dense(ONES), "null", 0.0),
        (Dense(np.zeros(N)), Dense(np.where(HALF, 0.0, 3.0)), "0", 0.5),
        (Dense(np.full(N, 7)), Dense(np.full(N, 8)), "7", 0.0),
        (Ids(np.full(N, 7), None, TEXTS), Ids(np.where(HALF, 7, 8), None, TEXTS), "'mug'", 0.5),
        (Ids(np.full(N, 7)), Ids(np.where(HALF, 7, 8)), "7", 0.5),
        (Ids(np.full(N, 7), NULL), Ids(np.full(N, 7)), "null", 0.0),
        (Embedding(np.zeros((N, 2))), Embedding(np.stack([ONES, HALF], axis=1)), "the same vector", 0.0),
        (Embedding(np.ones((N, 2)), NULL), Embedding(np.ones((N, 2)), HALF), "null", 0.5),
        (ragged([np.arange(0)] * N, ids=True), ragged([np.arange(i % 2) for i in range(N)], ids=True), "empty", 0.5),
    ],
)
def test_what_is_the_same_in_training_alone_is_said(train: Column, later: Column, said: str, share: float) -> None:
    (one,) = found(train, later)
    assert (one.name, one.same, one.rows, one.shares) == ("product.style", said, N, {"validation": 1.0, "test": share})
    assert one.differs == 1 - share
    assert f"is {said} in all 192 training rows looked at, in 100% of the validation rows and in " in str(one)
    assert f"and in {100 * share:g}% of the test rows" in str(one)


@pytest.mark.parametrize(
    ("train", "later"),
    [
        (Dense(ONES, NULL), Dense(ONES, NULL)),
        (Dense(ONES), Dense(ONES, NULL & HALF | True)),
        (Dense(ONES, HALF), Dense(ONES * 2)),
        (Dense(np.where(HALF, 0.0, 3.0)), Dense(ONES)),
        (Dense(ONES, NULL), Dense(ONES, np.arange(N) == 5)),
        (ragged([np.zeros(1, np.int64)] * N, ids=True), ragged([np.ones(1, np.int64)] * N, ids=True)),
    ],
    ids=["always", "all present", "partly null", "differs", "one row of 192", "lists"],
)
def test_nothing_is_said_of_others(train: Column, later: Column) -> None:
    assert found(train, later) == []


def test_a_feature_of_requests_is_looked_at_by_requests_and_a_split_without_requests_not_at_all() -> None:
    plain = make_batch(np.random.default_rng(1))
    null = replace(plain, request={**plain.request, "user.taste": Dense(np.ones(R), np.zeros(R, bool))})
    (one,) = unlearnt({"train": null, "test": plain}, ENCODINGS)
    assert (one.name, one.rows, one.shares) == ("user.taste", R, {"test": 0.0})
    assert unlearnt({"train": null}, ENCODINGS) == unlearnt({"test": plain}, ENCODINGS) == []


def test_only_what_may_be_the_same_is_looked_at_again(tmp_path: Path) -> None:
    plain = make_batch(np.random.default_rng(1))
    columns = {"null": Dense(ONES, NULL), "one": Dense(ONES), "half": Dense(ONES, HALF), "style": Dense(np.arange(N))}
    columns |= {"empty": ragged([np.arange(0)] * N, ids=False)}
    inputs: dict[str, Encoding] = dict.fromkeys(columns, Number())
    watcher = Watcher(inputs, 1)
    list(watcher.watch([replace(plain, item=columns)]))

    class Dataset:
        """Of no requests."""

        def sizes(self) -> Any:
            return np.zeros(0)

        def positions(self, split: str) -> tuple[int, int]:
            return 0, 0

        def __getattr__(self, name: str) -> Any:
            return self

    dataset: Any = Dataset()
    watcher.write(tmp_path, dataset)
    assert list(suspects(read_summary(tmp_path), inputs)) == ["null", "one", "empty"]
    assert suspects(None, inputs) == inputs


def test_training_says_so_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small.make(tmp_path / "project", 40)
    small.with_seen(folder, 40, (0, 28))
    assert command(["apply", "--project", str(folder)]) == 0
    capsys.readouterr()
    assert command(["train", "ranker", "--project", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    (warning,) = json.loads(out)["warnings"]
    said = "the input 'users.seen_2d' is null in all 1,150 training rows looked at, in "
    assert warning.startswith(said)
    assert err.index(f"warning: {said}") < err.index("train DCN on ")
    dataset = Project(folder).load("pages")
    test = dataset.sample(np.arange(*dataset.positions("test")), 0, 0).request["users.seen_2d"]
    assert isinstance(test, Dense)
    assert test.present is not None
    assert f"and in {round(100 * (1 - test.present.mean()), 1):g}% of the test rows: nothing" in warning


def test_what_the_rows_of_a_continued_run_lack_the_parent_may_have_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small.make(tmp_path / "project", 40)
    for days, words in ((40, []), (60, ["--continue", "ranker:1"])):
        small.with_seen(folder, days, (20, 48))
        assert command(["apply", "--project", str(folder)]) == 0
        capsys.readouterr()
        assert command(["train", "ranker", "--project", str(folder), "--json", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = read_summary(Project(folder).registry.run(found["run"]).folder)
    assert summary is not None
    assert summary.inputs["users.seen_2d"].absent == 1.0, "the run itself has seen none"
    assert found["warnings"] == []
