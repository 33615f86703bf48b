"""`bedplate retrain` on data that grows: promoted or refused by a comparison on the same rows, once."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import retraining_project as small
from onnx import TensorProto, helper

from bedplate import Project, Registry
from bedplate.cli.main import run as command
from bedplate.features.artifact import read_golden, write_golden
from bedplate.registry.manifest import MANIFEST_NAME, SEAL_NAME
from bedplate.training import graph, run
from bedplate.training import retrain as retraining
from bedplate.training.champion import score_test
from bedplate.training.predictions import read_predictions
from bedplate.training.quantize import quantize
from bedplate.training.retrain import FILE, locked

Retrain = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion of its first 40 days."""
    folder = small.make(tmp_path_factory.mktemp("retrain") / "project", 40)
    assert command(["retrain", "ranker", "--project", str(folder)]) == 0
    return folder


@pytest.fixture
def retrain(call: Retrain) -> Retrain:
    return functools.partial(call, "retrain", "ranker")


def registry(folder: Path) -> Registry:
    return Project(folder).registry


def test_the_first_is_promoted_and_with_nothing_new_nothing_is_done(folder: Path, retrain: Retrain) -> None:
    found = registry(folder)
    assert found.aliases("ranker") == {"champion": 1}
    outcome = json.loads((found.runs("ranker")[0].folder / FILE).read_bytes())
    assert outcome["status"] == "promoted"
    assert outcome["reasons"][0].startswith("the first champion: log_loss 0.")
    for words in ((), ("--continue",), ("--dry-run",)):
        code, outcome = retrain(*words)
        assert (code, outcome["status"], outcome["version"]) == (0, "nothing", None)
    assert "ranker:1 is of the same data" in outcome["reasons"][0]
    assert len(registry(folder).runs("ranker")) == 1


def test_with_nothing_new_the_int8_variant_of_a_version_stays_the_champion(
    folder: Path, call: Retrain, retrain: Retrain
) -> None:
    found = registry(folder)
    found.promote("ranker", quantize(found.get("ranker:1"), found, most=0.5)[0].version)
    for words in ((), ("--continue",), ("--dry-run",)):
        code, outcome = retrain(*words)
        assert (code, outcome["status"], outcome["champion"]) == (0, "nothing", "ranker:2")
    assert len(registry(folder).runs("ranker")) == 1
    small.write(folder, 48)
    assert retrain("--continue", "promotion.margin=9")[1]["compared"]["log_loss"]["a"]["mean"] < 0.7
    assert registry(folder).aliases("ranker") == {"champion": 3}
    # None of the three reads what another one gives, and none is kept from being replaced.
    assert call("models", "promote", "ranker", "2")[1]["kept"] == {}
    for version in ("1", "2", "3"):
        assert call("models", "show", f"ranker:{version}")[1]["read_by"] == []


def test_new_data_makes_a_version_that_is_compared_on_rows_that_neither_knows(folder: Path, retrain: Retrain) -> None:
    small.write(folder, 48)
    code, planned = retrain("--continue", "--dry-run")
    assert (code, planned["status"]) == (0, "would train")
    assert "400 training requests from ranker:1 on" in planned["reasons"][0]
    assert len(registry(folder).runs("ranker")) == 1
    code, outcome = retrain("--continue")
    assert (code, outcome["status"], outcome["champion"], outcome["version"]) == (0, "promoted", "ranker:1", "ranker:2")
    found = registry(folder)
    assert found.aliases("ranker") == {"champion": 2}
    assert found.get("ranker:2").manifest.parents == ("ranker:1",)
    reason = found.history("ranker")[-1].reason or ""
    assert reason.startswith("bedplate retrain: log_loss 0.")
    dataset = Project(folder).load("pages")
    first, last = dataset.positions("test")
    known = found.get("ranker:1").manifest.trained_until or 0
    assert outcome["requests"] == int((dataset.spine.rows.times[first:last] > known).sum()) > 300
    compared = outcome["compared"]["log_loss"]
    assert (
        compared["difference"]["low"] <= compared["b"]["mean"] - compared["a"]["mean"] <= compared["difference"]["high"]
    )
    # What the champion's artifact gives on these rows is what the run that made it would have kept of them.
    again = score_test(found.get("ranker:2"), dataset)
    kept = read_predictions(found.get("ranker:2").path.parents[2] / "runs" / (outcome["run"] or ""))
    assert np.array_equal(again.candidates, kept.candidates)
    np.testing.assert_allclose(again.scores, kept.scores, rtol=1e-5, atol=1e-6)


