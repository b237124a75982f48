"""A family with a KL and no density: Poisson counts, relaxed (Poisson VAE, Vafaii et al., 2024, arXiv:2405.14473)."""

import pyro.distributions as dist
import torch

import pyrovae as pv


class RelaxedPoisson(dist.TorchDistribution):
    """How many of 30 arrivals at `rate` come before time 1, with a soft end: counts at temperature 0."""

    arg_constraints, support, has_rsample = {}, dist.constraints.positive, True
    mean = variance = property(lambda self: self.rate)

    def __init__(self, rate, temperature):
        self.rate, self.temperature = rate, temperature
        super().__init__(rate.shape, validate_args=False)

    def rsample(self, sample_shape=()):
        waits = self.rate.new_empty(*self._extended_shape(torch.Size(sample_shape)), 30).exponential_()
        return ((1 - waits.cumsum(-1) / self.rate[..., None]) / self.temperature).sigmoid().sum(-1)

    def expand(self, batch_shape, _instance=None):
        return RelaxedPoisson(self.rate.expand(batch_shape), self.temperature)


@torch.distributions.kl.register_kl(RelaxedPoisson, dist.Poisson)
def kl_of_counts(q, p):
    return q.rate * (q.rate / p.rate).log() - q.rate + p.rate


class PoissonFamily(pv.Family):
    density = "none"

    def __init__(self, z_dim, *, temperature=0.1):
        super().__init__(z_dim)
        self.num_params = z_dim  # λ = log rate
        self.register_buffer("temperature", torch.tensor(temperature))  # a schedule may move it

    def forward(self, params):
        return RelaxedPoisson(params.exp(), self.temperature).to_event(1)


class PoissonPrior(torch.nn.Module):
    def __init__(self, z_dim):
        super().__init__()
        self.log_rate = torch.nn.Parameter(torch.zeros(z_dim))

    def forward(self):
        return dist.Poisson(self.log_rate.exp()).to_event(1)
