"""From the encoder's tensors to vectors: request side, item side and sequences, with one embedding table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from bedplate.features.encoding import OF_ITEM, Layout, Level
from bedplate.layers.axes import Axis, InputColumn
from bedplate.layers.embedding import FusedEmbedding, masked_mean


class Elements(NamedTuple):
    """A group of sequences: `vectors` [R, length, width] and `mask` [R, length] float, 1 where there is an element."""

    vectors: Tensor
    mask: Tensor


@final
class InputVectors(nn.Module):
    """Concatenates numbers, embedded categories and pooled bags of each side.

    Attributes:
        request_width, item_width: columns of the two sides.
        element_widths: of each group of sequences.
        width: of an embedding.
    """

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.layout, self.width = layout, width
        self.embedding = FusedEmbedding(layout.rows, width)
        bags = {level: sum(b.level == level for b in layout.bags) for level in ("request", "item")}
        self.request_width = layout.request_dense + width * (layout.request_ids + bags["request"])
        self.item_width = layout.item_dense + width * (layout.item_ids + bags["item"])
        self.element_widths = {s.name: s.numbers + width * s.ids for s in layout.sequences}

    def request(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[R, request_width]."""
        return self._side("request", inputs)

    def item(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[N, item_width]."""
        return self._side("item", inputs)

    def rows(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[N, request_width + item_width]: both sides, that of the request repeated for each of its candidates."""
        sides = [self.request(inputs).index_select(0, inputs[OF_ITEM])] if self.request_width else []
        if self.item_width:
            sides.append(self.item(inputs))
        return torch.cat(sides, dim=1)

    def elements(self, name: str, inputs: Mapping[str, Tensor]) -> Elements:
        """The vectors of a group of sequences; row 0 of its first category marks padding."""
        ids = inputs[f"sequence_ids.{name}"]
        vectors = self.embedding(ids).flatten(2)
        if f"sequence_numbers.{name}" in inputs:
            vectors = torch.cat((vectors, inputs[f"sequence_numbers.{name}"]), dim=2)
        return Elements(vectors, (ids[:, :, 0] != 0).to(vectors.dtype))

    def axis(self, level: Level) -> Axis:
        """What the columns of a side are, for `Model.axes`."""
        found = _columns(f"{level}_dense", getattr(self.layout, f"{level}_dense"))
        found += _columns(f"{level}_ids", getattr(self.layout, f"{level}_ids"), self.width)
        for bag in self.layout.bags:
            found += _columns(f"bag_ids.{bag.name}", int(bag.level == level), self.width)
        return found

    def element_axis(self, name: str) -> Axis:
        """What the columns of a group's elements are, for `Model.axes`."""
        group = next(s for s in self.layout.sequences if s.name == name)
        return _columns(f"sequence_ids.{name}", group.ids, self.width) + _columns(
            f"sequence_numbers.{name}", group.numbers
        )

    def _side(self, level: Level, inputs: Mapping[str, Tensor]) -> Tensor:
        parts: list[Tensor] = []
        if getattr(self.layout, f"{level}_dense"):
            parts.append(inputs[f"{level}_dense"])
        if getattr(self.layout, f"{level}_ids"):
            parts.append(self.embedding(inputs[f"{level}_ids"]).flatten(1))
        for bag in self.layout.bags:
            if bag.level == level:
                ids = inputs[f"bag_ids.{bag.name}"]
                parts.append(masked_mean(self.embedding(ids), ids))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _columns(tensor: str, columns: int, parts: int = 1) -> Axis:
    return tuple(InputColumn(tensor, column, part) for column in range(columns) for part in range(parts))