def test_a_worse_one_is_refused_kept_and_not_made_again(folder: Path, retrain: Retrain) -> None:
    small.write(folder, 48)
    bad = ("trainer.learning_rate=1e-9", "trainer.embedding_learning_rate=1e-9", "promotion.guards={}")
    code, outcome = retrain(*bad)
    assert (code, outcome["status"], outcome["version"]) == (9, "refused", "ranker:2")
    assert any("clearly worse than the champion" in reason for reason in outcome["reasons"])
    assert registry(folder).aliases("ranker") == {"champion": 1}
    assert retrain(*bad) == retrain(*bad, "--dry-run") == (code, outcome)
    assert len(registry(folder).runs("ranker")) == 2
    # By other rules the same version is judged anew, not its int8 variant; nothing is trained.
    found = registry(folder)
    assert quantize(found.get("ranker:2"), found, most=0.9)[0].version == 3
    code, outcome = retrain(*bad, "promotion.margin=9", "promotion.largest_miscalibration=99")
    assert (code, outcome["status"], outcome["version"]) == (0, "promoted", "ranker:2")
    assert len(registry(folder).runs("ranker")) == 2


def test_what_a_person_took_back_stays_so(folder: Path, retrain: Retrain) -> None:
    small.write(folder, 48)
    assert retrain("--continue")[1]["status"] == "promoted"
    registry(folder).rollback("ranker", reason="it sells nothing")
    code, outcome = retrain("--continue")
    assert (code, outcome["status"]) == (0, "nothing")
    assert "taken back" in outcome["reasons"][0]
    for words in ((), ("--dry-run",)):  # by other rules too
        assert retrain("--continue", "promotion.margin=9", *words)[1]["reasons"] == outcome["reasons"]
    assert registry(folder).aliases("ranker") == {"champion": 1}


