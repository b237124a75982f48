"""A mixture whose draws are differentiable."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from .numerics import full_precision


class ReparameterizedMixture(dist.MixtureSameFamily):
    r"""A mixture of diagonal normals, `rsample` included.

    The components are `Normal(...).to_event(1)`. A draw z solves :math:`F_d(z_d \mid z_{<d}) = u_d` for each dimension
    in turn, with F the conditional distribution functions of the mixture and u uniform. With u held fixed that makes
    z a function of the parameters, all of whose derivatives are right, higher ones too; F is never inverted:

    .. math:: \partial_\lambda z = -(\partial_z F)^{-1} \, \partial_\lambda F

    The farther apart the modes, the noisier the gradient of the weights: a draw in the gap moves far for a little mass.
    (In Pyro 1.9.2 the gradient of `MixtureOfDiagNormals` by its weights is not that of the expectation, as quadrature
    shows, and it knows no second derivatives and no single dimension.)

    References:
        Implicit Reparameterization Gradients (Figurnov, Mohamed & Mnih, 2018), arXiv:1805.08498
        Stochastic Backpropagation through Mixture Density Distributions (Graves, 2016), arXiv:1607.05690

    >>> weights = torch.zeros(2, requires_grad=True)
    >>> components = dist.Normal(torch.tensor([[-1.0], [1.0]]), 0.5).to_event(1)
    >>> q = ReparameterizedMixture(dist.Categorical(logits=weights), components)
    >>> q.rsample((100,)).sum().backward()
    >>> weights.grad.shape
    torch.Size([2])
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - immutable
        z = self.sample(sample_shape)  # (..., D)
        components = self.component_distribution.base_dist
        logits = self.mixture_distribution.logits.expand(*z.shape[:-1], -1)  # (..., C)
        loc, scale = (t.expand(*z.shape[:-1], -1, -1) for t in (components.loc, components.scale))  # (..., C, D)
        return _Implicit.apply(z, logits, loc, scale)


class _Implicit(torch.autograd.Function):
    """z, with the derivatives that F(z) = u gives it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        z = z.clone()
        ctx.save_for_backward(z, logits, loc, scale)  # z as the result, so that second derivatives see it move
        return z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        z, logits, loc, scale = ctx.saved_tensors
        with full_precision(z):
            eps = (z.unsqueeze(-2) - loc) / scale  # (..., C, D)
            log_density = -0.5 * eps.square() - scale.log() - 0.5 * math.log(2 * math.pi)
            before = torch.nn.functional.pad(log_density[..., :-1], (1, 0)).cumsum(-1)  # of z_<d under each component
            log_joint = logits.unsqueeze(-1) + before
            weight = log_joint.softmax(-2)  # of a component given z_<d
            share = (log_joint + log_density).softmax(-2)  # of a component given z_<=d
            density = (weight * log_density.exp()).sum(-2, keepdim=True)  # (..., 1, D) ∂F_d/∂z_d
            # The nearer tail: 1 - F would be rounding where F is nearly 1, and is divided by a small density.
            side = torch.where((weight * eps).sum(-2, keepdim=True) > 0, -1.0, 1.0).to(z.dtype)
            cdf = torch.special.ndtr(side * eps)
            # ∂F_d/∂(log weight of c), as all below divided by the density
            tilt = side * weight * (cdf - (weight * cdf).sum(-2, keepdim=True)) / density.clamp_min(1e-30)
            # ∂F_d/∂z_j for j < d; the diagonal is 1
            jacobian = -tilt.mT @ (eps / scale)  # (..., D, D)
            y = torch.linalg.solve_triangular(jacobian.mT, -grad.unsqueeze(-1), upper=True, unitriangular=True).mT
            tilted = y * tilt  # (..., C, D)
            after = tilted @ torch.ones_like(jacobian).tril(-1)  # its sum over d' > d
            grad_loc = after * eps / scale - y * share
            grad_scale = after * (eps.square() - 1) / scale - y * share * eps
        return None, tilted.sum(-1), grad_loc, grad_scale
