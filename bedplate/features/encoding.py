"""Encodings: from feature columns to the tensors that a model takes. The loader and the server run this same code.

The user names an encoding for each feature; `fitting.fit` reads training batches and returns an `Encoder`, which makes
these tensors of a batch of R requests and N candidates (those for which it has features, and always the last):

| tensor | dtype | shape | holds |
|---|---|---|---|
| `request_dense` | float32 | [R, numbers] | numbers of the request, then vectors, then presence columns |
| `request_ids` | int64 | [R, categories] | rows of the embedding table |
| `item_dense` | float32 | [N, numbers] | as above, per candidate |
| `item_ids` | int64 | [N, categories] | as above, per candidate |
| `sequence_ids.<group>` | int64 | [R, length, categories] | last elements of a request's lists, oldest first; 0 pads |
| `sequence_numbers.<group>` | float32 | [R, length, numbers] | numbers of the same elements; 0 pads |
| `bag_ids.<feature>` | int64 | [R or N, length] | the first elements of a list, without order; 0 pads |
| `request_of_item` | int64 | [N] | the request of each candidate |

Ids are rows of *one* embedding table that all vocabularies share: row 0 is padding; a vocabulary has a block with its
null row, its out-of-vocabulary row and a row for each known key. Features that name one vocabulary share its rows. A
padded `length` is that of the longest list in the batch, at least 1 and at most the encoding's length.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from bedplate.errors import DefinitionError
from bedplate.features.checks import check_least, check_types

Level: TypeAlias = Literal["request", "item"]

CANDIDATE = "candidate"
"""The name under which the key of the candidate (`Batch.candidates`) is encoded like a feature of the item."""

OF_ITEM = "request_of_item"
"""The tensor that says the request of each candidate."""


TAKES = (
    "Number takes numbers, Category ids or whole numbers, Bag lists of ids, Sequence lists of the request, "
    "Vector vectors"
)
"""What each encoding takes, for messages."""


class Number(msgspec.Struct, frozen=True, tag="number", tag_field="kind", forbid_unknown_fields=True):
    """A number `x` as `(f(x) - mean) / scale`, where `f(x)` is `x`, or `sign(x) log(1 + |x|)` with `log`.

    A null becomes 0 (the mean) with a 0 in the presence column. There is a presence column where the training data held
    a null; where it held none, the model could learn nothing from one, and a null is read as the mean.

    Attributes:
        log: compress a long tail.
        mean: of `f(x)`; fitted.
        scale: the standard deviation of `f(x)`, or 1 where that is 0; fitted.
        presence: has a presence column; fitted.
        nan: a null becomes NaN instead, for models that know missing values; see `Encoder.unscaled`.
    """

    log: bool = False
    mean: float = 0.0
    scale: float = 1.0
    presence: bool = True
    nan: bool = False

    def __post_init__(self) -> None:
        """Checks the types.

        Raises:
            DefinitionError: a value is of another type than its field.
        """
        check_types(self, "encoding Number", DefinitionError)


class Category(msgspec.Struct, frozen=True, tag="category", tag_field="kind", forbid_unknown_fields=True):
    """An id as a row of the embedding table: null, out of vocabulary, or a key seen in training.

    Attributes:
        vocabulary: the name of the vocabulary; features with the same name share it. Empty: the feature's own.
        min_count: keys seen less often in the training data count as out of vocabulary, so that this row is trained.
    """

    vocabulary: str = ""
    min_count: int = 1

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            DefinitionError: a value is of another type than its field, or `min_count` is below 1.
        """
        check_types(self, "encoding Category", DefinitionError)
        check_least(self, "min_count", 1, "encoding Category", DefinitionError)


