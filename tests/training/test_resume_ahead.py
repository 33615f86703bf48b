"""A resumed run ends with the same weights however far, and by how many threads, it was and is read ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import Source

from bedplate.features.encoder import Encoder
from bedplate.models.config import DCNConfig
from bedplate.models.dcn import DCN
from bedplate.training.checkpoint import load_state
from bedplate.training.config import TrainerConfig
from bedplate.training.report import Status
from bedplate.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

BATCHES = 12
FAR = {"prefetch": 64, "loader_threads": 3}
NEAR = {"prefetch": 1, "loader_threads": 1, "prefetch_memory": "1MB"}


class Stop(Exception):
    pass


def fit(encoder: Encoder, folder: Path, source: Source, at: int | None = None, **ahead: Any) -> Any:
    """Trains, up to a step."""
    chosen: dict[str, Any] = {"epochs": 2, "patience": 9, "checkpoint_every": 1, "seed": 5, "evaluate_every": 5} | ahead
    model = DCN(DCNConfig("label", layers=(8,), rank=4, cross_layers=1, dropout=0.3), encoder.layout)

    def show(status: Status) -> None:
        if status.metrics is None and (status.epoch - 1) * BATCHES + status.batch == at:
            raise Stop

    return Trainer(TrainerConfig(**chosen), show=show).fit(model, encoder, source, Source(2, salt=1), folder)


@pytest.fixture(scope="module")
def whole(encoder: Encoder, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fit(encoder, tmp_path_factory.mktemp("whole"), Source(BATCHES))


@pytest.mark.parametrize("at", [1, 17])
@pytest.mark.parametrize(("before", "after"), [(FAR, NEAR), (NEAR, FAR)])
def test_what_was_read_ahead_is_read_again(
    encoder: Encoder, tmp_path: Path, whole: Any, at: int, before: dict[str, Any], after: dict[str, Any]
) -> None:
    first = Source(BATCHES)
    with pytest.raises(Stop):
        fit(encoder, tmp_path, first, at, **before)
    step = load_state(tmp_path / "checkpoint.pt")["progress"]["step"]
    assert step in (at - 1, at), "the checkpoint is of what was learnt, not of what was read"
    if before is FAR and at == 1:
        assert len([number for epoch, number in first.made if epoch == 0]) > at + 1
    source = Source(BATCHES)
    resumed = fit(encoder, tmp_path, source, **after)
    assert resumed.resumed_step == step
    assert source.made[0] == divmod(step, BATCHES), "it begins with the first batch that was not learnt"
    assert resumed.history == whole.history
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
