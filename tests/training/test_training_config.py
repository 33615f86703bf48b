from __future__ import annotations

import math

import msgspec
import pytest
import torch

from bedplate import Category
from bedplate import Job as RealJob
from bedplate.errors import ConfigError
from bedplate.models.base import seeded
from bedplate.models.config import DCNConfig, ModelConfig
from bedplate.models.estimators import SklearnConfig
from bedplate.training.config import TrainerConfig, override
from bedplate.training.promotion import PromotionRules


class Job(msgspec.Struct, frozen=True):
    model: DCNConfig = DCNConfig("label")
    trainer: TrainerConfig = TrainerConfig()
    name: str = "job"


def test_nested_fields_are_set_with_their_types():
    job = override(
        Job(),
        [
            "model.layers=[64, 32]",
            "trainer.learning_rate=0.01",
            "trainer.clip_norm=null",
            "name=second run",
            "trainer.epochs=2",
            "trainer.epochs=4",
        ],
    )
    assert job.model.layers == (64, 32)
    assert job.trainer == TrainerConfig(learning_rate=0.01, clip_norm=None, epochs=4)
    assert job.name == "second run"
    assert Job() == Job(), "the first config is left as it is"


def test_a_whole_number_is_a_float_where_one_is_wanted():
    assert override(TrainerConfig(), ["weight_decay=1"]).weight_decay == 1.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainer.learning_rat=0.1", r"TrainerConfig has no field 'learning_rat'\n  did you mean 'learning_rate'"),
        ("trainor.epochs=1", "did you mean 'trainer'"),
        ("trainer.epochs=many", "Expected `int`, got `str`"),
        ("trainer.epochs=1.5", "'epochs' of TrainerConfig"),
        ("trainer.epochs=0", "epochs is 0, expected at least 1"),
        ("trainer.learning_rate=-1", "expected more than 0"),
        ("trainer.clip_norm=0", "expected more than 0 or null"),
        ("trainer.epochs", "expected path=value"),
        ("=3", "expected path=value"),
        ("name.first=x", "'name' of Job has no fields"),
        ("trainer=3", "'trainer' of Job"),
        ("model.layers=3", "'layers' of DCNConfig"),
        ("trainer.learning_rate=nan", "trainer.learning_rate=nan: 'learning_rate' of .* expected a finite number"),
        ("trainer.clip_norm=-Infinity", "expected a finite number"),
        ("trainer.weight_decay=1e999", "expected a finite number"),
    ],
)
def test_mistakes_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(Job(), [setting])


class Tower(msgspec.Struct, frozen=True):
    width: int = 8
    layers: tuple[int, ...] = (16,)
    params: dict[str, float] = {}


class Towers(msgspec.Struct, frozen=True):
    query: Tower = Tower()
    item: Tower = Tower()
    names: dict[str, int] = {}


class Nested(msgspec.Struct, frozen=True):
    model: Towers = Towers()
    trainer: TrainerConfig = TrainerConfig()


def test_only_the_field_at_the_end_of_a_path_is_replaced():
    before = Nested(Towers(item=Tower(4, params={"a": 1.0})))
    after = override(
        before, ["model.item.width=9", "model.item.params.b=2", "model.query.layers=[1,2]", "model.names.x=3"]
    )
    assert after.model.item == Tower(9, params={"a": 1.0, "b": 2.0})
    assert after.model.query == Tower(layers=(1, 2))
    assert after.model.names == {"x": 3}
    assert before.model.item.params == {"a": 1.0}, "the first config is left as it is"
    again = override(after, ["model.item.params.a=5", "model.item.params={}", "model.item.params.c=1"])
    assert again.model.item.params == {"c": 1.0}, "a later one wins"


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("modle.item.width=1", "Nested has no field 'modle'", "did you mean 'model'?"),
        ("model.itme.width=1", "Towers has no field 'itme'", "did you mean 'item'?"),
        ("model.item.widht=1", "Tower has no field 'widht'", "did you mean 'width'?"),
        ("model.item.zzz=1", "Tower has no field 'zzz'", "width"),
        ("model.item.width.x=1", "'width' of Tower has no fields", ""),
        ("model.item.width.x.y=1", "'width' of Tower has no fields", ""),
        ("model.item.params.a=text", "'params' of Tower: Expected `float`, got `str`", ""),
        ("model.item.params.a.b=1", "'params' of Tower has no fields", ""),
        ("model.item=1", "'item' of Towers: Expected `object`, got `int`", ""),
        ("trainer.schedule=cosin", "'schedule' of TrainerConfig", "cosine"),
        ("trainer..epochs=1", "TrainerConfig has no field ''", ""),
        (".=1", "Nested has no field ''", ""),
    ],
)
def test_a_mistake_anywhere_in_a_path_is_named_with_the_nearest(setting, message, hint):
    with pytest.raises(ConfigError) as got:
        override(Nested(), [setting])
    assert message in got.value.message
    assert hint in str(got.value.hint or "")
    assert got.value.where == setting


