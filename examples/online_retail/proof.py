"""Proof that what the models are judged on is as of before each order, by the slow oracle over the raw rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from bedplate.batch import Column
from bedplate.canonical import string_ids
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import ProofError
from bedplate.features.lookup import lookup
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView
from bedplate.health.parity import ParityReport
from bedplate.offline.reference import Reference
from bedplate.project import Project
from bedplate.types import Int64s, format_time

ORDERS = 20
"""How many test orders are computed again, spread evenly over the weeks."""
CANDIDATES = 400
"""About how many candidates of these orders, bought ones and negatives."""


class Oracle(Reader):
    """The values by definition (`offline/reference.py`), from all raw rows of these customers and products."""

    def __init__(self, project: Project, customers: Sequence[int], products: Sequence[str]) -> None:
        raw = project.views["customer_lines"].view.source.table(project.root).scan().collect()
        of_customer = raw.filter(pl.col("CustomerID").cast(pl.Int64).is_in(customers)).lazy()
        of_product = raw.filter(pl.col("StockCode").str.to_uppercase().is_in(products)).lazy()
        self.references = {
            view.id: Reference(view, of_customer if "customer" in [e.name for e in view.view.entities] else of_product)
            for view in project.views.values()
        }

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        """Each different key and time is computed once, by a scan over all its events."""
        asked = np.column_stack((keys, times))
        unique, inverse = np.unique(asked, axis=0, return_inverse=True)
        found = self.references[view.id].read(view, names, unique[:, :-1], unique[:, -1])
        return {name: column.take(inverse.ravel()) for name, column in found.items()}


def prove_features(project: Project, dataset: LoadedDataset) -> dict[str, Any]:
    """Compares every feature of a sample of test orders with the oracle.

    Raises:
        ProofError: a value, or the time of an order, is not what the raw rows say.
    """
    first, last = dataset.positions("test")
    chosen = np.unique(np.linspace(first, last - 1, min(ORDERS, last - first)).astype(np.int64))
    batch = dataset.sample(chosen, seed=0, epoch=0)
    of_item = batch.request_of_item()
    kept = np.unique(np.linspace(0, batch.items - 1, min(CANDIDATES, batch.items)).astype(np.int64))
    rows = of_item[kept]
    got = {n: c.take(rows) for n, c in batch.request.items()} | {n: c.take(kept) for n, c in batch.item.items()}
    keys = {"customer": dataset.spine.rows.request_keys["customer"][chosen][rows], "product": batch.candidates[kept]}
    texts = dataset.item_texts or {}
    oracle = Oracle(
        project, np.unique(keys["customer"]).tolist(), [texts[k] for k in np.unique(keys["product"]).tolist()]
    )
    selected = dataset.compiled.selected
    expected = lookup(selected, oracle, keys, batch.times[rows])
    report = ParityReport(proven="the dataset", truth="the oracle")
    report.add({n: got[n] for n in selected.names}, expected, np.column_stack(list(keys.values())), batch.times[rows])
    report.require()
    prove_times(project, batch.request_ids, batch.times)
    return {"orders": len(chosen), "rows": len(kept), "features": len(selected.names), "values": report.values}


def prove_times(project: Project, request_ids: Int64s, times: Int64s) -> None:
    """Checks that each order is asked for as of its own earliest line, so that no feature sees any of it."""
    raw = project.views["customer_lines"].view.source.table(project.root).scan()
    goods = pl.col("StockCode").str.contains(r"^\d{5}[A-Za-z]*$") & (pl.col("UnitPrice") > 0) & (pl.col("Quantity") > 0)
    first = raw.filter(goods).group_by("InvoiceNo").agg(pl.col("InvoiceDate").min().dt.epoch("us")).collect()
    known = dict(zip(string_ids(first["InvoiceNo"].to_list()), first["InvoiceDate"].to_list(), strict=True))
    for request, time in zip(request_ids.tolist(), times.tolist(), strict=True):
        if known[request] != time:
            raise ProofError(
                f"an order is asked for as of {format_time(time)}, its first line is of {format_time(known[request])}",
                where="test orders",
            )
