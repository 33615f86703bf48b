"""Features made by a model: definitions, what is refused, and that a row's value is its own."""

from __future__ import annotations

from typing import Any

import clips
import numpy as np
import polars as pl
import pytest

from bedplate import Count, DerivedFeature, FeatureView, Project, Registry
from bedplate.batch import Column
from bedplate.errors import ArtifactError, DataError, DefinitionError, NotFoundError
from bedplate.features.derived import series_to_column
from bedplate.features.graph import FeatureGraph
from bedplate.features.links import Link
from bedplate.features.model import ModelFeature, check_time_true, compute
from bedplate.inference.artifact import Artifact, load_artifact
from bedplate.inference.scorer import ArtifactScorer, load_scorers, scorers
from bedplate.types import DAY

INPUTS = ["played.n_7d", "videos.length", "video_creator.creators.followers_28d", "user_country.countries.price"]


@pytest.fixture(scope="module")
def artifact(registry: Registry) -> Artifact:
    return load_artifact(registry.get("quality:1"))


@pytest.fixture(scope="module")
def columns(project: Project) -> tuple[dict[str, Column], np.ndarray]:
    """The inputs of 150 rows, some of them null, and times."""
    keys = {"user": list(range(30)) * 5, "video": [f"v{i % 41}" for i in range(150)]}
    rows = project.lookup(INPUTS, keys, [clips.START + (35 + i % 40) * DAY for i in range(150)])
    return {n: series_to_column(rows[n]) for n in INPUTS}, np.zeros(150, np.int64)


def feature(**changes: Any) -> ModelFeature:
    return ModelFeature("quality", **({"model": "quality:1", "inputs": INPUTS} | changes))


def test_the_value_of_a_row_does_not_depend_on_the_rows_beside_it(artifact, columns):
    scorer, (every, times) = ArtifactScorer(feature(), artifact), columns
    whole = scorer.score(every, times).values
    assert len(np.unique(whole)) > 50
    draw = np.random.default_rng(0)
    for count in (1, 2, 3, 63, 64, 65, 149):
        chosen = draw.permutation(150)[:count]
        part = scorer.score({n: c.take(chosen) for n, c in every.items()}, times[chosen]).values
        assert part.tobytes() == whole[chosen].tobytes()
    assert len(scorer.score({n: c.take(chosen[:0]) for n, c in every.items()}, times[:0])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "quality"}, "expected one with a version or an alias"),
        ({"model": ":3"}, "expected one with a version or an alias"),
        ({"model": 3}, "got the model 3"),
        ({"inputs": "played.n_7d"}, "expected a list of names"),
        ({"inputs": []}, "expected a list of names"),
        ({"inputs": ["a", "a"]}, "each once"),
        ({"output": ""}, "got the output ''"),
    ],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(DefinitionError, match=message):
        feature(**changes)


def graph_with(project: Project, *made: ModelFeature | DerivedFeature, views: Any = None) -> FeatureGraph:
    found = project.definitions
    return FeatureGraph(views or found.views, made, project.root, links=found.of(Link))


def test_what_the_model_reads_must_be_what_the_definition_says(project, registry):
    graph = graph_with(project, feature(inputs=INPUTS[:3]))
    with pytest.raises(DefinitionError, match=r"'quality:1' reads 'user_country.countries.price'") as error:
        load_scorers(graph.select(["quality"]), graph, registry)
    assert INPUTS[-1] in (error.value.hint or "")
    graph = graph_with(project, feature(inputs=[*INPUTS, "played.seconds_7d"]))
    with pytest.raises(DefinitionError, match=r"'quality:1' does not read 'played.seconds_7d'"):
        load_scorers(graph.select(["quality"]), graph, registry)


@pytest.mark.parametrize("model", ["qualty:1", "quality:9", "quality@best"])
def test_an_unknown_model_or_version_is_named_with_the_feature(project, registry, model):
    graph = graph_with(project, feature(model=model))
    with pytest.raises(NotFoundError, match="model feature 'quality'"):
        load_scorers(graph.select(["quality"]), graph, registry)


def test_a_definition_that_changed_since_the_model_was_trained_is_refused(project, artifact):
    views = {view.name: view for view in project.definitions.views}
    played = views["played"]
    views["played"] = FeatureView("played", played.entities, played.source, {"n": Count("seconds", windows="7d")})
    graph = graph_with(project, feature(), views=list(views.values()))
    with pytest.raises(DefinitionError, match=r"model feature 'quality', model 'quality:1': 'played.n_7d' is"):
        scorers(graph.select(["quality"]), graph, lambda _: artifact)


def test_an_output_that_the_model_does_not_have_is_refused(artifact):
    with pytest.raises(ArtifactError, match="has no output 'vector'"):
        ArtifactScorer(feature(output="vector"), artifact)


def test_a_value_that_is_not_finite_is_null(artifact, columns):
    class Broken:
        trained_until, signature, model, encoder = None, artifact.signature, artifact.model, artifact.encoder

        def run(self, batch, output):
            return np.where(np.arange(batch.items) % 2, np.nan, 0.5)

    broken: Any = Broken()
    found = ArtifactScorer(feature(), broken).score(*columns)
    assert found.present is not None
    assert found.present.tolist() == [True, False] * 75


def test_the_id_follows_the_reference_and_the_inputs(project):
    def of(made: ModelFeature) -> str:
        return graph_with(project, made).features["quality"].id

    base = of(feature())
    assert base == of(feature())
    others = [
        feature(model="quality:2"),
        feature(model="quality@champion"),
        feature(inputs=INPUTS[:2]),
        feature(output="x"),
    ]
    assert len({base, *map(of, others)}) == 5


def test_features_of_models_take_part_in_the_graph(project):
    doubled = DerivedFeature("doubled", pl.col("quality") * 2)
    again = ModelFeature("again", model="other:1", inputs=["doubled", "videos.length"])
    graph = graph_with(project, again, doubled, feature())
    assert [f.name for f in graph.select(["again"]).derived] == ["quality", "doubled", "again"]
    assert [f.name for f in graph.select(["again", "doubled"]).models_behind(["doubled"])] == ["quality"]
    with pytest.raises(DefinitionError, match=r"model feature 'quality': unknown feature 'videos.lenght'"):
        graph_with(project, feature(inputs=["videos.lenght"]))
    with pytest.raises(DefinitionError, match="form a cycle"):
        graph_with(project, feature(inputs=["doubled"]), doubled)
    assert graph.features["quality"].text == f"score of quality:1 for {', '.join(INPUTS)}"


def test_without_its_model_a_feature_says_what_to_do(columns):
    with pytest.raises(DefinitionError, match="model 'quality:1' is not loaded here") as error:
        compute([feature()], *columns, {})
    assert "load_scorers" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("until", "sees_future", "refused"),
    [(100, False, False), (101, False, True), (None, False, True), (101, True, False), (None, True, False)],
)
def test_a_model_that_knows_more_than_was_known_is_refused(until, sees_future, refused):
    class Scorer:
        version, trained_until = "quality:1", until

    scorer: Any = Scorer()
    checked = [feature(sees_future=sees_future)]
    if not refused:
        check_time_true(checked, {"quality": scorer}, 100, "dataset 'd'")
        return
    with pytest.raises(
        DataError, match=r"dataset 'd': model 'quality:1', which makes 'quality', .*knows what happened"
    ):
        check_time_true(checked, {"quality": scorer}, 100, "dataset 'd'")
