"""Models behind features as a service loads them: what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import shop

from bedplate.errors import ArtifactError, DefinitionError
from bedplate.features.encoding import CANDIDATE
from bedplate.features.model import ModelFeature
from bedplate.inference.artifact import load_artifact
from bedplate.inference.scorer import ArtifactScorer
from bedplate.serving.pipeline import Pipeline


def test_a_model_that_reads_the_key_of_the_candidate_is_refused(registry):
    artifact = load_artifact(registry.get("ranker:1"))
    feature = ModelFeature("q", model="ranker:1", inputs=artifact.signature.features())
    with pytest.raises(ArtifactError, match=f"reads '{CANDIDATE}'") as error:
        ArtifactScorer(feature, artifact)
    assert "Attribute" in (error.value.hint or "")


def test_an_output_that_is_not_a_number_a_row_is_refused(registry):
    artifact = load_artifact(registry.get("towers:1"))
    feature = ModelFeature("q", model="towers:1", inputs=artifact.signature.features(), output="query")
    with pytest.raises(ArtifactError, match="'query' of model 'towers:1' has 2 axes"):
        ArtifactScorer(feature, artifact)


def test_models_of_one_service_must_read_a_feature_of_one_version(features, registry):
    def load(reference: str) -> Any:
        artifact = load_artifact(registry.get(reference))
        made = {"q": f"quality:{1 if reference.startswith('ranker') else 2}"}
        object.__setattr__(artifact, "signature", msgspec.structs.replace(artifact.signature, models=made))
        return artifact

    with pytest.raises(DefinitionError, match="'q' made by quality:1, model 'towers:1' with the one made by quality:2"):
        Pipeline(shop.service(), features, shop.Oracle(features), load)
