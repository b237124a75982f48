"""Every family is a distribution with the moments and derivatives it claims."""

import warnings
from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import COMPONENTS, FAMILIES, Z_DIM
from pyro.nn import PyroModule
from relaxed_poisson import PoissonFamily, PoissonPrior
from torch.distributions import MultivariateNormal, kl_divergence

import pyrovae as pv
from pyrovae.capture import Capture, CaptureWarning
from pyrovae.distributions import ReparameterizedMixture, held_fixed
from pyrovae.inference import elbo_terms, iwae
from pyrovae.inference.elbo import kl_of_site
from pyrovae.testing import LinearGaussian

F64 = torch.float64


def make(name, z_dim=Z_DIM):
    return COMPONENTS["family"][name](z_dim).double()


def grid(num, reach, dtype=F64):
    """Points sinh(t), dense at 0, and the weights of their trapezoids."""
    t = torch.linspace(-reach, reach, num, dtype=dtype)
    return t.sinh(), t.cosh() * (t[1] - t[0])


def plane(num, reach):
    """Points (N, 2) and weights (N,)."""
    z, w = grid(num, reach)
    return torch.cartesian_prod(z, z), torch.cartesian_prod(w, w).prod(-1)


@pytest.mark.parametrize("name", FAMILIES)
def test_density_integrates_to_one(name):
    z, w = grid(8001, 7)
    line = make(name, 1)
    q = line(0.5 * torch.randn(3, line.num_params, dtype=F64))
    total = (w[:, None] * q.log_prob(z[:, None, None]).exp()).sum(0)
    torch.testing.assert_close(total, torch.ones(3, dtype=F64), rtol=0, atol=1e-5)
    z, w = plane(601, 6)
    both = make(name, 2)
    q = both(0.5 * torch.randn(both.num_params, dtype=F64))
    assert (w * q.log_prob(z).exp()).sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_have_the_mean_and_variance(name):
    family, num = make(name), 20_000
    q = family(0.5 * torch.randn(4, family.num_params, dtype=F64))
    square = (q.rsample((num,)) - q.mean) ** 2
    deviation = (q.rsample((num,)) - q.mean) / q.stddev
    assert deviation.mean(0).abs().max() < 5 / num**0.5
    assert ((square.mean(0) - q.variance).abs() < 5 * square.std(0) / num**0.5).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_held_fixed_keeps_the_value_and_the_path_of_the_draw(name):
    family = make(name)
    params = (0.5 * torch.randn(4, family.num_params, dtype=F64)).requires_grad_()
    q = family(params).expand((5, 4))
    z = q.rsample().detach().requires_grad_()
    fixed = held_fixed(q).log_prob(z)
    assert torch.equal(fixed, q.log_prob(z))
    assert torch.autograd.grad(fixed.sum(), params, allow_unused=True, retain_graph=True)[0] is None
    torch.testing.assert_close(*(torch.autograd.grad(t.sum(), z)[0] for t in (fixed, q.log_prob(z))))


