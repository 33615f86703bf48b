"""What is wrong with a model of a project's own is said by its name, with what it gave and what it was given."""

from __future__ import annotations

import re
import threading

import pytest
import torch
from synthetic import Source, make_encoder

from bedplate.errors import ArtifactError, DataError, DefinitionError
from bedplate.layers.inputs import InputVectors
from bedplate.models.base import Model, seeded
from bedplate.models.binary import BinaryModel
from bedplate.models.config import BinaryConfig, ModelConfig
from bedplate.training import trainer
from bedplate.training.calling import axes_of, model_of
from bedplate.training.config import TrainerConfig
from bedplate.training.evaluate import predict
from bedplate.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH = r"the batch has \d+ candidates of 16 requests: 'request_dense' float32 \[16, \d+\], 'request_ids' int64"


class Mistaken(BinaryModel):
    class Config(BinaryConfig, frozen=True):
        mistake: str = ""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self.mistake = config.mistake
        self.vectors = InputVectors(layout, 4)
        self.dropout = torch.nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, batch):
        self.steps += 1
        logit = self.dropout(self.vectors.rows(batch)).sum(dim=1)
        match self.mistake:
            case "shape":
                return {"logit": logit.unsqueeze(1)}
            case "rows":
                return {"logit": logit[:-1]}
            case "dtype":
                return {"logit": logit.long()}
            case "name":
                return {"logits": logit}
            case "tensor":
                return logit
            case "none":
                return None
            case "list":
                return {"logit": logit.tolist()}
            case "input":
                return {"logit": batch["request_dens"].sum(dim=1)}
            case "error":
                return {"logit": logit @ torch.ones(3)}
            case "refused":
                raise DataError("no such user", where="somewhere")
            case "still":
                return {"logit": logit.detach()}
            case "values":
                return {"logit": logit if batch["item_dense"].mean() > 0 else -logit}
        return {"logit": logit}

    def loss(self, outputs, batch):
        match self.mistake:
            case "loss of rows":
                return outputs["logit"]
            case "loss of a number":
                return 1.0
            case "loss of a name":
                return outputs["logits"].mean()
            case "loss of a label":
                return batch.label("labels").mean()
        return super().loss(outputs, batch)

    def judged(self, outputs, batch):
        return outputs["logit"].mean() if self.mistake == "judged" else super().judged(outputs, batch)

    def served(self, batch):
        match self.mistake:
            case "served of a name":
                return {"score": self(batch)["scores"]}
            case "served of a tensor":
                return self(batch)["logit"]
            case "served of one":
                return {"score": self(batch)["logit"].mean()}
            case "served of labels":
                return {"score": batch.label("label")}
            case "served of nothing":
                return {}
            case "served of code":
                return {"score": self.net(batch)}
        return {"score": torch.rand(()) * self.dropout(self(batch)["logit"])}

    def metrics(self, prediction):
        match self.mistake:
            case "metrics of a name":
                return {"loss": prediction.losses}
            case "metrics of lists":
                return {"loss": [1.0]}
            case "metrics of a number":
                return 1.0
            case "metrics of a label":
                return {"loss": float(prediction.of("lable")[0].mean())}
            case "metrics of arguments":
                return {"loss": float(prediction.of("label", 3)[0].mean())}
            case "metrics of no module":
                return {"loss": metric_of(prediction)}  # noqa: F821
            case "zero":
                return self.judge_batch(prediction, ZeroDivisionError("float division by zero"))
            case "value":
                return self.judge_batch(prediction, ValueError("only one class"))
            case "index":
                return self.judge_batch(prediction, IndexError("list index out of range"))
            case "key":
                return self.judge_batch(prediction, KeyError("positives"))
            case "refusal":
                return self.judge_batch(prediction, DataError("no positives"))
            case "none":
                return self.judge_batch(prediction, TypeError("unsupported operand: 'int' and 'NoneType'"))
            case "method":
                return self.judge_batch(prediction, AttributeError("'int' object has no attribute 'mean'", obj=0))
            case "unbound":
                return self.judge_batch(prediction, UnboundLocalError("best"))
            case "no value":
                return (
                    {**super().metrics(prediction), "best": None}
                    if is_batch(prediction)
                    else super().metrics(prediction)
                )
        return super().metrics(prediction)

    def judge_batch(self, prediction, error):
        """What the first batch of `Source` does not have, and the validation has."""
        if is_batch(prediction):
            raise error
        return super().metrics(prediction)


