from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from run_training import BATCHES, CONFIG, MODEL
from synthetic import Source, make_batch

from bedplate.batch import Dense
from bedplate.errors import ConfigError, DataError, StoreError
from bedplate.models.config import DCNConfig, LogisticConfig, TwoTowerConfig
from bedplate.models.dcn import DCN
from bedplate.models.logistic import Logistic
from bedplate.models.two_tower import TwoTower
from bedplate.training.checkpoint import load_state
from bedplate.training.config import TrainerConfig
from bedplate.training.evaluate import evaluate, predict
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.report import Status
from bedplate.training.source import Encoded
from bedplate.training.trainer import Trainer

HERE = Path(__file__).parent
KILLS = int(os.environ.get("BEDPLATE_KILLS", "3"))
"""How many times training is killed at a random moment; a few by default, many for a campaign."""
SEEDED = {"patience": 9, "seed": 5}

pytestmark = pytest.mark.usefixtures("one_thread")


def final_state(folder: Path) -> dict:
    state = load_state(folder / "checkpoint.pt")
    return {**state["model"], "random": state["random"], **{f"sums{i}": s for i, s in adagrad_sums(state)}}


def adagrad_sums(state):
    return enumerate(state["optimizer"]["adagrad"]["sums"])


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


class Stop(Exception):
    pass


def crash_at(step: int):
    count = 0

    def show(status: Status) -> None:
        nonlocal count
        count += 1
        if count == step:
            raise Stop

    return show


@pytest.fixture(scope="module")
def uninterrupted(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    logged = []
    trainer = Trainer(CONFIG, log=lambda step, metrics: logged.append((step, metrics)))
    result = trainer.fit(DCN(MODEL, encoder.layout), encoder, Source(BATCHES), Source(3, salt=1), folder)
    return folder, result, logged


def test_models_learn_and_beat_the_baseline(encoder, tmp_path):
    found = {}
    for name, model in (
        ("dcn", DCN(DCNConfig("label", layers=(32, 16), rank=8), encoder.layout)),
        ("logistic", Logistic(LogisticConfig("label"), encoder.layout)),
    ):
        config = TrainerConfig(epochs=2, learning_rate=1e-2, **SEEDED)
        result = Trainer(config).fit(model, encoder, Source(60), Source(10, salt=1), tmp_path / name)
        found[name] = result.metrics
    # Only a cross of request and candidate can tell taste x style: logistic regression has no way to.
    assert found["dcn"]["auc"] > 0.78
    assert found["dcn"]["request_auc"] > 0.75
    assert found["dcn"]["normalised_entropy"] < 0.85
    assert 0.9 < found["dcn"]["calibration"] < 1.1
    assert 0.45 < found["logistic"]["auc"] < 0.65


def test_two_tower_learns(encoder, tmp_path):
    model = TwoTower(TwoTowerConfig("label", layers=(32,), width=16, frequency_slots=1024), encoder.layout)
    before = evaluate(model, Encoded(Source(10, salt=1), encoder))["request_auc"]
    config = TrainerConfig(epochs=3, learning_rate=5e-3, metric="request_auc", **SEEDED)
    after = Trainer(config).fit(model, encoder, Source(60), Source(10, salt=1), tmp_path).metrics["request_auc"]
    assert before < 0.6
    assert after > 0.7


def test_same_seed_same_weights_other_seed_other_weights(encoder, tmp_path, uninterrupted):
    folder, result, _ = uninterrupted
    torch.manual_seed(123)
    again = Trainer(CONFIG).fit(
        DCN(MODEL, encoder.layout), encoder, Source(BATCHES), Source(3, salt=1), tmp_path / "again"
    )
    assert_same(final_state(folder), final_state(tmp_path / "again"))
    assert again.history == result.history
    other = msgspec.structs.replace(CONFIG, seed=6)
    Trainer(other).fit(DCN(MODEL, encoder.layout), encoder, Source(BATCHES), Source(3, salt=1), tmp_path / "other")
    key = "deepened.weight"
    assert not torch.equal(final_state(folder)[key], final_state(tmp_path / "other")[key])


@pytest.mark.parametrize("step", [1, 3, 14, 15, 17, 30, 44])
def test_a_crash_at_any_step_and_a_resume_end_in_the_same_weights(encoder, tmp_path, uninterrupted, step):
    folder, result, _ = uninterrupted
    with pytest.raises(Stop):
        Trainer(CONFIG, show=crash_at(step)).fit(
            DCN(MODEL, encoder.layout), encoder, Source(BATCHES), Source(3, salt=1), tmp_path
        )
    torch.rand(3)  # whatever torch's own generator did in between
    source = Source(BATCHES)
    resumed = Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, source, Source(3, salt=1), tmp_path)
    assert_same(final_state(folder), final_state(tmp_path))
    assert resumed.history == result.history
    assert resumed.best_at == result.best_at
    assert_same(resumed.model.state_dict(), result.model.state_dict())
    # The status is shown after each of 14 steps and after the validation; checkpoints: every 3 steps, and epochs.
    epoch, position = divmod(step - 1, BATCHES + 1)
    done = epoch * BATCHES + min(position + 1, BATCHES)
    assert resumed.resumed_step == max(done // 3 * 3, epoch * BATCHES)
    assert len(source.made) == 3 * BATCHES - resumed.resumed_step, "what was done before is not read again"


def test_a_finished_run_is_not_trained_again(encoder, uninterrupted):
    folder, result, _ = uninterrupted
    source = Source(BATCHES)
    again = Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, source, Source(3, salt=1), folder)
    assert source.made == []
    assert again.metrics == result.metrics
    assert_same(again.model.state_dict(), result.model.state_dict())


