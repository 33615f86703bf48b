"""What the models learn from: each order is a request, its products are what was chosen."""

from __future__ import annotations

from features import customer, product
from sources import lines

from bedplate import Count, Dataset, Label, Negatives, Spine, TimeSplit

bought = Label("bought", [customer, product], lines, Count(), within="1h", at_least=1)
"""Whether the customer buys the product with this order (an order's lines carry times up to a minute apart)."""

baskets = Dataset(
    "baskets",
    spine=Spine(lines, request="invoice", entities=customer, item=product),
    labels=bought,
    negatives=Negatives(lines, product, window="28d", per_positive=1.0),
    features=[
        "customer_lines.*",
        "product_lines.*",
        "customer_product.*",
        "product_returns.*",
        "customer_returns.*",
        "spend_trend",
        "basket_lines",
        "price_ratio",
        "discount",
        "words",
        "weekday",
    ],
    split=TimeSplit(validation="2011-10-17", test="2011-11-11", gap="1d"),
    batch_items=4096,
)
"""Training before 16 October, validation until 9 November, test from 11 November to the end on 9 December 2011."""
