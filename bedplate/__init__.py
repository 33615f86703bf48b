"""Bedplate: an ML foundation platform.

The public names are here; each is loaded when it is first asked for, so that `import bedplate` imports no engine.

>>> import bedplate
>>> bedplate.Entity("customer", key="customer_id").key
'customer_id'
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bedplate.aggregations.arithmetic import Count, Mean, Sum
    from bedplate.aggregations.distinct import CountDistinct
    from bedplate.aggregations.extremes import Max, Min
    from bedplate.aggregations.ordered import Last, LastN, TimeSince
    from bedplate.aggregations.window import Window
    from bedplate.batch import Batch
    from bedplate.client.async_client import AsyncClient
    from bedplate.client.sync_client import Client
    from bedplate.datasets.dataset import Dataset
    from bedplate.datasets.labels import Label
    from bedplate.datasets.negatives import Negatives
    from bedplate.datasets.spine import Spine
    from bedplate.datasets.split import TimeSplit
    from bedplate.errors import BedplateError
    from bedplate.features.derived import DerivedFeature
    from bedplate.features.encoding import Bag, Category, Number, Sequence
    from bedplate.features.entity import Entity
    from bedplate.features.signature import Signature
    from bedplate.features.view import FeatureView
    from bedplate.models.config import DCNConfig, LogisticConfig, TwoTowerConfig
    from bedplate.project import Project
    from bedplate.registry.registry import Registry
    from bedplate.serving.service import Service
    from bedplate.serving.steps import Retrieval
    from bedplate.sources.base import Source
    from bedplate.training.config import TrainerConfig
    from bedplate.training.job import Job
    from bedplate.training.trainer import Trainer

__all__ = [
    "AsyncClient",
    "Bag",
    "Batch",
    "BedplateError",
    "Category",
    "Client",
    "Count",
    "CountDistinct",
    "DCNConfig",
    "Dataset",
    "DerivedFeature",
    "Entity",
    "FeatureView",
    "Job",
    "Label",
    "Last",
    "LastN",
    "LogisticConfig",
    "Max",
    "Mean",
    "Min",
    "Negatives",
    "Number",
    "Project",
    "Registry",
    "Retrieval",
    "Sequence",
    "Service",
    "Signature",
    "Source",
    "Spine",
    "Sum",
    "TimeSince",
    "TimeSplit",
    "Trainer",
    "TrainerConfig",
    "TwoTowerConfig",
    "Window",
]

_EXPORTS = {
    "AsyncClient": "bedplate.client.async_client",
    "Bag": "bedplate.features.encoding",
    "Batch": "bedplate.batch",
    "BedplateError": "bedplate.errors",
    "Category": "bedplate.features.encoding",
    "Client": "bedplate.client.sync_client",
    "Count": "bedplate.aggregations.arithmetic",
    "CountDistinct": "bedplate.aggregations.distinct",
    "DCNConfig": "bedplate.models.config",
    "Dataset": "bedplate.datasets.dataset",
    "DerivedFeature": "bedplate.features.derived",
    "Entity": "bedplate.features.entity",
    "FeatureView": "bedplate.features.view",
    "Job": "bedplate.training.job",
    "Label": "bedplate.datasets.labels",
    "Last": "bedplate.aggregations.ordered",
    "LastN": "bedplate.aggregations.ordered",
    "LogisticConfig": "bedplate.models.config",
    "Max": "bedplate.aggregations.extremes",
    "Mean": "bedplate.aggregations.arithmetic",
    "Min": "bedplate.aggregations.extremes",
    "Negatives": "bedplate.datasets.negatives",
    "Number": "bedplate.features.encoding",
    "Project": "bedplate.project",
    "Registry": "bedplate.registry.registry",
    "Retrieval": "bedplate.serving.steps",
    "Sequence": "bedplate.features.encoding",
    "Service": "bedplate.serving.service",
    "Signature": "bedplate.features.signature",
    "Source": "bedplate.sources.base",
    "Spine": "bedplate.datasets.spine",
    "Sum": "bedplate.aggregations.arithmetic",
    "TimeSince": "bedplate.aggregations.ordered",
    "TimeSplit": "bedplate.datasets.split",
    "Trainer": "bedplate.training.trainer",
    "TrainerConfig": "bedplate.training.config",
    "TwoTowerConfig": "bedplate.models.config",
    "Window": "bedplate.aggregations.window",
}


if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    # Read when torch is first imported. Threads of OpenMP that wait for each other spin; beside the threads that read
    # ahead, or another program, those that have the work do not get to it, and a step takes many times as long. To be
    # woken costs too: they spin for tens of microseconds, longer than between two operations of a step, and then sleep.
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "3000"}


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        from bedplate.errors import suggest

        raise AttributeError(f"module 'bedplate' has no attribute '{name}'; {suggest(name, _EXPORTS, 'names')}")
    try:
        value = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        from bedplate.errors import missing_extra

        extra = missing_extra(error)
        if extra is None:
            raise
        raise extra from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
