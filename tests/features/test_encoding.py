from __future__ import annotations

import re

import numpy as np
import pytest

from bedplate.batch import Batch, Dense, Ids, Ragged
from bedplate.errors import ArtifactError, DataError, DefinitionError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Bag, Category, Number, Sequence
from bedplate.features.fitting import fit
from bedplate.features.vocabulary import Vocabularies, Vocabulary

RNG_SEED = 3


def ragged(lists: list[list[float]] | list[list[int]], ids: bool = False) -> Ragged:
    flat = [v for row in lists for v in row]
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in lists]))).astype(np.int64)
    return Ragged(Ids(np.array(flat, np.int64)) if ids else Dense(np.array(flat, np.float64)), offsets)


def batch(request=None, item=None, sizes=(2, 1), candidates=None) -> Batch:
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    n = int(offsets[-1])
    return Batch(
        request or {},
        item or {},
        offsets,
        np.full(len(sizes), 10**15, np.int64),
        np.arange(len(sizes)),
        np.arange(n) if candidates is None else np.asarray(candidates, np.int64),
    )


def test_number_is_standardised_over_all_batches():
    rng = np.random.default_rng(RNG_SEED)
    parts = [batch({"v.x": Dense(rng.normal(5e9, 3, n))}, sizes=(1,) * n) for n in (1, 50, 7)]
    encoder = fit({"v.x": Number()}, parts)
    out = np.concatenate([encoder.encode(b)["request_dense"] for b in parts])
    assert out.shape == (58, 1)
    assert out.dtype == np.float32
    # float32 of the raw values would lose all digits of a spread of 3 around 5e9
    np.testing.assert_allclose(out[:, 0].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(out[:, 0].std(), 1, atol=1e-5)


def test_log_is_signed():
    values = np.array([-100.0, 0.0, 100.0])
    b = batch({"v.x": Dense(values)}, sizes=(1, 1, 1))
    encoder = fit({"v.x": Number(log=True)}, [b])
    expected = np.sign(values) * np.log1p(np.abs(values))
    np.testing.assert_allclose(encoder.encode(b)["request_dense"][:, 0], expected / expected.std(), rtol=1e-6)


def test_null_is_the_mean_with_a_presence_column_whatever_stands_there():
    present = np.array([True, False, True])
    b = batch({"v.x": Dense(np.array([1.0, np.nan, 3.0]), present), "v.y": Dense(np.array([1, 2, 3]))}, sizes=(1, 1, 1))
    encoder = fit({"v.y": Number(), "v.x": Number(log=True)}, [b])
    assert encoder.columns_of("request_dense") == ("v.x", "v.y", "v.x?")
    out = encoder.encode(b)["request_dense"]
    np.testing.assert_array_equal(out[:, 2], [1, 0, 1])
    assert out[1, 0] == 0
    np.testing.assert_allclose(out[:, 1], [-np.sqrt(1.5), 0, np.sqrt(1.5)], rtol=1e-6)


def test_null_where_training_had_none_is_the_mean():
    b = batch({"v.x": Dense(np.array([1.0, 3.0]))}, sizes=(1, 1))
    encoder = fit({"v.x": Number()}, [b])
    served = batch({"v.x": Dense(np.array([7.0, 3.0]), np.array([False, True]))}, sizes=(1, 1))
    np.testing.assert_array_equal(encoder.encode(served)["request_dense"], [[0.0], [1.0]])


def test_constant_feature_has_scale_one():
    b = batch({"v.x": Dense(np.full(1000, 0.1))}, sizes=(1,) * 1000)
    assert fit({"v.x": Number()}, [b]).fields[0].encoding.scale == 1.0


def test_not_finite_number_is_refused_at_fit():
    with pytest.raises(DataError, match=r"'v\.x' holds 1 values that are not finite"):
        fit({"v.x": Number()}, [batch({"v.x": Dense(np.array([1.0, np.inf]))})])


def test_category_rows_null_unknown_and_rare():
    b = batch(item={"v.c": Ids(np.array([7, 7, -5, 9]), np.array([True, True, True, False]))}, sizes=(4,))
    encoder = fit({"v.c": Category(min_count=2)}, [b])
    # row 0 pads, 1 is null, 2 is out of vocabulary, 3 is the key 7
    np.testing.assert_array_equal(encoder.encode(b)["item_ids"][:, 0], [3, 3, 2, 1])
    assert encoder.layout.rows == 4


def test_category_of_whole_numbers_and_booleans():
    b = batch({"v.day": Dense(np.array([3, 6])), "v.new": Dense(np.array([True, False]))}, sizes=(1, 1))
    encoder = fit({"v.day": Category(), "v.new": Category()}, [b])
    np.testing.assert_array_equal(encoder.encode(b)["request_ids"], [[3, 8], [4, 7]])


@pytest.mark.parametrize("n", [5, 1024, 1025, 20000])
@pytest.mark.parametrize("keys", [0, 1, 300])
def test_vocabulary_equals_a_dictionary(n, keys):
    rng = np.random.default_rng(n + keys)
    extremes = np.array([-(2**63), 2**63 - 1, 0], np.int64)
    known = np.unique(np.concatenate((rng.integers(-(2**63), 2**63 - 1, max(keys - 3, 0)), extremes[: min(keys, 3)])))
    values = np.concatenate((rng.choice(known, n - 4) if keys else np.zeros(n - 4, np.int64), extremes, [-1]))
    present = rng.random(n) < 0.8
    table = {int(k): i + 2 for i, k in enumerate(known)}
    expected = [table.get(int(v), 1) if p else 0 for v, p in zip(values, present, strict=True)]
    table_rows = Vocabularies({"other": Vocabulary(np.arange(7)), "own": Vocabulary(known)})
    rows = table_rows.rows_of(
        table_rows.choose(["own", "other"]), np.stack((values, values)), np.stack((present, present))
    )
    np.testing.assert_array_equal(rows[:, 0] - table_rows.first_rows["own"], expected)
    small = {i: i + 2 for i in range(7)}
    others = [small.get(int(v), 1) if p else 0 for v, p in zip(values, present, strict=True)]
    np.testing.assert_array_equal(rows[:, 1] - table_rows.first_rows["other"], others)


def test_vocabulary_refuses_unsorted_keys():
    with pytest.raises(DataError, match="ascending"):
        Vocabulary(np.array([2, 1]))


def test_sequence_keeps_the_last_and_shares_the_candidates_vocabulary():
    request = {
        "h.product": ragged([[5, 6, 7, 8], [], [9]], ids=True),
        "h.price": ragged([[1, 2, 3, 4], [], [5]]),
    }
    b = batch(request, sizes=(1, 1, 1), candidates=[7, 8, 1])
    encoder = fit(
        {
            "candidate": Category(vocabulary="product"),
            "h.product": Sequence(Category(vocabulary="product"), "h", length=3),
            "h.price": Sequence(Number(), "h", length=3),
        },
        [b],
    )
    out = encoder.encode(b)
    candidates = out["item_ids"][:, 0]
    ids = out["sequence_ids.h"]
    assert ids.shape == (3, 3, 1)
    assert ids[0, 1, 0] == candidates[0]
    assert ids[0, 2, 0] == candidates[1]
    assert (ids[1] == 0).all()
    np.testing.assert_array_equal(ids[2, :, 0] != 0, [True, False, False])
    numbers = out["sequence_numbers.h"][..., 0]
    np.testing.assert_allclose(numbers[0], (np.array([2, 3, 4]) - 3.5) / np.sqrt(1.25), rtol=1e-6)
    np.testing.assert_array_equal(numbers[1], 0)


def test_padding_is_that_of_the_longest_list_and_at_least_one():
    empty = batch({"h.product": ragged([[], []], ids=True)}, sizes=(1, 1))
    b = batch({"h.product": ragged([[1, 2], []], ids=True)}, sizes=(1, 1))
    encoder = fit({"h.product": Sequence(Category())}, [b])
    assert encoder.encode(empty)["sequence_ids.history"].shape == (2, 1, 1)
    assert encoder.encode(b)["sequence_ids.history"].shape == (2, 2, 1)


def test_bag_keeps_the_first():
    b = batch(item={"v.words": ragged([[4, 5, 6], [5], []], ids=True)})
    encoder = fit({"v.words": Bag(length=2)}, [b])
    np.testing.assert_array_equal(encoder.encode(b)["bag_ids.v.words"], [[3, 4], [4, 0], [0, 0]])


def test_elements_that_are_not_encoded_are_not_fitted():
    """A model never sees them: they would take rows of the table, and move the mean."""
    b = batch(
        {
            "v.ids": ragged([[9, 8, 1, 2], [1, 2]], ids=True),
            "v.x": ragged([[1e6, 1e6, 1.0, 3.0], [1.0, 3.0]]),
            "v.tags": ragged([[4, 5, 6], []], ids=True),
        },
        sizes=(1, 1),
    )
    encoder = fit(
        {
            "v.ids": Sequence(Category(), length=2),
            "v.x": Sequence(Number(), length=2),
            "v.tags": Bag(length=2),
        },
        [b],
    )
    assert encoder.vocabularies["v.ids"].keys.tolist() == [1, 2]
    assert encoder.vocabularies["v.tags"].keys.tolist() == [4, 5]
    number = encoder.fields[1].element
    assert isinstance(number, Number)
    assert (number.mean, number.scale) == (2.0, 1.0)
    # Rare keys are counted among the encoded elements too.
    twice = fit({"v.ids": Sequence(Category(min_count=2), length=3)}, [b])
    assert twice.vocabularies["v.ids"].keys.tolist() == [1, 2]


def test_null_element_of_a_list_has_its_own_row_and_presence():
    words = Ragged(Ids(np.array([4, 0]), np.array([True, False])), np.array([0, 2]))
    ages = Ragged(Dense(np.array([1.0, 9.0]), np.array([True, False])), np.array([0, 2]))
    b = batch({"h.w": words, "h.age": ages}, sizes=(1,))
    encoder = fit({"h.w": Sequence(Category()), "h.age": Sequence(Number())}, [b])
    out = encoder.encode(b)
    np.testing.assert_array_equal(out["sequence_ids.history"][0, :, 0], [3, 1])
    np.testing.assert_array_equal(out["sequence_numbers.history"][0], [[0, 1], [0, 0]])


def test_lists_of_a_group_must_be_aligned():
    good = batch({"a": ragged([[1]], ids=True), "b": ragged([[1]])}, sizes=(1,))
    encoder = fit({"a": Sequence(Category()), "b": Sequence(Number())}, [good])
    with pytest.raises(DataError, match="differ in length"):
        encoder.encode(batch({"a": ragged([[1]], ids=True), "b": ragged([[1, 2]])}, sizes=(1,)))


@pytest.mark.parametrize(
    ("encodings", "message"),
    [
        ({}, "no feature"),
        ({"a": Category("v", 2), "b": Category("v", 3)}, "min_count is 3, but 2"),
        ({"h": Sequence(Number())}, "holds only numbers"),
        ({"h": Sequence(Category(), length=2), "w": Sequence(Category(), length=3)}, "length is 3, but 2"),
        ({"a": Category()}, "holds numbers, expected ids"),
        ({"h": Number()}, "holds lists, expected numbers"),
        ({"c": Number()}, "holds ids, expected numbers"),
        ({"a": Bag()}, "holds numbers, expected lists"),
        ({"w": Sequence(Category())}, "lists of candidates"),
    ],
)
def test_encodings_that_do_not_suit_are_refused(encodings, message):
    columns = {
        "a": Dense(np.array([0.5])),
        "b": Ids(np.array([1])),
        "c": Ids(np.array([1])),
        "h": ragged([[1]], ids=True),
    }
    with pytest.raises(DefinitionError, match=message):
        fit(encodings, [batch(columns, {"w": ragged([[1]], ids=True)}, sizes=(1,))])


def test_unknown_feature_has_a_suggestion():
    with pytest.raises(DataError, match=r"did you mean 'v\.spend'"):
        fit({"v.spent": Number()}, [batch({"v.spend": Dense(np.zeros(2))})])
    with pytest.raises(DataError, match="no batch"):
        fit({"v.spend": Number()}, [])


def test_missing_column_at_encode_is_named():
    b = batch({"v.x": Dense(np.zeros(2)), "v.y": Dense(np.zeros(2))})
    encoder = fit({"v.x": Number(), "v.y": Number()}, [b])
    with pytest.raises(DataError, match=r"no request column 'v\.y'"):
        encoder.encode(batch({"v.x": Dense(np.zeros(2))}))


def full() -> tuple[Encoder, Batch]:
    rng = np.random.default_rng(RNG_SEED)
    request = {"u.x": Dense(rng.normal(size=3)), "h.p": ragged([[1, 2], [], [3]], ids=True), "u.c": Ids(np.arange(3))}
    item = {"i.x": Dense(rng.normal(size=6), rng.random(6) < 0.5), "i.w": ragged([[1]] * 6, ids=True)}
    b = batch(request, item, sizes=(1, 0, 5))
    encodings = {
        "u.x": Number(log=True),
        "h.p": Sequence(Category("p")),
        "u.c": Category(),
        "i.x": Number(),
        "i.w": Bag(),
        "candidate": Category("p"),
    }
    return fit(encodings, [b]), b


def test_layout_describes_the_tensors():
    encoder, b = full()
    out = encoder.encode(b)
    specs = encoder.layout.tensors()
    assert [s.name for s in specs] == list(out)
    sizes = {"requests": 3, "items": 6, "history.length": 2, "i.w.length": 1}
    for spec in specs:
        assert out[spec.name].dtype == spec.dtype
        assert out[spec.name].shape == tuple(sizes.get(d, d) for d in spec.shape)
        assert out[spec.name].flags.c_contiguous


def test_save_and_load_give_the_same_tensors(tmp_path):
    encoder, b = full()
    encoder.save(tmp_path / "encoder")
    loaded = Encoder.load(tmp_path / "encoder")
    assert loaded.digest() == encoder.digest()
    assert loaded.layout == encoder.layout
    for name, tensor in encoder.encode(b).items():
        np.testing.assert_array_equal(loaded.encode(b)[name], tensor)


def test_loading_a_damaged_encoder_is_an_artifact_error(tmp_path):
    encoder, _ = full()
    encoder.save(tmp_path)
    path = tmp_path / "vocabulary-0.npy"
    content = path.read_bytes()
    header = content.replace(b"}", b" ", 1)  # NumPy reads the header as Python, which has no end then
    for damaged in (b"", content[:-4], b"x" * 200, header):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="can't be read"):
            Encoder.load(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match="vocabulary-0"):
        Encoder.load(tmp_path)
    (tmp_path / "encoder.json").write_text('{"format": 99, "fields": [], "vocabularies": {}}')
    with pytest.raises(ArtifactError, match="format 99"):
        Encoder.load(tmp_path)


