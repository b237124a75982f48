"""What every family and likelihood must do: call the check on one of your own."""

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, biject_to, constraints, kl_divergence

from ..families import Family
from ..models.likelihoods import Likelihood
from .compare import DRAWS, latents, near, or_none, plates, require, seeded


def check_family(family: Family) -> None:
    """Asserts that a family is one, at random λ: shapes, draws with gradients, and what it says of its density.

    By 4,000 draws, within 5 standard errors: their mean and variance; that log_prob is their density; the KL to a
    standard normal; the natural gradient, the inverse Fisher information times the gradient. For up to 20 dimensions.
    An `AssertionError` says what is broken.

    >>> import pyrovae as pv
    >>> check_family(pv.FullNormal(2))
    """
    name, P = type(family).__name__, family.num_params  # noqa: N806
    first = seeded(family.init_params)
    require(first.shape == (P,), f"{name}.init_params() is {tuple(first.shape)}, not a row of num_params = {P}")
    require(torch.equal(first, seeded(family.init_params)), f"{name}.init_params() of one seed differs")
    params = seeded(lambda: first + 0.3 * torch.randn(3, P)).requires_grad_()
    q = family(params)
    shapes = *map(tuple, (family(params.expand(2, 3, P)).batch_shape, q.batch_shape)), (q.event_shape.numel(),)
    right = (2, 3), (3,), (family.z_dim,)
    require(shapes == right, f"{name}: batch shapes for λ (2, 3, P) and (3, P), and z_dim, are {shapes}, not {right}")
    for site, node in latents(family.sample, params).items():
        require(plates(node) == {"data"}, f"{name}.sample: site {site!r} lies in plates {plates(node)}, not in 'data'")
    require(q.has_rsample, f"{name}: {type(q).__name__} has no rsample, so no gradient reaches λ through z")
    z = seeded(lambda: q.rsample((DRAWS,)))  # (N, 3, *event_shape)
    (slope,) = torch.autograd.grad((z + 0.3 * z**2 + 0.1 * z**3).sum(), params, retain_graph=True)
    dead = (~slope.isfinite() | (slope == 0)).any(0).nonzero()[:, 0].tolist()
    require(not dead, f"{name}: entries {dead} of λ get no finite gradient from draws of z")
    z = z.detach()
    if family.density == "none":
        return  # moments may be those of what it relaxes
    for moment, values in (("mean", z), ("variance", (z - z.mean(0)) ** 2)):
        stated = or_none(partial(getattr, q, moment))
        if stated is not None:
            near(f"{name}: `{moment}` of {type(q).__name__}", stated.detach(), values)
    _check_density(name, family, params, z)
    if family.has_natural_gradient:
        row = params.detach()[:1]
        rows = row.expand(DRAWS, P).clone().requires_grad_()
        (score,) = torch.autograd.grad(family(rows).log_prob(z[:, 0]).sum(), rows)  # (N, P)
        grad = seeded(lambda: torch.randn(1, P))
        back = score * (score @ family.natural_gradient(row, grad)[0])[:, None]  # F F⁻¹ g, draw by draw
        near(f"{name}.natural_gradient, times the Fisher information,", grad[0], back)


