"""Where the time of a training goes: the trained weights stay the same, and the advice follows the figures."""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from run_training import CONFIG, MODEL
from synthetic import ENCODINGS, Source

from bedplate import Job
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Bag, Sequence
from bedplate.features.fitting import fit
from bedplate.models.dcn import DCN
from bedplate.models.estimators import EstimatorConfig, LightGBMConfig, SklearnConfig, XGBoostConfig
from bedplate.training import profile_limits, trainer
from bedplate.training.checkpoint import load_state
from bedplate.training.config import TrainerConfig
from bedplate.training.continuing import Beginning
from bedplate.training.learner import learner_of
from bedplate.training.profile import FILE, TEXT, Profile
from bedplate.training.profile_advice import Limits, Measured, advice
from bedplate.training.profile_estimator import advice_of_estimator
from bedplate.training.profile_report import ProfileReport, report, text_of
from bedplate.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread", "quickly")
LONG = 0.5  # seconds
SHORT = msgspec.structs.replace(CONFIG, epochs=2)
FAST = Limits(
    load=2e5,
    encode=2e5,
    transfer=1e9,
    forward=2e5,
    backward=2e5,
    optimizer=1e6,
    half_batch=0.5,
    bfloat16=1.0,
    bandwidth=1e10,
    update_bytes=10**6,
)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_limits, "SECONDS", 0.02)


def fitted(encoder: Encoder, folder: Path, profile: Profile | None, source: Source) -> DCN:
    trainer = Trainer(SHORT, profile=profile)
    return trainer.fit(DCN(MODEL, encoder.layout), encoder, source, Source(2, salt=1), folder).model


