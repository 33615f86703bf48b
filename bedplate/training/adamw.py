"""AdamW, by the kernel of torch that updates all weights of a step at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

BETAS = 0.9, 0.999
EPS = 1e-8


@final
class AdamW:
    """AdamW (Loshchilov and Hutter 2019), to the last bit that of `torch.optim.AdamW(..., fused=True)`.

    The constructor of torch's class imports its compiler, which takes longer than many a training. A weight without a
    gradient is left out of a step, and of the count of its steps.

    Args:
        weights: that are updated; vectors and numbers, such as biases, do not decay.
        rate: the learning rate.
        decay: of weights, times the rate a step.

    Attributes:
        state: of a weight that has had a gradient: `step`, and the moments `exp_avg` and `exp_avg_sq`.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.tensor([0.5, -3.0])
    >>> AdamW([weight], rate=0.1, decay=0.0).step()
    >>> [round(value, 6) for value in weight.tolist()]
    [0.9, 1.1]
    """

    def __init__(self, weights: Iterable[nn.Parameter], rate: float, decay: float) -> None:
        self.rate = rate
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        # In the order in which torch numbers those of two groups, which checkpoints name them by.
        self._weights = sorted(weights, key=lambda weight: weight.ndim <= 1)
        groups: dict[tuple[float, torch.device, torch.dtype], list[nn.Parameter]] = {}
        for weight in self._weights:
            key = (decay if weight.ndim > 1 else 0.0, weight.device, weight.dtype)
            groups.setdefault(key, []).append(weight)
        self._groups = [(key[0], members) for key, members in groups.items()]

    @torch.no_grad()
    def step(self) -> None:
        """Updates all weights that have a gradient."""
        for decay, members in self._groups:
            weights, gradients = list[Tensor](), list[Tensor]()
            firsts, seconds, steps = list[Tensor](), list[Tensor](), list[Tensor]()
            for weight in members:
                gradient = weight.grad
                if gradient is None:
                    continue
                state = self.state.get(weight) or self._begun(weight)
                weights.append(weight)
                gradients.append(gradient)
                firsts.append(state["exp_avg"])
                seconds.append(state["exp_avg_sq"])
                steps.append(state["step"])
            if weights:
                self._update(decay, weights, gradients, firsts, seconds, steps)

    def _begun(self, weight: nn.Parameter) -> dict[str, Tensor]:
        step = torch.zeros((), dtype=torch.float32, device=weight.device)
        moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        return self.state.setdefault(weight, {"step": step, **moments})

    def _update(
        self,
        decay: float,
        weights: list[Tensor],
        gradients: list[Tensor],
        firsts: list[Tensor],
        seconds: list[Tensor],
        steps: list[Tensor],
    ) -> None:
        untyped: Any = torch
        untyped._foreach_add_(steps, 1)
        untyped._fused_adamw_(
            weights, gradients, firsts, seconds, [], steps,
            lr=self.rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=decay, eps=EPS, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The state of each weight by its number, as torch has it."""
        return {"state": {i: self.state[w] for i, w in enumerate(self._weights) if w in self.state}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a copy of a state, that of `torch.optim.AdamW` too; the rate stays."""
        saved: Mapping[int, dict[str, Tensor]] = state["state"]
        self.state = {}
        for i, of_weight in saved.items():
            weight = self._weights[i]
            self.state[weight] = {name: value.to(weight.device, copy=True) for name, value in of_weight.items()}
