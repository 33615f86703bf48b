from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from bedplate.batch import Batch, Dense, Ids, Ragged
from bedplate.errors import ArtifactError, DataError, DefinitionError
from bedplate.features.encoding import Category, Number, Sequence, TensorSpec
from bedplate.features.fitting import fit
from bedplate.features.signature import Signature
from bedplate.types import Type


@dataclass(frozen=True)
class Defined:
    type: Type
    is_list: bool
    id: str
    context: tuple[tuple[str, Type], ...] = ()


FEATURES = {
    "u.spend": Defined(Type.FLOAT, False, "a" * 40),
    "u.last": Defined(Type.STRING, True, "b" * 40),
    "i.price": Defined(Type.FLOAT, False, "c" * 40),
    "i.unused": Defined(Type.FLOAT, False, "d" * 40),
}


def make_batch() -> Batch:
    request = {"u.spend": Dense(np.array([1.0])), "u.last": Ragged(Ids(np.array([4, 5])), np.array([0, 2]))}
    item = {"i.price": Dense(np.array([1.0, 2.0]))}
    zeros = np.zeros(1, np.int64)
    return Batch(request, item, np.array([0, 2]), zeros, zeros, np.array([4, 5]))


@pytest.fixture(scope="module")
def made():
    encodings = {
        "u.spend": Number(),
        "u.last": Sequence(Category("p")),
        "i.price": Number(log=True),
        "candidate": Category("p"),
    }
    encoder = fit(encodings, [make_batch()])
    outputs = (TensorSpec("score", "float32", ("items",)),)
    return encoder, Signature.of(encoder, FEATURES, encoder.layout.tensors(), outputs)


def test_it_lists_exactly_the_features_that_are_read(made):
    _, signature = made
    assert signature.features() == ("u.spend", "u.last", "i.price")
    assert signature.features("item") == ("i.price",)
    assert [i.encoding for i in signature.inputs] == ["number", "sequence", "number"]


def test_json_round_trip(made, tmp_path):
    _, signature = made
    assert Signature.from_json(signature.to_json()) == signature
    (tmp_path / "signature.json").write_bytes(signature.to_json())
    assert Signature.load(tmp_path) == signature
    with pytest.raises(ArtifactError, match="not a signature"):
        Signature.from_json(b'{"inputs": 3}')
    with pytest.raises(ArtifactError, match="can't be read"):
        Signature.load(tmp_path / "nowhere")


def test_a_feature_without_definition_is_refused(made):
    encoder, _ = made
    known = {"u.spent": FEATURES["u.spend"]}
    with pytest.raises(DefinitionError, match=r"'u\.spend'.*\n.*did you mean 'u\.spent'"):
        Signature.of(encoder, known, (), ())


def test_diff_names_what_changed(made):
    encoder, signature = made
    assert signature.diff(signature) == []
    changed = FEATURES | {"i.price": replace(FEATURES["i.price"], id="e" * 40)}
    other = Signature.of(encoder, changed, encoder.layout.tensors()[1:], signature.outputs)
    lines = signature.diff(other)
    assert lines == [f"input 'i.price' id: - {'c' * 40} + {'e' * 40}", "tensor 'request_dense': only in -"]


def test_features_are_checked(made):
    _, signature = made
    signature.check_features(FEATURES)
    without = {n: f for n, f in FEATURES.items() if n not in ("u.last", "u.spend")}
    with pytest.raises(DefinitionError, match=r"'u\.spend', 'u\.last'"):
        signature.check_features(without)
    changed = FEATURES | {"i.price": replace(FEATURES["i.price"], id="e" * 40)}
    with pytest.raises(DefinitionError, match=r"'i\.price' is float64 with id eeeeeeeeeeee, expected .*cccccccccccc"):
        signature.check_features(changed)


def test_tensors_are_checked(made):
    encoder, signature = made
    tensors = encoder.encode(make_batch())
    signature.check_tensors(tensors)
    for name, tensor, message in (
        ("request_dense", None, "'request_dense' is missing"),
        ("item_dense", tensors["item_dense"].astype(np.float64), "float64"),
        ("item_ids", np.zeros((3, 1), np.int64), r"\[3, 1\], expected int64 \[2, 1\]"),
        ("item_ids", np.zeros(2, np.int64), r"\[2\], expected int64 \[items, 1\]"),
        ("item_idz", np.zeros((2, 1), np.int64), r"unknown tensor 'item_idz'"),
    ):
        broken = {n: t for n, t in tensors.items() if n != name} if tensor is None else tensors | {name: tensor}
        with pytest.raises(DataError, match=message):
            signature.check_tensors(broken)