def is_batch(prediction):
    return len(prediction.request_ids) < 20


class Unscored(Model):
    class Config(ModelConfig, frozen=True):
        mistake: str = ""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self.vectors = InputVectors(layout, 4)

    def forward(self, batch):
        return {"value": self.vectors.rows(batch).sum(dim=1)}

    def loss(self, outputs, batch):
        return (outputs["value"] - batch.label("label")).pow(2).mean()

    def metrics(self, prediction):
        return {}


def fitted(tmp_path, kind, mistake="", **settings):
    encoder = make_encoder()
    with seeded(0):
        model = kind(kind.Config("label", mistake=mistake), encoder.layout)
    wanted = Trainer(TrainerConfig(epochs=1, **settings), exports=mistake == "values")
    return model, encoder, wanted.fit(model, encoder, Source(2), Source(1, salt=1), tmp_path)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("shape", r"forward gives 'logit' float32 \[(\d+), 1\], expected float \[\1\]\n  .*squeeze\(1\)"),
        ("rows", r"forward gives 'logit' float32 \[\d+\], expected float \[\d+\]\n  one for each candidate"),
        ("dtype", r"forward gives 'logit' int64 \[(\d+)\], expected float \[\1\]"),
        (
            "name",
            r"forward gives no 'logit', expected float \[(\d+)\].*\n  did you .*\? it gives: 'logits' float32 \[\1\]",
        ),
        ("tensor", r"forward gives float32 \[\d+\], expected a dict of tensors by name"),
        ("none", "forward gives NoneType, expected a dict of tensors by name"),
        ("list", "forward gives 'logit' list, expected tensors alone"),
        (
            "input",
            rf"forward fails in line \d+ of test_own_model_mistakes.py: there is no 'request_dens'\n  .*\? {BATCH}",
        ),
        ("error", rf"forward fails in line \d+ of .*: RuntimeError: inconsistent tensor size.*\n  {BATCH}"),
        ("still", "the backward pass fails: RuntimeError: element 0 of tensors does not require grad"),
        ("loss of rows", r"loss gives float32 \[\d+\], expected a tensor of one number"),
        ("loss of a number", "loss gives float, expected a tensor of one number"),
        ("loss of a name", r"loss fails in line \d+ of .*: there is no 'logits'\n  did you mean 'logit'"),
        ("judged", r"judged gives float32 \[\], expected a score for each candidate, \[\d+\]"),
        ("served of a name", rf"served fails in line \d+ of .*: there is no 'scores'\n  {BATCH}"),
        ("served of a tensor", r"served gives float32 \[(\d+)\], expected a dict of tensors, each of \[\1, \.\.\.\]"),
        ("served of one", r"served gives 'score' float32 \[\], expected a dict of .*: a row for each candidate"),
        ("served of labels", r"served fails in line \d+ of .*: AttributeError: 'dict' object has no attribute 'label'"),
        ("served of nothing", r"served gives dict, expected a dict of tensors"),
        ("served of code", r"served fails in line \d+ of .*: AttributeError: 'Mistaken' object has no attribute 'net'"),
        (
            "metrics of a name",
            r"metrics fails in line \d+ of .*'losses'\n  .* \d+ scores and .*'label'",
        ),
        ("metrics of lists", r"metrics gives 'loss' list, expected numbers alone"),
        ("metrics of a number", r"metrics gives float, expected a dict of numbers by name"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16"}, {"accumulate": 2}])
def test_a_mistake_is_named(tmp_path, mistake, message, settings):
    with pytest.raises(DefinitionError, match=f"^model 'Mistaken': {message}") as caught:
        fitted(tmp_path, Mistaken, mistake, **settings)
    is_of_code = " fails" in message
    assert (caught.value.__cause__ is not None) == is_of_code, "--debug shows the traceback of the code itself"


@pytest.mark.parametrize(
    "mistake",
    [
        "served of code", "served of one", "judged", "metrics of a name", "metrics of a number",
        "metrics of a label", "metrics of no module",
    ],
)  # fmt: skip
def test_what_is_done_after_training_alone_is_tried_before_it(tmp_path, mistake):
    with pytest.raises(DefinitionError):
        fitted(tmp_path, Mistaken, mistake, checkpoint_every=1)
    assert not list(tmp_path.iterdir()), "not one step was made"


@pytest.mark.parametrize(
    "value", ["zero", "value", "index", "key", "refusal", "none", "unbound", "method", "no value", "lock"]
)
def test_metrics_that_have_no_value_in_a_batch_are_no_mistake(tmp_path, value):
    encoder = make_encoder()
    model = Judging(Judging.Config("label", mistake=value), encoder.layout)
    result = Trainer(TrainerConfig(epochs=1)).fit(model, encoder, Source(2), Source(3, salt=1), tmp_path)
    assert result.metrics["log_loss"] > 0
    assert model.judged_rows == [3 * 16 * 12], "what was tried at the first batch leaves no trace"


def test_steps_that_depend_on_values_are_found_before_training(tmp_path):
    with pytest.raises(ArtifactError, match=r"export, .* output 'score' differs") as caught:
        fitted(tmp_path, Mistaken, "values")
    assert "choose by torch.where" in str(caught.value.hint)
    assert not list(tmp_path.iterdir()), "not one step was made"


def test_what_is_tried_before_training_leaves_no_trace(tmp_path, monkeypatch):
    """Random numbers, buffers and the mode of the model are those of a training that tries nothing."""
    tried, _, _ = fitted(tmp_path / "tried", Mistaken)
    monkeypatch.setattr(trainer, "rehearse", lambda *_, **__: None)
    untried, _, _ = fitted(tmp_path / "untried", Mistaken)
    assert tried.steps == untried.steps > 0
    for name, weight in tried.state_dict().items():
        assert torch.equal(weight, untried.state_dict()[name]), name


class Judging(Mistaken):
    """It remembers what it has judged."""

    class Config(BinaryConfig, frozen=True):
        mistake: str = ""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self.judged_rows = []
        self.lock = threading.Lock() if config.mistake == "lock" else None

    def forward(self, batch):
        return {"logit": self.vectors.rows(batch).sum(dim=1)}

    def metrics(self, prediction):
        self.judged_rows.append(len(prediction.scores))
        return super().metrics(prediction)


class Scaled(Mistaken):
    """Its backward pass needs buffers as its forward pass has seen them; it counts what it is asked for."""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self.register_buffer("first", torch.tensor(2.0))
        self.register_buffer("scale", self.first)
        self.register_buffer("served_times", torch.zeros(()), persistent=False)

    def forward(self, batch):
        return {"logit": super().forward(batch)["logit"] * self.scale}

    def served(self, batch):
        self.scale.mul_(3)
        self.served_times = self.served_times + 1
        return super().served(batch)


def test_a_model_with_constants_in_its_forward_pass_is_trained(tmp_path):
    model, _, _ = fitted(tmp_path, Scaled)
    assert (model.scale, model.served_times) == (2, 0)


class Unmade(BinaryModel):
    class Config(BinaryConfig, frozen=True):
        mistake: str = ""

    def __init__(self, config, layout):
        match config.mistake:
            case "late":
                self.vectors = InputVectors(layout, 4)
            case "never":
                torch.nn.Module.__init__(self)
                return
        super().__init__(config, layout)
        self.net = torch.nn.Linear(layout.width if config.mistake == "name" else "wide", 1)

    def forward(self, batch):
        return {}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            "late",
            r"__init__ fails in line \d+ of .*: AttributeError: .*\n  call super\(\).__init__\(config, layout\) first",
        ),
        ("never", r"__init__ leaves the model without a config or a layout\n  call super\(\).__init__"),
        (
            "name",
            r"__init__ fails in line \d+ of .*py: AttributeError: .*'width'\n  the batches will have: 'request_dense'",
        ),
        ("type", r"__init__ fails in line \d+ of test_own_model_mistakes.py: TypeError: "),
    ],
)
def test_a_model_that_cannot_be_made_is_named(mistake, message):
    with pytest.raises(DefinitionError, match=f"^model 'Unmade': {message}"):
        model_of(Unmade.Config("label", mistake=mistake), make_encoder().layout)


