"""The example's cleaning step: the fate of every kind of row, and the documented counts on the real file."""

from __future__ import annotations

import runpy
from datetime import datetime
from typing import Any

import polars as pl
import pytest
from small_retail import DATA, EXAMPLE

SOURCES = runpy.run_path(str(EXAMPLE / "sources.py"))
TIME = datetime(2011, 5, 4, 10, 30)
SCHEMA = {
    "InvoiceNo": pl.String,
    "StockCode": pl.String,
    "Description": pl.String,
    "Quantity": pl.Int32,
    "InvoiceDate": pl.Datetime("us"),
    "UnitPrice": pl.Float64,
    "CustomerID": pl.Int32,
    "Country": pl.String,
}
LINE: dict[str, Any] = {
    "InvoiceNo": "536365",
    "StockCode": "85123",
    "Description": "WHITE HANGING HEART",
    "Quantity": 6,
    "InvoiceDate": TIME,
    "UnitPrice": 2.55,
    "CustomerID": 17850,
    "Country": "United Kingdom",
}
RETURN = {"InvoiceNo": "C536379", "Quantity": -1}


def fate(*rows: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What becomes of raw lines, each given by how it differs from `LINE`: order lines and returns."""
    raw = pl.DataFrame([{**LINE, **row} for row in rows], schema=SCHEMA).lazy()
    lines, returns = SOURCES["bought"](raw).collect(), SOURCES["returned"](raw).collect()
    return lines.to_dicts(), returns.to_dicts()


BOUGHT, RETURNED, DROPPED = (1, 0), (0, 1), (0, 0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({}, BOUGHT, id="a line"),
        pytest.param({"StockCode": "85123A"}, BOUGHT, id="a code with a letter"),
        pytest.param({"StockCode": "15056BL"}, BOUGHT, id="a code with two letters"),
        pytest.param({"StockCode": "85123a"}, BOUGHT, id="a code with a small letter"),
        pytest.param({"Country": "Eire"}, BOUGHT, id="another country"),
        pytest.param({"Description": None}, BOUGHT, id="no description"),
        pytest.param({"UnitPrice": 0.001}, BOUGHT, id="a tiny price"),
        pytest.param({"Quantity": 80_995}, BOUGHT, id="a huge quantity"),
        pytest.param(RETURN, RETURNED, id="a cancellation"),
        pytest.param({**RETURN, "StockCode": "85123A"}, RETURNED, id="a cancellation of a code with a letter"),
        pytest.param({"CustomerID": None}, DROPPED, id="no customer"),
        pytest.param({**RETURN, "CustomerID": None}, DROPPED, id="a cancellation without a customer"),
        pytest.param({"StockCode": "POST"}, DROPPED, id="postage"),
        pytest.param({"StockCode": "M"}, DROPPED, id="a manual line"),
        pytest.param({"StockCode": "BANK CHARGES"}, DROPPED, id="charges"),
        pytest.param({"StockCode": "C2"}, DROPPED, id="carriage"),
        pytest.param({"StockCode": "8512"}, DROPPED, id="a code of four digits"),
        pytest.param({"StockCode": "851234"}, DROPPED, id="a code of six digits"),
        pytest.param({"StockCode": "gift_0001_20"}, DROPPED, id="a voucher"),
        pytest.param({"StockCode": "A85123"}, DROPPED, id="a letter before the digits"),
        pytest.param({"StockCode": "85123 A"}, DROPPED, id="a blank in the code"),
        pytest.param({"StockCode": None}, DROPPED, id="no code"),
        pytest.param({**RETURN, "StockCode": "D"}, DROPPED, id="a discount"),
        pytest.param({"UnitPrice": 0.0}, DROPPED, id="no price"),
        pytest.param({"UnitPrice": -11062.06}, DROPPED, id="a negative price"),
        pytest.param({"UnitPrice": None}, DROPPED, id="an unknown price"),
        pytest.param({**RETURN, "UnitPrice": 0.0}, DROPPED, id="a cancellation without a price"),
        pytest.param({"Quantity": 0}, DROPPED, id="no pieces"),
        pytest.param({"Quantity": -3}, DROPPED, id="fewer than no pieces in an order"),
        pytest.param({**RETURN, "Quantity": 3}, DROPPED, id="a cancellation of pieces that were bought"),
        pytest.param({**RETURN, "Quantity": 0}, DROPPED, id="a cancellation of nothing"),
    ],
)
def test_the_fate_of_a_line(row: dict[str, Any], expected: tuple[int, int]) -> None:
    lines, returns = fate(row)
    assert (len(lines), len(returns)) == expected


def test_a_line_keyed_in_twice_counts_once() -> None:
    lines, returns = fate({}, RETURN, {}, RETURN, {})
    assert (len(lines), len(returns)) == (1, 1)


@pytest.mark.parametrize("column", [c for c in LINE if c not in ("StockCode", "InvoiceNo")])
def test_lines_that_differ_in_one_column_are_two(column: str) -> None:
    other = {
        "Description": "RED HANGING HEART",
        "Quantity": 7,
        "InvoiceDate": datetime(2011, 5, 4, 10, 31),
        "UnitPrice": 2.56,
        "CustomerID": 17851,
        "Country": "Eire",
    }
    assert len(fate({}, {column: other[column]})[0]) == 2


def test_what_is_kept_of_a_line_and_of_a_cancellation() -> None:
    lines, returns = fate(
        {"StockCode": "85123a", "Description": " WHITE HEART "}, {**RETURN, "StockCode": "22423", "Quantity": -4}
    )
    kept = {"customer_id": 17850, "price": 2.55, "country": "United Kingdom", "time": TIME}
    assert lines == [{**kept, "invoice": "536365", "product_id": "85123A", "description": "WHITE HEART", "quantity": 6}]
    assert returns == [
        {**kept, "invoice": "C536379", "product_id": "22423", "description": "WHITE HANGING HEART", "quantity": 4}
    ]


def test_lines_keep_their_order() -> None:
    codes = ["20003", "20001", "20002", "20001"]
    lines, _ = fate(*({"StockCode": c, "Quantity": n + 1} for n, c in enumerate(codes)))
    assert [line["product_id"] for line in lines] == codes


def test_returns_are_known_a_day_later_and_orders_at_once() -> None:
    assert SOURCES["lines"].delay == 0
    assert SOURCES["returns"].delay == 24 * 3600 * 1_000_000


def test_the_counts_on_the_real_file_are_the_documented_ones() -> None:
    raw = pl.read_parquet(EXAMPLE / DATA)
    known = raw.filter(pl.col("CustomerID").is_not_null())
    goods = known.filter(pl.col("StockCode").str.contains("^[0-9]{5}[A-Za-z]*$"))
    priced = goods.filter(pl.col("UnitPrice") > 0)
    different = priced.unique()
    lines = SOURCES["bought"](raw.lazy()).collect()
    returns = SOURCES["returned"](raw.lazy()).collect()
    counts = {
        "rows of the file": len(raw),
        "without a customer": len(raw) - len(known),
        "not goods": len(known) - len(goods),
        "without a price": len(goods) - len(priced),
        "keyed in twice": len(priced) - len(different),
        "order lines": len(lines),
        "lines of returns": len(returns),
    }
    assert list(counts.values()) == [541_909, 135_080, 1_920, 33, 5_220, 391_150, 8_506]
    assert len(lines) + len(returns) == len(different), "nothing else is dropped"
    assert lines["invoice"].n_unique() == 18_402
    readme = (EXAMPLE / "README.md").read_text()
    for name, count in counts.items():
        assert f"| {name} | {count:,} |" in readme
