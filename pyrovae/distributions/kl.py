"""KL divergences in closed form that torch does not know, for `torch.distributions.kl_divergence`.

>>> p = Independent(Normal(torch.zeros(3), 1.0), 1)
>>> torch.distributions.kl_divergence(MultivariateNormal(torch.zeros(3), torch.eye(3)), p)
tensor(0.)
>>> torch.distributions.kl_divergence(StudentT(torch.tensor([2.0, 5.0])), Normal(0.0, 1.0)).isfinite()
tensor([False,  True])
"""

import math

import torch
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, StudentT
from torch.distributions.kl import register_kl


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def _kl_to_diagonal_normal(q: MultivariateNormal | LowRankMultivariateNormal, p: Independent) -> Tensor:
    """KL of a normal with covariance to independent normals, -E_q log p(z) - H(q)."""
    if not isinstance(p.base_dist, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return _cross_entropy(q.mean, q.variance, p.base_dist).sum(-1) - q.entropy()


@register_kl(StudentT, Normal)
def _kl_of_student_t_to_normal(q: StudentT, p: Normal) -> Tensor:
    """KL of Student's t, infinite where it has no variance, to a normal."""
    # Not q.variance, which waits for a GPU and cannot be captured.
    variance = q.scale.square() * torch.where(q.df > 2, q.df / (q.df - 2), math.inf)
    return _cross_entropy(q.loc, variance, p) - q.entropy()


def _cross_entropy(mean: Tensor, variance: Tensor, p: Normal) -> Tensor:
    """E[-log p(z)] for z of that mean and variance."""
    return 0.5 * ((mean - p.loc).square() + variance) / p.variance + p.scale.log() + 0.5 * math.log(2 * math.pi)
