"""The importance-weighted bound."""

import math

import pyro
import torch
from torch import Tensor, nn

from ..families import Family
from .elbo import log_weights


def iwae(
    model: nn.Module, family: Family, x: Tensor, params: Tensor, num_samples: int = 1000, chunk_size: int = 50
) -> Tensor:
    r"""A lower bound on log p(x) per datapoint, in nats; takes no gradient.

    .. math:: L_k = E_{z_1 \ldots z_k \sim q} \log \frac1k \sum_j \frac{p(x, z_j)}{q(z_j \mid x)}

    It grows with k to log p(x), from the ELBO at k = 1.

    Args:
        model: Pyro model of plate `"data"`.
        family: Turns λ into q.
        x: Data (B, *x_shape).
        params: λ (B, P).
        num_samples: k.
        chunk_size: Draws scored at a time; bounds memory.

    Returns:
        (B,)

    Raises:
        ValueError: A number below 1.

    Reference:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519
    """
    for name, value in (("num_samples", num_samples), ("chunk_size", chunk_size)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    total = x.new_full((x.shape[0],), -math.inf)
    with torch.no_grad(), pyro.validation_enabled(False):
        for start in range(0, num_samples, chunk_size):
            draws = min(chunk_size, num_samples - start)
            total = torch.logaddexp(total, log_weights(model, family, x, params, draws).logsumexp(0))
    return total - math.log(num_samples)
