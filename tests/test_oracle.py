"""Inference against closed forms. The letters in names are those of the correctness table in docs/design.md."""

from functools import partial
from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pyrovae as pv
from pyrovae.inference import ELBO, elbo_terms, iwae
from pyrovae.testing import FixedNoise, LinearGaussian, evidence_of_ppca, quadrature

FAMILIES = [pv.DiagonalNormal, pv.FullNormal, pv.LowRankNormal]
EXACT = [pv.FullNormal, partial(pv.LowRankNormal, rank=2)]  # for three dimensions
sizes = {"d": st.integers(1, 8), "extra": st.integers(0, 4), "sigma": st.floats(0.3, 2.0), "seed": st.integers(0, 999)}


def exact_elbo(oracle: LinearGaussian, family: pv.Family, params: torch.Tensor) -> torch.Tensor:
    noise = quadrature(len(oracle.x), family.z_dim)
    with FixedNoise(noise):
        return elbo_terms(oracle.model, family, oracle.x, params, num_particles=len(noise)).elbo()


@pytest.mark.parametrize("Family", FAMILIES)
@settings(derandomize=True, deadline=None, max_examples=25)
@given(**sizes)
def test_c1_elbo(Family, d, extra, sigma, seed):
    oracle = LinearGaussian.random(d, d + extra, sigma=sigma, seed=seed)
    family = Family(d).double()
    params = 0.3 * torch.randn(len(oracle.x), family.num_params, dtype=torch.float64)
    q = family(params)
    covariance = torch.diag_embed(q.variance) if Family is pv.DiagonalNormal else q.covariance_matrix
    torch.testing.assert_close(
        exact_elbo(oracle, family, params), oracle.elbo(q.mean, covariance), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_c2_refinement_reaches_the_best_diagonal(optimizer):
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    start = torch.zeros(4, 6, dtype=torch.float64)
    best, gap = oracle.best_params(family), oracle.diagonal_gap
    left = oracle.log_evidence - exact_elbo(oracle, family, best)
    torch.testing.assert_close(left, gap.expand(4), rtol=0, atol=1e-10)

    assert (start - best).abs().max() > 0.1  # or nothing would be shown
    lr = {"sgd": 0.3 / torch.linalg.eigvalsh(oracle.precision).max().item(), "adam": 0.02}[optimizer]
    refine = pv.SVIRefiner(
        num_steps=1500, lr=lr, optimizer=optimizer, objective=pv.ELBO(num_particles=6), safeguard=False
    )
    with FixedNoise(quadrature(4, 3)):
        refined = refine(oracle.model, family, oracle.x, start).params
    torch.testing.assert_close(refined, best, rtol=0, atol=1e-8)


def test_c2_ordinary_noise():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    start = torch.zeros(4, 6, dtype=torch.float64)
    best = exact_elbo(oracle, family, oracle.best_params(family))
    assert (best - exact_elbo(oracle, family, start)).min() > 1
    refined = pv.SVIRefiner(num_steps=800, lr=0.003, optimizer="sgd", objective=pv.ELBO(num_particles=10))(
        oracle.model, family, oracle.x, start
    ).params
    assert (best - exact_elbo(oracle, family, refined)).max() < 0.02


@pytest.mark.parametrize("Family", EXACT)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_c3_exact_posterior_gives_constant_weights(Family, dtype, tolerance):
    oracle, family = LinearGaussian.random(), Family(3)
    params = oracle.best_params(family).to(dtype)
    model, x = oracle.model.to(dtype), oracle.x.to(dtype)
    evidence = LinearGaussian.random().log_evidence
    for _ in range(20):  # every draw, not their mean
        for i in range(len(x)):
            log_weight = -ELBO().loss(model, lambda _, i=i: family.to(dtype).sample(params[i : i + 1]), x[i : i + 1])
            assert abs(log_weight.item() - evidence[i].item()) < tolerance


def test_c3_importance_weights_from_the_exact_posterior_give_the_evidence():
    oracle, family = LinearGaussian.random(), pv.FullNormal(3)
    for num_samples in (1, 7):
        bound = iwae(oracle.model, family, oracle.x, oracle.best_params(family), num_samples, chunk_size=3)
        torch.testing.assert_close(bound, oracle.log_evidence, atol=1e-10, rtol=0)


def test_c7_importance_weights_from_another_q_rise_from_the_elbo_to_the_evidence():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3)
    params = oracle.best_params(family)
    bounds = {k: torch.stack([iwae(oracle.model, family, oracle.x, params, k) for _ in range(400)]) for k in (1, 8, 64)}
    means = [bound.mean() for bound in bounds.values()]
    error = bounds[1].std() / bounds[1].numel() ** 0.5
    elbo = (oracle.log_evidence - oracle.diagonal_gap).mean()
    assert abs(means[0] - elbo) < 5 * error
    assert means[0] < means[1] < means[2] < oracle.log_evidence.mean() + 5 * error
    assert oracle.log_evidence.mean() - means[2] < 0.2 * oracle.diagonal_gap
    with pytest.raises(ValueError, match="num_samples must be >= 1, got 0"):
        iwae(oracle.model, family, oracle.x, params, 0)


@pytest.mark.parametrize("Family", EXACT)
def test_c3_path_gradient_vanishes_at_the_exact_posterior(Family):
    oracle, family = LinearGaussian.random(), Family(3).double()
    params = oracle.best_params(family).requires_grad_()
    grads = []
    for path_gradient in (True, False):
        elbo = ELBO(path_gradient=path_gradient)
        loss = elbo.differentiable_loss(oracle.model, lambda _: family.sample(params), oracle.x)
        grads.append(torch.autograd.grad(loss, params)[0].abs().max())
    assert grads[0] < 1e-10
    assert grads[1] > 0.1


