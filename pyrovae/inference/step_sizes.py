"""Step sizes of annealing's transitions."""

import math

import torch
from torch import Tensor

from .annealing import Annealing, repeated

TARGET_ACCEPTANCE = 0.65  # the best share for long trajectories in many dimensions
MAX_CHAINS = 4
MIN_TRANSITIONS = 100  # on the way, however short the path is
WARMUP, FAST, SLOW = 20, 0.5, 0.2  # transitions before it, and how fast the log step size moves then and on the way


def tuned_step_sizes(annealing: Annealing, x: Tensor, params: Tensor, num_chains: int) -> tuple[Tensor, ...]:
    """Step sizes (B,) for each temperature but 0 and 1, from a run of a few chains of its own.

    Held fixed in the next run they leave its weights unbiased; step sizes that adapt within a run do not.

    Args:
        annealing: The path.
        x: Data (B, *x_shape).
        params: λ (B, P).
        num_chains: Of the next run; no more are taken here.
    """
    num = min(num_chains, MAX_CHAINS)
    size = x.new_full((x.shape[0],), 0.5)
    x, params = repeated(num, x, params)
    u = annealing.draw_start(x, params)
    stays = math.ceil(MIN_TRANSITIONS / annealing.num_steps)
    terms = annealing.capture.bind(x, params, u, calls=annealing.num_steps * stays * annealing.num_leapfrog)
    found, sizes = terms(x, params, u), []
    for t in range(annealing.num_steps):
        for _ in range(stays if t else WARMUP):
            beta = annealing.betas[t]
            u, found, acceptance = annealing.transition(terms, x, params, u, found, beta, size.repeat(num))
            error = acceptance.reshape(num, -1).mean(0) - TARGET_ACCEPTANCE
            size = size * ((SLOW if t else FAST) * error).exp()
        sizes.append(size)
    return torch.stack(sizes)[1:].unbind()
