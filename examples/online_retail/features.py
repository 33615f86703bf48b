"""Features of customers, products and pairs of both."""

from __future__ import annotations

import polars as pl
from sources import lines, returns

from bedplate import (
    Count,
    CountDistinct,
    DerivedFeature,
    Entity,
    FeatureView,
    Last,
    LastN,
    Max,
    Mean,
    Min,
    Sum,
    TimeSince,
)

customer = Entity("customer", key="customer_id")
product = Entity("product", key="product_id")

worth = pl.col("quantity") * pl.col("price")

customer_lines = FeatureView(
    "customer_lines",
    customer,
    lines,
    {
        "orders": CountDistinct("invoice", windows=["28d", "90d", "365d"]),
        "lines": Count(windows=["28d", "90d"]),
        "spend": Sum(worth, windows=["7d", "28d", "90d", "365d"]),
        "quantity": Mean("quantity", windows="90d"),
        "price": Mean("price", windows="90d"),
        "dearest": Max("price", windows="365d"),
        "products": CountDistinct("product_id", windows="90d"),
        "since": TimeSince(),
        "country": Last("country"),
        "recent": LastN(["product_id", "price"], 50, age="age"),
        "bought": LastN("product_id", 200),
    },
)

product_lines = FeatureView(
    "product_lines",
    product,
    lines,
    {
        "sold": Sum("quantity", windows=["7d", "28d", "90d"]),
        "revenue": Sum(worth, windows=["7d", "28d"]),
        "lines": Count(windows=["7d", "28d"]),
        "buyers": CountDistinct("customer_id", windows=["7d", "28d", "90d"]),
        "price": Last("price"),
        "price_mean": Mean("price", windows="90d"),
        "price_low": Min("price", windows="90d"),
        "since": TimeSince(),
        "description": Last("description"),
    },
)

customer_product = FeatureView(
    "customer_product",
    [customer, product],
    lines,
    {
        "orders": CountDistinct("invoice", windows=["90d", "365d"]),
        "quantity": Sum("quantity", windows="365d"),
        "since": TimeSince(),
    },
)

product_returns = FeatureView(
    "product_returns",
    product,
    returns,
    {"lines": Count(windows="90d"), "quantity": Sum("quantity", windows="90d"), "since": TimeSince()},
)

customer_returns = FeatureView(
    "customer_returns", customer, returns, {"lines": Count(windows="90d"), "worth": Sum(worth, windows="90d")}
)

spend_trend = DerivedFeature("spend_trend", pl.col("customer_lines.spend_28d") / pl.col("customer_lines.spend_90d"))
basket_lines = DerivedFeature("basket_lines", pl.col("customer_lines.lines_90d") / pl.col("customer_lines.orders_90d"))
price_ratio = DerivedFeature("price_ratio", pl.col("product_lines.price") / pl.col("customer_lines.price_90d"))
discount = DerivedFeature("discount", pl.col("product_lines.price") / pl.col("product_lines.price_mean_90d"))
words = DerivedFeature("words", pl.col("product_lines.description").str.to_lowercase().str.extract_all("[a-z]{2,}"))
weekday = DerivedFeature("weekday", pl.col("request.time").dt.weekday())
