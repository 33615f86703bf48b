"""`bedplate plan` finds mistakes in jobs and services: with file and line, before anything is read or trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bedplate import Project
from bedplate.cli.main import run
from bedplate.errors import BedplateError

FEATURES = """\
import polars as pl
from bedplate import Count, Entity, FeatureView, Last, LastN, Source, Sum
T = 1767225600000000  # 2026-01-01
orders = Source(
    "orders",
    pl.DataFrame({"order": [1, 2], "user": [1, 2], "item": ["a", "b"], "price": [1.0, 2.0], "time": [T, T + 1]}),
    time="time",
)
user, item = Entity("user", key="user"), Entity("item", key="item")
users = FeatureView("users", user, orders, {"spend": Sum("price"), "n": Count(), "last": LastN("item", 5)})
items = FeatureView("items", item, orders, {"price": Last("price"), "who": LastN("user", 3), "name": Last("item")})
"""
DATASETS = """\
from bedplate import Count, Dataset, Label, Spine, Sum, TimeSplit
from features import item, items, orders, user, users
baskets = Dataset(
    "baskets",
    spine=Spine(orders, request="order", entities=user, item=item),
    labels=[
        Label("bought", [user, item], orders, Count(), within="1d", at_least=1),
        Label("paid", user, orders, Sum("price"), within="1d"),
    ],
    features=[users, items],
    split=TimeSplit("2026-02-01", "2026-03-01", gap="1d"),
)
"""
TRAIN = """\
from bedplate import Bag, Category, DCNConfig, Job, LogisticConfig, Number, Sequence, TrainerConfig
from datasets import baskets
inputs = {"candidate": Category(), "users.spend": Number(), "users.last": Sequence(Category(), length=5)}
ranker = Job("ranker", dataset=baskets, model=DCNConfig("bought"), inputs=inputs)
"""
SERVICE = """\
import polars as pl
from bedplate import Retrieval, Service; from bedplate.serving.steps import Recent
shop = Service(
    "shop", ranking="ranker@champion", item="item", retrieval=Retrieval("towers@champion", always=["users.last"]),
    filters=[pl.col("items.price") > 0], exclude=["users.last"],
)
"""


def written(folder: Path, train: str = TRAIN, service: str = SERVICE) -> Path:
    (folder / "bedplate.toml").write_text("")
    for name, text in (("features", FEATURES), ("datasets", DATASETS), ("train", train), ("service", service)):
        (folder / f"{name}.py").write_text(text)
    return folder


def test_jobs_and_services_that_are_right_are_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--project", str(written(tmp_path))]) == 0
    assert "2 views, 6 features, 1 dataset, 1 job, 1 service\n" in capsys.readouterr().out


TWICE = 'again = Job("ranker", dataset="baskets", model=LogisticConfig("bought"), inputs=inputs)'
JOBS = [
    (TRAIN + TWICE, "train.py:5", "two jobs are named 'ranker'\n  the other is in train.py:4; rename one of them"),
    ('"users.spend"', '"users.spent"', "train.py:4: job 'ranker'",
     "the input 'users.spent' is not a feature of dataset 'baskets'"
     "\n  did you mean 'users.spend'?"),
    ("dataset=baskets", 'dataset="basket"', "train.py:4: job 'ranker'",
     "no dataset is named 'basket'\n  did you mean 'baskets'?"),
    ("dataset=baskets", "dataset=7", "train.py:4: job 'ranker': dataset", "got a int, expected str or Dataset"),
    ('DCNConfig("bought")', 'DCNConfig("buoght")', "train.py:4: job 'ranker': model",
     "dataset 'baskets' has no label 'buoght'\n  did you mean 'bought'?"),
    ('DCNConfig("bought")', "DCNConfig(label=3)", "train.py:4: DCNConfig", "label is 3: expected `str`, got `int`"),
    ('DCNConfig("bought")', 'DCNConfig("bought", layers=(0,))', "train.py:4: DCNConfig",
     "layers is (0,), expected widths"),
    ('DCNConfig("bought")', 'DCNConfig("bought", correct_sampling=True)', "train.py:4: job 'ranker': model",
     "correct_sampling is set, and dataset 'baskets' samples no negatives"),
    ('DCNConfig("bought")', 'DCNConfig("paid")', "train.py:4: job 'ranker': model",
     "label 'paid' of dataset 'baskets' is not binary but the value of a Sum; the model of DCNConfig predicts whether "
     "it is 0 or 1\n  give it a threshold: Label('paid', ..., at_least=1)"),
    ("inputs=inputs", 'inputs=inputs, trainer=TrainerConfig(metric="acu")', "train.py:4: job 'ranker': trainer: metric",
     "the model of DCNConfig reports no 'acu'\n  did you mean 'auc'?"),
    ("inputs=inputs", 'inputs=inputs, trainer=TrainerConfig(metric="calibration")',
     "train.py:4: job 'ranker': trainer: metric",
     "the model of DCNConfig reports 'calibration', which no epoch can be chosen by\n  metrics: auc, "
     "expected_calibration_error, log_loss, loss, normalised_entropy, request_auc"),
    ('DCNConfig("bought")', "3", "train.py:4: job 'ranker': model", "got a int, expected ModelConfig"),
    ("Number()", 'Number(log="x")', "train.py:3: encoding Number", "log is 'x': expected `bool`, got `str`"),
    ("Category(), length=5", "Category(), length=-3", "train.py:3: encoding Sequence",
     "length is -3, expected at least 1"),
    ("Number()", "Category()", "train.py:4: job 'ranker': inputs",
     "'users.spend' is a float64, which Category does not take"),
    ("Number()", "Bag()", "train.py:4: job 'ranker': inputs", "'users.spend' is a float64, which Bag does not take"),
    ("Number()", "3", "train.py:4: job 'ranker': input 'users.spend'",
     "got a int, expected Number or Category or Sequence"),
    ("Sequence(Category(), length=5)", "Category()", "train.py:4: job 'ranker': inputs",
     "'users.last' is a list of string, which Category does not take"),
    ("Sequence(Category(), length=5)", "Sequence(Number(), length=5)", "train.py:4: job 'ranker': encodings",
     "the group 'history' holds only numbers, expected a category too"),
    ('"users.last": Sequence', '"items.who": Sequence', "train.py:4: job 'ranker': inputs",
     "'items.who' is a list of int64 of the candidate, which Sequence does not take"),
    ('"candidate": Category()', '"candidate": Number()', "train.py:4: job 'ranker': inputs",
     "'candidate' is the candidate's key, which Number does not take"),
    ('"candidate": Category()', '"candidate": Category(), "items.name": Number()', "train.py:4: job 'ranker': inputs",
     "'items.name' is a string, which Number does not take"),
    ("inputs=inputs", "inputs={}", "train.py:4: job 'ranker'", "got 0 inputs, "),
    ("inputs=inputs", "inputs=[1]", "train.py:4: job 'ranker': inputs", "got a list, expected Mapping"),
    ("inputs=inputs", "inputs=inputs, trainer=5", "train.py:4: job 'ranker': trainer",
     "got a int, expected TrainerConfig"),
    ("inputs=inputs", "inputs=inputs, trainer=TrainerConfig(epochs='5')", "train.py:4: trainer",
     "epochs is '5': expected `int`"),
    ("inputs=inputs", "inputs=inputs, golden='4'", "train.py:4: job 'ranker': golden",
     "got '4', expected a whole number"),
    ('Job("ranker"', 'Job("my ranker"', "train.py:4: job", "got the name 'my ranker', expected letters"),
    ('Job("ranker"', "Job(7", "train.py:4: job", "got the name 7, expected letters"),
]  # fmt: skip
SERVICES = [
    (SERVICE + 'more = Service("shop", ranking="ranker", item="item")\n', "service.py:7",
     "two services are named 'shop'\n  the other is in service.py:3; rename one of them"),
    ('"items.price"', '"items.prize"', "service.py:3: service 'shop', filter 0",
     "unknown feature 'items.prize'\n  did you mean 'items.price'?"),
    ('pl.col("items.price") > 0', 'pl.col("items.price") + 1', "service.py:3: service 'shop', filter 0",
     "expected a boolean"),
    ('item="item"', 'item="itm"', "service.py:3: service 'shop'",
     "no view is about the item 'itm'\n  did you mean 'item'?"),
    ('exclude=["users.last"]', 'exclude=["users.lost"]', "service.py:3: service 'shop', exclude",
     "unknown feature 'users.lost'\n  did you mean 'users.last'?"),
    ('exclude=["users.last"]', 'exclude=["users.spend"]', "service.py:3: service 'shop', exclude",
     "'users.spend' holds values of type float64, expected keys"),
    ('exclude=["users.last"]', 'exclude=["items.who"]', "service.py:3: service 'shop', exclude",
     "'items.who' is a feature of the candidate, expected one of the request"),
    ('exclude=["users.last"]', 'exclude=["users.n"]', "service.py:3: service 'shop', exclude",
     "'users.n' holds values of type int64, expected keys of 'item', which are of type string"),
    ('always=["users.last"]', 'always=["users.n"]', "service.py:3: service 'shop', always",
     "'users.n' holds values of type int64, expected keys of 'item', which are of type string"),
    ('retrieval=Retrieval("towers@champion", always=["users.last"])', 'candidates=[Recent("users.n")]',
     "service.py:3: service 'shop', recent",
     "'users.n' holds values of type int64, expected keys of 'item', which are of type string"),
    ('always=["users.last"]', 'always=["users.lost"]', "service.py:3: service 'shop', always",
     "unknown feature 'users.lost'"),
    ('ranking="ranker@champion"', 'ranking="ranker@"', "service.py:3: service 'shop': ranking",
     "got 'ranker@', expected a model"),
]  # fmt: skip

TOWERS = """\
from bedplate import Category, Job, Number, TwoTowerConfig
import datasets
inputs = {"candidate": Category(), "users.spend": Number(), "items.price": Number(), "age": Number(), "hour": Number()}
towers = Job("towers", dataset="baskets", model=TwoTowerConfig("bought"), inputs=inputs)
"""
PAIRS = """
from bedplate import DerivedFeature
pairs = FeatureView("pairs", [user, item], orders, {"n": Count()})
share = DerivedFeature("share", pl.col("items.price") / pl.col("users.spend"))
more = DerivedFeature("more", pl.col("share") * 2)
age = DerivedFeature("age", pl.col("items.price") * pl.col("request.time").dt.hour())
hour = DerivedFeature("hour", pl.col("request.time").dt.hour() + pl.col("users.spend"))
"""


def with_pairs(folder: Path, train: str) -> Path:
    written(folder, train)
    (folder / "features.py").write_text(FEATURES + PAIRS)
    datasets = DATASETS.replace("[users, items]", '[users, items, "pairs.*", "share", "more", "age", "hour"]')
    (folder / "datasets.py").write_text(datasets)
    return folder


@pytest.mark.parametrize(
    ("name", "about"),
    [("pairs.n", "'user' and 'item'"), ("share", "'item' and 'user'"), ("more", "'item' and 'user'")],
)
def test_the_item_tower_reads_nothing_of_the_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, about: str
) -> None:
    train = TOWERS.replace('"age": Number()', f'"{name}": Number()')
    message = f"'{name}' is about {about}, expected an input about 'item' alone or about the request alone"
    check(with_pairs(tmp_path, train), capsys, "train.py:4: job 'towers': inputs", message)


def test_towers_of_the_request_the_item_and_the_time_are_right(tmp_path: Path) -> None:
    assert [job.name for job in Project(with_pairs(tmp_path, TOWERS)).jobs] == ["towers"]


def test_a_model_of_request_and_candidate_together_reads_pairs(tmp_path: Path) -> None:
    train = TOWERS.replace("TwoTowerConfig", "DCNConfig").replace('"age"', '"pairs.n"')
    assert [job.name for job in Project(with_pairs(tmp_path, train)).jobs] == ["towers"]


@pytest.mark.parametrize("case", JOBS, ids=lambda case: case[-1][:40])
def test_a_wrong_job(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: tuple[str, ...]) -> None:
    *change, where, message = case
    train = change[0] if len(change) == 1 else TRAIN.replace(change[0], change[1])
    check(written(tmp_path, train=train), capsys, where, message)


@pytest.mark.parametrize("case", SERVICES, ids=lambda case: case[-1][:40])
def test_a_wrong_service(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: tuple[str, ...]) -> None:
    *change, where, message = case
    service = change[0] if len(change) == 1 else SERVICE.replace(change[0], change[1])
    check(written(tmp_path, service=service), capsys, where, message)


def check(folder: Path, capsys: pytest.CaptureFixture[str], where: str, message: str) -> None:
    with pytest.raises(BedplateError) as caught:
        Project(folder)
    assert caught.value.where == where
    assert run(["plan", "--project", str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {where}: ")
    assert message in printed.err


def test_a_plan_of_jobs_and_services_needs_no_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from bedplate.cli.main import run
assert run(["plan", "--project", {str(written(tmp_path))!r}]) == 0
loaded = {{"torch", "onnxruntime", "lmdb", "duckdb"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.DEVNULL)
