"""Windows of steps towards the best λ of each datapoint."""

from functools import cache

import torch
from torch import Tensor, nn

from ..families import Family
from .precise_terms import precise_terms
from .programs import scalar
from .svi_refiner import SVIRefiner

STEP_SIZES = 0.03, 0.003  # Adam's first and last; between them each is a third of the one before
SHRINK = 1 / 3


class Search:
    """λ of all datapoints so far, and the state of those that still move; `optimum` says by what rule.

    Runs with gradients on and the model held still.
    """

    def __init__(self, model: nn.Module, family: Family, x: Tensor, start: Tensor, num_particles: int) -> None:
        self.model, self.family, self.x = model, family, x
        self.best = start
        self.num_steps = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.converged = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.taken = 0
        self.step, self.capture, _ = _refiner(num_particles).programs(model, family)
        largest, self.smallest = STEP_SIZES
        # Of those that still move:
        self.rows = torch.arange(len(x), device=x.device)
        self.lr = start.new_full((len(x), 1), largest)
        self.windows = torch.zeros_like(self.lr)  # how many windows the best λ is the mean of
        self.state = self.step.init(start)

    def steps(self, count: int) -> Tensor:
        """Takes so many steps; returns the mean of λ over the second half of them."""
        x, one = self.x[self.rows], scalar(1.0, self.best)
        total, first = torch.zeros_like(self.state[1]), count // 2
        advance = self.capture.bind(x, one, self.lr, one, *self.state, calls=count)
        for k in range(count):
            self.state = advance(x, one, self.lr, one, *self.state)
            if k >= first:
                total = total + self.state[1]
        self.taken += count
        self.num_steps[self.rows] += count
        return total / (count - first)

    def judge(self, average: Tensor, tolerance: float, num_particles: int) -> None:
        """Keeps `average` where it is better, lowers step sizes, and lets those that have converged rest."""
        rows, best = self.rows, self.best[self.rows]
        blend = torch.lerp(best, average, 1 / (self.windows + 1))
        candidates = torch.stack([best, average, blend])  # (3, B, P)
        terms = precise_terms(self.model, self.family, self.x[rows], *candidates, num_particles=num_particles)
        elbo = torch.stack([one.elbo() for one in terms])  # (3, B)
        elbo = torch.where(elbo.isfinite() & candidates.isfinite().all(-1), elbo, -torch.inf)
        chosen = elbo.argmax(0)  # (B,) the first of equals: at NaN all over, the best so far
        each = torch.arange(len(rows), device=rows.device)
        best, gain = candidates[chosen, each], elbo[chosen, each] - elbo[0]
        self.best = self.best.index_copy(0, rows, best)
        self.windows = torch.where((chosen == 1)[:, None], 1.0, self.windows + (chosen == 2)[:, None])
        still = ~(gain > tolerance)
        at_last = still & (self.lr[:, 0] <= self.smallest)
        self.converged[rows] = at_last & elbo[chosen, each].isfinite()
        self.lr = torch.where(still[:, None], (self.lr * SHRINK).clamp_min(self.smallest), self.lr)
        self._keep(~at_last, best)

    def _keep(self, moving: Tensor, best: Tensor) -> None:
        """The next window starts at the best λ with the moments of the last, unless those are not finite."""
        k, _, *slots = self.state
        slots = [slot.nan_to_num(0.0, 0.0, 0.0)[moving] for slot in slots]
        self.rows, self.lr, self.windows = self.rows[moving], self.lr[moving], self.windows[moving]
        self.state = k, best[moving], *slots


@cache
def _refiner(num_particles: int) -> SVIRefiner:
    """Keeps the compiled steps of the last few models, for one is asked for several splits."""
    return SVIRefiner(num_particles=num_particles, safeguard=False)
