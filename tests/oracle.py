"""Closed forms for the linear-Gaussian model, and noise that makes Monte Carlo exact.

z ~ N(0, I_d), x | z ~ N(W z + b, σ² I_D); Λ = I + WᵀW / σ², m = Λ⁻¹ Wᵀ (x - b) / σ² are the posterior's precision and mean.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal

import pyrovae as pv


@dataclass(frozen=True)
class LinearGaussian:
    """A random model with its exact quantities, in float64."""

    model: pv.VAE
    x: Tensor  # (B, D)

    @classmethod
    def random(cls, d: int = 3, D: int = 5, batch: int = 4, sigma: float = 0.7, seed: int = 0) -> "LinearGaussian":
        generator = torch.Generator().manual_seed(seed)
        decoder = nn.Linear(d, D).double()
        for parameter in decoder.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        likelihood = pv.models.likelihoods.Normal(1, scale=sigma)
        model = pv.VAE(pv.models.priors.StandardNormal(d), decoder, likelihood).double()
        return cls(model, 2 * torch.randn(batch, D, generator=generator, dtype=torch.float64))

    @property
    def W(self) -> Tensor:
        return self.model.decoder.weight.detach()

    @property
    def b(self) -> Tensor:
        return self.model.decoder.bias.detach()

    @property
    def variance(self) -> Tensor:
        return self.model.likelihood.log_scale.detach().exp() ** 2

    @property
    def precision(self) -> Tensor:
        return torch.eye(self.W.shape[1], dtype=torch.float64) + self.W.T @ self.W / self.variance

    @property
    def mean(self) -> Tensor:  # (B, d)
        return torch.linalg.solve(self.precision, self.W.T @ (self.x - self.b).T / self.variance).T

    @property
    def log_evidence(self) -> Tensor:  # (B,)
        covariance = self.W @ self.W.T + self.variance * torch.eye(self.W.shape[0], dtype=torch.float64)
        return MultivariateNormal(self.b, covariance).log_prob(self.x)

    def elbo(self, loc: Tensor, covariance: Tensor) -> Tensor:
        """ELBO of N(loc, covariance), (B,)."""
        L, delta = self.precision, loc - self.mean
        trace = (L @ covariance).diagonal(dim1=-2, dim2=-1).sum(-1)
        quadratic = torch.einsum("bi,ij,bj->b", delta, L, delta)
        return self.log_evidence - 0.5 * (trace + quadratic - loc.shape[-1] - torch.logdet(L @ covariance))

    @property
    def diagonal_gap(self) -> Tensor:
        """What the best diagonal normal leaves on the table, the same for every x."""
        return 0.5 * (self.precision.diagonal().log().sum() - torch.logdet(self.precision))

    def best_params(self, family: pv.Family) -> Tensor:
        """The λ of the best member of a normal family, (B, P)."""
        floor = 1e-5  # added to each scale by the families
        if isinstance(family, pv.DiagonalNormal):
            log_scale = (self.precision.diagonal().rsqrt() - floor).log()
            return torch.cat([self.mean, log_scale.expand_as(self.mean)], -1)
        if isinstance(family, pv.LowRankNormal):
            return self._exact_factor(family.rank, floor)
        L = torch.linalg.cholesky(torch.linalg.inv(self.precision))
        return family.params_of(self.mean, L.expand(len(self.x), -1, -1))

    def _exact_factor(self, rank: int, floor: float) -> Tensor:
        """λ of the posterior as a `LowRankNormal` of rank d - 1 or more: its covariance is v (I + U Uᵀ)."""
        values, vectors = torch.linalg.eigh(torch.linalg.inv(self.precision))
        spread = vectors[:, 1:] * (values[1:] / values[0] - 1).sqrt()  # U, (d, d - 1)
        factor = nn.functional.pad(spread, (0, rank - spread.shape[1]))
        scale = (values[0] * (1 + factor.square().sum(-1))).sqrt()
        flat = (factor / (1 - factor.square().sum() / 100**2).sqrt()).flatten()  # V
        return torch.cat([self.mean, torch.cat([(scale - floor).log(), flat]).expand(len(self.x), -1)], -1)


def evidence_of_ppca(x: Tensor, d: int) -> Tensor:
    """The largest mean log-likelihood that d latent dimensions allow (Tipping & Bishop, 1999)."""
    D = x.shape[1]
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    variance = values[d:].mean()
    return -0.5 * (D * log(2 * pi) + values[:d].log().sum() + (D - d) * variance.log() + D)


def quadrature(batch: int, d: int) -> Tensor:
    """2 d draws ±√d eᵢ (2 d, B, d): their mean of any quadratic is its expectation under N(0, I)."""
    points = d**0.5 * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    return points[:, None].expand(-1, batch, -1)


class FixedNoise(Messenger):
    """Draws z = T_λ(ε) from given ε instead of the generator; a stand-in for equal noise.

    By the name of the site, where there are several.
    """

    def __init__(self, noise: Tensor | dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise if isinstance(noise, dict) else {"z": noise}

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.noise and msg["value"] is None:
            q, noise = msg["fn"], self.noise[msg["name"]]
            if isinstance(q, Independent):
                msg["value"] = q.base_dist.loc + q.base_dist.scale * noise
            else:
                msg["value"] = q.loc + (q.scale_tril @ noise[..., None])[..., 0]
