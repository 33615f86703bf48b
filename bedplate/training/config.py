"""The trainer's config, and overriding configs from the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from bedplate.config import parse_size
from bedplate.errors import ConfigError, suggest
from bedplate.features.checks import check_least, check_types, one_of
from bedplate.training.schedule import Schedule
from bedplate.types import parse_duration

_Config = TypeVar("_Config", bound=msgspec.Struct)


PACE = frozenset(
    {"checkpoint_every", "prefetch", "prefetch_memory", "keep_memory", "loader_threads", "process_timeout"}
)
"""Choices that change no weight."""

_MAY_CHANGE = PACE | {"epochs", "patience"}


def may_change(trainer: Mapping[str, Any]) -> frozenset[str]:
    """The choices of a `TrainerConfig` that a resumed run may make anew: how long it goes on and at what pace.

    Where the learning rates fall until the last update, how many there are is no such choice.

    Args:
        trainer: the config as plain values.

    >>> "epochs" in may_change({"schedule": "constant"}), "epochs" in may_change({"schedule": "cosine"})
    (True, False)
    """
    return _MAY_CHANGE if trainer.get("schedule", "constant") == "constant" else _MAY_CHANGE - {"epochs"}


class TrainerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is trained. The size of a batch is the loader's choice.

    Attributes:
        epochs: at most so many passes over the training data.
        learning_rate: of AdamW, for all weights but embeddings.
        embedding_learning_rate: of Adagrad, for embeddings.
        embedding_optimizer: Adagrad with one accumulator a row, or one a weight; both touch only rows with a gradient.
        weight_decay: of AdamW.
        clip_norm: the largest norm of a gradient (embeddings aside); None for any.
        accumulate: batches whose gradients are one update, each batch by what its loss counts (`Model.loss_weight`).
        warmup: updates over which the learning rates rise from 0.
        schedule: what they do then: stay, or fall to 0 at the last update, in a straight line or as a half cosine.
        average: the decay of a moving average of the weights (embeddings aside), with which the model is judged and
            kept; 0 for none.
        precision: of the forward and backward pass; weights and updates are float32.
        compile: a backend of `torch.compile`, such as "inductor"; None for none.
        metric: what a validation is judged by, for early stopping and for the weights that are kept.
        evaluate_every: batches between two validations, beside the one at the end of each epoch; None: only that one.
        patience: stops after so many validations in a row without a better metric.
        checkpoint_every: steps between two checkpoints; there is one after each epoch too.
        prefetch: how many encoded batches wait for the trainer at most.
        prefetch_memory: how much memory may be used for them and for the rows that they are made of, such as "512MB" or
            "2GB"; a single batch, or a single part of a training set in files, that is larger is still read.
        keep_memory: how much more memory each process may use for encoded rows, which stay for the next epoch and the
            next validation, such as "512MB"; "0MB" for none. Where all rows of a split do not fit into it, or negatives
            are drawn anew in each epoch, each epoch joins and encodes its rows again.
        loader_threads: how many threads read, join and encode ahead of the trainer; the batches and their order do not
            depend on it.
        process_timeout: how long one of several processes may hold up the others, such as "10m", until it is ended, and
            the training with it; the last checkpoint is whole.
        seed: of dropout and of the order of batches.
    """

    epochs: int = 5
    learning_rate: float = 1e-3
    embedding_learning_rate: float = 0.05
    embedding_optimizer: Literal["row_wise_adagrad", "adagrad"] = "row_wise_adagrad"
    weight_decay: float = 1e-5
    clip_norm: float | None = 10.0
    accumulate: int = 1
    warmup: int = 0
    schedule: Schedule = "constant"
    average: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: str | None = None
    metric: str = "loss"
    evaluate_every: int | None = None
    patience: int = 2
    checkpoint_every: int = 1000
    prefetch: int = 128
    prefetch_memory: str = "512MB"
    keep_memory: str = "512MB"
    loader_threads: int = 2
    process_timeout: str = "10m"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ConfigError: a value is of another type than its field, or a number is out of its range.
        """
        check_types(self, "trainer")
        if not self.metric:
            raise ConfigError("got no metric, expected the name of one", where="trainer")
        check_least(self, "epochs patience checkpoint_every prefetch loader_threads accumulate", 1, "trainer")
        parse_size(self.prefetch_memory, "trainer: prefetch_memory")
        parse_size(self.keep_memory, "trainer: keep_memory")
        parse_duration(self.process_timeout, where="trainer: process_timeout")
        check_least(self, "weight_decay seed warmup average", 0, "trainer")
        if self.evaluate_every is not None:
            check_least(self, "evaluate_every", 1, "trainer")
        if not self.average < 1:
            raise ConfigError(f"average is {self.average}, expected below 1", where="trainer")
        for name in ("learning_rate", "embedding_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0 and finite", where="trainer")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm is {self.clip_norm}, expected more than 0 or null", where="trainer")


def check_sharded(config: TrainerConfig) -> None:
    """Checks that a model whose tables are spread over processes can be trained so.

    Raises:
        ConfigError: it is to be compiled.
    """
    if config.compile is not None:
        raise ConfigError(
            f"compile is '{config.compile}', and lookups of sharded tables can't be compiled",
            where="training with sharded tables",
            hint="leave compile out, or train without --sharding",
        )


def override(config: _Config, settings: Sequence[str], part: str = "") -> _Config:
    """A config with fields set by path, as in `trainer.learning_rate=0.01`.

    Values are JSON (`3`, `0.1`, `true`, `null`, `[64, 32]`); what is no JSON is a text. Types are checked.

    Args:
        config: a struct, whose fields may be structs.
        settings: `path=value` each; a later one wins.
        part: what a message puts before each path, such as `trainer`.

    Raises:
        ConfigError: an unknown field (with the nearest known one), a value of another type, or a number that is not
            finite.

    >>> override(TrainerConfig(), ["epochs=2", "metric=auc"]).metric
    'auc'
    >>> override(TrainerConfig(), ["epoch=2"])
    Traceback (most recent call last):
    bedplate.errors.ConfigError: epoch=2: TrainerConfig has no field 'epoch'
      did you mean 'epochs'?
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        shown = f"{part}.{setting}" if part else setting
        if not equals or not path.strip():
            raise ConfigError("expected path=value", where=shown, hint="for example trainer.learning_rate=0.01")
        config = _replaced(config, path.strip().split("."), _value(text.strip()), shown)
    return config


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _with_key(mapping: Mapping[Any, Any], key: str, value: Any) -> dict[Any, Any]:
    return {**mapping, key: value}


