"""What the shop serves: recommendations for a customer, and scores of given products."""

from __future__ import annotations

import polars as pl

from bedplate import Retrieval, Service

shop = Service(
    "shop",
    retrieval=Retrieval("retail_retrieval@champion", count=200, always=["customer_lines.bought"]),
    ranking="retail_ranker@champion",
    item="product",
    filters=[pl.col("product_lines.price").is_not_null(), pl.col("product_lines.lines_28d") > 0],
    fallback="product_lines.lines_28d",
    top=10,
)
"""What the customer bought before and the nearest to the customer's vector, of products sold in the last 28 days;
without the ranker's scores, those sold most often come first."""
