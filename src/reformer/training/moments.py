"""AdamW's moments in bfloat16: 4 bytes less for each parameter.

A second moment that decays by a thousandth at a time would stand still if it were rounded to the
nearest of bfloat16's 8 bits. It is rounded up or down at random instead, with the probability that
makes the mean exact; the draw is named by the step, the parameter and the moment.
"""

from typing import Any

import torch
from torch import Tensor

from reformer.ops.randomness import generator

MOMENTS = ("exp_avg", "exp_avg_sq")


class NarrowAdamW(torch.optim.AdamW):
    """AdamW that keeps its moments in bfloat16 and widens them for one parameter at a time."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient, and free the gradient."""
        assert closure is None
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        self.zero_grad(set_to_none=True)
        for number, parameter in enumerate(parameters):
            # Alone with its gradient, a parameter is all that AdamW updates.
            parameter.grad, gradients[number] = gradients[number], None
            if parameter.grad is not None:
                self._step_alone(parameter, number)
                parameter.grad = None

    def _step_alone(self, parameter: Tensor, number: int) -> None:
        state = self.state[parameter]
        for moment in MOMENTS:
            if moment in state:
                state[moment] = state[moment].float()
        super().step()
        for index, moment in enumerate(MOMENTS):
            draw = generator(int(state["step"]), number, index)
            narrow = torch.empty_like(state[moment], dtype=torch.bfloat16)
            local(narrow).copy_(round_at_random(local(state[moment]), draw))
            state[moment] = narrow


def round_at_random(x: Tensor, draw: torch.Generator) -> Tensor:
    """The float32 tensor in bfloat16, each entry rounded to one of its two neighbours.

    The upper half of a float32 is a bfloat16. A number from 0 to 65535 added to the lower half
    carries into the upper one with a probability of lower half / 65536.
    """
    noise = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32, generator=draw).to(x.device)
    bits = noise.add_(x.contiguous().view(torch.int32)).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).to(torch.bfloat16)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that several share; any other tensor itself."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part