class Sequence(msgspec.Struct, frozen=True, tag="sequence", tag_field="kind", forbid_unknown_fields=True):
    """The last elements of a list of the request. Lists of one group are aligned: element i of each is one event.

    Attributes:
        of: the encoding of an element.
        group: the name of the group; a group holds at least one `Category`, whose row 0 marks the padding.
        length: at most so many elements; the same for the whole group.
    """

    of: Category | Number
    group: str = "history"
    length: int = 50

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            DefinitionError: an element is neither `Category` nor `Number`, another value is of another type than its
                field, or `length` is below 1.
        """
        place = "encoding Sequence"
        if not isinstance(self.of, Category | Number):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"got {self.of!r}, expected the encoding of an element",
                where=place,
                hint="Sequence(Category()) or Sequence(Number()); the length is Sequence(..., length=50)",
            )
        check_types(self, place, DefinitionError)
        check_least(self, "length", 1, place, DefinitionError)
        if not self.group:
            raise DefinitionError("got an empty group, expected a name", where=place)


class Bag(msgspec.Struct, frozen=True, tag="bag", tag_field="kind", forbid_unknown_fields=True):
    """The first elements of a list of ids, whose vectors the model pools without regard to order.

    Attributes:
        vocabulary: as in `Category`.
        min_count: as in `Category`.
        length: at most so many elements.
    """

    vocabulary: str = ""
    min_count: int = 1
    length: int = 16

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            DefinitionError: a value is of another type than its field, or `min_count` or `length` is below 1.
        """
        check_types(self, "encoding Bag", DefinitionError)
        check_least(self, "min_count length", 1, "encoding Bag", DefinitionError)


class Vector(msgspec.Struct, frozen=True, tag="vector", tag_field="kind", forbid_unknown_fields=True):
    """A vector as so many numbers, as they are or divided by the vector's length.

    A null becomes zeros with a 0 in the presence column, which is there where the training data held a null.

    Attributes:
        unit: divide each vector by its length (zeros stay zeros).
        width: how many numbers it has; fitted.
        presence: has a presence column; fitted.
    """

    unit: bool = False
    width: int = 0
    presence: bool = True

    def __post_init__(self) -> None:
        """Checks the types.

        Raises:
            DefinitionError: a value is of another type than its field.
        """
        check_types(self, "encoding Vector", DefinitionError)


Encoding: TypeAlias = Number | Category | Sequence | Bag | Vector


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature, at its level, with its fitted encoding."""

    feature: str
    level: Level
    encoding: Encoding

    @property
    def element(self) -> Number | Category | Bag | Vector:
        """The encoding of a value, or of a list's element."""
        return self.encoding.of if isinstance(self.encoding, Sequence) else self.encoding

    @property
    def vocabulary(self) -> str | None:
        """The name of the vocabulary, None for numbers."""
        element = self.element
        return (element.vocabulary or self.feature) if isinstance(element, Category | Bag) else None

    @property
    def tensor(self) -> str:
        """The name of the tensor that the feature goes into."""
        numeric = isinstance(self.element, Number | Vector)
        if isinstance(self.encoding, Sequence):
            return f"sequence_{'numbers' if numeric else 'ids'}.{self.encoding.group}"
        if isinstance(self.encoding, Bag):
            return f"bag_ids.{self.feature}"
        return f"{self.level}_{'dense' if numeric else 'ids'}"


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor's name, NumPy dtype and shape; a text in the shape is a size that differs from call to call."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class SequenceLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The widths of a group of sequences: its categories and its numbers."""

    name: str
    ids: int
    numbers: int


class BagLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bag and its level."""

    name: str
    level: Level


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a model must know to be built: the widths of the tensors and the rows of the embedding table."""

    rows: int
    request_dense: int = 0
    item_dense: int = 0
    request_ids: int = 0
    item_ids: int = 0
    sequences: tuple[SequenceLayout, ...] = ()
    bags: tuple[BagLayout, ...] = ()

    def tensors(self) -> tuple[TensorSpec, ...]:
        """The tensors that the encoder makes, in a fixed order.

        >>> [t.name for t in Layout(rows=9, item_ids=2, bags=(BagLayout("words", "item"),)).tensors()]
        ['item_ids', 'bag_ids.words', 'request_of_item']
        """
        sizes = {"request": "requests", "item": "items"}
        found = [
            TensorSpec(f"{level}_{kind}", dtype, (sizes[level], width))
            for level in ("request", "item")
            for kind, dtype in (("dense", "float32"), ("ids", "int64"))
            if (width := getattr(self, f"{level}_{kind}"))
        ]
        for group in self.sequences:
            shape = ("requests", f"{group.name}.length")
            found.append(TensorSpec(f"sequence_ids.{group.name}", "int64", (*shape, group.ids)))
            if group.numbers:
                found.append(TensorSpec(f"sequence_numbers.{group.name}", "float32", (*shape, group.numbers)))
        found.extend(TensorSpec(f"bag_ids.{b.name}", "int64", (sizes[b.level], f"{b.name}.length")) for b in self.bags)
        return (*found, TensorSpec(OF_ITEM, "int64", ("items",)))
