"""Embedding tables that lie beside the graph of an artifact."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import make_batch, make_encoder
from test_export import FEATURES, golden
from torch import Tensor, nn

from bedplate.errors import ArtifactError
from bedplate.features.artifact import GRAPH, TABLES, read_golden
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Layout
from bedplate.features.tables import LEAST_BYTES, Table, inputs_of, tables_of, with_tables, without_tables, write_tables
from bedplate.inference.artifact import load_artifact, open_artifact
from bedplate.inference.item_side import ItemSide, open_item_side
from bedplate.layers.embedding import FusedEmbedding
from bedplate.models.binary import BinaryModel
from bedplate.models.config import BinaryConfig
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
from bedplate.training import graph
from bedplate.training.export import export
from bedplate.training.graph import served
from bedplate.training.quantize import quantize

WIDTH = 16
ROWS = LEAST_BYTES // (4 * WIDTH)


class Wide(BinaryModel):
    """Two large tables, one of which the score does not read, and layers of the candidates alone."""

    class Config(BinaryConfig, frozen=True):
        """Nothing of its own."""

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__(config, layout)
        torch.manual_seed(0)
        self.table, self.unread = FusedEmbedding(ROWS, WIDTH, scale=1.0), nn.Embedding(ROWS, WIDTH)
        self.of_items = nn.Sequential(nn.Linear(WIDTH * layout.item_ids, 1024), nn.ReLU(), nn.Linear(1024, 512))
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        of_request = batch["request_dense"][:, :1].index_select(0, batch["request_of_item"])
        return {"logit": self.layers(self.of_items(self.table(batch["item_ids"]).flatten(1)) + of_request).squeeze(1)}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder()


@pytest.fixture(scope="module")
def wide(encoder: Encoder) -> Wide:
    return Wide(Wide.Config("label"), encoder.layout)


@pytest.fixture(scope="module")
def folder(encoder: Encoder, wide: Wide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("wide") / "artifact"
    export(wide, encoder, made, features=FEATURES, golden=golden())
    return made


def inputs(encoder: Encoder, taken: Mapping[str, object], seed: int = 3) -> dict[str, np.ndarray]:
    tensors = encoder.encode(make_batch(np.random.default_rng(seed), requests=1, per_request=40))
    return {name: tensors[name] for name in taken}


def test_a_large_table_that_is_read_lies_beside_the_graph_and_is_mapped(
    encoder: Encoder, wide: Wide, folder: Path
) -> None:
    assert (folder / GRAPH).stat().st_size < LEAST_BYTES // 10
    assert (folder / TABLES).stat().st_size == LEAST_BYTES
    opened = open_artifact(folder, "wide", "1")
    assert str(folder / TABLES) in Path("/proc/self/maps").read_text()
    given = inputs(encoder, opened.model.inputs)
    (scores,) = opened.model.run(given, ["score"])
    np.testing.assert_allclose(scores, served(wide, given)["score"], rtol=1e-5)
    assert scores.std() > 0


def test_the_model_is_left_as_it_was(encoder: Encoder, wide: Wide, folder: Path) -> None:
    assert isinstance(wide.table.weight, nn.Parameter)
    assert wide.table.weight.shape == (ROWS, WIDTH)
    assert "table.weight" in wide.state_dict()
    assert {n for n, _ in wide.named_parameters()} >= {"table.weight", "unread.weight"}


class Branching(Wide):
    """Fails when it is traced."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = super().forward(batch)
        if torch.jit.is_tracing():
            raise ValueError("not here")
        return found


def test_a_failed_export_gives_the_tables_back(encoder: Encoder, tmp_path: Path) -> None:
    model = Branching(Wide.Config("label"), encoder.layout)
    with pytest.raises(ValueError, match="not here"):
        export(model, encoder, tmp_path / "a", features=FEATURES, golden=golden())
    assert isinstance(model.table.weight, nn.Parameter)
    assert list(tmp_path.iterdir()) == []


def test_what_candidates_alone_need_of_a_large_table_is_kept(encoder: Encoder, folder: Path) -> None:
    opened = open_artifact(folder, "wide", "1")
    side = open_item_side(opened)
    assert isinstance(side, ItemSide)
    given = inputs(encoder, opened.model.inputs)
    for _ in range(2):
        (kept,), (whole,) = side.run(given, ["score"]), opened.model.run(given, ["score"])
        np.testing.assert_allclose(kept, whole, rtol=1e-5)
    assert side.known > 0