@pytest.mark.parametrize("done", ["rolled back", "another", "the same"])
def test_what_a_person_does_while_it_trains_stays_so(
    done: str, folder: Path, retrain: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.write(folder, 48)
    assert command(["apply", "--project", str(folder)]) == 0
    assert command(["train", "ranker", "--project", str(folder)]) == 0
    found = registry(folder)
    if done != "another":
        found.promote("ranker", 2, reason="by hand")
    before = found.aliases("ranker")["champion"]
    judged = retraining.judge

    def meanwhile(*words: Any) -> Any:
        if done == "rolled back":
            found.rollback("ranker", reason="it sells nothing")
        elif done == "another":
            found.promote("ranker", 2, reason="by hand")
        else:
            found.promote("ranker", 3, reason="by hand")
        return judged(*words)

    words = ("trainer.seed=1", "promotion.margin=9", "promotion.guards={}")
    small.write(folder, 60)
    with monkeypatch.context() as patched:
        patched.setattr(retraining, "judge", meanwhile)
        code, outcome = retrain(*words)
    held = registry(folder).aliases("ranker")["champion"]
    assert outcome["version"] == "ranker:3"
    if done == "the same":
        assert (code, outcome["status"], held) == (0, "nothing", 3)
        assert outcome["reasons"][0].endswith("and still is")
        return
    assert (code, outcome["status"], held) == (9, "refused", 3 - before)
    assert outcome["reasons"] == [
        f"it was compared with ranker:{before}, and version {held} has the alias 'champion', expected version {before}"
        ": run it again"
    ]
    code, outcome = retrain(*words)
    assert (code, outcome["status"], outcome["champion"]) == (0, "promoted", f"ranker:{held}")


def test_two_at_once_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(registry(folder), "ranker"):
        assert command(["retrain", "ranker", "--project", str(folder)]) == 5
    assert "model 'ranker': another process is retraining it" in capsys.readouterr().err


def test_unfit_data_is_refused_before_anything_is_trained(folder: Path, retrain: Retrain) -> None:
    small.write(folder, 48)
    code, outcome = retrain("promotion.minimum_requests=5000")
    assert (code, outcome["status"]) == (9, "refused")
    assert "expected at least 5,000 (minimum_requests)" in outcome["reasons"][0]
    code, outcome = retrain("promotion.largest_shift=0.01")
    assert code == 9
    assert "the mean of the input 'users.likes_28d' moved by" in outcome["reasons"][0]
    assert len(registry(folder).runs("ranker")) == 1


def test_a_request_at_the_very_time_that_the_champion_knows_is_not_fresh(folder: Path, retrain: Retrain) -> None:
    small.write(folder, 48)
    assert command(["apply", "--project", str(folder)]) == 0
    dataset, found = Project(folder).load("pages"), registry(folder)
    first, last = dataset.positions("test")
    times, own = dataset.spine.rows.times[first:last], found.get("ranker:1")
    known = int(times[40])
    artifact = shutil.copytree(own.path, folder / "artifact")
    for name in (MANIFEST_NAME, SEAL_NAME):
        (artifact / name).unlink()
    manifest = msgspec.structs.replace(own.manifest, trained_until=known, seeds={})
    found.promote("ranker", found.register("ranker", artifact, manifest=manifest).version)
    code, outcome = retrain("--dry-run", "promotion.minimum_requests=5000")
    assert (code, outcome["champion"]) == (9, "ranker:2")
    assert outcome["requests"] == int((times > known).sum()) == len(times) - 41
    # It can be compared with on these, and not be gone on from: what goes on knows all that it knows.
    words = ("--continue", "--rows", "all")
    code, outcome = retrain(*words)
    assert (code, outcome["status"]) == (9, "refused")
    assert "'ranker:2' knows what happened until " in outcome["reasons"][0]
    assert retrain(*words, "--dry-run") == (code, outcome)


def broken_since(folder: Path, days: int, first: int, liked: int) -> None:
    """Data of so many days whose label is the same from a day on, as of a pipeline that broke."""
    broken = pl.when(pl.col("time") >= small.BEGIN + first * small.DAY).then(liked).otherwise(pl.col("liked"))
    small.plays(days).with_columns(liked=broken).write_parquet(folder / "plays.parquet")


@pytest.mark.parametrize(("first", "liked"), [(39, 0), (39, 1), (30, 0)])
def test_labels_that_broke_are_refused_before_anything_is_trained(
    first: int, liked: int, folder: Path, retrain: Retrain
) -> None:
    broken_since(folder, 48, first, liked)
    for words in ((), ("--continue",), ("--dry-run",)):
        code, outcome = retrain(*words, "promotion.largest_shift=99")
        assert (code, outcome["status"]) == (9, "refused")
        own, champion, one_class = outcome["reasons"]
        assert own.startswith(f"the label 'liked' is positive in {liked * 100}% of 401 test rows, and in ")
        assert " training rows: changed by more than a factor of 2 (largest_label_change)" in own
        assert " rows that ranker:1 was trained on: changed" in champion
        assert one_class.startswith(f"label 'liked' is {liked} in all ")
    assert len(registry(folder).runs("ranker")) == 1


@pytest.mark.parametrize("words", [(), ("--continue",), ("--dry-run",)])
def test_what_train_would_refuse_is_a_reason_not_to_train(
    words: tuple[str, ...], folder: Path, retrain: Retrain
) -> None:
    """Of one class on validation nothing can be judged, though test and training rows are as they were."""
    times, begin = pl.col("time"), small.BEGIN
    broken = times.is_between(begin + 31 * small.DAY, begin + 40 * small.DAY)
    rows = small.plays(48).with_columns(liked=pl.when(broken).then(0).otherwise(pl.col("liked")))
    rows.write_parquet(folder / "plays.parquet")
    code, outcome = retrain(*words, "promotion.largest_shift=99", "promotion.largest_label_change=99")
    assert (code, outcome["status"], outcome["version"]) == (9, "refused", None)
    assert outcome["reasons"] == ["label 'liked' is 0 in all 353 rows of the split 'validation', expected both 0 and 1"]
    assert len(registry(folder).runs("ranker")) == 1


def test_a_split_without_requests_is_a_reason_not_to_train(folder: Path, retrain: Retrain) -> None:
    rows, begin = small.plays(48), small.BEGIN
    lost = pl.col("time").is_between(begin + 31 * small.DAY, begin + 40 * small.DAY)
    rows.filter(~lost).write_parquet(folder / "plays.parquet")
    found = [retrain(*words) for words in ((), ("--continue",), ("--dry-run",), ("--continue", "--dry-run"))]
    for code, outcome in found:
        assert (code, outcome["status"]) == (9, "refused")
        [reason] = outcome["reasons"]
        assert reason.startswith("the split 'validation' has no requests that are not censored between 2026-02-")
    assert len(registry(folder).runs("ranker")) == 1


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["call", "dry run"])
def test_a_champion_whose_weights_are_gone_is_said_by_a_dry_run_too(
    dry: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write(folder, 48)
    found = registry(folder)
    shutil.rmtree(found.run(found.get("ranker:1").manifest.run or "").folder)
    assert command(["retrain", "ranker", "--continue", *dry, "--project", str(folder)]) == 4
    assert "model 'ranker:1': the run " in capsys.readouterr().err


def test_labels_that_are_not_known_are_a_reason_not_to_train(folder: Path, retrain: Retrain) -> None:
    lost = pl.when(pl.int_range(pl.len()) % 7 > 0).then(pl.col("liked"))
    small.plays(48).with_columns(liked=lost).write_parquet(folder / "plays.parquet")
    code, outcome = retrain("--dry-run", "promotion.largest_shift=99")
    assert (code, outcome["status"]) == (9, "refused")
    [reason] = outcome["reasons"]
    assert "what happened is not known, and would be taken for nothing" in reason
    assert "events of source 'plays' have null" in reason


def test_labels_that_have_been_broken_for_long_differ_from_those_of_the_champion(
    folder: Path, retrain: Retrain
) -> None:
    """Nearly all rows of the new training split are as broken as those of test: only the champion's tell it."""
    rows = small.plays(48)
    thinned = pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.col("liked")).otherwise(0)
    rows.with_columns(liked=thinned).write_parquet(folder / "plays.parquet")
    code, outcome = retrain("promotion.largest_shift=99")
    assert (code, outcome["status"], len(outcome["reasons"])) == (9, "refused", 1)
    assert " rows that ranker:1 was trained on: changed" in outcome["reasons"][0]
    rate = registry(folder).get("ranker:1").manifest.label_rates["train"]
    assert f"and in {rate} rows" in outcome["reasons"][0]