@pytest.mark.parametrize(
    "setting",
    ["model.layers=3", "model.lyaers=3", "trainer.learning_rate=nan", "trainer.epoch=1", "promotion.margin=x"],
)
def test_a_mistake_is_shown_as_it_was_given(setting: str) -> None:
    job = RealJob("j", dataset="d", model=DCNConfig("y"), inputs={"candidate": Category()})
    with pytest.raises(ConfigError) as got:
        job.with_settings([setting])
    assert got.value.where == setting


@pytest.mark.parametrize(
    ("setting", "model", "largest"),
    [
        ("trainer.seed", DCNConfig("y"), 2**63 - 1),
        ("trainer.epochs", DCNConfig("y"), 2**63 - 1),
        ("model.seed", DCNConfig("y"), 2**63 - 1),
        ("model.seed", SklearnConfig("y"), 2**32 - 1),
    ],
)
def test_whole_numbers_are_not_larger_than_libraries_take(setting: str, model: ModelConfig, largest: int) -> None:
    job = RealJob("j", dataset="d", model=model, inputs={"candidate": Category()})
    part, _, name = setting.partition(".")
    changed = job.with_settings([f"{setting}={largest}"])
    assert getattr(getattr(changed, part), name) == largest
    with seeded(changed.model.seed), seeded(changed.trainer.seed):
        assert torch.initial_seed() == changed.trainer.seed
    for more in (largest + 1, 10**20):
        with pytest.raises(ConfigError, match=f"{name} is {more}, expected .*at most "):
            job.with_settings([f"{setting}={more}"])


def test_a_guard_is_given_by_its_name() -> None:
    job = RealJob("j", dataset="d", model=DCNConfig("y"), inputs={"candidate": Category()})

    def guards(*settings: str) -> object:
        return job.with_settings([f"promotion.guards{setting}" for setting in settings]).promotion.guards

    assert guards() is None
    assert guards(".calibration=0.1") == {"calibration": 0.1}
    assert guards(".auc=0.01", ".log_loss=0") == {"calibration": 0.05, "auc": 0.01, "log_loss": 0}
    assert guards("={}", ".auc=0.01") == {"auc": 0.01}, "those that are given take the place of the usual ones"
    with pytest.raises(ConfigError, match=r"the guard of 'calibration' is -1\.0, expected at least 0"):
        guards(".calibration=-1")
    with pytest.raises(ConfigError, match="guards: no comparison has the metric 'aucc'"):
        guards(".aucc=0.1")


@pytest.mark.parametrize("name", ["learning_rate", "embedding_learning_rate"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_learning_rate_is_finite(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}, expected a finite number"):
        TrainerConfig(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_of_a_config_becomes_null_in_its_record(value: float) -> None:
    for name in ("weight_decay", "clip_norm", "average"):
        with pytest.raises(ConfigError, match=rf"^trainer: {name} is {value}, expected a finite number"):
            TrainerConfig(**{name: value})
    for name in ("margin", "largest_shift", "largest_missing"):
        with pytest.raises(ConfigError, match=rf"^promotion: {name} is {value}, expected a finite number"):
            PromotionRules(**{name: value})
    with pytest.raises(ConfigError, match=rf"guards\.auc is {value}, expected a finite number"):
        PromotionRules(guards={"auc": value})