def test_a_run_can_be_prolonged(encoder, tmp_path, uninterrupted):
    folder, _, _ = uninterrupted
    for epochs in (1, 3):
        config = msgspec.structs.replace(CONFIG, epochs=epochs)
        Trainer(config).fit(DCN(MODEL, encoder.layout), encoder, Source(BATCHES), Source(3, salt=1), tmp_path)
    assert_same(final_state(folder), final_state(tmp_path))


def start(folder: Path, slow: float, *options: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    return subprocess.Popen(
        [sys.executable, str(HERE / "run_training.py"), str(folder), str(slow), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(3000):
        if path.exists():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def test_kill_9_and_ctrl_c_and_a_resume_end_in_the_same_weights(tmp_path, uninterrupted):
    folder, _, _ = uninterrupted
    with start(tmp_path, slow=0.02) as killed:
        wait_for(tmp_path / "checkpoint.pt", killed)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    step = load_state(tmp_path / "checkpoint.pt")["progress"]["step"]
    assert 0 < step < 3 * BATCHES

    (tmp_path / "best.pt").unlink(missing_ok=True)
    before = (tmp_path / "checkpoint.pt").stat().st_ino
    with start(tmp_path, slow=0.02) as interrupted:
        for _ in range(3000):
            if (tmp_path / "checkpoint.pt").stat().st_ino != before:
                break
            time.sleep(0.01)
        interrupted.send_signal(signal.SIGINT)
        _, errors = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130, errors
    assert "interrupted after step" in errors
    assert "run the same again" in errors
    assert load_state(tmp_path / "checkpoint.pt")["progress"]["step"] > step

    with start(tmp_path, slow=0) as last:
        _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    assert errors.count("epoch 3/3") == 1
    assert_same(final_state(folder), final_state(tmp_path))


def kill_at_random(folder: Path, rng: random.Random) -> bool:
    """Goes on with a training run, and kills it a random time after it began or after its first checkpoint.

    Returns:
        whether it was killed; it came to its end else.
    """
    before = checkpoint_number(folder)
    with start(folder, 0.01, "1") as process:
        assert process.stdout.readline() == "started\n"
        if rng.random() < 0.7:
            while checkpoint_number(folder) == before and process.poll() is None:
                time.sleep(0.002)
        time.sleep(rng.random() * 0.2)
        process.kill()
        errors = process.stderr.read()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


def checkpoint_number(folder: Path) -> int:
    try:
        return (folder / "checkpoint.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_killed_at_random_moments_training_ends_in_the_same_weights(tmp_path, uninterrupted):
    folder, _, _ = uninterrupted
    rng, killed, number, steps = random.Random(20260303), 0, 0, []
    while killed < KILLS:
        work = tmp_path / str(number)
        work.mkdir(exist_ok=True)
        if kill_at_random(work, rng):
            killed += 1
            there = (work / "checkpoint.pt").exists()
            steps.append(load_state(work / "checkpoint.pt")["progress"]["step"] if there else 0)
        else:  # it came to its end before the kill
            number += 1
            assert_same(final_state(folder), final_state(work))
    with start(tmp_path / str(number), 0, "1") as last:
        _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    assert_same(final_state(folder), final_state(tmp_path / str(number)))
    assert any(0 < step < 3 * BATCHES for step in steps), steps
    for work in tmp_path.iterdir():
        assert sorted(p.name for p in work.iterdir()) == ["best.pt", "checkpoint.pt"], "nothing is left over"


def test_a_checkpoint_that_a_killed_process_left_in_part_is_deleted(encoder, tmp_path):
    program = (
        "import sys, pathlib; from bedplate.files import aside; aside(pathlib.Path(sys.argv[1])).write_bytes(b'x')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "checkpoint.pt")], check=True, cwd=HERE.parents[1])
    assert len(list(tmp_path.iterdir())) == 1
    config = msgspec.structs.replace(CONFIG, epochs=1)
    Trainer(config).fit(DCN(MODEL, encoder.layout), encoder, Source(2), Source(1), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "checkpoint.pt"]


def test_interrupt_in_this_process_saves_and_gives_the_signal_back(encoder, tmp_path):
    handler = signal.getsignal(signal.SIGINT)

    def show(status: Status) -> None:
        if status.batch == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterruptedError, match="after step 3"):
        Trainer(CONFIG, show=show).fit(DCN(MODEL, encoder.layout), encoder, Source(9), Source(1), tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert load_state(tmp_path / "checkpoint.pt")["progress"]["batch"] == 3


def test_early_stopping_keeps_the_best_epoch(encoder, tmp_path):
    config = TrainerConfig(epochs=30, learning_rate=0.05, patience=2, seed=1)
    model = DCN(DCNConfig("label", layers=(64,), rank=8), encoder.layout)
    validation = Source(4, salt=1)

    class Few(Source):
        def epoch(self, seed, epoch, start=0):
            return super().epoch(seed, 0, start)

    result = Trainer(config).fit(model, encoder, Few(3), validation, tmp_path)
    losses = [m["loss"] for m in result.history]
    assert result.stopped_early
    assert len(losses) < 30
    assert result.best_at == int(np.argmin(losses)) == len(losses) - 3
    assert evaluate(result.model, Encoded(validation, encoder), seed=1)["loss"] == losses[result.best_at]


def test_a_plateau_is_no_better(encoder, tmp_path):
    class Even(Logistic):
        """Its metric says the same of any weights."""

        def metrics(self, prediction):
            return super().metrics(prediction) | {"auc": 0.5}

    config = TrainerConfig(epochs=30, patience=2, metric="auc")
    model = Even(LogisticConfig("label"), encoder.layout)
    result = Trainer(config).fit(model, encoder, Source(2), Source(1), tmp_path)
    assert (result.best_at, len(result.history)) == (0, 3)


def test_a_validation_within_an_epoch_changes_nothing_of_the_training(encoder, tmp_path):
    states = []
    for every in (None, 2):
        config = TrainerConfig(epochs=1, evaluate_every=every, seed=3)
        model = DCN(DCNConfig("label", layers=(16,), rank=4, dropout=0.5), encoder.layout)
        Trainer(config).fit(model, encoder, Source(6), Source(1), tmp_path / str(every))
        states.append(final_state(tmp_path / str(every)))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_metrics_are_logged_by_step(uninterrupted):
    _, result, logged = uninterrupted
    assert [step for step, _ in logged] == [BATCHES, 2 * BATCHES, 3 * BATCHES]
    assert [m for _, m in logged] == result.history
    assert {"train_loss", "loss", "auc", "calibration"} <= result.history[0].keys()
    assert result.rows_per_second > 0
    assert 0 <= result.wait_share <= 1


def broken_source(change):
    class Broken(Source):
        def epoch(self, seed, epoch, start=0):
            for i, batch in enumerate(super().epoch(seed, epoch, start), start):
                yield change(batch) if i == 4 else batch

    return Broken(8)


def test_a_number_that_is_not_finite_stops_with_its_name(encoder, tmp_path):
    def spoil(batch):
        spoilt = batch.item["product.style"].values.copy()
        spoilt[3] = np.nan
        return replace(batch, item={**batch.item, "product.style": Dense(spoilt)})

    with pytest.raises(DataError, match=r"step 4: the loss is nan; not finite: item_dense \(product\.style\)"):
        Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, broken_source(spoil), Source(1), tmp_path)
    state = load_state(tmp_path / "checkpoint.pt")
    assert state["progress"]["step"] == 3
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def test_a_label_that_is_not_finite_stops_with_its_name(encoder, tmp_path):
    def spoil(batch):
        return replace(batch, labels={"label": np.full(batch.items, np.inf, np.float32)})

    with pytest.raises(DataError, match="not finite: label label"):
        Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, broken_source(spoil), Source(1), tmp_path)


def test_weights_that_are_not_finite_never_reach_a_checkpoint(encoder, tmp_path):
    config = msgspec.structs.replace(CONFIG, embedding_learning_rate=1e38, checkpoint_every=1)
    with pytest.raises(DataError, match="learning_rate"):
        Trainer(config).fit(DCN(MODEL, encoder.layout), encoder, Source(8), Source(1), tmp_path)
    for path in tmp_path.glob("*.pt"):
        assert all(torch.isfinite(t).all() for t in load_state(path)["model"].values() if t.is_floating_point())


def test_an_error_while_reading_is_raised_in_the_trainer(encoder, tmp_path):
    def spoil(batch):
        raise DataError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, broken_source(spoil), Source(1), tmp_path)


def test_a_source_that_changes_its_length_is_refused(encoder, tmp_path):
    source = Source(5)
    source.__class__ = type("Longer", (Source,), {"__len__": lambda self: 6})
    with pytest.raises(DataError, match="had 5 batches, expected 6"):
        Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, source, Source(1), tmp_path)
    with pytest.raises(DataError, match="no batches"):
        Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, Source(0), Source(1), tmp_path)


