from __future__ import annotations

import msgspec
import pytest

from bedplate.errors import ConfigError
from bedplate.models.config import DCNConfig
from bedplate.training.config import TrainerConfig, override


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
    ],
)
def test_mistakes_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(Job(), [setting])