def test_another_label_of_the_same_name_is_not_held_against_the_champions(folder: Path, retrain: Retrain) -> None:
    rows = small.plays(48)
    rows.with_columns(rare=pl.col("liked") * (pl.col("user") % 4 == 0)).write_parquet(folder / "plays.parquet")
    liked = folder / "features.py"
    liked.write_text(liked.read_text().replace('Sum("liked"), within', 'Sum("rare"), within'))
    code, outcome = retrain("--dry-run")
    assert (code, outcome["status"]) == (0, "would train"), outcome


def test_an_input_that_went_missing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small.make(tmp_path / "project", 40)
    counts = '"n": Count(windows="28d")})'
    features = small.FEATURES.replace(counts, '"n": Count(windows="28d"), "seen": Last("seen", windows="7d")})', 1)
    (folder / "features.py").write_text(features.replace("import Count", "import Count, Last"))
    (folder / "train.py").write_text(small.TRAIN.replace("inputs |=", 'inputs["users.seen_7d"] = amount\ninputs |=', 1))
    rows = small.plays(40).with_columns(seen=pl.when(pl.int_range(pl.len()) < 1000).then(1.5))
    rows.write_parquet(folder / "plays.parquet")
    assert command(["retrain", "ranker", "--project", str(folder), "promotion.largest_missing=0.2"]) == 9
    assert "the input 'users.seen_7d' is null in 100% of the test rows" in capsys.readouterr().out
    assert registry(folder).runs("ranker") == []


