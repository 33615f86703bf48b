"""What a version's artifact gives for other rows than it was tested on, where candidates were drawn or are searched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import retraining_project as small

from bedplate import Project
from bedplate.cli.main import run as command
from bedplate.training.champion import score_test
from bedplate.training.predictions import read_predictions

DRAWN = small.FEATURES.replace("import Count", "import Negatives, Count").replace(
    "    features=[", '    negatives=Negatives(plays, video, window="28d", per_request=2),\n    features=['
)
TRAIN = small.TRAIN.replace('DCNConfig("liked", ', 'DCNConfig("liked", correct_sampling=True, ') + (
    """
from bedplate import TwoTowerConfig
searched = TwoTowerConfig("liked", layers=(8,), width=4, frequency_slots=64)
of_loss = TrainerConfig(epochs=2, metric="request_auc")
towers = Job("towers", dataset=pages, model=searched, inputs=inputs, trainer=of_loss)
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of 40 days with drawn negatives, a ranker and towers."""
    made = small.make(tmp_path_factory.mktemp("champion") / "project", 40, TRAIN)
    (made / "features.py").write_text(DRAWN)
    for words in (["apply"], ["train", "ranker"], ["train", "towers"]):
        assert command([*words, "--project", str(made)]) == 0
    return made


@pytest.mark.parametrize("name", ["ranker", "towers"])
def test_of_drawn_candidates_it_is_what_the_run_has_kept(folder: Path, name: str) -> None:
    project = Project(folder)
    version = project.registry.get(f"{name}:1")
    kept = read_predictions(project.registry.run(version.manifest.run or "").folder)
    again = score_test(version, project.load("pages"))
    assert len(again.candidates) > 2 * len(again.request_ids), "negatives were drawn"
    assert np.array_equal(again.candidates, kept.candidates)
    if name == "ranker":
        np.testing.assert_allclose(again.scores, kept.scores, rtol=1e-4, atol=1e-5)
    else:  # vectors of candidates are those of the time of the catalogue, and inner products have another scale
        assert np.corrcoef(again.scores, kept.scores)[0, 1] > 0.99


def test_what_the_catalogue_does_not_have_comes_after_all_that_it_has(folder: Path) -> None:
    version = Project(folder).registry.get("towers:1")
    keys = np.load(version.path / "retrieval" / "keys.npy")
    small.write(folder, 56)
    assert command(["apply", "--project", str(folder)]) == 0
    found = score_test(version, Project(folder).load("pages"))
    known = np.isin(found.candidates, keys)
    assert (known.sum() > 100, (~known).sum() > 20) == (True, True)
    for request in np.unique(found.requests[~known]):
        own = found.requests == request
        if known[own].any():
            assert found.scores[own & ~known].max() < found.scores[own & known].min()
