"""Data from the model itself, with the z that made them, and how much z tells of x."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..capture import isolated
from ..distributions import full_precision, joined
from ..families import Family
from ..validation import PositiveInt, validated
from .elbo import scored_sites


@validated
def simulate(
    model: Callable, like: Tensor, num: PositiveInt, sites: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    r"""Draws from the model, :math:`z \sim p(z)`, :math:`x \sim p(x \mid z)`; takes no gradient.

    Args:
        model: Pyro model of plate `"data"`, with one observed site.
        like: Data (B, *x_shape); only shape, type and device count.
        sites: Latent sites in the order that a family has them in; by default `model.sites`, else the model's own.

    Returns:
        z, the flattened sites side by side, (N, D), and x (N, *x_shape), N = `num`.

    Raises:
        ValueError: Not one observed site.

    >>> import pyrovae as pv
    >>> z, x = simulate(pv.models.mlp((4,), z_dim=2), torch.zeros(1, 4), num=10)
    >>> z.shape, x.shape
    (torch.Size([10, 2]), torch.Size([10, 4]))
    """
    x, latent = draw_joint(model, like[:1].expand(num, *like.shape[1:]))
    chosen = [latent[name] for name in sites or getattr(model, "sites", latent)]
    z = joined([site["value"] for site in chosen], [len(site["fn"].event_shape) for site in chosen])
    return z, x


def draw_joint(model: Callable, like: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """x, shaped as `like` (B, *x_shape), and the latent sites that made it, by name; errors as in `simulate`."""
    with torch.no_grad(), isolated(), pyro.validation_enabled(False):
        trace = poutine.trace(poutine.uncondition(model)).get_trace(like)
    sites = dict(scored_sites(trace))
    observed = [name for name, site in sites.items() if site["infer"].get("was_observed")]
    if len(observed) != 1 or sites[observed[0]]["value"].shape != like.shape:
        found = ", ".join(f"{name!r} of shape {tuple(sites[name]['value'].shape)}" for name in observed)
        raise ValueError(
            f"the model must have one observed site, got {len(observed)}: {found or 'none'}; write obs=x, of shape "
            f"{tuple(like.shape)}, at that of the data"
        )
    return sites.pop(observed[0])["value"].to(like.dtype), sites


ROWS, COLUMNS = 20, 500  # of the table of log q(z_i | x_j) at a time; larger blocks leave the cache


def mutual_information(family: Family, params: Tensor) -> Tensor:
    r"""A draw's estimate of the information between x and z under q, per datapoint (B,), in nats; takes no gradient.

    .. math:: I_q(x; z) = E_x KL(q(z \mid x) \,\|\, p(z)) - KL(q(z) \,\|\, p(z))
        = E_x E_{q(z \mid x)} [\log q(z \mid x) - \log q(z)], \qquad q(z) = \tfrac1B \sum_j q(z \mid x_j)

    With the aggregate posterior of these B datapoints, its mean is at most log B. The prior cancels. `family` is one of
    `density` "any", and `params` λ (B, P). Work grows by the square of B, memory does not.

    References:
        ELBO surgery (Hoffman & Johnson, 2016), approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Lagging Inference Networks and Posterior Collapse in VAEs (He et al., 2019), section 4.2, arXiv:1901.05534

    >>> import pyrovae as pv
    >>> mutual_information(pv.DiagonalNormal(2), torch.zeros(8, 4)).abs().max()  # all alike
    tensor(0.)
    """
    with torch.no_grad(), isolated(), pyro.validation_enabled(False), full_precision(params):
        trace = poutine.trace(lambda: family.sample(params)).get_trace()
        z = {name: site["value"] for name, site in scored_sites(trace)}  # (B, *event_shape) each
        information = _log_prob(partial(family.sample, params), z)
        for rows in torch.arange(len(params)).split(ROWS):
            scores = []
            for block in params.split(COLUMNS):
                # Through the family's program, for in a ladder q of a layer depends on the draw of the one above.
                values = {n: v[rows].unsqueeze(1).expand(-1, len(block), *v.shape[1:]) for n, v in z.items()}
                with pyro.plate("draws", len(rows), dim=-2):
                    scores.append(_log_prob(partial(family.sample, block), values))  # (R, columns)
            information[rows] -= torch.cat(scores, -1).logsumexp(-1) - math.log(len(params))
        return information


def _log_prob(program: Callable, values: dict[str, Tensor]) -> Tensor:
    """log-density of latent values under a Pyro program, (..., B)."""
    trace = poutine.trace(poutine.condition(program, values)).get_trace()
    trace.compute_log_prob(lambda name, site: name in values)
    return torch.stack([trace.nodes[name]["log_prob"] for name in values]).sum(0)
