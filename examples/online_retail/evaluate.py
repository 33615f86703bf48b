"""Judging the models on the last weeks, beside honest baselines, over the whole catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bedplate.datasets.loaded import LoadedDataset, select_requests
from bedplate.errors import ProofError
from bedplate.features.assemble import Candidates
from bedplate.metrics.intervals import Estimate, paired_difference
from bedplate.models.two_tower import TwoTower
from bedplate.project import Project
from bedplate.training.run import Trained, catalogue_candidates
from bedplate.training.whole_catalogue import CatalogueEvaluation, model_score
from bedplate.types import Array

REQUESTS = 400
"""How many test orders the whole catalogue is ranked for, evenly spread over the weeks."""
RETRIEVED = 200


def judge(project: Project, dataset: LoadedDataset, trained: Mapping[str, Trained]) -> dict[str, Any]:
    """Recall@100 and NDCG@10 of models and baselines, with intervals, and the lead of the best over the second."""
    first, last = dataset.positions("test")
    chosen = np.unique(np.linspace(first, last - 1, min(REQUESTS, last - first)).astype(np.int64))
    items = catalogue_candidates(dataset)
    catalogue = CatalogueEvaluation(dataset, select_requests(dataset.spine.rows, chosen), items)
    towers, ranker, logistic = (trained[n] for n in ("retail_retrieval", "retail_ranker", "retail_logistic"))
    model, vectors = towers.result.model, towers.catalogue
    if not isinstance(model, TwoTower) or vectors is None:
        raise ProofError(f"got a {type(model).__name__}, expected towers with a catalogue", where="retail_retrieval")
    alone = catalogue.retrieve(model, towers.encoder, vectors, RETRIEVED)
    retrieved = catalogue.retrieve(model, towers.encoder, vectors, RETRIEVED, always=["customer_lines.bought"])
    lists = {
        "two towers alone": alone,
        "retrieval + DCN ranking": catalogue.rank(retrieved, model_score(dataset, ranker.result.model, ranker.encoder)),
        "retrieval + logistic regression": catalogue.rank(
            retrieved, model_score(dataset, logistic.result.model, logistic.encoder)
        ),
        "popularity of the last 28 days": catalogue.best_of_all(lambda rows: popularity(project, rows), 100),
        "the customer's own history": catalogue.best_of_all(lambda rows: own_history(project, rows), 100),
    }
    table = {name: dict(catalogue.judge(ranked)) for name, ranked in lists.items()}
    return {
        "requests": len(chosen),
        "catalogue": len(items),
        "table": table,
        "leads": {
            "ndcg@10": lead({name: catalogue.ndcg(ranked) for name, ranked in lists.items()}),
            "recall@100": lead({name: catalogue.recall(ranked) for name, ranked in lists.items()}),
        },
    }


def lead(values: Mapping[str, Array]) -> Estimate:
    """By how much the best list is ahead of the second on the same orders; [R] values for each list."""
    first, second = sorted(values.values(), key=lambda v: -v.mean())[:2]
    return paired_difference(first, second)


def popularity(project: Project, rows: Candidates) -> np.ndarray:
    """How many order lines each candidate had in the 28 days before the request."""
    return read(project, "product_lines", "product_lines.lines_28d", rows)


def own_history(project: Project, rows: Candidates) -> np.ndarray:
    """In how many orders of the last year the customer bought each candidate; ties in order of popularity."""
    return read(project, "customer_product", "customer_product.orders_365d", rows) * 1e6 + popularity(project, rows)


def read(project: Project, view: str, name: str, rows: Candidates) -> np.ndarray:
    """One feature of each candidate as of its request's time, as numbers."""
    of_item = np.repeat(np.arange(len(rows.times)), np.diff(rows.offsets))
    compiled = project.views[view]
    keys = [
        rows.candidates if e.name == rows.item else rows.request_keys[e.name][of_item] for e in compiled.view.entities
    ]
    column = project.history.read(compiled, [name], np.stack(keys, axis=1), rows.times[of_item])[name]
    return np.asarray(column.values, np.float64)
