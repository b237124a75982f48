"""What each latent dimension tells, in nats."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, kl_divergence

from ..families import Family
from ..inference import ELBO
from ..inference.objective import scored_sites

NUM_DRAWS = 8  # of the layers above


def kl_per_dim(model: Callable, family: Family, x: Tensor, params: Tensor) -> Tensor | None:
    """KL(q ‖ p) of each latent dimension, batch mean, (D,), the model's latent sites side by side.

    Exact where both sides are independent entries with a closed form. Elsewhere it is that of the normals that share
    mean and variance with q and p: a family's correlations and a mixture's modes do not show in it. Sites without
    moments are left out; None if none is left. Layers below the top are averaged over draws of those above.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        elbo = ELBO(num_particles=NUM_DRAWS, path_gradient=False)
        model_trace, guide_trace = elbo.traces(model, lambda x: family.sample(params), x)
    latent = [(guide_trace.nodes[n]["fn"], s["fn"]) for n, s in scored_sites(model_trace) if not s["is_observed"]]
    found = [(_entries(q, p), p.event_shape.numel()) for q, p in latent]  # (..., B, *event_shape)
    kls = [kl.reshape(-1, size).mean(0) for kl, size in found if kl is not None]
    return torch.cat(kls) if kls else None


def _entries(q: Any, p: Any) -> Tensor | None:
    if isinstance(q, Independent) and isinstance(p, Independent) and not q.base_dist.event_shape:
        try:
            return kl_divergence(q.base_dist, p.base_dist)
        except NotImplementedError:
            pass
    if isinstance(q, TransformedDistribution):
        return None  # positive, or on a simplex, say: no place for normals
    try:
        ratio = q.variance / p.variance
        return 0.5 * (ratio + (q.mean - p.mean).square() / p.variance - 1 - ratio.log())
    except NotImplementedError:
        return None
