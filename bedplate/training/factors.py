"""What two runs of a job differ in, as factors that can be swapped one by one, and jobs made of parts of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast, final

import msgspec

from bedplate.errors import ConfigError
from bedplate.features.encoding import Encoding
from bedplate.models import config as networks
from bedplate.models import estimators
from bedplate.models.config import ModelConfig
from bedplate.registry.diff import Change, changes
from bedplate.registry.run import RunRecord
from bedplate.training.config import PACE, TrainerConfig
from bedplate.training.evidence import SETTINGS
from bedplate.training.job import OWN_DIRECTIONS, Job

Side: TypeAlias = Literal["a", "b"]
Sides: TypeAlias = "Mapping[str, Side]"
"""From which run each factor is taken."""

CODE, DATA, DATASET, INPUTS, MODEL, TRAINER, SEED = "code", "data", "dataset", "inputs", "model", "trainer", "seed"
FACTORS = (CODE, DATA, DATASET, INPUTS, MODEL, TRAINER, SEED)

_PARTS = {"dataset", "model", "inputs", "trainer", "fit_batches", "golden", SETTINGS, OWN_DIRECTIONS}


@final
class Factor(msgspec.Struct, frozen=True):
    """Something that two runs differ in; what differs in it."""

    name: str
    changes: tuple[Change, ...]


def config_factors(a: RunRecord, b: RunRecord) -> list[Factor]:
    """The factors that the configs of two runs say: dataset, inputs, model, trainer and seeds.

    Raises:
        ConfigError: a config is not that of a job that begins from nothing.
    """
    for record in (a, b):
        unknown = sorted(set(record.config) - _PARTS)
        if unknown or not {"dataset", "model", "inputs", "trainer"} <= set(record.config):
            raise ConfigError(
                f"the run is not one that can be made again from its job alone: {', '.join(unknown) or 'no config'}",
                where=f"run '{record.id}'",
                hint="runs of 'bedplate train' that began from nothing can be bisected",
            )
    parts = {side: _grouped(record.config) for side, record in (("a", a), ("b", b))}
    found = [Factor(name, tuple(changes(parts["a"][name], parts["b"][name]))) for name in FACTORS if name in parts["a"]]
    return [factor for factor in found if factor.changes]


def job_of(
    name: str, configs: Mapping[Side, Mapping[str, Any]], sides: Sides, known: Mapping[str, type], shift: int
) -> Job:
    """A job whose parts are from the configs of two runs.

    Args:
        name: of the job.
        configs: of the runs.
        sides: from which run each factor is taken.
        known: the configs of models by title, those of the project's own jobs.
        shift: is added to the seeds of the model and of the trainer.

    Raises:
        ConfigError: a part does not fit the code: an unknown model, or a field that it does not have.
        DefinitionError: the parts don't fit each other.
    """
    dataset, inputs, trained, seeds = (configs[sides[part]] for part in (DATASET, INPUTS, TRAINER, SEED))
    model: dict[str, Any] = dict(configs[sides[MODEL]]["model"])
    title = model.pop("class")
    kind = known.get(title) or getattr(networks, title, None) or getattr(estimators, title, None)
    if kind is None or not issubclass(kind, ModelConfig):
        raise ConfigError(f"the code has no model with the config '{title}'", where=f"job '{name}'")
    try:
        return Job(
            name,
            dataset=dataset["dataset"],
            model=msgspec.convert(model | {"seed": seeds["model"].get("seed", 0) + shift}, kind),
            inputs=msgspec.convert(inputs["inputs"], dict[str, Encoding]),
            trainer=msgspec.convert(trained["trainer"] | {"seed": seeds["trainer"]["seed"] + shift}, TrainerConfig),
            fit_batches=trained["fit_batches"],
            golden=trained["golden"],
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"the config of the run does not fit the code: {error}", where=f"job '{name}'") from error


def same_result(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configs make the same weights."""
    return set(one) <= _PARTS and set(other) <= _PARTS and _grouped(one) == _grouped(other)


def _grouped(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The choices of a config by factor."""
    model, trainer = (cast("dict[str, Any]", dict(config[part])) for part in ("model", "trainer"))
    seeds = {"model.seed": model.pop("seed", 0), "trainer.seed": trainer.pop("seed", 0)}
    trainer = {name: value for name, value in trainer.items() if name not in PACE}
    return {
        DATASET: {"dataset": config["dataset"]},
        INPUTS: config["inputs"],
        MODEL: model,
        TRAINER: trainer | {"fit_batches": config["fit_batches"]},
        SEED: seeds,
    }