@pytest.mark.parametrize(("most", "refused"), [("0.3", True), ("1", False)])
def test_an_input_that_only_later_rows_have_is_a_reason(
    most: str, refused: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small.make(tmp_path / "project", 40)
    small.with_seen(folder, 40, (0, 28))
    words = ["retrain", "ranker", "--project", str(folder), "--json", f"promotion.largest_missing={most}"]
    said = "the input 'users.seen_2d' is null in all 1,150 training rows looked at, in "
    for extra in (["--dry-run"], []):
        code = command([*words, *extra])
        outcome = json.loads(capsys.readouterr().out)
        assert code == (9 if refused else 0)
        assert outcome["status"] == ("refused" if refused else "promoted" if not extra else "would train")
        (reason,) = [reason for reason in outcome["reasons"] if reason.startswith(said)]
        assert ("(largest_missing is 0.3)" in reason) == refused
    assert len(registry(folder).runs("ranker")) == (0 if refused else 1)


def test_a_champion_whose_features_changed_can_t_be_compared(folder: Path, retrain: Retrain) -> None:
    small.write(folder, 48)
    changed = small.FEATURES.replace('delay="1m"', 'delay="2m"').replace('within="1m"', 'within="2m"')
    (folder / "features.py").write_text(changed)
    code, outcome = retrain()
    assert code == 9
    assert "the champion can't be compared on this data" in outcome["reasons"][0]


def test_a_feature_that_only_the_champion_reads_is_read_from_history(folder: Path, retrain: Retrain) -> None:
    small.write(folder, 48)
    (folder / "features.py").write_text(small.FEATURES.replace("features=[users, videos]", "features=[users]"))
    (folder / "train.py").write_text(small.TRAIN.replace('inputs |= {"videos', '# inputs |= {"videos'))
    code, outcome = retrain("--continue", "--rows", "all", "promotion.guards={}", "promotion.margin=1")
    assert (code, outcome["champion"], outcome["version"]) == (0, "ranker:1", "ranker:2")
    assert outcome["compared"]["auc"]["a"]["mean"] > 0.8


def lose(file: Path) -> None:
    file.unlink()


def shorten(file: Path) -> None:
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-100])


def blank(file: Path) -> None:
    """Zeros in the middle, where weights are: all can still be read."""
    content, middle = bytearray(file.read_bytes()), file.stat().st_size // 2
    content[middle : middle + 200] = bytes(200)
    file.chmod(0o644)
    file.write_bytes(content)


@pytest.fixture(scope="module")
def with_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion whose table lies in a file of its own, and data that are newer."""
    folder = small.make(tmp_path_factory.mktemp("table") / "project", 40)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graph, "LEAST_BYTES", 100)
        assert command(["retrain", "ranker", "--project", str(folder)]) == 0
    small.write(folder, 48)
    return folder


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["call", "dry run"])
@pytest.mark.parametrize(("file", "damage", "said"), [
    ("model.onnx", blank, "the file 'model.onnx' has changed"),
    ("tables.bin", blank, "the file 'tables.bin' has changed"),
    ("tables.bin", shorten, "the file 'tables.bin' has changed"),
    ("tables.bin", lose, "the file 'tables.bin' is missing"),
])  # fmt: skip
def test_a_damaged_champion_is_found_before_anything_is_trained(
    file: str,
    damage: Callable[[Path], None],
    said: str,
    dry: tuple[str, ...],
    with_table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It would score worse than it is, and what is worse than it be promoted."""
    folder = shutil.copytree(with_table, tmp_path / "project")
    damage(registry(folder).get("ranker:1").path / file)
    capsys.readouterr()
    assert command(["retrain", "ranker", "promotion.margin=9", *dry, "--project", str(folder)]) == 6
    shown = capsys.readouterr().err
    assert f"model 'ranker:1': {said}" in shown
    assert "register the model again from its run" in shown
    assert len(registry(folder).runs("ranker")) == 1
    assert registry(folder).aliases("ranker") == {"champion": 1}