def check_captured(names):
    families = torch.nn.ModuleDict({name: make(name) for name in names})

    def gradients(*params):
        results = []
        for family, row in zip(families.values(), params, strict=True):
            leaf = row.detach().requires_grad_()
            q = family(leaf).expand((2, row.shape[0]))
            z = q.rsample()
            loss = held_fixed(q).log_prob(z) + 0.3 * z.pow(3).sum(-1)
            results += [z, torch.autograd.grad(loss.sum(), leaf)[0]]
        return tuple(results)

    captured = Capture(gradients, families)
    for size in (7, 1):
        params = [0.5 * torch.randn(size, family.num_params, dtype=F64) for family in families.values()]
        results = []
        for engine in ("eager", "compiled"):
            torch.manual_seed(1)
            with pv.engine(engine), warnings.catch_warnings():
                warnings.simplefilter("error", CaptureWarning)
                results.append(captured(*params))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_every_family_can_be_traced(interpreted):
    check_captured(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_each_way_to_draw_can_be_compiled(name):
    check_captured([name])


# Closed forms of KL.


def diagonal(loc, scale):
    return dist.Normal(loc, scale).to_event(1)


@pytest.mark.parametrize("name", ["full_normal", "low_rank_normal"])
def test_kl_of_a_normal_to_a_diagonal_normal(name):
    family = make(name)
    q = family(0.5 * torch.randn(4, family.num_params, dtype=F64))
    loc, scale = torch.randn(Z_DIM, dtype=F64), torch.rand(Z_DIM, dtype=F64) + 0.5
    expected = kl_divergence(
        MultivariateNormal(q.mean, q.covariance_matrix), MultivariateNormal(loc, torch.diag(scale**2))
    )
    p = diagonal(loc, scale)
    torch.testing.assert_close(kl_divergence(q, p), expected, rtol=1e-12, atol=1e-12)
    wide = q.expand((5, 4)), p.expand((5, 4))
    torch.testing.assert_close(kl_divergence(*wide), expected.expand(5, 4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["laplace", "student_t"])
def test_kl_by_quadrature(name):
    family, (z, w) = make(name, 1), grid(20_001, 9)
    q, other = (family(0.5 * torch.randn(2, dtype=F64)) for _ in range(2))
    priors = [diagonal(torch.tensor([0.3], dtype=F64), torch.tensor([1.4], dtype=F64))]
    for p in priors + ([other] if name == "laplace" else []):
        log_q = q.log_prob(z[:, None])
        integral = (w * log_q.exp() * (log_q - p.log_prob(z[:, None]))).sum()
        torch.testing.assert_close(kl_divergence(q, p), integral, rtol=1e-5, atol=1e-6)


def test_kl_to_another_prior_comes_from_the_draw():
    q, p = make("full_normal")(torch.zeros(4, 9, dtype=F64)), dist.Laplace(torch.zeros(3), 1.0).to_event(1)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, p)
    z = q.sample()
    torch.testing.assert_close(kl_of_site({"fn": q, "value": z}, {"fn": p}), q.log_prob(z) - p.log_prob(z))


# Single families.


def test_a_factor_of_full_rank_makes_any_correlation():
    assert pv.LowRankNormal(5, rank=3).num_params == 25
    family = pv.LowRankNormal(Z_DIM, rank=2).double()
    init = family.init_params().double()
    correlation = family(init).covariance_matrix.fill_diagonal_(0)
    assert 0 < correlation.abs().max() < 0.1
    with pytest.raises(ValueError, match="rank must be >= 1, got 0"):
        pv.LowRankNormal(3, rank=0)


def test_capacitance_is_well_conditioned_at_any_params():
    family = pv.LowRankNormal(200, rank=20)
    for scale in (1.0, 200.0, 1e4):
        q = family(scale * torch.randn(3, family.num_params))
        diagonal = q._capacitance_tril.diagonal(dim1=-2, dim2=-1)
        assert (diagonal.amax(-1) / diagonal.amin(-1) < 110).all()
        assert q.log_prob(q.sample()).isfinite().all()


def test_student_t_goes_to_the_normal():
    params, z = torch.randn(4, 6, dtype=F64), torch.randn(4, 3, dtype=F64)
    many, normal = pv.StudentT(3, df=1e7)(params), pv.DiagonalNormal(3)(params)
    torch.testing.assert_close(many.log_prob(z), normal.log_prob(z), rtol=0, atol=1e-4)
    assert (pv.StudentT(3, df=3.0)(params).log_prob(z) - normal.log_prob(z)).abs().max() > 0.1
    for df, problem in ((2.0, "> 2"), (float("inf"), "finite"), (float("nan"), "finite")):
        with pytest.raises(ValueError, match=f"df must be {problem}, got {df}"):
            pv.StudentT(3, df=df)


def test_one_component_is_the_diagonal_normal():
    family, normal = pv.MixtureNormal(3, num_components=1).double(), pv.DiagonalNormal(3)
    params, z = torch.randn(4, 7, dtype=F64), torch.randn(5, 4, 3, dtype=F64)
    torch.testing.assert_close(family(params).log_prob(z), normal(params[:, 1:]).log_prob(z), rtol=1e-14, atol=1e-14)
    with pytest.raises(ValueError, match="num_components must be >= 1, got 0"):
        pv.MixtureNormal(3, num_components=0)


# The derivatives of a mixture's draws.


def mixture(logits, loc, log_scale, points=None):
    """Its draws are `points`, if given."""
    q = ReparameterizedMixture(dist.Categorical(logits=logits), diagonal(loc, log_scale.exp()))
    if points is not None:
        q.sample = lambda shape: points
    return q


def smooth(z):
    return (1.3 * z).sin().prod(-1) + z.cos()[..., 0] * z[..., -1] + 0.1 * z.square().sum(-1)


@pytest.mark.parametrize("z_dim", [1, 2])
def test_gradient_of_a_mixture_by_quadrature(z_dim):
    """E[f(z)] over a grid of draws: its gradient by the path and by the density."""
    params = [torch.randn(2, 3), torch.randn(2, 3, z_dim), 0.5 * torch.randn(2, 3, z_dim) - 0.5]
    params = [p.to(F64).requires_grad_() for p in params]
    z, w = plane(241, 3.5) if z_dim == 2 else grid(2001, 3.5)
    z, w = z.reshape(-1, 1, z_dim).expand(-1, 2, -1), w.reshape(-1, 1)
    density = w * mixture(*params).log_prob(z).exp()  # (N, 2)
    by_density = torch.autograd.grad((density * smooth(z)).sum(), params)
    by_path = torch.autograd.grad((density.detach() * smooth(mixture(*params, z).rsample((len(z),)))).sum(), params)
    for ours, exact in zip(by_path, by_density, strict=True):
        assert exact.abs().min() > 1e-4
        torch.testing.assert_close(ours, exact, rtol=0, atol=1e-10)


def test_second_derivatives_of_a_mixture():
    """Along λ + t v a draw moves at a speed; how that changes, by autograd and by differences."""
    params = [torch.randn(shape, dtype=F64) for shape in ((3,), (3, 2), (3, 2))]
    direction = [torch.randn_like(p) for p in params]
    start = mixture(*params).sample((20,))

    def speed(points, t):
        rows = [p + t.reshape(-1, *[1] * p.dim()) * v for p, v in zip(params, direction, strict=True)]
        z = mixture(*rows, points).rsample()
        return torch.stack([torch.autograd.grad(part.sum(), t, create_graph=True)[0] for part in z.unbind(-1)], -1)

    t, h = torch.zeros(20, dtype=F64, requires_grad=True), 1e-5
    now = speed(start, t)
    change = torch.stack([torch.autograd.grad(part.sum(), t, retain_graph=True)[0] for part in now.unbind(-1)], -1)
    later, earlier = (speed(start + step * now.detach(), t + step) for step in (h, -h))
    assert change.abs().max() > 1
    torch.testing.assert_close(change, ((later - earlier) / (2 * h)).detach(), rtol=1e-3, atol=1e-4)


def test_derivatives_of_expanded_and_of_many_draws_are_those_of_each():
    params = [torch.randn(2, 3), torch.randn(2, 3, 4), 0.3 * torch.randn(2, 3, 4)]
    z = torch.randn(5, 2, 4)

    def gradients(*, expand):
        leaves = [p.clone().requires_grad_() for p in params]
        q = mixture(*leaves)
        q = q.expand((5, 2)) if expand else q
        q.sample = lambda shape: z
        with torch.autocast("cpu", torch.bfloat16, enabled=expand):  # nothing may be rounded
            return torch.autograd.grad(smooth(q.rsample()).sum(), leaves)

    torch.testing.assert_close(gradients(expand=True), gradients(expand=False))
    summed = [torch.zeros_like(p) for p in params]
    for s in range(5):
        for row in range(2):
            leaves = [p[row].clone().requires_grad_() for p in params]
            one = torch.autograd.grad(smooth(mixture(*leaves, z[s, row]).rsample()), leaves)
            for total, part in zip(summed, one, strict=True):
                total[row] += part
    torch.testing.assert_close(list(gradients(expand=True)), summed)


# A KL and no density.


def test_relaxed_counts_have_the_moments_of_counts_and_a_kl():
    family, prior = PoissonFamily(3, temperature=0.01), PoissonPrior(3)
    assert family.density == "none"
    params = torch.tensor([0.2, 1.0, 4.0]).log().expand(2, -1).clone().requires_grad_()
    q = family(params)
    draws = q.rsample((20_000,))
    torch.testing.assert_close(draws.mean(0), q.mean, rtol=0.05, atol=0)
    torch.testing.assert_close(draws.var(0), q.variance, rtol=0.1, atol=0)
    (slope,) = torch.autograd.grad(draws.mean(0).sum(), params)
    torch.testing.assert_close(slope, q.mean, rtol=0.2, atol=0)  # d rate / d log rate
    k = torch.arange(60.0)[:, None, None]
    log_q, log_p = (dist.Poisson(rate).log_prob(k) for rate in (params.exp(), torch.ones(3)))
    torch.testing.assert_close(kl_divergence(q, prior()), (log_q.exp() * (log_q - log_p)).sum((0, 2)))
    assert q.expand((5, 2)).rsample().shape == (5, 2, 3)
    with pytest.raises(NotImplementedError):
        q.log_prob(draws)


# Refinement.


@pytest.mark.parametrize("name", ["laplace", "student_t", "mixture_normal", "low_rank_normal"])
def test_refinement_nears_the_evidence_from_below(name):
    oracle, family = LinearGaussian.random(), make(name)
    init = family.init_params().double().expand(4, -1)
    refined = pv.SVIRefiner(num_steps=150, lr=0.05, objective=pv.ELBO(num_particles=4), lr_decay="linear")(
        oracle.model, family, oracle.x, init
    ).params
    before, after = (elbo_terms(oracle.model, family, oracle.x, row, 4000).elbo() for row in (init, refined))
    left = oracle.log_evidence - after
    assert (left > -0.1).all()
    assert left.max() < oracle.diagonal_gap + 0.5
    assert (after - before).min() > 1
    torch.testing.assert_close(
        iwae(oracle.model, family, oracle.x, refined, 2000), oracle.log_evidence, atol=0.2, rtol=0
    )


class Folded(PyroModule):
    """x = |z_1|, and noise: two modes, apart."""

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1].abs(), 0.3).to_event(1), obs=x)


def test_a_mixture_finds_two_modes():
    x, model, elbos = torch.ones(3, 1), Folded(), []
    for family in (pv.DiagonalNormal(2), pv.MixtureNormal(2)):
        start = torch.zeros(3, family.num_params)  # an untrained encoder's, say
        start[:, 0] = 0.5 * isinstance(family, pv.DiagonalNormal)  # which would not choose a side
        refiner = pv.SVIRefiner(
            num_steps=300, lr=0.1, objective=pv.ELBO(num_particles=4), lr_decay="linear", safeguard=False
        )
        refined = refiner(model, family, x, start).params
        elbos += [elbo_terms(model, family, x, row, 4000).elbo().mean() for row in (start, refined)]
    z, w = grid(2001, 3, torch.float32)
    joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.abs(), 0.3).log_prob(torch.tensor(1.0))
    evidence = (w * joint.exp()).sum().log()
    _, normal, before, after = elbos
    assert abs(evidence - log(2) - normal) < 0.2, "not one mode of two"
    assert before < evidence - 1
    assert normal + 0.4 < after < evidence + 0.05