def test_digest_depends_on_the_vocabulary():
    a = fit({"c": Category()}, [batch({"c": Ids(np.array([1, 2]))})])
    b = fit({"c": Category()}, [batch({"c": Ids(np.array([1, 3]))})])
    assert a.digest() != b.digest()


def test_encoding_is_per_row():
    """A row's tensors do not depend on the other rows of its batch: what training and serving share."""
    rng = np.random.default_rng(RNG_SEED)
    n = 3000
    item = {"i.x": Dense(rng.lognormal(size=n)), "i.y": Dense(rng.normal(size=n)), "i.c": Ids(rng.integers(0, 99, n))}
    encoder = fit(
        {"i.x": Number(log=True), "i.y": Number(), "i.c": Category(min_count=20)}, [batch(item=item, sizes=(n,))]
    )
    together = encoder.encode(batch(item=item, sizes=(n,)))
    for row in (0, 17, n - 1):
        alone = encoder.encode(batch(item={k: c.take(np.array([row])) for k, c in item.items()}, sizes=(1,)))
        np.testing.assert_array_equal(alone["item_dense"][0], together["item_dense"][row])
        np.testing.assert_array_equal(alone["item_ids"][0], together["item_ids"][row])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Number(log="x"), "encoding Number: log is 'x': expected `bool`, got `str`"),
        (lambda: Number(mean="0"), "encoding Number: mean is '0': expected `float`, got `str`"),
        (lambda: Category(3), "encoding Category: vocabulary is 3: expected `str`, got `int`"),
        (lambda: Category(min_count=-1), "encoding Category: min_count is -1, expected at least 1"),
        (lambda: Category(min_count=1.5), "encoding Category: min_count is 1.5: expected `int`, got `float`"),
        (lambda: Bag(length=-3), "encoding Bag: length is -3, expected at least 1"),
        (lambda: Bag(length=0), "encoding Bag: length is 0, expected at least 1"),
        (lambda: Bag(min_count=0), "encoding Bag: min_count is 0, expected at least 1"),
        (lambda: Sequence(3), "encoding Sequence: got 3, expected the encoding of an element"),
        (lambda: Sequence(Bag()), "encoding Sequence: got Bag"),
        (lambda: Sequence(Category(), 7), "encoding Sequence: group is 7: expected `str`, got `int`"),
        (lambda: Sequence(Category(), length=0), "encoding Sequence: length is 0, expected at least 1"),
    ],
)
def test_encodings_out_of_range_are_refused(make, message):
    with pytest.raises(DefinitionError, match=f"^{re.escape(message)}"):
        make()
