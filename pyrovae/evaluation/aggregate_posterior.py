"""What q tells of all the data together: ELBO surgery."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..capture import isolated
from ..distributions import full_precision
from ..families import Family
from ..inference.elbo import scored_sites

ROWS, COLUMNS = 20, 500  # of the table of log q(z_i | x_j) at a time; larger blocks leave the cache


class Surgery(NamedTuple):
    """The terms of each datapoint's draw, (N,), in nats: `kl` = `information` + `aggregate_kl`."""

    kl: Tensor  # log q(z | x) - log p(z)
    information: Tensor  # log q(z | x) - log q(z)
    aggregate_kl: Tensor  # log q(z) - log p(z)


def elbo_surgery(model: Callable, family: Family, x: Tensor, params: Tensor) -> Surgery:
    r"""Splits the ELBO's KL into what z tells of x, and how far the aggregate posterior is from the prior.

    .. math:: E_x KL(q(z \mid x) \,\|\, p(z)) = I_q(x; z) + KL(q(z) \,\|\, p(z)), \qquad
        q(z) = \tfrac1N \sum_j q(z \mid x_j)

    From one draw a datapoint. The information is at most log N on average, so N must be large beside its exponential.
    Takes no gradient.

    Args:
        model: Pyro model of plate `"data"`.
        family: One whose q can score any z.
        x: Data (N, *x_shape).
        params: λ (N, P).

    Reference:
        ELBO surgery (Hoffman & Johnson, 2016), approximateinference.org/accepted/HoffmanJohnson2016.pdf
    """
    with torch.no_grad(), isolated(), pyro.validation_enabled(False), full_precision(params):
        trace = poutine.trace(lambda: family.sample(params)).get_trace()
        z = {name: site["value"] for name, site in scored_sites(trace)}  # (N, *event_shape) each
        own = _log_prob(lambda: family.sample(params), z)
        prior = torch.cat(
            [
                _log_prob(lambda part=part: model(part), {name: value[rows] for name, value in z.items()})
                for rows, part in zip(torch.arange(len(x)).split(COLUMNS), x.split(COLUMNS), strict=True)
            ]
        )
        aggregate = torch.cat([_log_aggregate(family, params, z, rows) for rows in torch.arange(len(x)).split(ROWS)])
    return Surgery(own - prior, own - aggregate, aggregate - prior)


def _log_aggregate(family: Family, params: Tensor, z: dict[str, Tensor], rows: Tensor) -> Tensor:
    """log q(z) of the draws of some rows, (R,)."""
    scores = []
    for block in params.split(COLUMNS):
        # Through the family's program, for in a ladder q of a layer depends on the draw of the one above.
        values = {n: v[rows].unsqueeze(1).expand(-1, len(block), *v.shape[1:]) for n, v in z.items()}
        with pyro.plate("draws", len(rows), dim=-2):
            scores.append(_log_prob(lambda block=block: family.sample(block), values))  # (R, columns)
    return torch.cat(scores, -1).logsumexp(-1) - math.log(len(params))


def _log_prob(program: Callable, values: dict[str, Tensor]) -> Tensor:
    """log-density of latent values under a Pyro program, (..., B)."""
    trace = poutine.trace(poutine.condition(program, values)).get_trace()
    trace.compute_log_prob(lambda name, site: name in values)
    return torch.stack([trace.nodes[name]["log_prob"] for name in values]).sum(0)