@settings(derandomize=True, deadline=None, max_examples=25)
@given(**sizes)
def test_c4_gaps_add_up(d, extra, sigma, seed):
    oracle = LinearGaussian.random(d, d + extra, sigma=sigma, seed=seed)
    family = pv.DiagonalNormal(d).double()
    params = 0.5 * torch.randn(len(oracle.x), 2 * d, dtype=torch.float64)
    q, L = family(params), oracle.precision
    delta, ratio = q.mean - oracle.mean, L.diagonal() * q.variance
    location = 0.5 * torch.einsum("bi,ij,bj->b", delta, L, delta)
    scale = 0.5 * (ratio - 1 - ratio.log()).sum(-1)
    torch.testing.assert_close(
        oracle.log_evidence - exact_elbo(oracle, family, params),
        oracle.diagonal_gap + location + scale,
        rtol=1e-10,
        atol=1e-10,
    )


def test_c4_the_right_linear_encoder_leaves_no_amortization_gap():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    encoder = nn.Linear(5, 6).double()
    A = torch.linalg.solve(oracle.precision, oracle.W.T / oracle.variance)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([A, torch.zeros_like(A)]))
        encoder.bias.copy_(torch.cat([-A @ oracle.b, oracle.best_params(family)[0, 3:]]))
    params = pv.AmortizedGuide(family, encoder).infer(oracle.x).params
    left = oracle.log_evidence - exact_elbo(oracle, family, params)
    torch.testing.assert_close(left, oracle.diagonal_gap.expand(4), rtol=0, atol=1e-10)


@pytest.mark.parametrize("Family", FAMILIES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_c8_a_datapoint_ends_alike_alone_and_in_a_batch(Family, optimizer, dtype, tolerance):
    oracle, family = LinearGaussian.random(), Family(3).to(dtype)
    model, x = oracle.model.to(dtype), oracle.x.to(dtype)
    start, noise = family.init_params().to(dtype).expand(4, -1), torch.randn(2, 4, 3, dtype=dtype)
    refine = pv.SVIRefiner(
        num_steps=10, lr=0.05, optimizer=optimizer, objective=pv.ELBO(num_particles=2), clip=3.0, safeguard=False
    )

    def run(rows: slice, x: torch.Tensor = x) -> torch.Tensor:
        with FixedNoise(noise[:, rows]):
            return refine(model, family, x[rows], start[rows]).params

    together = run(slice(None))
    assert (together - start).abs().max() > 0.05
    for i in range(4):
        torch.testing.assert_close(run(slice(i, i + 1))[0], together[i], rtol=0, atol=tolerance)
    other = x.clone()
    other[3] += 10  # and nobody else may notice
    assert torch.equal(run(slice(None), other)[:3], together[:3])


@pytest.mark.parametrize("Family", FAMILIES)
def test_c9_order_in_the_batch_does_not_matter(Family):
    oracle, family = LinearGaussian.random(), Family(3).double()
    encoder, noise = nn.Linear(5, family.num_params).double(), torch.randn(4, 3, dtype=torch.float64)
    guide, order = pv.AmortizedGuide(family, encoder), torch.tensor([2, 0, 3, 1])
    parameters = [*oracle.model.decoder.parameters(), *encoder.parameters()]

    def gradient(rows: torch.Tensor) -> list[torch.Tensor]:
        with FixedNoise(noise[rows]):
            loss = ELBO().differentiable_loss(oracle.model, guide, oracle.x[rows])
        return list(torch.autograd.grad(loss, parameters))

    torch.testing.assert_close(gradient(order), gradient(torch.arange(4)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scheme", ["amortized", "semi_amortized", "svi"])
def test_c10_training_finds_ppca(scheme):
    d, D, num_data = 2, 5, 60
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_data, D, generator=generator, dtype=torch.float64)
    x = x @ torch.diag(torch.tensor([2.0, 1.5, 0.4, 0.4, 0.4], dtype=torch.float64))
    best = evidence_of_ppca(x - x.mean(0), d)

    model = pv.VAE(
        pv.models.priors.StandardNormal(d), nn.Linear(d, D), pv.models.likelihoods.Normal(1, learn_scale=True)
    ).double()
    family, encoder = pv.DiagonalNormal(d).double(), nn.Linear(D, 2 * d).double()
    loop = pv.SVIRefiner(
        num_steps={"semi_amortized": 3, "svi": 30}.get(scheme, 1), lr=0.1, optimizer="sgd", clip=5.0, objective=pv.ELBO(num_particles=4),
        score_particles=4,
    )  # fmt: skip
    guide = {
        "amortized": lambda: pv.AmortizedGuide(family, encoder),
        "semi_amortized": lambda: pv.SemiAmortizedGuide(model, family, encoder, loop),
        "svi": lambda: pv.SVIGuide(model, family, loop).double(),
    }[scheme]()
    elbo = ELBO(num_particles=2 * d, path_gradient=False)(model, guide)
    optimizer = torch.optim.Adam(elbo.parameters(), lr=0.03)

    def gap() -> float:
        params = guide.infer(x).params
        return (best - elbo_terms(model, family, x, params, num_particles=2 * d).elbo().mean()).item()

    with FixedNoise(quadrature(num_data, d)):
        assert gap() > 1
        for step in range({"svi": 250}.get(scheme, 600)):
            optimizer.param_groups[0]["lr"] = 0.03 if step < 200 else 0.01
            optimizer.zero_grad()
            (elbo(x) / num_data).backward()
            optimizer.step()
        assert abs(gap()) < 0.02
    assert model.likelihood.log_scale.item() == pytest.approx(log(0.4), abs=0.2)
