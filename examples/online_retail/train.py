"""The models: a two-tower retrieval model, a ranking model, and the plain baseline that they must beat."""

from __future__ import annotations

from datasets import baskets

from bedplate import Bag, Category, DCNConfig, Job, LogisticConfig, Number, Sequence, TrainerConfig, TwoTowerConfig

PRODUCT = "product"
"""The vocabulary of products, which the candidate and the customer's history share."""

amount = Number(log=True)
history = {
    "customer_lines.recent_product_id": Sequence(Category(PRODUCT, min_count=5)),
    "customer_lines.recent_age": Sequence(amount),
    "customer_lines.recent_price": Sequence(amount),
}
of_customer = {
    "customer_lines.orders_28d": amount,
    "customer_lines.orders_90d": amount,
    "customer_lines.orders_365d": amount,
    "customer_lines.lines_28d": amount,
    "customer_lines.lines_90d": amount,
    "customer_lines.spend_7d": amount,
    "customer_lines.spend_28d": amount,
    "customer_lines.spend_90d": amount,
    "customer_lines.spend_365d": amount,
    "customer_lines.quantity_90d": amount,
    "customer_lines.price_90d": amount,
    "customer_lines.dearest_365d": amount,
    "customer_lines.products_90d": amount,
    "customer_lines.since": amount,
    "customer_lines.country": Category(min_count=20),
    "customer_returns.lines_90d": amount,
    "customer_returns.worth_90d": amount,
    "spend_trend": Number(),
    "basket_lines": amount,
    "weekday": Category(),
}
of_product = {
    "candidate": Category(PRODUCT, min_count=5),
    "product_lines.sold_7d": amount,
    "product_lines.sold_28d": amount,
    "product_lines.sold_90d": amount,
    "product_lines.revenue_7d": amount,
    "product_lines.revenue_28d": amount,
    "product_lines.lines_7d": amount,
    "product_lines.lines_28d": amount,
    "product_lines.buyers_7d": amount,
    "product_lines.buyers_28d": amount,
    "product_lines.buyers_90d": amount,
    "product_lines.price": amount,
    "product_lines.price_mean_90d": amount,
    "product_lines.price_low_90d": amount,
    "product_lines.since": amount,
    "product_returns.lines_90d": amount,
    "product_returns.quantity_90d": amount,
    "product_returns.since": amount,
    "discount": amount,
    "words": Bag(min_count=10, length=8),
}
of_pair = {
    "customer_product.orders_90d": amount,
    "customer_product.orders_365d": amount,
    "customer_product.quantity_365d": amount,
    "customer_product.since": amount,
    "price_ratio": amount,
}

retrieval = Job(
    "retail_retrieval",
    dataset=baskets,
    model=TwoTowerConfig(label="bought", temperature=0.2),
    inputs=of_customer | history | {name: e for name, e in of_product.items() if name != "candidate"},
    trainer=TrainerConfig(epochs=2, embedding_learning_rate=0.5, metric="loss"),
)
"""Products are told apart by what is known of them, not by their id: with it, Recall@100 on validation is lower."""

ranker = Job(
    "retail_ranker",
    dataset=baskets,
    model=DCNConfig(label="bought", correct_sampling=True),
    inputs=of_customer | history | of_product | of_pair,
    trainer=TrainerConfig(epochs=2, embedding_learning_rate=0.02, metric="log_loss"),
)

logistic = Job(
    "retail_logistic",
    dataset=baskets,
    model=LogisticConfig(label="bought", correct_sampling=True),
    inputs=ranker.inputs,
    trainer=TrainerConfig(epochs=15, learning_rate=0.01, metric="log_loss", patience=2),
)
"""The baseline, on the inputs of the ranking model and trained until its validation loss rises. It is linear: the
history is the mean of its elements, and nothing of it is compared with the candidate."""