def test_a_champion_that_does_not_give_its_golden_scores_is_compared_with_nothing(
    folder: Path, retrain: Retrain, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files are those of the manifest, and the runtime or the machine computes something else."""
    found = registry(folder)
    own = found.get("ranker:1")
    artifact = shutil.copytree(own.path, folder / "artifact")
    for name in (MANIFEST_NAME, SEAL_NAME):
        (artifact / name).unlink()
    golden = read_golden(artifact)[0]
    (artifact / "golden" / golden.request.file).chmod(0o644)
    others = {name: values + np.float32(0.01) for name, values in golden.outputs.items()}
    write_golden(artifact, 0, msgspec.structs.replace(golden, outputs=others))
    found.promote("ranker", found.register("ranker", artifact, manifest=own.manifest).version)
    small.write(folder, 48)
    assert command(["retrain", "ranker", "--project", str(folder)]) == 6
    assert "model 'ranker:2', golden request 0: output 'score' differs by 0.01" in capsys.readouterr().err
    assert len(registry(folder).runs("ranker")) == 1


def product(output: str) -> bytes:
    """A graph that takes `amounts` and `weights`, each [rows]."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in ("amounts", "weights")]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows"])]
    made = helper.make_graph([helper.make_node("Mul", ["amounts", "weights"], [output])], "product", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["call", "dry run"])
@pytest.mark.parametrize(("output", "said"), [
    ("score", "its inputs amounts, weights are of no feature, so it can't be run on rows of history"),
    ("sum", "it gives sum, expected 'score', or 'query' and a catalogue"),
], ids=["a score", "no score"])  # fmt: skip
def test_a_champion_that_reads_no_features_is_compared_with_nothing(
    folder: Path, dry: tuple[str, ...], output: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was added as it is, and takes tensors that nobody here knows."""
    (folder / "product.onnx").write_bytes(product(output))
    np.savez(folder / "rows.npz", amounts=np.ones(4, np.float32), weights=np.ones(4, np.float32))
    words = ["ranker", str(folder / "product.onnx"), "--golden", str(folder / "rows.npz"), "--promote"]
    assert command(["models", "add", *words, "--project", str(folder)]) == 0
    small.write(folder, 48)
    capsys.readouterr()
    assert command(["retrain", "ranker", "promotion.margin=9", *dry, "--project", str(folder)]) == 6
    shown = capsys.readouterr().err
    assert f"model 'ranker:2': {said}" in shown
    assert len(registry(folder).runs("ranker")) == 1
    assert registry(folder).aliases("ranker") == {"champion": 2}


def test_after_kill_9_the_next_call_goes_on_and_nothing_is_done_twice(folder: Path, retrain: Retrain) -> None:
    small.write(folder, 48)
    script = Path(__file__).with_name("run_killed.py")
    words = [script, "bedplate.training.predictions:write_predictions", "1", "retrain", "ranker", "--project", folder]
    process = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    code, outcome = retrain()
    check_done_once(folder, code, outcome)


def stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("point", "planned"), [
    ((run, "keep_predictions"), "would train"),
    ((retraining, "_write"), "would compare"),
    ((Registry, "promote"), "would promote"),
], ids=["training", "decision", "promotion"])  # fmt: skip
def test_what_was_begun_is_ended_by_the_next_call_and_a_dry_run_says_so(
    point: tuple[Any, str], planned: str, folder: Path, retrain: Retrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.write(folder, 48)
    with monkeypatch.context() as patched:
        patched.setattr(*point, stopped)
        assert retrain("--continue")[0] == 130
    assert registry(folder).aliases("ranker") == {"champion": 1}
    begun = registry(folder).runs("ranker")[0].id
    code, outcome = retrain("--continue", "--dry-run")
    assert (code, outcome["status"], outcome["run"]) == (0, planned, begun)
    assert outcome["version"] == (None if planned == "would train" else "ranker:2")
    if planned == "would train":
        assert outcome["reasons"][0].endswith(f"against ranker:1: on with run {begun}")
    assert registry(folder).aliases("ranker") == {"champion": 1}
    check_done_once(folder, *retrain("--continue"))


def check_done_once(folder: Path, code: int, outcome: dict[str, Any]) -> None:
    assert code in (0, 9)
    assert outcome["version"] == "ranker:2"
    found = registry(folder)
    assert found.versions("ranker") == [1, 2]
    assert [run.status for run in found.runs("ranker")] == ["finished", "finished"]
    assert found.aliases("ranker") == {"champion": 2 if code == 0 else 1}
    assert len(found.history("ranker")) == (2 if code == 0 else 1)
    assert json.loads((found.run(outcome["run"]).folder / FILE).read_bytes())["version"] == "ranker:2"