def test_a_profiled_training_ends_with_the_same_state_and_its_report_leaves_the_model_alone(
    encoder: Encoder, tmp_path: Path
) -> None:
    fitted(encoder, tmp_path / "plain", None, Source(6))
    profile, source = Profile(), Source(6)
    model = fitted(encoder, tmp_path / "profiled", profile, source)
    states = [load_state(tmp_path / name / "checkpoint.pt") for name in ("plain", "profiled")]
    for part in ("model", "random"):
        first, second = (state[part] if part == "model" else {part: state[part]} for state in states)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    before, drawn = {n: v.clone() for n, v in model.state_dict().items()}, torch.get_rng_state()
    profile.examine(SHORT, model, encoder, source, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not model.training


def test_what_is_tried_at_the_first_batch_is_no_training(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "rehearse", lambda *_, **__: time.sleep(LONG))
    profile, source = Profile(), Source(6)
    began = time.perf_counter()
    result = Trainer(SHORT, profile=profile).fit(
        DCN(MODEL, encoder.layout), encoder, source, Source(2, salt=1), tmp_path
    )
    took = time.perf_counter() - began
    rows = 2 * sum(batch.items for batch in source.epoch(SHORT.seed, 0))
    assert rows / result.rows_per_second <= took - LONG
    assert profile.measured.loop["rehearsal"] >= LONG
    assert sum(profile.measured.loop.values()) - profile.measured.loop["rehearsal"] <= took - LONG


def test_the_report_has_every_stage_with_its_limit_and_says_that_a_slow_source_is_waited_for(
    encoder: Encoder, tmp_path: Path
) -> None:
    profile, source = Profile(), Source(6, slow=0.05)
    found = profile.examine(SHORT, fitted(encoder, tmp_path / "c", profile, source), encoder, source, tmp_path)
    stages = {(s.where, s.name): s for s in found.stages}
    assert (found.batches, found.rows) == (12, sum(b.items for e in (0, 1) for b in Source(6).epoch(SHORT.seed, e)))
    assert sum(s.share for s in found.stages if s.where == "loop") == pytest.approx(1, abs=0.01)
    assert sum(s.share for s in found.stages if s.where == "loader") == pytest.approx(1)
    assert stages["loop", "waiting"].seconds > 0.2
    assert stages["loader", "join"].seconds > 12 * 0.05
    assert 0 < (stages["loader", "join"].limit or 0) < 192 / 0.05 * 1.01
    limited = ("forward", "backward", "optimizer", "join", "encode", "transfer")
    assert all((s.limit or 0) > 0 for s in found.stages if s.name in limited)
    assert any("waited for data" in what for what in found.advice)
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["advice"] == list(found.advice)
    assert [s["name"] for s in kept["stages"]] == [s.name for s in found.stages]
    assert all(what in (tmp_path / TEXT).read_text() for what in found.advice)


def test_the_batch_after_which_patience_is_over_counts(encoder: Encoder, tmp_path: Path) -> None:
    profile, model = Profile(), DCN(MODEL, encoder.layout)
    still = msgspec.structs.replace(
        SHORT, evaluate_every=2, patience=1, learning_rate=1e-12, embedding_learning_rate=1e-12
    )
    result = Trainer(still, profile=profile).fit(model, encoder, Source(6), Source(2, salt=1), tmp_path)
    assert (result.steps, result.stopped_early) == (4, True)
    rows = sum(batch.items for batch in islice(Source(6).epoch(SHORT.seed, 0), 4))
    assert (profile.measured.batches, profile.measured.rows) == (4, rows)


def test_a_training_of_which_nothing_was_left_is_not_judged(encoder: Encoder, tmp_path: Path) -> None:
    fitted(encoder, tmp_path / "c", None, Source(6))
    profile = Profile()
    model = fitted(encoder, tmp_path / "c", profile, Source(6))
    found = profile.examine(SHORT, model, encoder, Source(6), tmp_path)
    assert (found.rows, found.limits) == (0, None)
    assert "no step was left" in found.advice[0]


WAITS = {"waiting": 5.0, "forward": 1.0, "backward": 1.0, "optimizer": 1.0}
WORKS = {"waiting": 0.0, "forward": 4.0, "backward": 4.0, "optimizer": 1.0}
JOINS, ENCODES = {"join": 5.0, "encode": 1.0}, {"join": 1.0, "encode": 5.0}
ONE = TrainerConfig(loader_threads=1)
BY_WEIGHT = TrainerConfig(embedding_optimizer="adagrad")
SLOW = msgspec.structs.replace(FAST, load=5e4)


@pytest.mark.parametrize(
    ("loop", "threads", "limits", "config", "batches", "wanted", "unwanted"),
    [
        (WAITS, JOINS, SLOW, ONE, 1000, "trainer.loader_threads=2", "trainer.prefetch"),
        (WAITS, JOINS, SLOW, TrainerConfig(), 1000, "--from", "loader_threads"),
        (WAITS, JOINS, SLOW, TrainerConfig(), 1000, "trainer.keep_memory", "loader_threads"),
        (WAITS, {"read": 5.0, "encode": 1.0}, SLOW, TrainerConfig(), 1000, "", "--from"),
        (WAITS, ENCODES, SLOW, TrainerConfig(), 1000, "fewer inputs", "--from"),
        (WAITS, JOINS, FAST, TrainerConfig(), 1000, "trainer.prefetch_memory", "first of"),
        (WAITS, JOINS, FAST, TrainerConfig(), 10, "trainer.prefetch_memory", "--from"),
        (WAITS, {"join": 5.0, "encode": 8.0}, FAST, TrainerConfig(), 1000, "share the cores", "fewer inputs"),
        (WAITS, JOINS, msgspec.structs.replace(SLOW, unread=("a", "b")), ONE, 1000, "out of the dataset a, b", ""),
        (WORKS, JOINS, msgspec.structs.replace(FAST, half_batch=0.9), ONE, 1000, "larger batches", "compile"),
        (WORKS, JOINS, msgspec.structs.replace(FAST, bfloat16=1.5), ONE, 1000, "precision=bfloat16", "larger batches"),
        (WORKS, JOINS, FAST, ONE, 1000, "trainer.compile", "bfloat16"),
        (WORKS, JOINS, FAST, TrainerConfig(compile="inductor"), 1000, "nothing stands out", "trainer"),
        (WORKS | {"optimizer": 9.0}, JOINS, FAST, ONE, 1000, "accumulate", "row_wise_adagrad"),
        (WORKS | {"optimizer": 9.0}, JOINS, FAST, BY_WEIGHT, 9, "row_wise_adagrad", "accumulate"),
        (WORKS | {"validation": 9.0}, JOINS, FAST, ONE, 1000, "shorter validation", "evaluate_every"),
        (WORKS | {"validation": 9.0}, JOINS, FAST, TrainerConfig(evaluate_every=9), 9, "evaluate_every", "shorter val"),
        (WORKS | {"checkpoint": 9.0}, JOINS, FAST, ONE, 1000, "checkpoint_every", "validation"),
        (WORKS | {"exchange": 9.0}, JOINS, FAST, ONE, 1000, "fewer processes", "validation"),
    ],
)  # fmt: skip
def test_the_advice_is_about_what_limits_the_training(loop, threads, limits, config, batches, wanted, unwanted) -> None:
    loading = "read" if "read" in threads else "join"
    measured = Measured(loading, loop, threads, {}, rows=10**6, batches=batches, cpu=8.0)
    found = "\n".join(advice(measured, limits, config, cores=2))
    assert wanted in found
    assert not unwanted or unwanted not in found.replace("nothing stands out: data is there in time", "")


@pytest.mark.parametrize(
    ("start", "limits", "wanted", "unwanted"),
    [
        (4.0, FAST, "80% of it for the first of 32 batches", ["prefetch", "inputs", "--from"]),
        (4.9, SLOW, "98% of it for the first of 32 batches", ["loader_threads", "inputs", "--from"]),
        (3.0, SLOW, "60% of it for the first of 32 batches", ["prefetch_memory"]),
        (2.0, FAST, "held up", ["first of"]),
    ],
)
def test_the_wait_for_the_first_batch_of_a_short_training_is_told_from_a_slow_loader(
    start: float, limits: Limits, wanted: str, unwanted: list[str]
) -> None:
    measured = Measured("join", WAITS, ENCODES, {}, rows=10**6, batches=32, cpu=8.0, start=start)
    config = ONE if limits is SLOW else TrainerConfig()
    found = "\n".join(advice(measured, limits, config, cores=2))
    assert wanted in found
    assert not any(one in found for one in unwanted)
    assert ("loader_threads=2" in found) == (start == 3.0), "there is more to wait for than the start"


def test_the_start_is_the_wait_for_the_first_batch_of_all(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Profile()
    fitted(encoder, tmp_path, profile, Source(6))
    measured = profile.measured
    assert 0 < measured.start <= measured.loop["waiting"]
    assert measured.idle(SHORT.loader_threads) >= 0
    times, profile = iter([1.0, 3.0, 4.0, 9.0]), Profile()
    with monkeypatch.context() as patched:
        patched.setattr("bedplate.training.profile.time.perf_counter", lambda: next(times))
        profile.begin()
        for stage in ("waiting", "forward", "waiting"):
            profile.lap(stage)
    assert (profile.measured.start, profile.measured.loop["waiting"]) == (2.0, 7.0)


def test_what_an_update_moves_is_never_shown_as_nothing() -> None:
    measured = Measured("join", WORKS, JOINS, {}, rows=10**6, batches=9, cpu=8.0)
    shown = text_of(report(measured, msgspec.structs.replace(FAST, update_bytes=840), ONE))
    assert "an update moves at least 0.8 kB; memory gives 10.0 GB/s" in shown


INPUTS = {name: encoding for name, encoding in ENCODINGS.items() if not isinstance(encoding, Sequence | Bag)}
GROWN: dict[str, Any] = {"rounds": 12, "evaluate_every": 4, "checkpoint_every": 7}
MADE = ["join", "encode", "write"]
BOOSTED = [*MADE, "prepare", "fit", "validation", "checkpoint", "other"]
NO: Any = None


def estimated(model: EstimatorConfig, folder: Path) -> tuple[ProfileReport, Any]:
    """The report of an estimator on 6 batches, and what was learnt."""
    job, profile = Job("trees", dataset="d", model=model, inputs=INPUTS), Profile()
    learner = learner_of(job, Beginning(None, NO, NO), profile=profile)
    encoder = learner.encoder(fit(job.inputs, Source(6).epoch(0, 0)))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    result = learner.fit(encoder, Source(6), Source(2, salt=1), folder / "checkpoints", lambda *_: None, None)
    return profile.examine(job.trainer, result.model, encoder, Source(6), folder), result


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        (LightGBMConfig("label", **GROWN), BOOSTED),
        (XGBoostConfig("label", **GROWN), BOOSTED),
        (SklearnConfig("label"), [*MADE, "fit", "validation", "other"]),
    ],
)
def test_an_estimator_says_where_the_time_goes(model: EstimatorConfig, stages: list[str], tmp_path: Path) -> None:
    found, result = estimated(model, tmp_path)
    rows = sum(batch.items for batch in Source(6).epoch(0, 0))
    judged = sum(batch.items for batch in Source(2, salt=1).epoch(0, 0))
    took = {stage.name: stage for stage in found.stages}
    assert list(took) == stages, "those that it has, and no others"
    assert (found.rows, found.limits) == (rows, None)
    assert all(stage.seconds > 0 for stage in found.stages)
    assert sum(stage.share for stage in found.stages) == pytest.approx(1)
    assert found.seconds == pytest.approx(sum(stage.seconds for stage in found.stages))
    times = {
        "fit": rows * result.steps,
        "validation": judged * len(result.history),
        **dict.fromkeys(MADE, rows + judged),
    }
    assert {name: round((s.rows_per_second or 0) * s.seconds) for name, s in took.items() if s.rows_per_second} == times
    text = (tmp_path / TEXT).read_text()
    assert "alone" not in text
    assert "nothing was measured" not in text
    assert found.advice
    assert all(what in text for what in found.advice)
    assert json.loads((tmp_path / FILE).read_text())["advice"] == list(found.advice)


