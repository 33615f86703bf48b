"""A training job: what is learnt, from which dataset, with which inputs, and how; pure data in `train.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, final

import msgspec

from bedplate.arguments import checks_arguments
from bedplate.datasets.checks import check_kind, check_number
from bedplate.datasets.dataset import Dataset
from bedplate.errors import ConfigError, DefinitionError, suggest
from bedplate.features.encoding import CANDIDATE, Encoding
from bedplate.metrics.classification import NOT_FOR_JUDGING
from bedplate.models.config import ModelConfig, implementation
from bedplate.models.estimators import TRAINER_FIELDS, EstimatorConfig
from bedplate.registry.version import NAME_PATTERN
from bedplate.training.config import TrainerConfig, override
from bedplate.training.promotion import PromotionRules

if TYPE_CHECKING:
    from bedplate.models.base import Model
    from bedplate.models.estimator import Estimator

OWN_DIRECTIONS = "directions"
"""Where the form of a job keeps whether lower or higher is better, of metrics of its model's own."""

_OF_ESTIMATORS = {
    "checkpoint_every": "checkpoint_every",
    "epochs": "rounds",
    "evaluate_every": "evaluate_every",
    "learning_rate": "learning_rate",
    "patience": "early_stopping",
}
"""What a choice of the trainer is called in the config of boosted trees."""


