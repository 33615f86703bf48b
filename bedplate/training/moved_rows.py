"""Ids whose rows of the encoder's table are other ones than in the parent, and weights that they may be looked up in.

Rows are numbered by vocabulary, and in each by ascending ids: a new id moves all that come after it. Bedplate's own
tables move with them. Of another weight only its model can say what its rows are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from torch import nn

from bedplate.errors import DefinitionError
from bedplate.features.encoder import Encoder
from bedplate.layers.axes import Axes

_SHOWN = 3
"""How many new ids of a vocabulary a message names."""


def said_of(parent: Encoder, encoder: Encoder) -> str:
    """Which ids an encoder knows and its parent does not, for a message.

    Args:
        parent: the encoder that was gone on from.
        encoder: the one that goes on.
    """
    parts: list[str] = []
    for name, vocabulary in encoder.vocabularies.items():
        known = parent.vocabularies.get(name)
        new = vocabulary.keys if known is None else np.setdiff1d(vocabulary.keys, known.keys, assume_unique=True)
        if len(new):
            more = ", ..." if len(new) > _SHOWN else ""
            parts.append(f"{len(new):,} of '{name}' ({', '.join(map(str, new[:_SHOWN].tolist()))}{more})")
    which = f"new ids: {'; '.join(parts)}" if parts else "vocabularies are not those of the parent"
    return f"ids have other rows than in the parent ({which})"


def require_told(model: nn.Module, axes: Axes, tables: Collection[str], parent: Encoder, encoder: Encoder) -> None:
    """Checks that it is said of each embedding that ids could be looked up in, whether they are.

    Args:
        model: that goes on, whose ids have other rows than in its parent.
        axes: what it says of its weights.
        tables: the names of weights whose rows are known to be those of ids.
        parent: the encoder that was gone on from.
        encoder: the one that goes on.

    Raises:
        DefinitionError: it is not said of one.
    """
    untyped: Any = model
    modules: dict[str, nn.Module] = dict(untyped.named_modules())
    for place, module in modules.items():
        name = f"{place}.weight"
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or name in tables or axes.get(name):
            continue
        if len(module.weight) >= parent.layout.rows:
            raise looked_up(f"the rows of '{name}' may be those of ids, and {said_of(parent, encoder)}", [name])


def looked_up(what: str, names: Sequence[str]) -> DefinitionError:
    """The error for a weight that is looked up by ids and does not say so.

    Args:
        what: is wrong.
        names: of such weights; empty: which it is is not known.
    """
    name = names[0] if names else "emb.weight"
    return DefinitionError(
        what,
        where="the model to continue from",
        hint=f"where ids are looked up in it, have axes() say {{'{name}': (ID_ROWS,)}} (bedplate.layers.axes, see "
        f"docs/retraining.md), and {{'{name}': (None,)}} where something else is; or train from the beginning (without "
        "--continue)",
    )