def test_a_profile_leaves_an_estimator_as_it_is_and_one_that_had_learnt_is_not_judged(tmp_path: Path) -> None:
    model = LightGBMConfig("label", **GROWN)
    _, first = estimated(model, tmp_path / "a")
    job = Job("trees", dataset="d", model=model, inputs=INPUTS)
    learner = learner_of(job, Beginning(None, NO, NO))
    encoder = learner.encoder(fit(job.inputs, Source(6).epoch(0, 0)))
    plain = learner.fit(encoder, Source(6), Source(2, salt=1), tmp_path / "b", lambda *_: None, None)
    assert plain.history == first.history
    again, _ = estimated(model, tmp_path / "a")
    assert again.rows == 0
    assert [stage.name for stage in again.stages] == ["other"]
    assert again.advice == ("nothing was measured: a call before had done all that there is to learn",)


TREES, LINEAR = LightGBMConfig("label", evaluate_every=2, checkpoint_every=3), SklearnConfig("label")


@pytest.mark.parametrize(
    ("loop", "model", "wanted", "unwanted"),
    [
        ({"join": 6.0, "encode": 2.0, "fit": 2.0}, TREES, "80% of the time, 75% of it the join: write", "growing"),
        ({"join": 6.0, "fit": 4.0}, TREES, "out of the dataset a, b", "encoding"),
        ({"read": 6.0, "fit": 1.0}, TREES, "100% of it the files", "--from"),
        ({"join": 2.0, "encode": 6.0, "fit": 2.0}, TREES, "75% of it encoding: fewer inputs", "--from"),
        ({"join": 1.0, "write": 6.0, "fit": 2.0}, TREES, "86% of it writing the matrix", "--from"),
        ({"join": 1.0, "fit": 9.0}, TREES, "growing 10 trees takes 90% of the time, 900.0 ms each", "reading"),
        ({"join": 1.0, "fit": 9.0}, LINEAR, "fitting takes 90% of the time", "trees"),
        ({"join": 1.0, "fit": 9.0}, LINEAR, "1.0 of 4 cores are busy while it is fitted", "trees"),
        ({"prepare": 5.0, "fit": 5.0}, TREES, "form takes 50% of the time: fewer inputs or fewer bins", "join"),
        ({"fit": 2.0, "validation": 8.0}, TREES, "80% of the time goes to validation: raise model.eval", "split"),
        ({"fit": 2.0, "validation": 8.0}, LINEAR, "a shorter validation split", "evaluate_every"),
        ({"fit": 2.0, "checkpoint": 8.0}, TREES, "raise model.checkpoint_every, which is 3", "validation"),
        (dict.fromkeys(("join", "fit", "prepare", "validation", "checkpoint"), 1.0), TREES, "nothing stands", "raise"),
    ],
)  # fmt: skip
def test_the_advice_is_about_what_takes_an_estimators_time(loop, model, wanted, unwanted) -> None:
    loading, cpu = "read" if "read" in loop else "join", {"fit": loop["fit"]}
    measured = Measured(loading, loop, {}, {}, 1000, 1, 9.0, loop_cpu=cpu, loop_rows={"fit": 10_000})
    found = "\n".join(advice_of_estimator(measured, model, ("a", "b"), cores=4))
    assert wanted in found
    assert unwanted not in found


def test_what_takes_most_of_an_estimators_time_comes_first() -> None:
    parts = {"join": 4.0, "fit": 6.0}
    measured = Measured("join", parts, {}, {}, 1000, 1, 9.0, loop_cpu=parts, loop_rows={"fit": 1000})
    assert [what.split()[0] for what in advice_of_estimator(measured, TREES, (), cores=1)] == ["growing", "reading"]
