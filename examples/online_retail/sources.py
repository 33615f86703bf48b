"""The events of the shop: order lines and returned goods, both cleaned from one file of invoices.

A row of the file is a line of an invoice. What is dropped, and why:

- lines without a customer (a quarter of the file): nobody to recommend to;
- lines that are not goods (POST, D, M, BANK CHARGES, ...): a product's code is five digits and perhaps letters;
- lines with no price or an impossible one (0 or less): gifts, corrections and write-offs;
- exact duplicates: the same line keyed in twice. Duplicates have the same time, so they meet in any micro-batch that
  keeps rows of equal time together, as `Source` asks of a prepare step.

Cancellations (an invoice number that begins with C, negative quantities) are events of their own: returns.
"""

from __future__ import annotations

import polars as pl

from bedplate import Source

FILE = "data/online_retail.parquet"
GOODS = r"^\d{5}[A-Za-z]*$"


def goods(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Lines of known customers about real products, without duplicates, under the names used in this project."""
    return (
        rows.filter(
            pl.col("CustomerID").is_not_null(),
            pl.col("StockCode").str.contains(GOODS),
            pl.col("UnitPrice") > 0,
        )
        .unique(maintain_order=True)
        .select(
            invoice=pl.col("InvoiceNo"),
            customer_id=pl.col("CustomerID").cast(pl.Int64),
            product_id=pl.col("StockCode").str.to_uppercase(),
            description=pl.col("Description").str.strip_chars(),
            quantity=pl.col("Quantity").cast(pl.Int64),
            price=pl.col("UnitPrice"),
            country=pl.col("Country"),
            time=pl.col("InvoiceDate"),
        )
    )


def bought(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Lines of orders."""
    return goods(rows).filter(~pl.col("invoice").str.starts_with("C"), pl.col("quantity") > 0)


def returned(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Lines of cancellations, quantities positive."""
    lines = goods(rows).filter(pl.col("invoice").str.starts_with("C"), pl.col("quantity") < 0)
    return lines.with_columns(quantity=-pl.col("quantity"))


lines = Source("lines", FILE, time="time", prepare=bought)
returns = Source("returns", FILE, time="time", prepare=returned, delay="1d")
"""A return is booked at its time and known to the shop's systems a day later."""
