"""The ELBO with its KL term in closed form, and free bits."""

from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from ..distributions import full_precision, held_fixed
from .objective import Objective, scored_sites


class AnalyticELBO(Objective):
    r"""The ELBO with KL(q ‖ p) in closed form where torch knows one; elsewhere from the draw, by path gradients.

    With `free_bits` λ > 0, a latent dimension pays for its information above λ nats only, batch mean:

    .. math:: \sum_i E_q \log p(x_i \mid z) - \beta B \sum_d \max\big(\lambda, \tfrac1B \sum_i KL_{id}\big)

    A site whose KL is not a sum over its dimensions has one allowance of D λ nats.

    Args:
        beta: Weight of the KL term.
        num_particles: Draws of z a datapoint, in one vectorised pass.
        free_bits: λ, nats a dimension that cost nothing.

    Raises:
        ValueError: A number out of range, or a guide site without `rsample`.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.3, estimator B, arXiv:1312.6114
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), appendix C.8,
        arXiv:1606.04934
    """

    def __init__(
        self, beta: float | Tensor = 1.0, *, num_particles: PositiveInt = 1, free_bits: NonNegativeFloat = 0.0
    ) -> None:
        super().__init__(num_particles, beta, path_gradient=False)  # q stays attached for the closed form
        if not free_bits >= 0:
            raise ValueError(f"free_bits must be >= 0, got {free_bits}; 0 for none")
        self.free_bits = free_bits

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
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
        for _, site in scored_sites(guide_trace):
            if site["is_observed"]:  # a factor, of the encoder's loss say
                loss = loss + site["log_prob_sum"] / self.num_particles
        return loss

    def _kl(self, guide_site: Any, model_site: Any) -> tuple[Tensor, int]:
        """KL of a site (..., B), or (..., B, D) where it is such a sum; and of how many dimensions each entry is."""
        q, p = guide_site["fn"], model_site["fn"]
        dim = q.event_shape.numel()
        shape = guide_site["log_prob"].shape  # (..., B)
        try:
            if self.free_bits > 0 and isinstance(q, Independent) and isinstance(p, Independent):
                entries = kl_divergence(q.base_dist, p.base_dist)
                return entries.expand(*shape, *q.event_shape), 1
            return kl_divergence(q, p).expand(shape), dim
        except NotImplementedError:
            z = guide_site["value"]
            return held_fixed(q).log_prob(z) - p.log_prob(z), dim
