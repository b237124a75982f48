"""Objectives beside the ELBO from draws: KL in closed form, importance weights."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Independent, kl_divergence

from ..distributions.composed import Conditional
from ..distributions.numerics import full_precision, held_fixed
from ..validation import NonNegativeFloat, PositiveInt, validated
from .elbo import Beta, Objective, Program, latent_sites_of, scored_sites


class AnalyticELBO(Objective):
    r"""The ELBO with KL(q ‖ p) in closed form where torch knows one; elsewhere from the draw, by path gradients.

    A family that has a KL to the prior needs no density for it. With `free_bits` λ > 0, a latent dimension pays for its
    information above λ nats only, batch mean:

    .. math:: \sum_i E_q \log p(x_i \mid z) - \beta B \sum_d \max\big(\lambda, \tfrac1B \sum_i KL_{id}\big)

    A site whose KL is not a sum over its dimensions has one allowance of D λ nats.

    Args:
        beta, num_particles: As in `ELBO`.
        free_bits: λ, nats a dimension that cost nothing.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.3, estimator B, arXiv:1312.6114
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), C.8, arXiv:1606.04934

    >>> AnalyticELBO(free_bits=0.1).scaled(0.5).beta  # a copy, for a warm-up
    0.5
    """

    scores_latents = False

    @validated
    def __init__(self, beta: Beta = 1.0, *, num_particles: PositiveInt = 1, free_bits: NonNegativeFloat = 0.0) -> None:
        super().__init__(num_particles, beta, path_gradient=False)  # q stays attached for the closed form
        self.free_bits = free_bits

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        model_trace, guide_trace = self.traces(model, guide, *args, **kwargs)
        batch = args[0].shape[0]
        loss: Any = 0.0
        with full_precision(args[0]):
            for name, site in scored_sites(model_trace):
                if site["is_observed"]:
                    loss = loss - site["log_prob_sum"] / self.num_particles
                    continue
                kl, allowance = self._kl(guide_trace.nodes[name], site)
                mean = kl.reshape(self.num_particles * batch, -1).mean(0)
                if self.free_bits > 0:
                    mean = mean.clamp_min(self.free_bits * allowance)
                loss = loss + self.beta * batch * mean.sum()
        return loss + self.factors(guide_trace)

    def _kl(self, guide_site: Any, model_site: Any) -> tuple[Tensor, int]:
        """KL of a site (..., B), or (..., B, D) where it is such a sum; and of how many dimensions each entry is."""
        q, p, z = guide_site["fn"], model_site["fn"], guide_site["value"]
        dim, shape = q.event_shape.numel(), z.shape[: z.dim() - len(q.event_shape)]  # (..., B)
        try:
            if self.free_bits > 0 and isinstance(q, Independent) and isinstance(p, Independent):
                return kl_divergence(q.base_dist, p.base_dist).expand(*shape, *q.event_shape), 1
            return kl_divergence(q, p).expand(shape), dim
        except NotImplementedError:
            return (guide_site["scored_by"] or held_fixed(q)).log_prob(z) - p.log_prob(z), dim


class IWAE(Objective):
    r"""The importance-weighted bound per datapoint, summed over the batch, in nats.

    .. math:: L_S = E_{z_1 \ldots z_S \sim q} \log \frac1S \sum_j w_j, \qquad w_j = \frac{p(x, z_j)}{q(z_j \mid x)}

    With `doubly_reparameterized` (DReG) the guide's gradient is :math:`\sum_j \tilde w_j^2 \, \partial_z \log w_j \,
    \partial_\phi z_j` with normalised weights :math:`\tilde w_j`: the same mean, less noise, and a signal that does not
    fade as S grows. The model's gradient is the ordinary one, of weights :math:`\tilde w_j`. β is as in `ELBO`, and
    `num_particles` S. (`pyro.infer.RenyiELBO` weighs whole batches, and has no differentiable loss.)

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019), arXiv:1810.04152

    >>> import torch, pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> guide = pv.AmortizedGuide(family, pv.nets.MLP((4,), (family.num_params,)))
    >>> pv.IWAE(num_particles=5)(model, guide)(torch.ones(8, 4)).backward()
    """

    @validated
    def __init__(
        self, beta: Beta = 1.0, *, num_particles: PositiveInt = 5, doubly_reparameterized: bool = True
    ) -> None:
        super().__init__(num_particles, beta, path_gradient=doubly_reparameterized)
        self.doubly_reparameterized = doubly_reparameterized

    @property
    def twice_differentiable(self) -> bool:  # type: ignore[override]
        return not self.doubly_reparameterized  # its weights are held fixed

    def _shown(self, guide_trace: Any, replayed: Callable[[Any], Any]) -> Any:
        chained = any(isinstance(site["fn"], Conditional) for _, site in latent_sites_of(guide_trace))
        if not (chained and self.doubly_reparameterized):
            return guide_trace
        # The gradient of a draw that others are made of has a part that comes by those, and is weighted there. Aliases
        # of the draws, which densities see and the draws made of them do not, tell the two apart.
        aliased = guide_trace.copy()
        for name, site in latent_sites_of(guide_trace):
            aliased.nodes[name] = {**site, "value": site["value"].view_as(site["value"])}
        again = replayed(aliased)
        for name, site in latent_sites_of(aliased):
            site["fn"] = again.nodes[name]["fn"]
        return aliased

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        model_trace, guide_trace = self.traces(model, guide, *args, **kwargs)
        log_weight = log_weights_of(model_trace, guide_trace, self.num_particles, args[0].shape[0])
        loss = -(log_weight.logsumexp(0) - math.log(self.num_particles)).sum()
        if self.doubly_reparameterized:
            share = log_weight.softmax(0).detach()  # (S, B)
            for _, site in latent_sites_of(guide_trace):
                z, event_dim = site["value"], len(site["fn"].event_shape)
                factor = share.reshape(*z.shape[: z.dim() - event_dim], *[1] * event_dim)
                if z.requires_grad:  # one factor of the share is in the loss, the other comes here
                    z.register_hook(lambda grad, factor=factor: grad * factor)
        return loss + self.factors(guide_trace)


def log_weights_of(model_trace: Any, guide_trace: Any, num_particles: int, batch: int) -> Tensor:
    """log p(x, z) - log q(z | x) from `Objective.traces`, per draw and datapoint, (S, B)."""
    total: Any = sum(site["log_prob"] for _, site in scored_sites(model_trace))
    for _, site in latent_sites_of(guide_trace):
        total = total - site["log_prob"]
    return total.reshape(num_particles, batch)
