"""Inner optimizers as they come, without a word about step size: none diverges, and each gains."""

import pytest
import torch
from conftest import FAMILIES
from test_oracle import exact_elbo
from torch import nn

import pyrovae as pv
from pyrovae.config import COMPONENTS, check, to_yaml
from pyrovae.testing import FixedNoise, LinearGaussian, quadrature

POOR = 1.5  # standard deviation of λ at the poor start


def problem(name, d):
    """A model and data (4, *x_shape), of z that x tells much about."""
    if name == "linear":
        oracle = LinearGaussian.random(d=d, D=2 * d, batch=4)
        return oracle.model, oracle.x
    model = pv.models.mlp((4 * d,), d, widths=(32,)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, model.sample(4).bernoulli()


@pytest.mark.parametrize("d", [2, 16, 50])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "natural"])
def test_no_default_diverges(optimizer, name, d):
    family = COMPONENTS["family"][name](d).double()
    if optimizer == "natural" and not family.has_natural_gradient:
        pytest.skip("no natural gradient")
    for kind in ("linear", "mlp"):
        torch.manual_seed(0)
        model, x = problem(kind, d)
        prior = family.init_params().double().expand(4, -1)
        start = torch.cat([prior, prior + POOR * torch.randn_like(prior)])
        x = torch.cat([x, x])
        refined = pv.SVIRefiner(num_steps=100, optimizer=optimizer, safeguard=False)(model, family, x, start).params
        assert refined.isfinite().all()
        before, after = pv.inference.precise_terms(model, family, x, start, refined, num_particles=100)
        gain = (after.elbo() - before.elbo()).view(2, -1).mean(1)  # from the prior, and from the poor start
        assert (gain > 0).all(), (kind, gain)


@pytest.mark.parametrize("d", [4, 16, 50])
def test_one_draw_finds_correlations(d):
    """From the best diagonal normal: exactly, in closed form, what a step of 0.3 for all of λ made far worse."""
    oracle, family = LinearGaussian.random(d=d, D=2 * d, batch=8), pv.FullNormal(d).double()
    start = torch.zeros(8, family.num_params, dtype=torch.float64)
    start[:, : 2 * d] = oracle.best_params(pv.DiagonalNormal(d))
    q = pv.SVIRefiner(num_steps=100, safeguard=False)(oracle.model, family, oracle.x, start).params
    missing = (oracle.log_evidence - exact_elbo(oracle, family, q)).mean()
    assert oracle.diagonal_gap > 0.4
    assert missing < {4: 0.001, 16: 0.2, 50: 0.8}[d] * oracle.diagonal_gap


def test_correlations_take_the_share_that_the_draws_allow():
    """Of an error E = Lᵀ Λ L - I the mean square falls most at S / (S + D + 1), and by just that share."""
    d, num = 5, 200_000
    error = torch.randn(d, d, dtype=torch.float64)
    error = error + error.mT
    for draws in (1, 4):
        noise = torch.randn(num // draws, draws, d, dtype=torch.float64)
        move = error @ (noise.mT @ noise) / draws  # (N, D, D) one estimate of E from so many draws
        best = draws / (draws + d + 1)
        left = {
            share: ((error - share * move).square().sum((-2, -1)).mean() / error.square().sum()).item()
            for share in (best, 0.7 * best, 1.4 * best)
        }
        assert left[best] == pytest.approx(1 - best, rel=0.02)
        assert left[best] == min(left.values())
        family = pv.FullNormal(d).double()
        params, grad = torch.randn(2, 3, family.num_params, dtype=torch.float64)
        params[:, 2 * d :] = 0.0  # independent entries, of which each entry of λ is a direction of its own
        rate = torch.tensor(0.5, dtype=torch.float64)
        whole, taken = family.natural_gradient(params, grad), family.natural_step(params, grad, rate, draws)
        torch.testing.assert_close(taken[:, : 2 * d], whole[:, : 2 * d])
        torch.testing.assert_close(0.5 * taken[:, 2 * d :], min(best, 0.5) * whole[:, 2 * d :])
        small = torch.tensor(0.01, dtype=torch.float64)
        torch.testing.assert_close(family.natural_step(params, grad, small, draws), whole)


def test_what_is_auto():
    diagonal, flow = pv.DiagonalNormal(4), pv.families.Flow(4)
    usual = pv.SVIRefiner()
    assert (usual.optimizer_of(diagonal), usual.optimizer_of(flow)) == ("natural", "adam")
    assert (usual.lr_of(diagonal), usual.lr_of(flow)) == (0.5, 0.03)
    own = pv.SVIRefiner(lr=0.1)  # as it was before there was an `auto`
    assert own.optimizer_of(diagonal) == "adam"
    assert own.rule(diagonal) == (0.1, 0.0, None, "none")
    assert pv.SVIRefiner(lr=0.1, optimizer="sgd").rule(diagonal) == (0.1, 0.5, None, "none")
    assert pv.SVIRefiner(lr=0.1, optimizer="natural").rule(diagonal) == (0.1, 0.0, 2.0, "linear")
    before = pv.SVIRefiner(lr=0.3, optimizer="natural", momentum=0.5, clip=None, lr_decay="none")
    assert before.rule(diagonal) == (0.3, 0.5, None, "none")


def test_a_config_keeps_auto_and_what_is_written():
    block = check({"guide": {"type": "svi", "refiner": {"type": "svi", "clip": 3}}}).guide.refiner
    assert (block.lr, block.clip, block.optimizer) == ("auto", 3.0, "auto")
    assert "lr: auto" in to_yaml(check({"guide": "svi"}))


@pytest.mark.parametrize("name", ["diagonal_normal", "full_normal"])
def test_the_slope_is_the_gradient_itself(name):
    """Neither natural nor clipped, so that an encoder which learns by it is taught without bias."""
    oracle, family = LinearGaussian.random(), COMPONENTS["family"][name](3).double()
    start = torch.randn(4, family.num_params, dtype=torch.float64, requires_grad=True)
    with FixedNoise(quadrature(4, 3)):
        loop = pv.SVIRefiner(num_steps=3, objective=pv.ELBO(num_particles=6), safeguard=False)
        slope = loop(oracle.model, family, oracle.x, start).slope
    q = family(start)
    covariance = q.covariance_matrix if name == "full_normal" else torch.diag_embed(q.variance)
    (exact,) = torch.autograd.grad(-oracle.elbo(q.mean, covariance).sum(), start)
    torch.testing.assert_close(slope, exact)
