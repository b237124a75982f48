"""Data from the model itself, with the z that made them."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..capture import isolated
from ..distributions import joined
from .objective import scored_sites


def simulate(model: Callable, like: Tensor, num: int, sites: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    r"""Draws from the model, :math:`z \sim p(z)`, :math:`x \sim p(x \mid z)`; takes no gradient.

    Args:
        model: Pyro model of plate `"data"`, with one observed site.
        like: Data (B, *x_shape); only shape, type and device count.
        num: Draws, N.
        sites: Latent sites in the order that a family has them in; by default `model.sites`, else the model's own.

    Returns:
        z, the flattened sites side by side, (N, D), and x (N, *x_shape).

    Raises:
        ValueError: `num` below 1, or not one observed site.
    """
    if num < 1:
        raise ValueError(f"num must be >= 1, got {num}")
    x, latent = draw_joint(model, like[:1].expand(num, *like.shape[1:]))
    chosen = [latent[name] for name in sites or getattr(model, "sites", latent)]
    z = joined([site["value"] for site in chosen], [len(site["fn"].event_shape) for site in chosen])
    return z, x


def draw_joint(model: Callable, like: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """x, shaped as `like` (B, *x_shape), and the latent sites that made it, by name; takes no gradient.

    Raises:
        ValueError: Not one observed site, or one of another shape.
    """
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
