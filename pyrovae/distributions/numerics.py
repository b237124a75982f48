"""Scales that stay finite, full precision under autocast, and parameters held fixed."""

from typing import Any

import torch
from pyro.distributions.util import detach
from torch import Tensor

MIN_SCALE = 1e-5  # added to every scale: float32 keeps log-densities and their gradients finite
MAX_LOG_SCALE = 10.0


def positive_scale(log_scale: Tensor) -> Tensor:
    """exp, capped above and floored below.

    >>> positive_scale(torch.tensor([-100.0, 0.0, 100.0]))
    tensor([1.0000e-05, 1.0000e+00, 2.2026e+04])
    """
    return log_scale.clamp(max=MAX_LOG_SCALE).exp() + MIN_SCALE


def scale_slope(log_scale: Tensor) -> Tensor:
    """d `positive_scale` / d `log_scale`; not below the floor, for natural gradients divide by it.

    >>> scale_slope(torch.tensor([-100.0, 0.0]))
    tensor([1.0000e-05, 1.0000e+00])
    """
    return log_scale.clamp(max=MAX_LOG_SCALE).exp().clamp_min(MIN_SCALE)


def full_precision(x: torch.Tensor) -> torch.autocast:
    """Disables autocast on the device of `x`.

    Networks may run in bfloat16; sampling and log-densities may not: a Poisson's, summed so, is off by whole nats.

    >>> with torch.autocast("cpu", torch.bfloat16), full_precision(x := torch.ones(2, 2)):
    ...     (x @ x).dtype
    torch.float32
    """
    return torch.autocast(x.device.type, enabled=False)


def held_fixed(q: Any) -> Any:
    """A copy of `q` whose parameters take no gradient; a draw's own path stays.

    By a method `held_fixed` of q if it has one, as a flow that remembers where its draws come from.

    >>> import pyro.distributions as dist
    >>> held_fixed(dist.Normal(torch.zeros(3, requires_grad=True), 1.0)).loc.requires_grad
    False
    """
    return q.held_fixed() if hasattr(q, "held_fixed") else detach(q)
