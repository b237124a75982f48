"""How much z tells of x."""

import math

import torch
from torch import Tensor

from ..distributions import full_precision
from ..families import Family


def mutual_information(family: Family, params: Tensor) -> Tensor:
    r"""A draw's estimate of the information between x and z under q, per datapoint (B,), in nats; takes no gradient.

    .. math:: I_q(x; z) = E_x KL(q(z \mid x) \,\|\, p(z)) - KL(q(z) \,\|\, p(z))
        = E_x E_{q(z \mid x)} [\log q(z \mid x) - \log q(z)], \qquad q(z) = \tfrac1B \sum_j q(z \mid x_j)

    With the aggregate posterior of these B datapoints, its mean is at most log B. The prior cancels.

    Args:
        family: Turns λ into q; one whose q can score any z.
        params: λ (B, P).

    References:
        ELBO surgery (Hoffman & Johnson, 2016), approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Lagging Inference Networks and Posterior Collapse in VAEs (He et al., 2019), section 4.2, arXiv:1901.05534
    """
    with torch.no_grad(), full_precision(params):
        q = family(params)
        scores = q.log_prob(q.sample().unsqueeze(-2))  # (B, B): of the row's draw under the column's q
        return scores.diagonal() - scores.logsumexp(-1) + math.log(params.shape[0])
