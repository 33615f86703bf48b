"""What made a model: the definitions that it was trained by, and what a resumed run must share with its beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bedplate.canonical import digest
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import StoreError
from bedplate.features.encoding import CANDIDATE
from bedplate.features.view import Feature
from bedplate.identity import class_id
from bedplate.registry.manifest import CONTINUED, MODEL_OF, QUANTIZED, plain_config
from bedplate.registry.run import SEARCHED, RunRecord
from bedplate.training.config import may_change
from bedplate.training.job import Job

SETTINGS = "settings"
"""Where a run's config keeps the settings that replaced the job's own, as they were given."""

RETRAINING = "retraining"
"""Where a run's config keeps which retraining it is of."""

RUN_ONLY = (CONTINUED, RETRAINING, SEARCHED)
"""What a run's config holds and no job: a resumed run has it from its beginning."""

VERSION_ONLY = (*RUN_ONLY, QUANTIZED)
"""What a version's config holds and no job."""

_SHOWN = 8
"""How many differences a message names."""


def definitions_of(job: Job, dataset: LoadedDataset, features: Mapping[str, Feature]) -> dict[str, str]:
    """The id of every definition that made a job's model, by kind and name.

    The dataset as a whole, its spine, labels, negatives and split; each view that it reads; each feature that the
    model is trained on, derived ones with all that they are derived from; and the version of each model that makes one.

    Args:
        job: the job.
        dataset: its dataset over its data.
        features: definitions by full name.
    """
    compiled = dataset.compiled
    known = {f.name: f for f in compiled.selected.features} | dict(features)
    found = compiled.definitions()
    found |= {f"view {view.name}": view.id for view in compiled.selected.every_view}
    found |= {f"{MODEL_OF}{name}": version for name, version in models_behind(job, dataset).items()}
    found |= {f"feature {name}": known[name].id for name in job.inputs if name != CANDIDATE}
    return found | code_of(job)


def code_of(job: Job) -> dict[str, str]:
    """The id of the code of a model of the project's own; that of Bedplate's models is in the version of Bedplate.

    Raises:
        DefinitionError: its source can't be read, or it uses something that can change.
    """
    kind = job.model_class
    if kind.__module__.partition(".")[0] == "bedplate":
        return {}
    return {f"model {kind.__qualname__}": class_id(kind, f"{job.place}: model '{kind.__qualname__}'")}


def models_behind(job: Job, dataset: LoadedDataset) -> dict[str, str]:
    """The model version behind each feature that a model makes and that the job's inputs are computed from."""
    features = dataset.compiled.selected.models_behind(job.inputs)
    return {f.name: dataset.scorers[f.name].version for f in features}


def run_config(job: Job, retraining: str | None) -> dict[str, Any]:
    """What a run's config says of its job: the whole of it, the settings that changed it, and its retraining."""
    settings = {SETTINGS: list(job.settings)} if job.settings else {}
    return job.form() | settings | ({} if retraining is None else {RETRAINING: retraining})


def resumed_config(record: RunRecord, job: Job) -> dict[str, Any]:
    """What a run's config says once it goes on with a job, which may say anew how long and at what pace."""
    return run_config(job, None) | {name: record.config[name] for name in RUN_ONLY if name in record.config}


def fingerprint(job: Job, definitions: Mapping[str, str], sources: Mapping[str, str]) -> str:
    """The id of all that processes which train together must have in common."""
    return digest([plain_config(job.form(), job.place), dict(definitions), dict(sources)])


def settings_of(record: RunRecord) -> list[str]:
    """The settings that a run began with in place of the job's own; it goes on with them by `Job.with_settings`."""
    return list(record.config.get(SETTINGS, ()))


def require_same(record: RunRecord, job: Job, definitions: Mapping[str, str], sources: Mapping[str, str]) -> None:
    """Checks that a run began with the same definitions, source snapshots and config as it would go on with.

    Of the config, what only says how long and how fast a run goes on may differ: `may_change`, and how many golden
    requests are kept. That settings were given is not compared, only what they make of the config.

    Raises:
        StoreError: something differs; the message says what.
    """
    different = [
        *(f"the name: was {was}, is {now}" for _, was, now in _changes({"": record.name}, {"": job.name})),
        *(name for name, _, _ in _changes(record.definitions, definitions)),
        *(f"the snapshot of source {name}" for name, _, _ in _changes(record.sources, sources)),
        *(
            f"{path}: was {was}, is {now}"
            for path, was, now in _changes(_fixed(record.config), _fixed(plain_config(job.form(), job.place)))
        ),
    ]
    if different:
        more = f", and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise StoreError(
            f"the run began with something else than it would go on with: {', '.join(different[:_SHOWN])}{more}",
            where=f"run '{record.id}'",
            hint="start a new run, or go on with what the run began with: its settings are kept and need not be given",
        )


def _changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = dict.fromkeys((*was, *now))
    return [(n, was.get(n), now.get(n)) for n in names if was.get(n) != now.get(n)]


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's values by path, such as `trainer.seed`, without those that may change."""
    found: dict[str, Any] = {}
    for part, value in config.items():
        if part in ("model", "inputs", "trainer") and isinstance(value, Mapping):
            found |= {f"{part}.{name}": one for name, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
        else:
            found[part] = value
    free = {"golden", SETTINGS, *RUN_ONLY, *(f"trainer.{name}" for name in may_change(config.get("trainer", {})))}
    return {path: value for path, value in found.items() if path not in free}
