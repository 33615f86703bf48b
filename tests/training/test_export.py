from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from synthetic import ENCODINGS, PRODUCTS, Source, make_batch, make_encoder

from bedplate.batch import Batch
from bedplate.errors import ArtifactError, DataError, DefinitionError
from bedplate.features.artifact import GOLDEN_ABSOLUTE, GOLDEN_RELATIVE, compare, read_golden
from bedplate.features.encoder import Encoder
from bedplate.features.signature import Signature
from bedplate.models.base import Model
from bedplate.models.config import DCNConfig, LogisticConfig, TwoTowerConfig
from bedplate.models.dcn import DCN
from bedplate.models.logistic import Logistic
from bedplate.models.two_tower import TwoTower
from bedplate.training import graph
from bedplate.training.config import TrainerConfig
from bedplate.training.export import GoldenBatch, catalogue_vectors, export
from bedplate.training.trainer import Trainer
from bedplate.types import Type


@dataclass(frozen=True)
class Defined:
    type: Type
    is_list: bool
    id: str
    context: tuple[tuple[str, Type], ...] = ()


LISTS = {"user.products", "user.ages", "product.words"}
FEATURES = {n: Defined(Type.FLOAT, n in LISTS, n[-1] * 40) for n in ENCODINGS if n != "candidate"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder()


def golden(count: int = 2) -> list[GoldenBatch]:
    batches = [make_batch(np.random.default_rng(i), requests=1 + i, per_request=5) for i in range(count)]
    return [GoldenBatch(b, {"user": np.arange(b.requests) + 100}) for b in batches]


def catalogue(parts: int = 2) -> list[Batch]:
    """Every product once, as the candidates of one request a part."""
    whole = make_batch(np.random.default_rng(0), requests=1, per_request=PRODUCTS)
    size = PRODUCTS // parts
    rows = [np.arange(i * size, (i + 1) * size) for i in range(parts)]
    return [
        replace(
            whole,
            item={n: c.take(r) for n, c in whole.item.items()},
            offsets=np.array([0, size]),
            candidates=whole.candidates[r],
            labels={},
        )
        for r in rows
    ]


@pytest.fixture(scope="module")
def ranker(encoder, tmp_path_factory):
    model = DCN(DCNConfig("label", layers=(16, 8), rank=4, dropout=0.2), encoder.layout)
    folder = tmp_path_factory.mktemp("ranker")
    config = TrainerConfig(epochs=1, learning_rate=0.01)
    model = Trainer(config).fit(model, encoder, Source(10), Source(2, salt=1), folder / "checkpoints").model
    signature = export(model, encoder, folder / "artifact", features=FEATURES, golden=golden())
    return model, folder / "artifact", signature


def session(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession((folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])


def test_the_folder_serves_batches_as_the_model_scores_them(encoder, ranker):
    model, folder, signature = ranker
    assert Signature.load(folder) == signature
    assert signature.features() == tuple(n for n in ENCODINGS if n != "candidate")
    loaded = Encoder.load(folder / "encoder")
    graph = session(folder)
    assert [i.name for i in graph.get_inputs()] == [t.name for t in signature.tensors]
    for requests, per_request in ((1, 1), (1, 40), (7, 3)):
        batch = make_batch(np.random.default_rng(requests), requests, per_request)
        tensors = loaded.encode(batch)
        signature.check_tensors(tensors)
        with torch.no_grad():
            expected = model({n: torch.from_numpy(a) for n, a in encoder.encode(batch).items()})["score"].numpy()
        (got,) = graph.run(["score"], tensors)
        np.testing.assert_allclose(got, expected, rtol=GOLDEN_RELATIVE, atol=GOLDEN_ABSOLUTE)
        assert got.std() > 0 or len(got) == 1


def test_golden_requests_are_kept_with_their_ids(ranker):
    model, folder, _ = ranker
    found = read_golden(folder)
    assert [len(g.request.request_ids) for g in found] == [1, 2]
    assert found[1].request.request_keys == {"user": [100, 101]}
    assert found[1].request.offsets == [0, 5, 10]
    graph = session(folder)
    for one in found:
        assert compare(one.outputs, {"score": graph.run(None, one.inputs)[0]}, "golden") < 1e-6
        with torch.no_grad():
            exact = model({n: torch.from_numpy(a) for n, a in one.inputs.items()})["score"].numpy()
        np.testing.assert_array_equal(one.outputs["score"], exact)


def test_a_changed_output_is_noticed(ranker):
    _, folder, _ = ranker
    one = read_golden(folder)[0]
    with pytest.raises(ArtifactError, match="output 'score' differs by"):
        compare(one.outputs, {"score": one.outputs["score"] + 1e-3}, "golden request 0")
    with pytest.raises(ArtifactError, match="has shape"):
        compare(one.outputs, {"score": one.outputs["score"][:-1]}, "golden")
    with pytest.raises(ArtifactError, match="differs by nan"):
        compare(one.outputs, {"score": one.outputs["score"] * np.nan}, "golden")


@pytest.mark.parametrize("size", [5.5e-5, 1e-3, 0.5, 1.0, 40.0])
def test_a_value_is_reproduced_to_within_its_own_size(size):
    exact = np.array([size, 0.9], np.float64)
    allowed = GOLDEN_RELATIVE * size + GOLDEN_ABSOLUTE
    for sign in (-1.0, 1.0):
        compare({"score": exact}, {"score": exact + np.array([sign * allowed * 0.99, 0.0])}, "golden")
        with pytest.raises(ArtifactError, match=r"output 'score' differs by .*, value 0 is .*, expected"):
            compare({"score": exact}, {"score": exact + np.array([sign * allowed * 1.01, 0.0])}, "golden")


@pytest.mark.parametrize("share", [0.02, 0.18, 1.0])
def test_a_small_score_that_is_off_by_a_share_is_noticed(share):
    small = np.array([5.5e-5, 0.02], np.float32)
    with pytest.raises(ArtifactError, match="differs by"):
        compare({"score": small}, {"score": small * np.array([1 + share, 1], np.float32)}, "golden")


def test_damaged_golden_requests_are_an_artifact_error(ranker, tmp_path):
    _, folder, _ = ranker
    (tmp_path / "golden").mkdir()
    with pytest.raises(ArtifactError, match="can't be read"):
        read_golden(tmp_path)
    (tmp_path / "golden" / "requests.json").write_bytes((folder / "golden" / "requests.json").read_bytes())
    (tmp_path / "golden" / "0.npz").write_bytes((folder / "golden" / "0.npz").read_bytes()[:-50])
    with pytest.raises(ArtifactError, match="can't be read"):
        read_golden(tmp_path)


def test_reading_the_artifact_needs_no_torch(ranker):
    _, folder, _ = ranker
    code = (
        "import sys; from pathlib import Path\n"
        "from bedplate.features.artifact import read_golden\n"
        "from bedplate.features.encoder import Encoder\n"
        "from bedplate.features.signature import Signature\n"
        "p = Path(sys.argv[1]); read_golden(p); Encoder.load(p / 'encoder'); Signature.load(p)\n"
        "print([m for m in ('torch', 'onnx', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture(scope="module")
def towers(encoder, tmp_path_factory):
    model = TwoTower(TwoTowerConfig("label", layers=(16,), width=8, frequency_slots=1024), encoder.layout)
    folder = tmp_path_factory.mktemp("towers") / "artifact"
    texts = {i: f"product {i}" for i in range(PRODUCTS)}
    vectors = catalogue_vectors(model, encoder, catalogue(), texts)
    signature = export(model, encoder, folder, features=FEATURES, golden=golden(), catalogue=vectors)
    return model, folder, signature


def test_the_query_graph_reads_the_request_only(towers):
    _, folder, signature = towers
    assert {i.level for i in signature.inputs} == {"request"}
    assert [t.name for t in signature.tensors] == [
        "request_dense",
        "request_ids",
        "sequence_ids.history",
        "sequence_numbers.history",
    ]
    assert signature.outputs[0].shape == ("requests", 8)
    assert not [f for f in Encoder.load(folder / "encoder").fields if f.level == "item"]


def test_query_times_catalogue_is_the_models_score(encoder, towers):
    model, folder, signature = towers
    keys, vectors = (np.load(folder / "retrieval" / f"{n}.npy") for n in ("keys", "vectors"))
    assert keys.tolist() == list(range(PRODUCTS))
    assert json.loads((folder / "retrieval" / "texts.json").read_text())[3] == "product 3"
    batch = make_batch(np.random.default_rng(4), requests=3, per_request=PRODUCTS)
    tensors = Encoder.load(folder / "encoder").encode(batch)
    (query,) = session(folder).run(["query"], {t.name: tensors[t.name] for t in signature.tensors})
    with torch.no_grad():
        score = model({n: torch.from_numpy(a) for n, a in encoder.encode(batch).items()})["score"].numpy()
    expected = (query[batch.request_of_item()] * vectors[np.searchsorted(keys, batch.candidates)]).sum(axis=1)
    np.testing.assert_allclose(score * model.temperature, expected, atol=1e-5)


def test_a_catalogue_with_a_candidate_twice_or_none_is_refused(encoder, towers):
    model, _, _ = towers
    with pytest.raises(DataError, match="20 candidates are there twice"):
        catalogue_vectors(model, encoder, [*catalogue(), catalogue()[0]])
    with pytest.raises(DataError, match="no candidates"):
        catalogue_vectors(model, encoder, [])


class WithoutNumbersOfSequences(Model):
    """Logistic regression that does not look at the ages of what was bought."""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        sequences = tuple(msgspec.structs.replace(s, numbers=0) for s in layout.sequences)
        self.inner = Logistic(config, msgspec.structs.replace(layout, sequences=sequences))

    def forward(self, inputs):
        return self.inner({n: t for n, t in inputs.items() if not n.startswith("sequence_numbers")})

    def served(self, inputs):
        return {"score": self(inputs)["score"]}

    def loss(self, outputs, targets):
        return self.inner.loss(outputs, targets)

    def metrics(self, prediction):
        return self.inner.metrics(prediction)


def test_what_the_model_does_not_read_is_not_in_the_signature(encoder, tmp_path):
    model = WithoutNumbersOfSequences(LogisticConfig("label"), encoder.layout)
    signature = export(model, encoder, tmp_path / "artifact", features=FEATURES, golden=golden())
    assert set(FEATURES) - set(signature.features()) == {"user.ages"}
    loaded = Encoder.load(tmp_path / "artifact" / "encoder")
    one = golden()[1].batch
    request = {n: c for n, c in one.request.items() if n != "user.ages"}
    tensors = loaded.encode(replace(one, request=request))
    assert list(tensors) == [t.name for t in signature.tensors]
    (got,) = session(tmp_path / "artifact").run(["score"], tensors)
    np.testing.assert_allclose(got, read_golden(tmp_path / "artifact")[1].outputs["score"], atol=1e-5)


def test_export_refuses_what_would_be_no_evidence(encoder, ranker, tmp_path):
    model, folder, _ = ranker
    with pytest.raises(ArtifactError, match="there already"):
        export(model, encoder, folder, features=FEATURES, golden=golden())
    with pytest.raises(ArtifactError, match="no golden request"):
        export(model, encoder, tmp_path / "a", features=FEATURES, golden=[])
    known = {n: d for n, d in FEATURES.items() if n != "user.taste"}
    with pytest.raises(DefinitionError, match=r"user\.taste"):
        export(model, encoder, tmp_path / "a", features=known, golden=golden())
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_is_not_exported(encoder, ranker, tmp_path, monkeypatch):
    model, _, _ = ranker
    whole = graph.Session.run

    def off(self, inputs):
        return {n: a + np.float32(1e-3) for n, a in whole(self, inputs).items()}

    monkeypatch.setattr(graph.Session, "run", off)
    with pytest.raises(ArtifactError, match=r"export, 1 requests and 1 candidates: output 'score' differs"):
        export(model, encoder, tmp_path / "a", features=FEATURES, golden=golden())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing(encoder, ranker, tmp_path):
    model, _, _ = ranker
    bad = replace(golden()[0].batch, item={})
    with pytest.raises(DataError, match="no item column"):
        export(model, encoder, tmp_path / "a", features=FEATURES, golden=[*golden(), GoldenBatch(bad)])
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_a_file_are_refused(encoder, ranker, monkeypatch):
    model, _, signature = ranker
    monkeypatch.setattr(graph, "_LARGEST", 1000)
    with pytest.raises(ArtifactError, match="GiB"):
        graph.to_onnx(model, signature.tensors)
