"""What a ranking model computes of candidates alone is kept, and changes no score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import shop
from onnx import helper, numpy_helper

from bedplate.features import artifact as files
from bedplate.features.artifact import RuntimeSpec, compare
from bedplate.features.encoding import TensorSpec
from bedplate.features.graph import FeatureGraph
from bedplate.inference.artifact import Artifact, open_artifact
from bedplate.inference.item_side import ItemSide, open_item_side
from bedplate.inference.loader import Loader
from bedplate.registry.manifest import gather
from bedplate.runtimes.base import Opening
from bedplate.runtimes.graph_sides import sides
from bedplate.runtimes.onnx import open_runtime, open_sides
from bedplate.serving.load import load_pipeline
from bedplate.serving.service_app import App

ITEM = ["item_dense", "item_ids"]


def side_of(artifact: Artifact, most_bytes: int = 1 << 20) -> ItemSide:
    assert artifact.folder is not None
    parts = open_sides(Opening(artifact.folder / files.GRAPH, "model"), ITEM)
    assert parts is not None
    return ItemSide(*parts, artifact.model, most_bytes)


@pytest.fixture
def ranker(tmp_path: Path, features: FeatureGraph) -> Artifact:
    shop.write_ranker(tmp_path / "ranker", features)
    return open_artifact(tmp_path / "ranker", "ranker", "1")


def some_of(artifact: Artifact, rows: Any) -> dict[str, Any]:
    """Tensors of the golden requests with these candidates."""
    return taken(artifact.golden()[0].inputs, rows)


def taken(tensors: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """Tensors with these candidates of theirs."""
    return {n: a[rows] if n in (*ITEM, "request_of_item") else a for n, a in tensors.items()}


def same(artifact: Artifact, side: ItemSide, tensors: dict[str, Any]) -> None:
    expected, found = artifact.model.run(tensors, ["score"]), side.run(tensors, ["score"])
    compare({"score": expected[0]}, {"score": found[0]}, "a request")


@pytest.mark.parametrize("most_bytes", [0, 500, 1 << 20])
def test_scores_are_the_whole_models_whatever_is_known(ranker: Artifact, most_bytes: int) -> None:
    side, rng = side_of(ranker, most_bytes), np.random.default_rng(0)
    for size in (1, 7, 40, 62, 3, 62):
        same(ranker, side, some_of(ranker, rng.integers(0, 62, size)))
    assert side.known > 0


def test_a_row_is_computed_once_and_again_when_a_feature_changes(ranker: Artifact) -> None:
    side, tensors = side_of(ranker), some_of(ranker, np.arange(5))
    first, again = (side.run(tensors, ["score"])[0] for _ in range(2))
    assert (first == again).all()
    assert (side.computed, side.known) == (5, 5)
    changed = tensors | {"item_dense": tensors["item_dense"].copy()}
    changed["item_dense"][3, 0] += 1.0
    same(ranker, side, changed)
    assert (side.computed, side.known) == (6, 9)
    assert (side.run(tensors, ["score"])[0] == first).all()


def test_a_rows_numbers_are_the_same_bits_beside_others(ranker: Artifact) -> None:
    one, many = some_of(ranker, np.array([4])), some_of(ranker, np.arange(62))
    alone, beside = side_of(ranker), side_of(ranker)
    beside.run(many, ["score"])
    assert (alone.run(one, ["score"])[0] == beside.run(one, ["score"])[0]).all()
    assert (beside.known, beside.computed) == (1, 62)


def test_where_few_rows_are_known_calls_are_whole_for_a_while(ranker: Artifact) -> None:
    side, tensors = side_of(ranker), some_of(ranker, np.arange(62))
    for i in range(64):
        same(ranker, side, tensors | {"item_dense": tensors["item_dense"] + np.float32(i)})
    computed = side.computed
    assert computed == 64 * 62
    numbers = iter(range(1, 1000))

    def new(calls: int) -> int:
        """Calls with unknown rows, and how many of these were computed for themselves."""
        before = side.computed
        for _ in range(calls):
            same(ranker, side, tensors | {"item_dense": tensors["item_dense"] - np.float32(next(numbers))})
        return side.computed - before

    assert new(32) == 0
    assert new(64) == 64 * 62
    assert new(64) == 0  # twice as long
    assert new(1) == 62
    for _ in range(63):
        same(ranker, side, tensors)
    assert side.known >= 62 * 62
    assert new(64) == 64 * 62  # of the last 64 most were known
    assert new(32) == 0
    assert new(1) == 62


def write_slow(
    folder: Path, features: FeatureGraph, *, normed: bool = False, candidates: Sequence[int] = (62,), changed: Any = ()
) -> Artifact:
    """A model whose time is all of the candidates': its scores may depend on the candidates beside them.

    Golden requests have so many candidates each; nodes are changed by what they give.
    """
    shop.write_ranker(folder, features)
    artifact = open_artifact(folder, "slow", "1")
    layout, rng = artifact.encoder.layout, np.random.default_rng(0)
    weights = {
        "wide": rng.normal(size=(layout.item_dense, 2000)).astype(np.float32) / 2000,
        "back": rng.normal(size=(2000, 2000)).astype(np.float32) / 2000,
        "ends": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["item_dense", "wide"], ["a"]),
        helper.make_node("MatMul", ["a", "back"], ["b"]),
        helper.make_node("ReduceSum", ["b", "ends"], ["own"], keepdims=0),
        helper.make_node("ReduceMean", ["own"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["own", "mean"], ["normed"]),
        helper.make_node("Gather", ["request_dense", "request_of_item"], ["of"]),
        helper.make_node("ReduceSum", ["of", "ends"], ["request"], keepdims=0),
        helper.make_node("Add", ["normed" if normed else "own", "request"], ["score"]),
    ]
    nodes = [new for n in nodes for new in dict(changed).get(n.output[0], [n])]
    inputs = [t for t in layout.tensors() if t.name != "item_ids"]
    content = shop.onnx_graph(nodes, inputs, [TensorSpec("score", "float32", ("items",))], weights)
    (folder / files.GRAPH).write_bytes(content)
    signature = artifact.signature
    tensors = tuple(t for t in signature.tensors if t.name != "item_ids")
    (folder / "signature.json").write_bytes(msgspec.structs.replace(signature, tensors=tensors).to_json())
    golden = artifact.golden()[0]
    given = {n: a for n, a in golden.inputs.items() if n != "item_ids"}
    session, first = shop.ort.InferenceSession(content, providers=["CPUExecutionProvider"]), 0
    for i, count in enumerate(candidates):
        some = taken(given, np.arange(first, first + count))
        scores = {"score": session.run(["score"], some)[0]}
        files.write_golden(folder, i, files.Golden(golden.request, some, scores))
        first += count
    requests = [msgspec.structs.replace(golden.request, file=f"{i}.npz") for i in range(len(candidates))]
    (folder / files.GOLDEN_INDEX).write_bytes(msgspec.json.encode(requests))
    return open_artifact(folder, "slow", "1")


def test_it_is_kept_where_that_saves_time(tmp_path: Path, features: FeatureGraph) -> None:
    artifact = write_slow(tmp_path / "slow", features)
    side = open_item_side(artifact)
    assert side is not None
    assert side.known > 0
    assert open_item_side(artifact, most_bytes=0) is None


def test_nothing_is_kept_of_rows_that_depend_on_those_beside_them(tmp_path: Path, features: FeatureGraph) -> None:
    assert open_item_side(write_slow(tmp_path / "slow", features, normed=True)) is None


def test_golden_requests_of_one_candidate_show_together_what_depends_on_others(
    tmp_path: Path, features: FeatureGraph
) -> None:
    ones = [1] * 5
    assert open_item_side(write_slow(tmp_path / "slow", features, candidates=ones)) is not None
    assert open_item_side(write_slow(tmp_path / "normed", features, candidates=ones, normed=True)) is None
    assert open_item_side(write_slow(tmp_path / "one", features, candidates=[1], normed=True)) is None


def test_a_golden_request_may_have_no_candidates(tmp_path: Path, features: FeatureGraph) -> None:
    artifact = write_slow(tmp_path / "slow", features, candidates=[0, 9, 0])
    side, none = open_item_side(artifact), artifact.golden()[0].inputs
    assert side is not None
    assert side.run(none, ["score"])[0].shape == (0,)
    assert open_item_side(write_slow(tmp_path / "none", features, candidates=[0])) is None


def test_a_graph_whose_parts_give_several_rows_for_a_candidate_stays_whole(
    tmp_path: Path, features: FeatureGraph
) -> None:
    halves = [
        helper.make_node("Constant", [], ["half"], value_ints=[-1, 1000]),
        helper.make_node("Reshape", ["a", "half"], ["halves"]),
        helper.make_node("Shape", ["a"], ["sizes"]),
        helper.make_node("Reshape", ["halves", "sizes"], ["again"]),
        helper.make_node("MatMul", ["again", "back"], ["b"]),
    ]
    assert open_item_side(write_slow(tmp_path / "slow", features, changed={"b": halves})) is None


def test_a_graph_that_takes_rows_of_any_size_stays_whole(tmp_path: Path, features: FeatureGraph) -> None:
    artifact = write_slow(tmp_path / "slow", features)
    model = onnx.load(tmp_path / "slow" / files.GRAPH)
    taken_of = next(i for i in model.graph.input if i.name == "item_dense").type.tensor_type
    taken_of.shape.dim[1].dim_param = "width"
    (tmp_path / "slow" / files.GRAPH).write_bytes(model.SerializeToString())
    free = tuple(
        msgspec.structs.replace(t, shape=("items", "width")) if t.name == "item_dense" else t
        for t in artifact.signature.tensors
    )
    signature = msgspec.structs.replace(artifact.signature, tensors=free)
    (tmp_path / "slow" / "signature.json").write_bytes(signature.to_json())
    assert open_item_side(open_artifact(tmp_path / "slow", "slow", "1")) is None


def test_outputs_that_are_left_out_and_outputs_that_are_inputs(tmp_path: Path, features: FeatureGraph) -> None:
    unnamed = [
        helper.make_node("ReduceSum", ["b", "ends"], ["all"], keepdims=0),
        helper.make_node("Dropout", ["all"], ["own", ""]),
    ]
    clipped = [
        helper.make_node("Constant", [], ["most"], value_float=1e6),
        helper.make_node("ReduceSum", ["of", "ends"], ["asked"], keepdims=0),
        helper.make_node("Clip", ["asked", "", "most"], ["request"]),
    ]
    artifact = write_slow(tmp_path / "slow", features, changed={"own": unnamed, "request": clipped})
    assert isinstance(open_item_side(artifact), ItemSide)

    nodes = [helper.make_node("MatMul", ["item_dense", "w"], ["score"])]
    inputs = [TensorSpec("item_dense", "float32", ("items", 2)), TensorSpec("request_of_item", "int64", ("items",))]
    outputs = [TensorSpec("score", "float32", ("items", 1)), inputs[1]]
    weights = {"w": np.ones((2, 1), np.float32)}
    (tmp_path / "given.onnx").write_bytes(shop.onnx_graph(nodes, inputs, outputs, weights))
    parts = open_sides(Opening(tmp_path / "given.onnx", "model"), ["item_dense"])
    assert parts is not None
    assert sorted(parts[1].outputs) == ["request_of_item", "score"]


def test_a_graph_that_is_loaded_only_as_a_whole_stays_whole(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["item_dense", "w"], ["a"]),
        helper.make_node("Mul", ["a", "thin"], ["b"]),
        helper.make_node("Gather", ["b", "request_of_item"], ["score"]),
    ]
    inputs = [TensorSpec("item_dense", "float32", ("items", 2)), TensorSpec("request_of_item", "int64", ("items",))]
    content = shop.onnx_graph(
        nodes, inputs, [TensorSpec("score", "float32", ("items", 2))], {"w": np.ones((2, 2), np.float32)}
    )
    model = onnx.load_from_string(content)
    values, places = (numpy_helper.from_array(np.array([1], dtype), "thin") for dtype in (np.float32, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2]))
    path = tmp_path / "thin.onnx"
    path.write_bytes(model.SerializeToString())
    assert "score" in open_runtime(Opening(path, "model")).outputs
    assert open_sides(Opening(path, "model"), ["item_dense"]) is None


@pytest.mark.parametrize("most_bytes", [300, 3000])
def test_threads_that_share_few_places_get_their_own_scores(ranker: Artifact, most_bytes: int) -> None:
    rng, side = np.random.default_rng(2), side_of(ranker, most_bytes)
    requests = [some_of(ranker, rng.integers(0, 62, size)) for size in rng.integers(1, 90, 60)] * 3
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda tensors: side.run(tensors, ["score"])[0], requests))
    for tensors, scores in zip(requests, found, strict=True):
        compare({"score": ranker.model.run(tensors, ["score"])[0]}, {"score": scores}, "a request")


def test_nothing_is_kept_of_an_int8_variant_or_of_what_has_no_candidates(
    tmp_path: Path, features: FeatureGraph
) -> None:
    artifact = write_slow(tmp_path / "slow", features)
    assert artifact.folder is not None
    RuntimeSpec(absolute=0.1).write(artifact.folder)
    assert open_item_side(open_artifact(artifact.folder, "slow", "1")) is None
    shop.write_tower(tmp_path / "tower", features)
    assert open_item_side(open_artifact(tmp_path / "tower", "tower", "1")) is None


def test_a_graph_without_a_product_of_candidates_alone_stays_whole(ranker: Artifact) -> None:
    assert ranker.folder is not None
    content = (ranker.folder / files.GRAPH).read_bytes()
    assert sides(content, ["item_ids"]) is None
    found = sides(content, ITEM)
    assert found is not None
    assert sorted(found.between) == ["i", "sparse"]


def test_a_service_ranks_alike_with_and_without(tmp_path: Path, features: FeatureGraph) -> None:
    registry, said = shop.register(tmp_path, features), list[str]()
    write_slow(tmp_path / "slow", features)
    manifest = gather(tmp_path, definitions={}, sources={}, config={}, seeds={}, metrics={})
    registry.promote("ranker", registry.register("ranker", tmp_path / "slow", manifest=manifest).version)
    whole, kept = (
        load_pipeline(
            shop.service(), features, shop.Oracle(features), registry, clock=lambda: shop.NOW,
            loader=Loader(registry, item_bytes=n << 20, say=said.append),
        )
        for n in (0, 1)
    )  # fmt: skip
    assert said == ["model 'ranker:2': what it computes of candidates alone is kept, in 1 MB at most"]
    side = kept.models["ranking"].item_side
    assert isinstance(side, ItemSide)
    assert whole.models["ranking"].item_side is None
    before = side.known + side.computed
    for candidates in (shop.PRODUCTS, shop.PRODUCTS[5:12]):
        body = msgspec.json.encode({"customer": 3, "candidates": candidates})
        expected, got = (p.rank(p.wire.rank(body)) for p in (whole, kept))
        assert got.scores == pytest.approx(expected.scores, rel=1e-5, abs=5e-7)
        assert msgspec.structs.replace(got, scores=[]) == msgspec.structs.replace(expected, scores=[])
    assert side.known + side.computed == before + 37
    apps = [App(), App()]
    for app, pipeline in zip(apps, (whole, kept), strict=True):
        app.open(pipeline)
    none, text = (app.metrics.text() for app in apps)
    assert "bedplate_candidate_rows_total" not in none
    for was, count in (("known", side.known), ("computed", side.computed)):
        assert count > 0
        assert f'bedplate_candidate_rows_total{{model="ranker",version="2",was="{was}"}} {count}\n' in text