def _replaced(config: _Config, path: Sequence[str], value: Any, setting: str) -> _Config:
    kind = type(config)
    title = kind.__qualname__.rpartition("<locals>.")[2]
    fields = {f.name: f for f in msgspec.structs.fields(kind)}
    name = path[0]
    if name not in fields:
        raise ConfigError(f"{title} has no field '{name}'", where=setting, hint=suggest(name, fields, "fields"))
    current = getattr(config, name)
    if len(path) == 2 and isinstance(current, dict):
        path, value = path[:1], _with_key(current, path[1], value)  # pyright: ignore[reportUnknownArgumentType]
    if len(path) > 1:
        if not isinstance(current, msgspec.Struct):
            raise ConfigError(f"'{name}' of {title} has no fields", where=setting)
        return msgspec.structs.replace(config, **{name: _replaced(current, path[1:], value, setting)})
    try:
        converted = msgspec.convert(value, fields[name].type)
    except msgspec.ValidationError as error:
        said = "expected a finite number" if _is_not_finite(value) else str(error)
        hint = one_of(value, fields[name].type)
        raise ConfigError(f"'{name}' of {title}: {said}", where=setting, hint=hint) from None
    return msgspec.structs.replace(config, **{name: converted})


def _is_not_finite(value: Any) -> bool:
    """Whether it is the text of NaN or of an infinity, which JSON does not have."""
    try:
        return isinstance(value, str) and not math.isfinite(float(value))
    except ValueError:
        return False
