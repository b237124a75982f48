"""The linear-Gaussian model, where everything is known in closed form, and noise that makes Monte Carlo exact."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, nan, pi
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from ..distributions import MIN_SCALE
from ..families import DiagonalNormal, Family, LowRankNormal
from ..guides import Guide
from ..inference import ELBO
from ..inference.elbo import evaluating, frozen
from ..models import VAE, likelihoods, priors

_DIVERGED = 1e6  # nats a datapoint


class Gaps(NamedTuple):
    """What a normal q leaves of log p(x), by kind, (B,) each, in nats; see `LinearGaussian.gaps`.

    >>> import pyrovae as pv
    >>> oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    >>> torch.allclose(sum(oracle.gaps(family(oracle.best_params(family)))), oracle.diagonal_gap.expand(4))
    True
    """

    location: Tensor
    scale: Tensor
    family: Tensor


@dataclass(frozen=True)
class LinearGaussian:
    r"""A linear-Gaussian VAE, data, and the exact posterior, in float64.

    .. math::
        z \sim \mathcal{N}(0, I_d), \quad x \mid z \sim \mathcal{N}(W z + b, \sigma^2 I_D), \quad
        z \mid x \sim \mathcal{N}(m, \Lambda^{-1}), \quad
        \Lambda = I + W^\top W / \sigma^2, \quad m = \Lambda^{-1} W^\top (x - b) / \sigma^2

    `model` is a `VAE` of standard normal prior, `nn.Linear` decoder and normal likelihood, and x are data (B, D).

    Reference:
        Probabilistic Principal Component Analysis (Tipping & Bishop, 1999), doi:10.1111/1467-9868.00196

    >>> import pyrovae as pv
    >>> oracle = LinearGaussian.random(d=3, D=5, batch=4)
    >>> q = pv.DiagonalNormal(3)(oracle.best_params(pv.DiagonalNormal(3)))
    >>> torch.allclose(oracle.elbo(q.mean, torch.diag_embed(q.variance)) + oracle.diagonal_gap, oracle.log_evidence)
    True
    """

    model: Any
    x: Tensor

    @classmethod
    def random(cls, d: int = 3, D: int = 5, batch: int = 4, sigma: float = 0.7, seed: int = 0) -> "LinearGaussian":  # noqa: N803
        """Random weights and data; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        decoder = nn.Linear(d, D).double()
        for parameter in decoder.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        model = VAE(priors.StandardNormal(d), decoder, likelihoods.Normal(1, scale=sigma)).double()
        return cls(model, 2 * torch.randn(batch, D, generator=generator, dtype=torch.float64))

    @property
    def W(self) -> Tensor:  # noqa: N802 - (D, d)
        """The decoder's weight (D, d)."""
        return self.model.decoder.weight.detach()

    @property
    def b(self) -> Tensor:
        """The decoder's bias (D,)."""
        return self.model.decoder.bias.detach()

    @property
    def variance(self) -> Tensor:
        """σ², shape ()."""
        return self.model.likelihood.log_scale.detach().exp() ** 2

    @property
    def precision(self) -> Tensor:
        """Λ of the posterior (d, d), the same for every x."""
        return torch.eye(self.W.shape[1], dtype=torch.float64) + self.W.T @ self.W / self.variance

    @property
    def mean(self) -> Tensor:
        """The posterior's mean m (B, d)."""
        return torch.linalg.solve(self.precision, self.W.T @ (self.x - self.b).T / self.variance).T

    @property
    def log_evidence(self) -> Tensor:
        """log p(x) (B,)."""
        covariance = self.W @ self.W.T + self.variance * torch.eye(self.W.shape[0], dtype=torch.float64)
        return MultivariateNormal(self.b, covariance).log_prob(self.x)

    def elbo(self, loc: Tensor, covariance: Tensor) -> Tensor:
        """The ELBO of q = N(loc, covariance), for (B, d) and (B, d, d): (B,)."""
        location, rest = self._kl(loc, covariance)
        return self.log_evidence - location - rest

    @property
    def diagonal_gap(self) -> Tensor:
        """log p(x) less the ELBO of the best diagonal normal, shape (), the same for every x."""
        return 0.5 * (self.precision.diagonal().log().sum() - torch.logdet(self.precision))

    def gaps(self, q: Any) -> Gaps:
        r"""What a normal q of batch shape (B,) leaves of log p(x): the three add up to KL(q ‖ p(z | x)).

        .. math:: \tfrac12 \delta^\top \Lambda \delta, \quad \delta = E[z] - m;
            \qquad \tfrac12 [\mathrm{tr}\, \Lambda S - d - \log |\Lambda S|] - \text{family}

        The family's is what the best of its kind leaves: `diagonal_gap` for independent entries, else nothing.
        `ValueError` for a q that is not normal.
        """
        diagonal = isinstance(q, Independent) and isinstance(q.base_dist, Normal)
        if not (diagonal or hasattr(q, "covariance_matrix")):
            raise ValueError(f"q must be normal, got {type(q).__name__}; give the guide a DiagonalNormal or FullNormal")
        location, rest = self._kl(q.mean, torch.diag_embed(q.variance) if diagonal else q.covariance_matrix)
        family = self.diagonal_gap.expand_as(rest) if diagonal else torch.zeros_like(rest)
        return Gaps(location, rest - family, family)

    def _kl(self, loc: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of KL(q ‖ p(z | x)) that come from the mean, and from the covariance."""
        delta, ratio = loc - self.mean, self.precision @ covariance
        location = 0.5 * torch.einsum("bi,ij,bj->b", delta, self.precision, delta)
        return location, 0.5 * (ratio.diagonal(dim1=-2, dim2=-1).sum(-1) - loc.shape[-1] - torch.logdet(ratio))

    def best_params(self, family: Family) -> Tensor:
        """λ (B, P) of the best `DiagonalNormal`, or of the exact posterior as `FullNormal` or `LowRankNormal`."""
        if isinstance(family, DiagonalNormal):
            log_scale = (self.precision.diagonal().rsqrt() - MIN_SCALE).log()
            return torch.cat([self.mean, log_scale.expand_as(self.mean)], -1)
        if isinstance(family, LowRankNormal):
            return self._exact_factor(family.rank)
        L = torch.linalg.cholesky(torch.linalg.inv(self.precision))  # noqa: N806 - (d, d)
        return family.params_of(self.mean, L.expand(len(self.x), -1, -1))  # type: ignore[operator]

    def _exact_factor(self, rank: int) -> Tensor:
        """λ of the posterior as a `LowRankNormal` of rank d - 1 or more: its covariance is v (I + U Uᵀ)."""
        values, vectors = torch.linalg.eigh(torch.linalg.inv(self.precision))
        spread = vectors[:, 1:] * (values[1:] / values[0] - 1).sqrt()  # U, (d, d - 1)
        factor = nn.functional.pad(spread, (0, rank - spread.shape[1]))
        scale = (values[0] * (1 + factor.square().sum(-1))).sqrt()
        flat = (factor / (1 - factor.square().sum() / 100**2).sqrt()).flatten()  # V
        return torch.cat([self.mean, torch.cat([(scale - MIN_SCALE).log(), flat]).expand(len(self.x), -1)], -1)


def check_finds_posterior(
    make_guide: Callable[[nn.Module, tuple[int, ...], int], Guide],
    *, num_steps: int = 1000, lr: float = 0.01, tolerance: float = 0.05, seed: int = 0,
) -> None:  # fmt: skip
    """Trains a guide of yours on a linear-Gaussian model, and asserts that its ELBO is the best of its family.

    The best is known in closed form, and the guide's ELBO is exact, without draws. The model is held fixed; training
    stops as soon as the guide is good enough, which takes seconds. The family's q must be normal.

    Args:
        make_guide: `(model, x_shape, z_dim)` to the guide, which becomes float64; for 5 data and 3 latent dimensions.
        num_steps: Steps of Adam at most, on one batch of 32; a guide without parameters takes none.
        lr: First step size; it falls linearly to zero.
        tolerance: Nats a datapoint that may be missing.

    Raises:
        AssertionError: With the nats that are missing, and of which kind.

    >>> import pyrovae as pv
    >>> def make_guide(model, x_shape, z_dim):
    ...     family = pv.FullNormal(z_dim)
    ...     return pv.AmortizedGuide(family, pv.nets.MLP(x_shape, (family.num_params,), widths=(32,)))
    >>> check_finds_posterior(make_guide)
    """
    oracle = LinearGaussian.random(batch=32, sigma=1.0, seed=seed)
    with torch.random.fork_rng(devices=[]), frozen(oracle.model):
        torch.manual_seed(seed)
        guide = make_guide(oracle.model, tuple(oracle.x.shape[1:]), oracle.W.shape[1]).double()
        parameters = [p for p in guide.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters or [torch.zeros(())], lr)
        objective, steps = ELBO(num_particles=4), 0
        first = gaps = Gaps(*torch.full((3,), nan))
        try:
            first = gaps = _mean_gaps(oracle, guide)
            while gaps.location + gaps.scale > tolerance and steps < num_steps and parameters:
                for step in range(steps, min(steps + 25, num_steps)):
                    steps = step + 1
                    optimizer.param_groups[0]["lr"] = lr * (1 - step / num_steps)
                    optimizer.zero_grad()
                    loss = objective.differentiable_loss(oracle.model, guide, oracle.x) / len(oracle.x)
                    loss.backward() if loss.requires_grad else None
                    optimizer.step()
                gaps = _mean_gaps(oracle, guide)
        except ValueError as error:
            if "invalid values" not in str(error):  # of λ, which torch's distributions find
                raise
            gaps = Gaps(*torch.full((3,), nan))
    missing, before = gaps.location + gaps.scale, first.location + first.scale
    name = type(guide).__name__
    if not missing < _DIVERGED:
        raise AssertionError(
            f"{name}, which missed {before:.4g} nats of its family's best ELBO before training and {missing:.4g} after "
            f"{steps} steps of it, diverged; lower its step size or lr"
        )
    if not missing <= tolerance:
        remedy = "It needs more steps, of its loop or of training (num_steps), or a better network."
        if steps and missing > 0.9 * before:
            remedy = "It has not learned: does `infer` detach λ, without `Inferred.teaching`?"
        raise AssertionError(
            f"{name} misses {missing:.2f} nats of its family's best ELBO, {tolerance} are allowed: "
            f"{gaps.location:.2f} of location and {gaps.scale:.2f} of scale, after {steps} steps of training; before "
            f"{first.location:.2f} and {first.scale:.2f}. (Not counted: {gaps.family:.2f}, which its family cannot "
            f"reach.) {remedy}"
        )


def _mean_gaps(oracle: LinearGaussian, guide: Guide) -> Gaps:
    with torch.no_grad(), evaluating(guide):
        return Gaps(*(gap.mean() for gap in oracle.gaps(guide.family(guide.infer(oracle.x).params))))


def evidence_of_ppca(x: Tensor, d: int) -> Tensor:
    """The largest mean log-likelihood that d latent dimensions of a linear-Gaussian model allow for x (N, D), centred.

    Reference:
        Probabilistic Principal Component Analysis (Tipping & Bishop, 1999), doi:10.1111/1467-9868.00196

    >>> x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    >>> bool(evidence_of_ppca(x, 2) > evidence_of_ppca(x, 1))
    True
    """
    D = x.shape[1]  # noqa: N806
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    variance = values[d:].mean()
    return -0.5 * (D * log(2 * pi) + values[:d].log().sum() + (D - d) * variance.log() + D)


def quadrature(batch: int, d: int) -> Tensor:
    """2 d draws ±√d eᵢ (2 d, B, d): their mean of any quadratic is its expectation under N(0, I).

    >>> quadrature(batch=4, d=3).square().mean(0)[0].round(decimals=10)
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    points = d**0.5 * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    return points[:, None].expand(-1, batch, -1)


class FixedNoise(Messenger):
    """Inside, a normal site draws z = T_λ(ε) from a given ε instead of the generator's.

    With `quadrature` as noise the ELBO of a linear-Gaussian model, and its gradient, are exact. What runs `isolated`
    does not see it, a loop within a guide's `forward` for one. ε is (K, B, D), for the site "z" or by name for several.

    >>> import pyrovae as pv
    >>> oracle, family = LinearGaussian.random(), pv.FullNormal(3).double()
    >>> with FixedNoise(quadrature(4, 3)):
    ...     terms = pv.elbo_terms(oracle.model, family, oracle.x, oracle.best_params(family), num_particles=6)
    >>> torch.allclose(terms.elbo(), oracle.log_evidence)
    True
    """

    def __init__(self, noise: Tensor | dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise if isinstance(noise, dict) else {"z": noise}

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.noise and msg["value"] is None:
            q, noise = msg["fn"], self.noise[msg["name"]]
            full = not isinstance(q, Independent)
            moved = (q.scale_tril @ noise[..., None])[..., 0] if full else q.base_dist.scale * noise
            msg["value"] = q.mean + moved
