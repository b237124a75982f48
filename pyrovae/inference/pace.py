"""How far each datapoint steps, and when it stops."""

import torch
from torch import Tensor

from .row_optimizers import Slots

DECAY = 0.95  # of the running mean of a datapoint's gain
MIN_STEPS = 10  # before a datapoint may stop


class Pace:
    r"""A step size for each datapoint that adapts, and a halt for those that no longer gain.

    A step's gradient comes from fresh noise, so its product with the *last* step estimates, without bias and at no
    cost, what the last direction is still worth: :math:`s_k = \nabla L_k \cdot (\lambda_k - \lambda_{k-1})` nats to
    first order. While the two agree the step size grows, by :math:`e^{\text{adapt} \cos}`, and shrinks where they do
    not. A datapoint whose running mean of s falls below `stop_below` stays where it is.

    Args:
        adapt: Largest change of a log step size in a step; 0 holds it.
        stop_below: Nats a step; none lets every datapoint take every step.

    References:
        Online Learning Rate Adaptation with Hypergradient Descent (Baydin et al., 2018), arXiv:1703.04782
    """

    def __init__(self, adapt: float, stop_below: float | None) -> None:
        self.adapt = adapt
        self.stop_below = stop_below

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to adapt and no one to stop."""
        return self.adapt == 0 and self.stop_below is None

    def init(self, params: Tensor) -> Slots:
        """The last move (B, P), log step size (B, 1), gain (B, 1) and whether at work (B, 1), for λ (B, P)."""
        if self.fixed:
            return ()
        zero = params.new_zeros(len(params), 1)
        return torch.zeros_like(params), zero, zero.clone(), torch.ones_like(zero)

    def __call__(self, move: Tensor, grad: Tensor, k: Tensor, slots: Slots) -> tuple[Tensor, Slots]:
        """The move (B, P) to take in place of `move`."""
        if self.fixed:
            return move, slots
        last, log_rate, gain, active = slots
        worth = -(grad * last).sum(-1, keepdim=True)  # (B, 1)
        if self.adapt:
            cosine = worth / (grad.norm(dim=-1, keepdim=True) * last.norm(dim=-1, keepdim=True)).clamp_min(1e-12)
            log_rate = log_rate + self.adapt * cosine
            move = log_rate.exp() * move
        if self.stop_below is not None:
            gain = torch.where(k > 0, DECAY * gain + (1 - DECAY) * worth, gain)
            mean = gain / (1 - DECAY ** k.clamp_min(1))
            active = active * ((mean > self.stop_below) | (k < MIN_STEPS))
            move = active * move
        return move, (move, log_rate, gain, active)

    def active(self, slots: Slots) -> Tensor:
        """Which datapoints are still at work, (B,), by the last of `slots`."""
        return slots[-1][:, 0] > 0