def test_a_checkpoint_of_another_run_is_refused(encoder, uninterrupted):
    folder, _, _ = uninterrupted
    model = DCN(msgspec.structs.replace(MODEL, rank=5), encoder.layout)
    with pytest.raises(StoreError, match="of another model"):
        Trainer(CONFIG).fit(model, encoder, Source(BATCHES), Source(1), folder)
    config = msgspec.structs.replace(CONFIG, learning_rate=0.1)
    with pytest.raises(StoreError, match="of another trainer config and number of batches"):
        Trainer(config).fit(DCN(MODEL, encoder.layout), encoder, Source(BATCHES + 1), Source(1), folder)


def test_a_damaged_checkpoint_is_an_error_and_not_a_new_start(encoder, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(StoreError, match="can't be read"):
        Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, Source(2), Source(1), tmp_path)


def test_a_disk_that_takes_no_more_is_named_and_the_checkpoint_before_stays(encoder, tmp_path):
    def fit(**config):
        model = Logistic(LogisticConfig("label"), encoder.layout)
        Trainer(TrainerConfig(**config)).fit(model, encoder, Source(3), Source(1, salt=1), tmp_path)

    fit(epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"can't be written: \[Errno 27\] File too large\n.*go on with --resume"):
            fit(epochs=2, checkpoint_every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    fit(epochs=2)


def test_an_unknown_metric_is_named(encoder, tmp_path):
    config = msgspec.structs.replace(CONFIG, metric="acu")
    with pytest.raises(ConfigError, match=r"no 'acu'\n  did you mean 'auc'"):
        Trainer(config).fit(DCN(MODEL, encoder.layout), encoder, Source(2), Source(1), tmp_path)


def test_a_metric_that_is_no_number_is_an_error(encoder, tmp_path):
    class OneClass(Source):
        def epoch(self, seed, epoch, start=0):
            for batch in super().epoch(seed, epoch, start):
                yield replace(batch, labels={"label": np.zeros(batch.items, np.float32)})

    config = msgspec.structs.replace(CONFIG, metric="auc")
    with pytest.raises(DataError, match="'auc' is not a number"):
        Trainer(config).fit(DCN(MODEL, encoder.layout), encoder, Source(2), OneClass(1), tmp_path)


def test_prediction_keeps_the_order_of_the_source(encoder):
    model = DCN(MODEL, encoder.layout)
    found = predict(model, encoder, Source(3, salt=1))
    batches = list(Source(3, salt=1).epoch(0, 0))
    np.testing.assert_array_equal(found.candidates, np.concatenate([b.candidates for b in batches]))
    np.testing.assert_array_equal(np.unique(found.requests), np.arange(48))
    tensors = {n: torch.from_numpy(a) for n, a in encoder.encode(batches[2]).items()}
    with torch.no_grad():
        expected = model(tensors)["score"]
    np.testing.assert_array_equal(found.scores[-len(expected) :], expected.numpy())


def test_an_empty_batch_is_no_trouble(encoder, tmp_path):
    class WithEmpty(Source):
        def epoch(self, seed, epoch, start=0):
            for i, batch in enumerate(super().epoch(seed, epoch, start)):
                yield make_batch(np.random.default_rng(0), requests=2, per_request=0) if i == 1 else batch

    result = Trainer(CONFIG).fit(DCN(MODEL, encoder.layout), encoder, WithEmpty(3), WithEmpty(2), tmp_path)
    assert result.steps == 9