def _check_density(name: str, family: Family, params: Tensor, z: Tensor) -> None:
    q, kind = family(params), f"density is {family.density!r}, but"
    try:
        log_prob = q.log_prob(z)  # (N, 3)
        if family.density == "any":  # for the draws of another λ, twice
            other = family(params.roll(1, 0)).log_prob(z[:50]).sum()
            (slope,) = torch.autograd.grad(other, params, create_graph=True)
            twice = torch.autograd.grad(slope.square().sum(), params)[0]
            require(bool(twice.isfinite().all()), f"{name}: {kind} log_prob has no finite second derivative by λ")
    except (NotImplementedError, RuntimeError) as error:
        raise AssertionError(f"{name}: {kind} log_prob fails: {error}; say density = 'own' or 'none'") from error
    require(log_prob.shape == z.shape[:2], f"{name}: log_prob is {tuple(log_prob.shape)}, not {tuple(z.shape[:2])}")
    require(bool(log_prob.isfinite().all()), f"{name}: log_prob of its own draws is not finite")
    log_prob, real = log_prob.detach(), _is_real(q)
    if real:  # E_q p / q = 1 for any density p; this one lies where draws do
        known, flat = z.flatten(2).split(DRAWS // 2)
        covariance = torch.einsum("nbi,nbj->bij", *[known - known.mean(0)] * 2) / len(known)
        log_p = MultivariateNormal(known.mean(0), 0.8 * covariance).log_prob(flat)
    else:  # or another of the family
        log_p = family(params.detach() + 0.1).log_prob(z) if family.density == "any" else log_prob
    ratio = (log_p - log_prob[-len(log_p) :]).exp()
    near(f"{name}: log_prob is not the density of draws: E_q p / q", torch.ones(3), ratio)
    prior: Any = Independent(Normal(torch.zeros_like(z[0]), 1.0), len(q.event_shape))
    kl = or_none(lambda: kl_divergence(q, prior)) if real else None
    if kl is not None:
        near(f"{name}: KL of {type(q).__name__} to a standard normal", kl.detach(), log_prob - prior.log_prob(z))


def check_likelihood(likelihood: Likelihood) -> None:
    """Asserts that a likelihood is one: shapes, support, gradients, mean, normalisation, Fisher information, link.

    Mean, normalisation and information by sums over whole numbers to 4,000, or by quadrature, for h from -1.5 to 1.5.
    An `AssertionError` says what is broken.

    >>> import pyrovae as pv
    >>> check_likelihood(pv.models.likelihoods.Poisson(event_dim=1))
    """
    name, likelihood = type(likelihood).__name__, copy.deepcopy(likelihood).double()
    shape = (7, *[2] * likelihood.event_dim)
    h = torch.linspace(-1.5, 1.5, 7).double().reshape(7, *[1] * likelihood.event_dim).expand(shape).clone()
    q, p = likelihood(h), likelihood.elementwise(h)
    shapes = (*map(tuple, (q.batch_shape, q.event_shape, p.batch_shape, p.event_shape)),)
    right = shape[:1], shape[1:], shape, ()
    require(shapes == right, f"{name}: batch and event shape, of elementwise too, are {shapes}, not {right}")
    drawn = seeded(lambda: p.sample((100,)))
    require(bool(likelihood.supports(drawn).all()), f"{name}: draws lie outside `support`, {likelihood.support}")
    require(not likelihood.supports(torch.tensor(math.nan)), f"{name}: NaN is within `support`, {likelihood.support}")
    far = torch.cat([h, 20 * h]).requires_grad_()
    log_prob = likelihood.elementwise(far).log_prob(torch.cat([drawn[0], drawn[0]]))
    (slope,) = torch.autograd.grad(log_prob.sum(), far)
    require(bool(slope.isfinite().all()), f"{name}: the gradient of log p(x | h) is not finite for h from -30 to 30")
    if p.support is not None and p.support.is_discrete:
        values = torch.arange(-4000.0, 4001).double()
        weights = torch.ones_like(values)
    else:
        t = torch.linspace(-4, 4, 4001).double().requires_grad_()
        values = biject_to(p.support)(t.sinh())
        weights = torch.autograd.grad(values.sum(), t)[0] * (t[1] - t[0]).item()
    inside = likelihood.supports(values)
    values, weights = (v[inside].detach().reshape(-1, *[1] * h.dim()) for v in (values, weights))
    rows = h.expand(len(values), *shape).clone().requires_grad_()
    log_prob = likelihood.elementwise(rows).log_prob(values.expand_as(rows))
    (score,) = torch.autograd.grad(log_prob.sum(), rows)
    mass = weights * log_prob.detach().exp()
    for what, stated, exact in (
        ("the sum of p(x | h)", torch.ones_like(h), mass.sum(0)),
        ("`mean` of elementwise(h)", or_none(lambda: p.mean), (mass * values).sum(0)),
        ("`information`, the mean square of ∂ log p / ∂h,", likelihood.information(h), (mass * score**2).sum(0)),
    ):
        if stated is not None:
            off = ((stated - exact).abs() / (0.01 + exact.abs())).detach().flatten()
            i = int(off.argmax())
            numbers = f"{stated.flatten()[i]:.4g}, and should be {exact.flatten()[i]:.4g}"
            require(bool(off[i] < 0.01), f"{name}: {what} is {numbers} at h = {h.flatten()[i]:.2f}")
    mean = or_none(lambda: p.mean)
    back = None if mean is None else likelihood.link(mean)
    if mean is not None and back is not None:
        off = (likelihood.elementwise(back).mean - mean).abs() / (0.01 + mean.abs())
        require(bool((off < 0.01).all()), f"{name}: `link` gives h of other means")


def _is_real(q: Any) -> bool:
    support = or_none(lambda: q.support)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))