@checks_arguments
@final
class Job:
    """What `bedplate train` runs.

    Args:
        name: of the model in the registry, and of its runs.
        dataset: the dataset, or its name.
        model: the model's config.
        inputs: an encoding for each feature that the model reads, by the feature's full name; `candidate` is the
            candidate's own key.
        trainer: how it is trained.
        fit_batches: how many training batches the encodings are fitted on.
        golden: how many test requests are kept with their scores as evidence.
        promotion: when `bedplate retrain` gives a new version the place of the champion.

    Attributes:
        settings: what `with_settings` put in place of the job's own, in order.

    Raises:
        DefinitionError: an argument of another type, a name that no folder can have, no inputs, a config of no known
            model, or a metric to judge by that the model does not report, or of which it does not say whether a lower
            or a higher one is better. `checks.check_job` checks a job against the project.
    """

    __slots__ = ("dataset", "fit_batches", "golden", "inputs", "model", "name", "promotion", "settings", "trainer")

    def __init__(
        self,
        name: str,
        *,
        dataset: str | Dataset,
        model: ModelConfig,
        inputs: Mapping[str, Encoding],
        trainer: TrainerConfig | None = None,
        fit_batches: int = 64,
        golden: int = 4,
        promotion: PromotionRules | None = None,
    ) -> None:
        self.name = name
        self.settings: tuple[str, ...] = ()
        if not isinstance(name, str) or NAME_PATTERN.fullmatch(name) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"got the name {name!r}, expected letters, digits, '_', '-' and '.', a letter or digit first",
                where="job",
            )
        check_kind(dataset, str | Dataset, f"{self.place}: dataset")
        if not dataset:
            raise DefinitionError("got an empty text, expected the name of a dataset", where=f"{self.place}: dataset")
        self.dataset = dataset if isinstance(dataset, str) else dataset.name
        check_kind(
            model,
            ModelConfig,
            f"{self.place}: model",
            hint="for example DCNConfig(label='clicked'), or MyModel.Config(label='clicked') of a model of your own",
        )
        if not model.implemented_by:
            raise DefinitionError(
                f"got {model.title()}, which is the config of no model",
                where=f"{self.place}: model",
                hint="write the class inside its model, as Config",
            )
        check_kind(inputs, Mapping, f"{self.place}: inputs")
        for feature, encoding in inputs.items():
            check_kind(feature, str, f"{self.place}: inputs")
            check_kind(
                encoding, Encoding, f"{self.place}: input '{feature}'", hint="for example Number() or Category()"
            )
        self.model, self.inputs = model, dict(inputs)
        self.trainer = TrainerConfig() if trainer is None else trainer
        check_kind(self.trainer, TrainerConfig, f"{self.place}: trainer")
        self.promotion = PromotionRules() if promotion is None else promotion
        check_kind(self.promotion, PromotionRules, f"{self.place}: promotion")
        self._check_metric()
        self._check_trainer()
        check_number(fit_batches, f"{self.place}: fit_batches", whole=True)
        check_number(golden, f"{self.place}: golden", whole=True)
        self.fit_batches, self.golden = fit_batches, golden
        if not self.inputs or fit_batches < 1 or golden < 1:
            raise DefinitionError(
                f"got {len(self.inputs)} inputs, fit_batches={fit_batches}, golden={golden}; expected at least 1 each",
                where=self.place,
            )

    def _check_metric(self) -> None:
        """An epoch can be chosen by the metric, and it is known whether a lower or a higher one is better."""
        metric, reported = self.trainer.metric, ("loss", *self.model.reported())
        judges = [name for name in reported if name not in NOT_FOR_JUDGING]
        if metric not in judges:
            said = f"'{metric}', which no epoch can be chosen by" if metric in reported else f"no '{metric}'"
            raise DefinitionError(
                f"the model of {self.model.title()} reports {said}",
                where=f"{self.place}: trainer: metric",
                hint=suggest(metric, judges, "metrics"),
            )
        try:
            self.model.check_directions()
            self.model.direction_of(metric)
        except ConfigError as error:
            raise DefinitionError(error.message, where=f"{self.place}: {error.where}", hint=error.hint) from None

    def _check_trainer(self) -> None:
        """An estimator has no epochs and no gradients: choices of these would do nothing."""
        if not isinstance(self.model, EstimatorConfig):
            return
        usual = TrainerConfig()
        for name in TrainerConfig.__struct_fields__:
            if name not in TRAINER_FIELDS and getattr(self.trainer, name) != getattr(usual, name):
                own = _OF_ESTIMATORS.get(name)
                has = own is not None and hasattr(self.model, own)
                raise DefinitionError(
                    f"'{name}' is of the training of networks, and {self.model.title()} is of an estimator",
                    where=f"{self.place}: trainer",
                    hint=f"set {own} of {self.model.title()}: model.{own}" if has else "leave it out",
                )

    @property
    def place(self) -> str:
        """What a message calls the job."""
        return f"job '{self.name}'"

    @property
    def model_class(self) -> type[Model] | type[Estimator]:
        """The model that the config is of; imports the library that it is made with."""
        return implementation(self.model)

    def check_inputs(self, offered: Sequence[str]) -> None:
        """Checks that the dataset offers every input.

        Raises:
            DefinitionError: one is missing.
        """
        for name in self.inputs:
            if name != CANDIDATE and name not in offered:
                raise DefinitionError(
                    f"the input '{name}' is not a feature of dataset '{self.dataset}'",
                    where=self.place,
                    hint=suggest(name, [*offered, CANDIDATE], "its features"),
                )

    def with_settings(self, settings: Sequence[str]) -> Self:
        """The job with settings such as `model.rank=64` or `trainer.epochs=2` in place of its own.

        Settings of its rules begin with `promotion`.

        Raises:
            ConfigError: a setting is not of the form, or names nothing.
        """
        parts: dict[str, list[str]] = {"model": [], "trainer": [], "promotion": []}
        for setting in settings:
            head, dot, rest = setting.partition(".")
            if not dot or head not in parts:
                raise ConfigError(
                    f"got '{setting}', expected model.NAME=VALUE, trainer.NAME=VALUE or promotion.NAME=VALUE",
                    where="settings",
                    hint=suggest(head, parts),
                )
            parts[head].append(rest)
        changed = type(self)(
            self.name,
            dataset=self.dataset,
            model=override(self.model, parts["model"], "model"),
            inputs=self.inputs,
            trainer=override(self.trainer, parts["trainer"], "trainer"),
            fit_batches=self.fit_batches,
            golden=self.golden,
            promotion=self.promotion.with_settings(parts["promotion"]),
        )
        changed.settings = (*self.settings, *settings)
        return changed

    def form(self) -> dict[str, Any]:
        """The whole job as plain JSON values, for the manifest."""
        directions = dict(type(self.model).directions)
        return ({OWN_DIRECTIONS: directions} if directions else {}) | {
            "dataset": self.dataset,
            "model": {"class": self.model.title()} | msgspec.to_builtins(self.model),
            "inputs": msgspec.to_builtins(self.inputs),
            "trainer": msgspec.to_builtins(self.trainer),
            "fit_batches": self.fit_batches,
            "golden": self.golden,
        }
