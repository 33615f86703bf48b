"""The encoder: fitted encodings and vocabularies, which turn a batch's columns into tensors (see `encoding`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import final

import msgspec
import numpy as np

from bedplate import canonical
from bedplate.batch import Batch, Column, Columns
from bedplate.errors import ArtifactError, DataError, suggest
from bedplate.features import encoding as enc
from bedplate.features.artifact import UNREADABLE
from bedplate.features.block import Block, elements_of_lists, id_values, list_column, pad, window_of_lists
from bedplate.features.vocabulary import Vocabularies, Vocabulary
from bedplate.types import Array, Int64s

FORMAT = 1
"""The version of the saved form."""


class _Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `encoder.json` holds; `vocabularies` names each one's file, in the order of their embedding rows."""

    format: int
    fields: tuple[enc.Field, ...]
    vocabularies: dict[str, str]


@final
class Encoder:
    """Fitted encodings of named features.

    Attributes:
        fields: the features, their levels and fitted encodings, in the order given.
        vocabularies: by name, and their rows of the embedding table.
        layout: the widths of the tensors.
    """

    def __init__(self, fields: Sequence[enc.Field], vocabularies: Mapping[str, Vocabulary]) -> None:
        self.fields = tuple(fields)
        self.vocabularies = vocabularies if isinstance(vocabularies, Vocabularies) else Vocabularies(vocabularies)
        plain = [f for f in self.fields if not isinstance(f.encoding, enc.Sequence | enc.Bag)]
        self._request = self._block([f for f in plain if f.level == "request"])
        self._item = self._block([f for f in plain if f.level == "item"])
        self._sequences = {
            name: (self._block(members), length) for name, (members, length) in _groups(self.fields).items()
        }
        self._bags = [
            (f, f.encoding, self.vocabularies.choose([f.vocabulary or ""]))
            for f in self.fields
            if isinstance(f.encoding, enc.Bag)
        ]
        self.layout = enc.Layout(
            self.vocabularies.rows,
            request_dense=len(self._request.dense_columns),
            item_dense=len(self._item.dense_columns),
            request_ids=len(self._request.ids),
            item_ids=len(self._item.ids),
            sequences=tuple(
                enc.SequenceLayout(n, len(b.ids), len(b.dense_columns)) for n, (b, _) in self._sequences.items()
            ),
            bags=tuple(enc.BagLayout(f.feature, f.level) for f, _, _ in self._bags),
        )

    def _block(self, fields: Sequence[enc.Field]) -> Block:
        return Block(fields, self.vocabularies)

    def making(self, tensors: Collection[str]) -> Encoder:
        """The encoder of the features that go into these tensors; ids keep their rows of the embedding table."""
        return Encoder([f for f in self.fields if f.tensor in tensors], self.vocabularies)

    def unscaled(self) -> Encoder:
        """The encoder that leaves numbers as they are (or their logarithms), with NaN for null and no presence column.

        Lists are left out of this: a model that knows missing values does not read them.
        """
        raw = {
            f: enc.Number(log=f.encoding.log, presence=False, nan=True)
            for f in self.fields
            if isinstance(f.encoding, enc.Number)
        }
        fields = [msgspec.structs.replace(f, encoding=raw.get(f, f.encoding)) for f in self.fields]
        return Encoder(fields, self.vocabularies)

    def columns_of(self, tensor: str) -> tuple[str, ...]:
        """The feature behind each column (last axis) of a dense, ids or sequence tensor; a presence column ends in `?`.

        Raises:
            DataError: the encoder makes no such tensor.
        """
        found: dict[str, tuple[str, ...]] = {}
        for level, block in (("request", self._request), ("item", self._item)):
            found |= {f"{level}_dense": block.dense_columns, f"{level}_ids": block.ids}
        for name, (block, _) in self._sequences.items():
            found |= {f"sequence_ids.{name}": block.ids, f"sequence_numbers.{name}": block.dense_columns}
        if tensor not in found:
            raise DataError(f"got '{tensor}', which is no tensor with named columns", hint=suggest(tensor, found))
        return found[tensor]

    def encode(self, batch: Batch) -> dict[str, Array]:
        """The tensors of a batch, as the table in `encoding` lists them, C-contiguous.

        Raises:
            DataError: the batch has no column of a feature, or one of another form.
        """
        out: dict[str, Array] = {}
        self._encode_block("request", self._request, batch.request, batch.requests, out)
        self._encode_block("item", self._item, batch.item, batch.items, out, batch.candidates)
        for name in self._sequences:
            self._encode_sequence(name, batch, out)
        for field, bag, choice in self._bags:
            source = batch.request if field.level == "request" else batch.item
            column = list_column(_checked(source, (field.feature,), field.level)[field.feature], field.feature)
            kept, mask = elements_of_lists(column, bag.length, last=False)
            values, present = id_values(kept, field.feature)
            there = None if present is None else present[None]
            ids = self.vocabularies.rows_of(choice, np.ascontiguousarray(values)[None], there)
            out[f"bag_ids.{field.feature}"] = pad(ids[:, 0], mask)
        out[enc.OF_ITEM] = batch.request_of_item()
        return out

    def longest(self) -> dict[str, int]:
        """How many elements a row of each tensor of lists has at most; those of a batch are as long as its longest."""
        found = {f"bag_ids.{field.feature}": bag.length for field, bag, _ in self._bags}
        for name, (block, length) in self._sequences.items():
            found |= dict.fromkeys([f"sequence_ids.{name}", *_numbers_of(name, block)], length)
        return found

    def lengths(self, batch: Batch) -> dict[str, Int64s]:
        """How many elements each row of the tensors of lists has, [R] or [N]; what comes after them is 0.

        Raises:
            DataError: as `encode`.
        """
        found: dict[str, Int64s] = {}
        for field, bag, _ in self._bags:
            found[f"bag_ids.{field.feature}"] = _lengths(batch, field.feature, field.level, bag.length)
        for name, (block, length) in self._sequences.items():
            own = _lengths(batch, block.names[0], "request", length)
            found |= dict.fromkeys([f"sequence_ids.{name}", *_numbers_of(name, block)], own)
        return found

    def _encode_block(
        self,
        level: enc.Level,
        block: Block,
        source: Mapping[str, Column],
        n: int,
        out: dict[str, Array],
        candidates: Int64s | None = None,
    ) -> None:
        columns = Columns.of(source)
        try:
            if block.numbers or block.vectors:
                out[f"{level}_dense"] = block.dense(columns, n)
            if block.ids:
                out[f"{level}_ids"] = block.rows(columns, n, candidates)
        except KeyError:
            _checked(source, [n for n in block.names if candidates is None or n != enc.CANDIDATE], level)
            raise

    def _encode_sequence(self, name: str, batch: Batch, out: dict[str, Array]) -> None:
        block, length = self._sequences[name]
        source = _checked(batch.request, block.names, "request")
        lists = {n: list_column(source[n], n) for n in block.names}
        offsets = lists[block.names[0]].offsets
        for feature, column in lists.items():
            if column.offsets is not offsets and not np.array_equal(column.offsets, offsets):
                raise DataError(
                    f"the lists of '{feature}' and '{block.names[0]}' differ in length; those of one group are aligned",
                    where=f"sequence '{name}'",
                    hint="take them from one LastN of several columns, or give each a group of its own",
                )
        rows, mask = window_of_lists(offsets, length, last=True)
        total = int(offsets[-1]) if rows is None else len(rows)
        columns = Columns.of({n: c.values if rows is None else c.values.take(rows) for n, c in lists.items()})
        out[f"sequence_ids.{name}"] = pad(block.rows(columns, total), mask)
        if block.numbers:
            out[f"sequence_numbers.{name}"] = pad(block.dense(columns, total), mask)

    def save(self, folder: Path) -> None:
        """Writes `encoder.json` and a `.npy` file for each vocabulary into a folder, which is made if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, str] = {}
        for i, (name, vocabulary) in enumerate(self.vocabularies.items()):
            files[name] = f"vocabulary-{i}.npy"
            np.save(folder / files[name], vocabulary.keys, allow_pickle=False)
        saved = msgspec.json.encode(_Saved(FORMAT, self.fields, files))
        (folder / "encoder.json").write_bytes(msgspec.json.format(saved))

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Reads what `save` wrote.

        Raises:
            ArtifactError: a file is missing, changed or of another version.
        """
        try:
            saved = msgspec.json.decode((folder / "encoder.json").read_bytes(), type=_Saved)
            if saved.format != FORMAT:
                raise DataError(f"got format {saved.format}, expected {FORMAT}")
            vocabularies = {
                n: Vocabulary(np.load(folder / f, allow_pickle=False)) for n, f in saved.vocabularies.items()
            }
            return cls(saved.fields, vocabularies)
        except (*UNREADABLE, DataError) as error:
            raise ArtifactError(
                f"the encoder can't be read: {error}",
                where=str(folder),
                hint="expected encoder.json and the vocabulary files that it names, as Encoder.save wrote them",
            ) from error

    def digest(self) -> str:
        """The id of the fitted encodings and vocabularies: 40 hexadecimal digits."""
        parts = [canonical.to_json(self.fields)]
        for name, vocabulary in self.vocabularies.items():
            parts += [name.encode(), np.ascontiguousarray(vocabulary.keys, "<i8").tobytes()]
        return canonical.digest_bytes(parts)


