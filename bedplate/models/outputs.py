"""What a model gives, checked where it is read: mistakes of a model of one's own are named there, not in torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from bedplate.errors import DefinitionError, suggest


def of_candidates(outputs: Mapping[str, Tensor], name: str, candidates: int, model: str) -> Tensor:
    """[N]: an output that has a number for each candidate.

    Args:
        outputs: what `forward` gave.
        name: of the output.
        candidates: N.
        model: the name of the model's class.

    Raises:
        DefinitionError: `forward` gave no such output, or one of another shape or of no floats.

    >>> import torch
    >>> of_candidates({"logit": torch.zeros(3, 1)}, "logit", 3, "Wide")
    Traceback (most recent call last):
    bedplate.errors.DefinitionError: model 'Wide': forward gives 'logit' float32 [3, 1], expected float [3]
      one for each candidate; squeeze(1) takes the last axis away
    """
    found = outputs.get(name)
    if found is None:
        raise DefinitionError(
            f"forward gives no '{name}', expected float [{candidates}]: one for each candidate",
            where=f"model '{model}'",
            hint=f"{nearest(name, outputs)}it gives: {shown(outputs)}",
        )
    if found.shape != (candidates,) or not found.is_floating_point():
        raise DefinitionError(
            f"forward gives '{name}' {of_tensor(found)}, expected float [{candidates}]",
            where=f"model '{model}'",
            hint="one for each candidate"
            + ("; squeeze(1) takes the last axis away" if found.shape == (candidates, 1) else ""),
        )
    return found


def of_tensor(value: object) -> str:
    """The dtype and the shape of a tensor, or what it is instead.

    >>> import torch
    >>> of_tensor(torch.zeros(2, 3)), of_tensor(None)
    ('float32 [2, 3]', 'NoneType')
    """
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def shown(values: Mapping[str, object]) -> str:
    """Tensors by name, as `of_tensor` shows them."""
    return ", ".join(f"'{name}' {of_tensor(value)}" for name, value in values.items()) or "nothing"


def nearest(name: str, known: Iterable[str]) -> str:
    """A question for a misspelt name, to stand before the list of those that there are; empty where none is near.

    >>> nearest("logits", ["logit"]), nearest("score", ["logit"])
    ("did you mean 'logit'? ", '')
    """
    hint = suggest(name, known)
    return f"{hint} " if hint.endswith("?") else ""
