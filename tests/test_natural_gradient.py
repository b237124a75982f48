"""Natural gradients against the Fisher information, and what they are worth on the linear-Gaussian oracle."""

import pyro
import pytest
import torch
from conftest import FAMILIES
from test_oracle import exact_elbo
from torch.distributions import kl_divergence

import pyrovae as pv
from pyrovae.config import COMPONENTS
from pyrovae.testing import FixedNoise, LinearGaussian, quadrature

NATURAL = [name for name in FAMILIES if COMPONENTS["family"][name](1).has_natural_gradient]
assert NATURAL == ["diagonal_normal", "full_normal", "laplace", "student_t"]


@pytest.mark.parametrize("d", [1, 4])
@pytest.mark.parametrize("name", [name for name in NATURAL if name != "student_t"])  # of which torch knows no KL
def test_is_the_fisher_informations_inverse_times_the_gradient(name, d):
    family = COMPONENTS["family"][name](d).double()
    params = torch.randn(3, family.num_params, dtype=torch.float64)
    params[0, d : 2 * d] -= 5  # scales where the floor of 1e-5 is felt
    params[0, 2 * d :] *= 1e-2
    grad = torch.randn_like(params)
    for row, slope, direction in zip(params, grad, family.natural_gradient(params, grad), strict=True):
        # From one side of λ, for the KL of some families has kinks there that cancel only to second order.
        fisher = torch.autograd.functional.hessian(
            lambda other, row=row: kl_divergence(family(other), family(row)).sum(), row + 1e-13
        )
        expected = torch.linalg.solve(fisher, slope)
        torch.testing.assert_close(direction, expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())


def test_is_so_for_students_t_by_quadrature():
    family, t = pv.StudentT(1, df=3.5), torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    params, grad = torch.randn(2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    z, weight = t.sinh()[:, None], t.cosh() * (t[1] - t[0])
    score = torch.func.vmap(torch.func.jacrev(lambda row, z: family(row).log_prob(z)), (None, 0))(params, z)  # (N, 2)
    fisher = (score.mT * weight * family(params).log_prob(z).exp()) @ score
    torch.testing.assert_close(
        family.natural_gradient(params, grad), torch.linalg.solve(fisher, grad), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("name", NATURAL)
def test_is_finite_where_scales_are_at_their_bounds(name):
    family = COMPONENTS["family"][name](3)
    params = torch.tensor([-200.0, -30.0, 0.0, 30.0])[:, None].expand(-1, family.num_params).clone().requires_grad_()
    (grad,) = torch.autograd.grad(family(params).entropy().sum(), params)
    assert family.natural_gradient(params, grad).isfinite().all()


@pytest.mark.parametrize("name", ["diagonal_normal", "full_normal"])
def test_reaches_the_best_q_in_fewer_steps_than_plain_descent(name):
    oracle, family = LinearGaussian.random(sigma=0.2), COMPONENTS["family"][name](3).double()
    start, noise = torch.zeros(4, family.num_params, dtype=torch.float64), quadrature(4, 3)
    best = oracle.log_evidence - (oracle.diagonal_gap if name == "diagonal_normal" else 0)
    rates = {"natural": 0.3, "sgd": 0.3 / torch.linalg.eigvalsh(oracle.precision).max().item()}

    def missing(optimizer, num_steps):
        loop = pv.SVIRefiner(
            num_steps=num_steps, lr=rates[optimizer], optimizer=optimizer, objective=pv.ELBO(num_particles=6), safeguard=False,
            clip=2.0 if optimizer == "natural" else None, momentum=0.5, lr_decay="none",
        )  # fmt: skip
        with FixedNoise(noise):
            refined = loop(oracle.model, family, oracle.x, start).params
        return (best - exact_elbo(oracle, family, refined)).max()

    assert best.min() - exact_elbo(oracle, family, start).max() > 1
    assert missing("natural", 60) < 1e-6
    assert missing("sgd", 300) > 1e-2


def test_a_step_of_one_takes_the_mean_to_the_optimum_once_the_scale_is_right():
    oracle, family = LinearGaussian.random(), pv.FullNormal(3).double()
    best = oracle.best_params(family)
    start = best.clone()
    start[:, :3] += torch.randn(4, 3)
    exact = pv.ELBO(num_particles=6)
    step = pv.SVIRefiner(num_steps=1, lr=1.0, optimizer="natural", clip=None, objective=exact, safeguard=False)
    with FixedNoise(quadrature(4, 3)):
        refined = step(oracle.model, family, oracle.x, start).params
    torch.testing.assert_close(refined[:, :3], best[:, :3], rtol=0, atol=1e-10)


def test_clip_bounds_the_kl_of_a_step():
    oracle, family = LinearGaussian.random(), pv.FullNormal(3).double()
    start = torch.randn(4, 9, dtype=torch.float64)
    loop = pv.SVIRefiner(num_steps=1, lr=0.01, optimizer="natural", momentum=0.0, clip=1.0, safeguard=False)
    refined = loop(oracle.model, family, oracle.x, start).params
    kl = kl_divergence(family(refined), family(start))
    torch.testing.assert_close(kl, torch.full((4,), 0.01**2 / 2, dtype=torch.float64), rtol=0.05, atol=0)


def test_a_family_without_is_refused(model, x):
    class Shifted(pv.Family):
        num_params = 3

        def forward(self, params):
            return pyro.distributions.Normal(params, 1.0).to_event(1)

    message = "natural needs a family with a natural_gradient, got Shifted; use adam"
    refiner = pv.SVIRefiner(optimizer="natural")
    with pytest.raises(ValueError, match=message):
        pv.SVIGuide(model, Shifted(3), refiner)
    with pytest.raises(ValueError, match=message):
        refiner(model, Shifted(3), x, torch.zeros(7, 3))
    with pytest.raises(NotImplementedError, match="Shifted has no natural_gradient"):
        Shifted(3).natural_gradient(torch.zeros(7, 3), torch.zeros(7, 3))