@pytest.mark.parametrize("damage", ["missing", "short", "other"])
def test_a_damaged_table_is_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    if damage == "missing":
        (copy / TABLES).unlink()
    else:
        content = bytearray((copy / TABLES).read_bytes())
        (copy / TABLES).write_bytes(content[: len(content) // 2] if damage == "short" else bytes(len(content)))
    with pytest.raises(ArtifactError, match="wide"):
        open_artifact(copy, "wide", "1")


def test_a_full_disk_is_said_to_be_full() -> None:
    with pytest.raises(OSError, match="No space left") as raised:
        write_tables(Path("/dev/full"), {"table": np.ones((ROWS, WIDTH), np.float32)})
    assert raised.value.errno == errno.ENOSPC


def test_a_graph_without_its_tables_takes_them_as_inputs_and_gets_them_back(folder: Path) -> None:
    graph = (folder / GRAPH).read_bytes()
    tables = tables_of(graph, TABLES)
    assert tables == {"table.weight": Table((ROWS, WIDTH), 0)}
    assert tables_of(graph, "other.bin") == {}
    without = without_tables(graph, tables)
    assert tables_of(without, TABLES) == {}
    assert [n for n in inputs_of(without) if n not in inputs_of(graph)] == ["table.weight"]
    back = with_tables(without, tables, TABLES)
    assert (tables_of(back, TABLES), inputs_of(back)) == (tables, inputs_of(graph))


def test_the_int8_variant_has_the_same_table(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    manifest = gather(tmp_path, definitions={}, sources={}, config={}, seeds={}, metrics={})
    first = registry.register("wide", folder, manifest=manifest)
    second, found = quantize(first, registry, most=0.1)
    assert 0 < found.largest < 0.1
    assert (second.path / TABLES).read_bytes() == (folder / TABLES).read_bytes()
    assert sorted(path.name for path in second.path.parent.iterdir()) == ["1", "2"]
    one, two = (load_artifact(version).model for version in (first, second))
    given = inputs(encoder, one.inputs)
    np.testing.assert_allclose(two.run(given, ["score"])[0], one.run(given, ["score"])[0], atol=0.1)
    (first.path / TABLES).unlink()
    (first.path / TABLES).write_bytes(bytes(LEAST_BYTES))
    with pytest.raises(ArtifactError, match=r"tables\.bin"):
        load_artifact(first)


def test_files_that_can_not_be_linked_are_copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    registry = Registry(tmp_path / "registry")
    manifest = gather(tmp_path, definitions={}, sources={}, config={}, seeds={}, metrics={})
    second, _ = quantize(registry.register("wide", folder, manifest=manifest), registry, most=0.1)
    assert (second.path / TABLES).read_bytes() == (folder / TABLES).read_bytes()


def test_other_weights_have_to_fit_into_the_graph(wide: Wide, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"table.weight", "unread.weight"}
    others = sum(p.nbytes for name, p in wide.named_parameters() if name not in tables)
    monkeypatch.setattr(graph, "_LARGEST", others)
    graph.check_size(wide)
    monkeypatch.setattr(graph, "_LARGEST", others - 1)
    with pytest.raises(ArtifactError, match="beside embedding tables"):
        graph.check_size(wide)


@pytest.mark.parametrize(("other", "more"), [
    (lambda: nn.Embedding(ROWS, WIDTH), 0),
    (lambda: nn.Linear(WIDTH, ROWS, bias=False), LEAST_BYTES),
], ids=["a table", "a layer"])  # fmt: skip
def test_a_weight_that_is_shared_counts_once_and_where_a_layer_has_it(
    encoder: Encoder, other: Callable[[], nn.Module], more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that a layer has too is a weight of the graph, for the layer is not one that looks ids up."""
    model = Wide(Wide.Config("label"), encoder.layout)
    tables = {"table.weight", "unread.weight"}
    others = sum(p.nbytes for name, p in model.named_parameters() if name not in tables)
    model.shared = other()
    model.shared.weight = model.table.weight
    monkeypatch.setattr(graph, "_LARGEST", others + more)
    graph.check_size(model)
    monkeypatch.setattr(graph, "_LARGEST", others + more - 1)
    with pytest.raises(ArtifactError, match="beside embedding tables"):
        graph.check_size(model)


def test_tables_of_other_numbers_than_float32_are_weights_of_the_graph(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Wide(Wide.Config("label"), encoder.layout)
    model.unread = nn.Embedding(ROWS, WIDTH, dtype=torch.float64)
    assert [t.dtype for t in graph.large_tables(model).values()] == [torch.float32]
    monkeypatch.setattr(graph, "_LARGEST", LEAST_BYTES)
    with pytest.raises(ArtifactError, match="beside embedding tables"):
        graph.check_size(model)


def test_the_golden_requests_are_those_of_the_model(wide: Wide, folder: Path) -> None:
    for one in read_golden(folder):
        np.testing.assert_array_equal(one.outputs["score"], served(wide, one.inputs)["score"])