class Placed(Unscored):
    class Config(ModelConfig, frozen=True):
        mistake: str = ""

    def axes(self):
        width = self.vectors.request_width
        match self.config.mistake:
            case "name":
                return {"vector.embedding.weight": (None,)}
            case "labels":
                return {"vectors.embedding.weight": (None, ("a", "b"))}
            case "ranks":
                return {"vectors.embedding.weight": (None, None, None)}
            case "type":
                return {"vectors.embedding.weight": width}
        return {"vectors.embedding.weight": (None, ("a", "b", "c", "d"))}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("name", r"axes has no weight 'vector.embedding.weight'\n  did you mean 'vectors.embedding.weight'\?"),
        ("labels", r"axes gives '.*' labels \[None, 2\], expected those of \[\d+, 4\] positions"),
        ("ranks", r"axes gives '.*' labels \[None, None, None\], expected those of \[\d+, 4\] positions"),
        ("type", r"axes fails in line \d+ of|axes fails: TypeError"),
    ],
)
def test_axes_that_are_of_no_weight_are_named(mistake, message):
    layout = make_encoder().layout
    assert axes_of(Placed(Placed.Config("label", mistake=""), layout))
    with pytest.raises(DefinitionError, match=f"^model 'Placed': {message}"):
        axes_of(Placed(Placed.Config("label", mistake=mistake), layout))


