"""Row expressions for a person to read."""

from __future__ import annotations

import re

import polars as pl

_LONGEST = 100
"""Characters of an expression that a message shows whole."""
_LITERAL = re.compile(r"dyn (?:int|float): ")
_OPERATOR = re.compile(r" ([^\s()\[\]\"]+) \(")


def expression_text(expression: pl.Expr) -> str:
    """An expression without the brackets and types that Polars shows around each step.

    >>> kind = pl.col("kind")
    >>> expression_text((kind == "click") | (kind == "save"))
    '(col("kind") == "click") | (col("kind") == "save")'
    >>> expression_text(pl.col("price") * 2)
    'col("price") * 2'
    """
    shown = str(expression)
    try:
        plain = _plain(shown)
    except ValueError:  # a text with a quotation mark in it, which Polars does not mark as a part of the text
        return shown
    return plain[1:-1] if plain.startswith("(") and _end(plain, 0) == len(plain) - 1 else plain


def shown_expression(expression: pl.Expr) -> str:
    """A row expression for a message: its text, or of a long one the columns that it uses.

    >>> shown_expression(pl.col("price") * 2)
    'the expression col("price") * 2'
    >>> shown_expression(pl.sum_horizontal([pl.col("price") * i for i in range(9)]) + pl.col("item"))
    "an expression of 'price', 'item'"
    """
    text = expression_text(expression)
    if len(text) <= _LONGEST and "\n" not in text:
        return f"the expression {text}"
    columns = list(dict.fromkeys(expression.meta.root_names()))
    return f"an expression of {', '.join(map(repr, columns[:12])) or 'no column'}"


def shown_input(expression: pl.Expr) -> str:
    """What an aggregation takes, for a message: a column by its quoted name, or as `shown_expression`.

    >>> shown_input(pl.col("price"))
    "'price'"
    """
    return f"'{expression.meta.root_names()[0]}'" if expression.meta.is_column() else shown_expression(expression)


def _plain(text: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(text):
        if text[at] == '"':
            stop = text.index('"', at + 1) + 1
            parts.append(text[at:stop])
        elif text.startswith("[(", at):
            first = _end(text, at + 1)
            operator = _OPERATOR.match(text, first + 1)
            if operator is None:
                raise ValueError(text)
            second = _end(text, operator.end() - 1)
            left, right = text[at + 2 : first], text[operator.end() : second]
            parts.append(f"({_plain(left)} {operator[1]} {_plain(right)})")
            stop = second + 2
        else:
            literal = _LITERAL.match(text, at)
            stop = at + 1 if literal is None else literal.end()
            parts.append(text[at] if literal is None else "")
        at = stop
    return "".join(parts)


def _end(text: str, at: int) -> int:
    """Where the bracket that opens at a place is closed."""
    depth = 0
    while at < len(text):
        if text[at] == '"':
            at = text.index('"', at + 1)
        depth += (text[at] in "([") - (text[at] in ")]")
        if not depth:
            return at
        at += 1
    raise ValueError(text)
