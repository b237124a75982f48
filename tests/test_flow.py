"""Flows: bijections, their densities, and path gradients, against what is slow or known."""

from math import log, pi

import pytest
import torch

import pyrovae as pv
from pyrovae.distributions import FlowDistribution, held_fixed
from pyrovae.inference import ELBO, elbo_terms
from pyrovae.testing import LinearGaussian

D = 20  # more than a block
TRANSFORMS = ["iaf", "maf", "nsf"]
WIDTHS = [(), (24,), (24, 21)]


def make(transform: str, widths: tuple[int, ...] = (24,), batch: int = 3, d: int = D) -> tuple[pv.Flow, torch.Tensor]:
    """A flow in float64 that is far from the identity, and λ."""
    family = pv.Flow(d, transform=transform, widths=widths, context_dim=8).double()
    return family, torch.randn(batch, family.num_params, dtype=torch.float64)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_ways_there_and_back(transform, widths):
    family, params = make(transform, widths)
    q = family(params)
    z = q.rsample((2,))
    noise = q._draw.noise
    assert (z - (q.loc + q.scale * noise)).abs().max() > 0.1  # it bends
    back, log_det = q._backward((z - q.loc) / q.scale)
    torch.testing.assert_close(back, noise, atol=1e-8, rtol=0)
    torch.testing.assert_close(log_det, q._forward(noise)[1], atol=1e-8, rtol=0)
    one = family(params[0])
    jacobian = torch.autograd.functional.jacobian(one.transport, noise[0, 0])
    normal = -0.5 * (noise[0, 0].square() + log(2 * pi)).sum()
    torch.testing.assert_close(q.log_prob(z)[0, 0], normal - torch.linalg.slogdet(jacobian)[1], atol=1e-8, rtol=0)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_draw_that_is_remembered_scores_as_one_that_is_not(transform):
    family, params = make(transform)
    params.requires_grad_()
    q = family(params).expand((2, 3))
    z = q.rsample()
    weights = [params, *family.parameters()]
    known, other = (torch.autograd.grad(q.log_prob(v).sum(), weights, retain_graph=True) for v in (z, z.clone()))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), atol=1e-8, rtol=0)
    assert max(g.abs().max() for g in known) > 0.1
    torch.testing.assert_close(known, other, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_path_gradient_is_that_of_the_way_back(transform, widths):
    family, params = make(transform, widths)
    q = family(params.requires_grad_()).expand((2, 3))
    z = q.rsample()
    fixed = held_fixed(q)
    leaf = z.detach().requires_grad_()
    (slow,) = torch.autograd.grad(fixed.log_prob(leaf).sum(), leaf)
    fast_value = fixed.log_prob(z)
    (fast,) = torch.autograd.grad(fast_value.sum(), z, retain_graph=True)
    torch.testing.assert_close(fast_value, q.log_prob(z), atol=1e-10, rtol=0)
    assert slow.abs().max() > 1
    torch.testing.assert_close(fast, slow, atol=1e-8, rtol=1e-8)
    weights = [params, *family.parameters()]  # they feel z's path, and nothing else
    expected = torch.autograd.grad(z, weights, slow, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(fast_value.sum(), weights), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_density_in_two_dimensions_has_mass_one(transform):
    family, params = make(transform, d=2, batch=1)
    with torch.no_grad():
        q = family(0.5 * params)
        axis = torch.linspace(-10, 10, 241, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        mass = q.log_prob(q.mean + q.stddev * grid[:, None]).exp().sum() * (axis[1] - axis[0]) ** 2 * q.stddev.prod()
    assert abs(mass - 1) < 1e-3


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_params_stay_finite(transform, sign):
    family = pv.Flow(D, transform=transform)
    params = torch.full((2, family.num_params), 200 * sign, requires_grad=True)
    for fixed in (False, True):
        q = family(params)
        z = q.rsample()
        log_prob = (q.held_fixed() if fixed else q).log_prob(z)
        (gradient,) = torch.autograd.grad(log_prob.sum(), params)
        assert log_prob.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_moments_are_those_of_draws_and_take_no_noise(transform):
    family, params = make(transform, d=3)
    with torch.no_grad():
        q = family(0.5 * params)
        state = torch.get_rng_state()
        mean, variance = q.mean, q.variance
        assert torch.equal(torch.get_rng_state(), state)
        z = q.sample((20000,))
    assert ((z.mean(0) - mean).abs() < 0.15 * variance.sqrt()).all()
    torch.testing.assert_close(z.var(0), variance, rtol=0.3, atol=0)


def test_context_zero_is_the_diagonal_normal():
    family, params = make("iaf")
    params[:, 2 * D :] = 0
    diagonal = pv.DiagonalNormal(D)(params[:, : 2 * D])
    z = diagonal.sample()
    torch.testing.assert_close(family(params).log_prob(z), diagonal.log_prob(z))


@pytest.mark.parametrize("transform", ["iaf", "maf"])
def test_c3_training_by_path_gradients_makes_every_draw_weigh_the_evidence(transform):
    """A linear flow is any normal, and at the exact posterior the gradient has no noise to stop at."""
    oracle = LinearGaussian.random(batch=1, sigma=1.5)
    family = pv.Flow(3, transform=transform, widths=(), num_transforms=1, context_dim=3).double()
    family.networks[0].gate.weight.data = 3 * torch.eye(3).double()  # open gates: the weights learn sooner
    params = torch.zeros(1, 9, dtype=torch.float64)
    params[:, 6:] = 1
    params.requires_grad_()
    optimizer = torch.optim.SGD([params, *family.parameters()], lr=0.1, momentum=0.5)

    def worst() -> float:
        terms = (elbo_terms(oracle.model, family, oracle.x, params.detach()).elbo() for _ in range(10))
        return max((each - oracle.log_evidence).abs().max().item() for each in terms)

    assert worst() > 1
    elbo = ELBO(num_particles=16)
    for _ in range(150):
        optimizer.zero_grad()
        elbo.loss_and_grads(oracle.model, lambda _: family.sample(params), oracle.x)
        optimizer.step()
    assert worst() < 1e-6
    optimizer.zero_grad()
    ELBO().loss_and_grads(oracle.model, lambda _: family.sample(params), oracle.x)
    assert max(p.grad.abs().max() for p in [params, *family.parameters()]) < 1e-5
    optimizer.zero_grad()
    ELBO(path_gradient=False).loss_and_grads(oracle.model, lambda _: family.sample(params), oracle.x)
    assert params.grad.abs().max() > 0.1


def test_a_spline_flow_beats_the_best_diagonal():
    oracle = LinearGaussian.random()
    assert oracle.diagonal_gap > 0.2
    family = pv.Flow(3, transform="nsf", widths=(16,), context_dim=4).double()
    params = 0.1 * torch.randn(4, family.num_params, dtype=torch.float64)
    params.requires_grad_()
    optimizer = torch.optim.Adam([params, *family.parameters()], lr=0.03)

    def gap() -> torch.Tensor:
        return oracle.log_evidence - elbo_terms(oracle.model, family, oracle.x, params.detach(), 500).elbo()

    assert (gap() > oracle.diagonal_gap + 1).all()
    for _ in range(200):
        optimizer.zero_grad()
        ELBO(num_particles=4).loss_and_grads(oracle.model, lambda _: family.sample(params), oracle.x)
        optimizer.step()
    assert (gap() < 0.5 * oracle.diagonal_gap).all()


def test_the_prior_learns_where_draws_lie():
    prior = pv.models.priors.Flow(2, widths=(16,))
    q, _ = prior(), torch.manual_seed(0)
    torch.testing.assert_close(q.mean, torch.zeros(2), atol=0.3, rtol=0)
    first = torch.randn(2000)
    z = torch.stack([first, 0.5 * first.square() + 0.2 * torch.randn(2000)], -1)  # a banana
    best_normal = torch.distributions.MultivariateNormal(z.mean(0), torch.cov(z.T)).log_prob(z).mean()
    before = prior().log_prob(z).mean()
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (-prior().log_prob(z).mean()).backward()
        assert all(p.grad.abs().sum() > 0 for p in prior.parameters())
        optimizer.step()
    assert before < best_normal < prior().log_prob(z).mean() - 0.3
    drawn = prior().sample((5000,))
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.1, rtol=0)
    assert isinstance(prior(), FlowDistribution)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "glow"}, "transform must be iaf, maf or nsf, got 'glow'"),
        ({"num_transforms": 0}, "num_transforms must be >= 1, got 0"),
        ({"context_dim": 0}, "context_dim must be >= 1, got 0"),
        ({"widths": (0,)}, r"widths\[0\] must be >= 1, got 0"),
        ({"num_bins": 0}, "num_bins must be >= 1, got 0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        pv.Flow(3, **options)
