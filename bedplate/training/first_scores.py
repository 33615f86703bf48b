"""Whether a model that goes on from another one begins with its scores, where only the rows of ids have changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bedplate.batch import Batch
from bedplate.models.base import seeded
from bedplate.training.calling import outputs_of, scores_of
from bedplate.training.moved_rows import looked_up, said_of
from bedplate.training.tensors import to_tensors
from bedplate.training.warm_start import Side

_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
"""Of the largest score of a batch, and of any: float32 sums are the same but for their order."""


def check_first_scores(parent: Side, own: Side, batches: Iterable[Batch]) -> None:
    """Checks that two models give the same scores, of tensors that each model's encoder makes.

    Whatever looks ids up in another way than tables of Bedplate do, such as a weight that is indexed by them or a hash
    of them, is found by the scores that it changes.

    Args:
        parent: the model that is gone on from.
        own: that goes on with its weights, and with the same features.
        batches: of these features.

    Raises:
        DefinitionError: a score differs, or the model's code fails.
    """
    for batch in batches:
        if not batch.items:
            continue
        expected, got = _scores(parent, batch), _scores(own, batch)
        largest = float(expected.abs().nan_to_num(0.0, posinf=0.0).max())
        wrong = ~torch.isclose(got, expected, rtol=0.0, atol=_RELATIVE * largest + _ABSOLUTE, equal_nan=True)
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0, 0])
            raise looked_up(
                f"the first scores would not be those of the parent: {float(got[at]):.6g} in place of "
                f"{float(expected[at]):.6g} (candidate {int(batch.candidates[at])}, and {int(wrong.sum()) - 1:,} more "
                f"of {len(wrong):,}); {said_of(parent.encoder, own.encoder)}, and something other than a "
                "FusedEmbedding depends on them",
                [],
            )


def _scores(side: Side, batch: Batch) -> Tensor:
    model, training = side.model, side.model.training
    model.eval()
    tensors = to_tensors(batch, side.encoder)
    with torch.no_grad(), seeded(0):
        scores = scores_of(model, outputs_of(model, model, tensors), tensors)
    model.train(training)
    return scores.double()
