"""The importance-weighted bound, as a number and as an objective."""

import math
from collections.abc import Callable
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from ..families import Family
from .importance import log_weights, log_weights_of
from .importance_diagnostics import iwae_bounds
from .objective import Objective, scored_sites


class IWAE(Objective):
    r"""The importance-weighted bound per datapoint, summed over the batch, in nats.

    .. math:: L_S = E_{z_1 \ldots z_S \sim q} \log \frac1S \sum_j w_j, \qquad w_j = \frac{p(x, z_j)}{q(z_j \mid x)}

    With `doubly_reparameterized` the guide's gradient is that of DReG, :math:`\sum_j \tilde w_j^2 \, \partial_z \log
    w_j \, \partial_\phi z_j` with normalised weights :math:`\tilde w_j`: the same mean, less noise, and a signal that
    does not fade as S grows. The model's gradient is the ordinary one, of weights :math:`\tilde w_j`.

    (`pyro.infer.RenyiELBO` weighs whole batches, and has no differentiable loss.)

    Args:
        beta: Weight of the latent sites' log-densities.
        num_particles: S.
        doubly_reparameterized: DReG; needs a guide with one latent site.

    Raises:
        ValueError: `num_particles` below 1, a guide site without `rsample`, or DReG with several latent sites.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019), arXiv:1810.04152
    """

    def __init__(
        self, beta: float | Tensor = 1.0, *, num_particles: PositiveInt = 5, doubly_reparameterized: bool = True
    ) -> None:
        super().__init__(num_particles, beta, path_gradient=doubly_reparameterized)
        self.doubly_reparameterized = doubly_reparameterized

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        model_trace, guide_trace = self.traces(model, guide, *args, **kwargs)
        log_weight = log_weights_of(model_trace, guide_trace, self.num_particles, args[0].shape[0])
        loss = -(log_weight.logsumexp(0) - math.log(self.num_particles)).sum()
        if self.doubly_reparameterized:
            latent = [site for _, site in scored_sites(guide_trace) if not site["is_observed"]]
            if len(latent) > 1:
                names = ", ".join(site["name"] for site in latent)
                raise ValueError(f"doubly_reparameterized is for one latent site, got {names}; set it to False")
            z, share = latent[0]["value"], log_weight.softmax(0).detach()  # (S, B)
            if z.requires_grad:  # one factor of the share is in the loss, the other comes here
                z.register_hook(lambda grad: grad * share.reshape(grad.shape[:-1]).unsqueeze(-1))
        for _, site in scored_sites(guide_trace):
            if site["is_observed"]:  # a factor, of the encoder's loss say
                loss = loss + site["log_prob_sum"] / self.num_particles
        return loss


def iwae(
    model: nn.Module, family: Family, x: Tensor, params: Tensor, num_samples: int = 1000, chunk_size: int | None = None
) -> Tensor:
    r"""The bound of `IWAE` per datapoint, (B,), in nats; takes no gradient.

    It grows with k = `num_samples` to log p(x), from the ELBO at k = 1.

    Args:
        model: Pyro model of plate `"data"`.
        family: Turns λ into q.
        x: Data (B, *x_shape).
        params: λ (B, P).
        num_samples: k.
        chunk_size: As in `log_weights`.

    Raises:
        ValueError: A number below 1.

    Reference:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519
    """
    return iwae_bounds(log_weights(model, family, x, params, num_samples, chunk_size), [num_samples])[0]