def _numbers_of(name: str, block: Block) -> list[str]:
    """The name of the tensor of a sequence's numbers, where it has any."""
    return [f"sequence_numbers.{name}"] if block.numbers else []


def _lengths(batch: Batch, feature: str, level: enc.Level, most: int) -> Int64s:
    source = batch.request if level == "request" else batch.item
    offsets = list_column(_checked(source, (feature,), level)[feature], feature).offsets
    return np.minimum(offsets[1:] - offsets[:-1], most)


def _groups(fields: Sequence[enc.Field]) -> dict[str, tuple[list[enc.Field], int]]:
    """The members of each group of sequences and their length."""
    groups: defaultdict[str, list[enc.Field]] = defaultdict(list)
    lengths: dict[str, int] = {}
    for field in fields:
        if isinstance(field.encoding, enc.Sequence):
            groups[field.encoding.group].append(field)
            lengths[field.encoding.group] = field.encoding.length
    return {name: (members, lengths[name]) for name, members in groups.items()}


def _checked(source: Mapping[str, Column], names: Sequence[str], level: enc.Level) -> Mapping[str, Column]:
    missing = [n for n in names if n not in source]
    if missing:
        raise DataError(
            f"the batch has no {level} column " + ", ".join(f"'{n}'" for n in missing),
            where="encoding",
            hint=suggest(missing[0], source, f"{level} columns"),
        )
    return source
