"""Processes that hold some rows of each table train the model of one process that holds all of them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import retraining_project as small
import run_parallel
import run_sharded
import torch
from synthetic import make_encoder
from trained_together import (
    assert_same_state,
    check_interrupted_and_killed,
    check_poisoned,
    check_resumed,
    check_that_of_one_process,
    state,
    train_all,
)

from bedplate import Project
from bedplate.cli.main import run as command
from bedplate.errors import MissingExtraError, StoreError
from bedplate.features.artifact import read_golden
from bedplate.layers.embedding import FusedEmbedding, Window, tables_of, without_rows
from bedplate.training import tables
from bedplate.training.alone import Alone
from bedplate.training.checkpoint import load_state
from bedplate.training.processes import started
from bedplate.training.sharding import require_torchrec

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.xdist_group("parallel")]


@pytest.fixture(scope="module")
def sharded(one_thread, tmp_path_factory):
    """What each job gives by two processes, and where its files are."""
    return train_all(run_sharded.TOGETHER, tmp_path_factory.mktemp("sharded"), run_sharded.__file__, run_sharded.shard)


@pytest.mark.parametrize("name", ["dcn", "all", "own", "two_tower", "tables", "three", "changing, resumed"])
def test_the_model_is_that_of_one_process(sharded, tmp_path, name):
    folder, _ = sharded
    one = check_that_of_one_process(name, sharded, tmp_path)
    best = load_state(folder / name.partition(",")[0] / "best.pt")["model"]
    assert {key: weight.shape for key, weight in best.items()} == {k: w.shape for k, w in one["model"].items()}


def test_a_resumed_run_of_as_many_processes_is_the_same_bit_for_bit(sharded):
    check_resumed(sharded)


def test_what_is_not_finite_is_named_whoever_has_it(sharded):
    check_poisoned(sharded)
    _, found = sharded
    assert "all inputs and labels are finite, but not the weights vectors.embedding.weight, more" in found["exploding"]
    assert "the weights 'vectors.embedding.weight' are not finite; the checkpoint before" in found["exploding, saved"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("width", "'more.weight' has vectors of 3 numbers, expected a multiple of 4"),
        ("rows", "'more.weight' has 1 rows, too few for 2 processes"),
        ("other", r"the model looks up row \d+ of a table, which no input of the batch names"),
        ("reading", "the model reads the weights of a table by other ways than looking ids up"),
        ("penalty", "the model reads the weights of a table by other ways than looking ids up"),
        ("tied", "'vectors.embedding.weight' and 'unused.weight' are the same weights"),
        ("compiled", "compile is 'eager', and lookups of sharded tables can't be compiled"),
    ],
)
def test_what_can_not_be_sharded_is_refused(sharded, name, message):
    assert re.search(message, sharded[1][f"wrong {name}"])


def test_an_interrupt_stops_all_and_a_killed_process_leaves_a_checkpoint(tmp_path):
    check_interrupted_and_killed(tmp_path, run_sharded.__file__, run_sharded.shard)


def mapped_file(tensor: torch.Tensor) -> str:
    """The file that a tensor's memory is a mapping of; empty: of none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= tensor.data_ptr() < last:
            return name if name.startswith("/") else ""
    return ""