def test_an_error_that_says_what_is_wrong_stays_as_it_is(tmp_path):
    with pytest.raises(DataError, match=r"^somewhere: no such user$"):
        fitted(tmp_path, Mistaken, "refused")
    with pytest.raises(DataError, match="the batch has no label 'labels'"):
        fitted(tmp_path, Mistaken, "loss of a label")


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip_norm": 1.0}], ids=str)
def test_a_sparse_gradient_of_a_table_of_its_own_is_named(tmp_path, first, options):
    """In whichever batch it is the first time."""

    class Sparse(Mistaken):
        class Config(BinaryConfig, frozen=True):
            mistake: str = ""

        def __init__(self, config, layout):
            super().__init__(config, layout)
            self.users, self.batches = torch.nn.Embedding(9, 1, sparse=True), 0

        def forward(self, batch):
            logit = super().forward(batch)["logit"]
            if self.training:
                self.batches += 1
            if self.batches > first:
                logit = logit + self.users(batch["request_of_item"] % 9).squeeze(1)
            return {"logit": logit}

    encoder = make_encoder()
    said = r"(?s)model 'Sparse': the gradient of 'users.weight' is sparse, expected a dense one.*FusedEmbedding"
    with pytest.raises(DefinitionError, match=said):
        Trainer(TrainerConfig(epochs=1, **options)).fit(
            Sparse(Sparse.Config("label"), encoder.layout), encoder, Source(6), Source(1), tmp_path
        )


def test_a_score_that_is_missing_is_named_before_the_first_update(tmp_path):
    with pytest.raises(DefinitionError, match=r"'Unscored': judged fails: there is no 'score'\n  .*'value' float32"):
        fitted(tmp_path, Unscored, checkpoint_every=1)
    assert not list(tmp_path.iterdir()), "no checkpoint, nor any other file"


def test_a_mistake_of_validation_alone_is_named(tmp_path):
    model, encoder, result = fitted(tmp_path, Mistaken)
    assert result.steps == 2
    model.mistake = "tensor"
    with pytest.raises(DefinitionError, match=re.escape("forward gives float32")):
        predict(model, encoder, Source(1))
