"""Attributes: what the newest row of an entity says, as a whole. The rows are states of entities, not events.

A row of an entity table holds from its time on until the next row of the key replaces it. So an attribute that is null
in the newest row is null, whatever earlier rows say; `Last` skips nulls and goes back to them. A row may end before the
next begins: at its `valid_to`, or at once where it says that the entity was deleted.

The features at `t` are as of just before `t`: a row whose time is `t` does not count yet, and one that ends at `t`
counts for the last time. So rows that follow each other without a gap leave none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from bedplate.aggregations.base import (
    Aggregation,
    ExpressionLike,
    Output,
    Partial,
    Reduce,
    Reduction,
    Selection,
    to_expression,
)
from bedplate.aggregations.ordered import newest
from bedplate.batch import Column, Dense, Embedding, Ids
from bedplate.errors import DefinitionError
from bedplate.types import LATEST_TIME, Int64s, Type

if TYPE_CHECKING:
    import polars as pl


@final
class Attribute(Aggregation):
    """The value of an expression in the newest row of the key, null where it is null there. No row: null.

    Args:
        expression: the row expression.
        valid_to: the column that says when a row stops to hold (exclusive): a datetime, a date or integer microseconds;
            null where it holds until the next one. A view takes it from its source unless it is given here.
        deleted: a boolean row expression; a row for which it is true says that from its time on there is no such
            entity. A view takes it from its source unless it is given here.

    >>> Attribute("price").text
    'Attribute(col("price"))'
    """

    __slots__ = ("deleted", "expression", "valid_to")

    def __init__(
        self, expression: ExpressionLike, *, valid_to: str | None = None, deleted: ExpressionLike | None = None
    ) -> None:
        self.expression = to_expression(expression, "Attribute")
        self.valid_to = valid_to
        self.deleted = None if deleted is None else to_expression(deleted, "Attribute: deleted")
        super().__init__([self.expression])
        self.selection = Selection([self.expression, self._until()], None, "Attribute", keeps_null=True)

    def _until(self) -> pl.Expr:
        """Until when the value holds, integer microseconds: 0 where the row has none."""
        import polars as pl

        ended = self.expression.is_null() if self.deleted is None else self.expression.is_null() | self.deleted
        end = pl.lit(LATEST_TIME, pl.Int64)
        if self.valid_to is not None:
            end = pl.col(self.valid_to).cast(pl.Datetime("us")).to_physical().fill_null(end)
        return pl.when(ended).then(pl.lit(0, pl.Int64)).otherwise(end)

    def options(self) -> Mapping[str, Any]:
        """When rows end; their meaning is in the selection already, here for a person to read."""
        said = {"valid_to": self.valid_to, "deleted": None if self.deleted is None else str(self.deleted)}
        return {name: value for name, value in said.items() if value is not None}

    def of(self, valid_to: str | None, deleted: pl.Expr | None) -> Attribute:
        """The attribute in rows of a source that declares these, where the attribute itself does not."""
        if (valid_to is None or self.valid_to is not None) and (deleted is None or self.deleted is not None):
            return self
        ended = deleted if self.deleted is None else self.deleted
        return Attribute(self.expression, valid_to=self.valid_to or valid_to, deleted=ended)

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """The latest row, whatever its value."""
        return (Reduction(Reduce.LATEST, self.selection, 1),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """The type of the expression."""
        return (Output("", types[0]),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The newest row's value where it is there and holds."""
        partial = newest(partials[0])
        values, until = partial.columns
        present = partial.present & (times <= until)
        texts = partial.texts[0]
        if values.ndim > 1:
            return (Embedding(values, present),)
        return (Dense(values, present) if texts is None else Ids(values, present, texts),)


def attributes_of(
    features: Mapping[str, Aggregation] | Sequence[str], valid_to: str | None, deleted: pl.Expr | None, place: str
) -> dict[str, Aggregation]:
    """The aggregations of a view: names of columns stand for attributes, which get the validity of the view's source.

    Raises:
        DefinitionError: something else, or a column twice.

    >>> list(attributes_of(["price", "title"], None, None, "view 'products'"))
    ['price', 'title']
    """
    # Whoever writes definitions may run no type checker.
    if isinstance(features, list | tuple):
        given: list[object] = list(features)
        twice = next((n for i, n in enumerate(given) if n in given[:i]), None)
        wrong = next((n for n in given if not isinstance(n, str) or not n), twice)
        if wrong is not None:
            said = f"the column '{wrong}' twice" if wrong is twice else f"the feature {wrong!r}"
            raise DefinitionError(
                f"got {said}, expected names of columns, each once",
                where=place,
                hint='for example ["price", "title"]; or by name: {"cents": Attribute(pl.col("price") * 100)}',
            )
        features = {name: Attribute(name) for name in features}
    if not isinstance(features, Mapping):
        raise DefinitionError(
            f"got the features {features!r}, expected aggregations by name, or a list of columns",
            where=place,
            hint='for example {"orders": Count()}; or ["price", "title"] for what the newest row says',
        )
    return {n: a.of(valid_to, deleted) if isinstance(a, Attribute) else a for n, a in features.items()}