def test_each_process_holds_its_share_and_the_first_one_gets_the_whole(tmp_path):
    """By three processes, of which the last one has fewer rows."""
    command = run_parallel.command(["tables"], tmp_path, run_sharded.__file__)
    with started(command, 3) as workers, workers.connect(run_sharded.shard) as exchange:
        result = run_parallel.run("tables", exchange, tmp_path)
    rows = make_encoder().layout.rows
    kept = {mapped_file(table.weight) for table in tables_of(result.model).values()}
    assert kept == {str(tmp_path / "tables" / "best.pt")}, "whole tables stay in the file of the best weights"
    assert [table.weight.shape[0] for table in tables_of(result.model).values()] == [rows, rows, rows, 50]
    here = [json.loads((tmp_path / "tables" / f"rows-{rank}").read_text()) for rank in range(3)]
    most = -(-rows // 3)
    assert [one["more.weight"] for one in here] == [most, most, rows - 2 * most]
    assert [one["unused.weight"] for one in here] == [17, 17, 16]
    alone = run_parallel.run("tables", Alone(), tmp_path / "alone")
    assert_same_state(state(tmp_path / "tables"), state(tmp_path / "alone" / "tables"))
    for name, expected in alone.model.state_dict().items():
        np.testing.assert_allclose(result.model.state_dict()[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_table_without_rows_takes_no_memory_and_a_window_stands_in_for_it():
    with without_rows():
        table = FusedEmbedding(10**12, 4)
    assert [weight.is_meta for weight in table.state_dict().values()] == [True]
    vectors = torch.arange(12.0).view(3, 4).requires_grad_()
    table.window = Window(torch.tensor([0, 7, 10**11]), vectors)
    looked_up = table(torch.tensor([[7, 0], [10**11, 7]]))
    assert looked_up[:, 0].tolist() == [[4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]
    looked_up.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[:, 0].tolist() == [0.0, 2.0, 1.0], "padding learns nothing, a row that is read twice both"


def test_no_room_for_a_whole_table_is_an_error_and_not_the_end_of_the_process(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(StoreError, match=r"no room for 0\.16 GB of an embedding table.*No space left"):
        tables.in_file((10_000_000, 4), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["torchrec", "fbgemm_gpu", "tensordict", "pyre_extensions"])
def test_a_missing_library_is_named_with_what_installs_it(monkeypatch, library):
    for name in [n for n in sys.modules if n.partition(".")[0] in ("torchrec", library)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    torchrec, fbgemm = (next(line for line in pinned if line.startswith(name)) for name in ("torchrec", "fbgemm"))
    said = rf"(?s)'{library}' is not installed.*'bedplate\[sharding\]'.*--no-deps {torchrec} {fbgemm}$"
    with pytest.raises(MissingExtraError, match=said):
        require_torchrec()


def test_a_registered_version_is_that_of_one_process(tmp_path, capsys, monkeypatch):
    drawn = []

    def in_file(shape, folder):
        drawn.append(tuple(shape))
        return tables.in_file(shape, folder)

    monkeypatch.setattr("bedplate.training.network.in_file", in_file)
    project = small.make(tmp_path / "project", 40)
    where = ["--project", str(project)]
    assert command(["apply", *where]) == 0
    assert command(["train", "ranker", *where]) == 0
    assert command(["train", "ranker", "--processes", "2", "--sharding", "torchrec", *where]) == 0
    assert len(drawn) == 1, "the first process draws the table where it takes no memory"
    small.write(project, 46)
    assert command(["apply", *where]) == 0
    assert command(["train", "ranker", "--continue", "ranker:1", *where]) == 0
    words = ["train", "ranker", "--continue", "ranker:2", "--processes", "2", "--sharding", "torchrec", "--profile"]
    assert command([*words, *where]) == 0
    registry = Project(project).registry
    for whole, split in ((1, 2), (3, 4)):
        one, two = registry.get("ranker", whole), registry.get("ranker", split)
        assert files(two.path) == files(one.path)
        assert one.manifest.config["trainer"] == two.manifest.config["trainer"]
        for expected, got in zip(read_golden(one.path), read_golden(two.path), strict=True):
            for name, values in expected.outputs.items():
                np.testing.assert_allclose(got.outputs[name], values, rtol=1e-4, atol=1e-6)
        assert two.manifest.metrics == pytest.approx(one.manifest.metrics, rel=1e-3)
    capsys.readouterr()
    assert command(["train", "ranker", "--sharding", "torchrec", *where]) == 2
    assert "give --processes too" in capsys.readouterr().err


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
