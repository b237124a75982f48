"""A family with a KL and no density: Poisson counts, relaxed so that draws are differentiable."""

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import nn
from torch.distributions.kl import register_kl

import pyrovae as pv


class RelaxedPoisson(dist.TorchDistribution):
    """Arrivals in a time of 1 at `rate`; each counts σ((1 - t) / temperature), and as 0 or 1 at temperature 0."""

    arg_constraints, support, has_rsample = {}, constraints.positive, True

    def __init__(self, rate, temperature, max_count):
        self.rate, self.temperature, self.max_count = rate, temperature, max_count
        self.mean = self.variance = rate
        super().__init__(rate.shape, validate_args=False)

    def rsample(self, sample_shape=()):
        shape = self._extended_shape(torch.Size(sample_shape))
        waits = torch.empty(*shape, self.max_count, dtype=self.rate.dtype, device=self.rate.device).exponential_()
        times = waits.cumsum(-1) / self.rate[..., None]
        return ((1 - times) / self.temperature).sigmoid().sum(-1)

    def expand(self, batch_shape, _instance=None):
        return RelaxedPoisson(self.rate.expand(batch_shape), self.temperature, self.max_count)


@register_kl(RelaxedPoisson, dist.Poisson)
def _(q, p):
    return q.rate * (q.rate / p.rate).log() - q.rate + p.rate  # of the counts that are relaxed


class PoissonFamily(pv.Family):
    """Independent counts, λ = log rate, P = D (Poisson Variational Autoencoder, Vafaii et al., 2024, arXiv:2405.14473)."""

    density = "none"

    def __init__(self, z_dim, *, temperature=0.1, max_count=30):
        super().__init__(z_dim)
        self.num_params, self.max_count = z_dim, max_count
        self.register_buffer("temperature", torch.tensor(temperature))  # which a schedule may move

    def forward(self, params):
        return RelaxedPoisson(params.exp(), self.temperature, self.max_count).to_event(1)


class PoissonPrior(nn.Module):
    """Independent counts of learned rates."""

    def __init__(self, z_dim):
        super().__init__()
        self.log_rate = nn.Parameter(torch.zeros(z_dim))

    def forward(self):
        return dist.Poisson(self.log_rate.exp()).to_event(1)
