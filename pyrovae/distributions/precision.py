"""Keep distribution maths out of autocast."""

import torch


def full_precision(x: torch.Tensor) -> torch.autocast:
    """Disables autocast on the device of `x`.

    Matrix products of the networks may run in bfloat16; sampling and log-densities may not: a
    Poisson log-probability summed in bfloat16 is off by whole nats.
    """
    return torch.autocast(x.device.type, enabled=False)
