"""Scales that stay finite, full precision under autocast, and parameters held fixed."""

from typing import Any

import torch
from pyro.distributions.util import detach
from torch import Tensor

MIN_SCALE = 1e-5  # added to every scale: float32 keeps log-densities and their gradients finite
MAX_LOG_SCALE = 10.0


def positive_scale(log_scale: Tensor) -> Tensor:
    """exp, capped above and floored below."""
    return log_scale.clamp(max=MAX_LOG_SCALE).exp() + MIN_SCALE


def scale_slope(log_scale: Tensor) -> Tensor:
    """d `positive_scale` / d `log_scale`; not below the floor, for natural gradients divide by it."""
    return log_scale.clamp(max=MAX_LOG_SCALE).exp().clamp_min(MIN_SCALE)


def full_precision(x: torch.Tensor) -> torch.autocast:
    """Disables autocast on the device of `x`.

    Matrix products of the networks may run in bfloat16; sampling and log-densities may not: a
    Poisson log-probability summed in bfloat16 is off by whole nats.
    """
    return torch.autocast(x.device.type, enabled=False)


def held_fixed(q: Any) -> Any:
    """A copy of `q` whose parameters take no gradient; a draw's own path stays.

    A distribution that knows better than `pyro.distributions.util.detach`, a flow that remembers where its draws come
    from say, has a method `held_fixed` of its own.
    """
    return q.held_fixed() if hasattr(q, "held_fixed") else detach(q)
