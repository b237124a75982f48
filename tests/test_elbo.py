import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import FAMILIES, GUIDES, Z_DIM, make_guide
from pyro.infer import Trace_ELBO

import pyrovae as pv
from pyrovae.inference import ELBO, common_noise_terms, elbo_terms
from pyrovae.testing import FixedNoise


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", GUIDES)
def test_is_trace_elbo_bit_for_bit(name, family, model, x):
    guide, results = make_guide(name, family, model), []
    for elbo in (Trace_ELBO(), ELBO(path_gradient=False)):
        model.zero_grad(), guide.zero_grad()
        torch.manual_seed(4)
        elbo(model, guide)(x).backward()
        results.append([p.grad.clone() for p in (*model.parameters(), *guide.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_beta_is_on_both_sides(model, x):
    family, params, noise = pv.DiagonalNormal(Z_DIM), torch.randn(7, 2 * Z_DIM), torch.randn(7, Z_DIM)
    q = family(params)
    z = q.mean + q.stddev * noise
    recon, kl = model.decode(z).log_prob(x).sum(), (q.log_prob(z) - model.prior().log_prob(z)).sum()
    for beta in (0.0, 0.3, 1.0, torch.tensor(2.0)):
        with FixedNoise(noise):
            loss = ELBO(beta=beta).differentiable_loss(model, lambda _: family.sample(params), x)
        torch.testing.assert_close(loss, beta * kl - recon)


def test_no_host_sync(model, x, monkeypatch):
    # Not Adam, which reads its step count, a number on the host whatever the device.
    guide = make_guide("semi_amortized", "diagonal_normal", model, optimizer="sgd")

    synced = []
    for name in ("item", "__bool__", "__float__", "tolist"):
        original = getattr(torch.Tensor, name)
        record = lambda self, *a, name=name, original=original: (synced.append(name), original(self, *a))[1]  # noqa: E731
        monkeypatch.setattr(torch.Tensor, name, record)
    with pyro.validation_enabled(False):
        elbo = ELBO(num_particles=2)
        elbo.loss_and_grads(model, guide, x)
    assert synced == []
    float(x.sum())  # and the spies do see one
    assert synced


@pytest.mark.parametrize("family", FAMILIES)
def test_terms_are_the_elbo(family, model, x):
    q = make_guide("amortized", family, model).family
    params = 0.5 * torch.randn(7, q.num_params)
    many = elbo_terms(model, q, x, params, num_particles=4000)
    z = q(params).sample((4000,))
    weights = model.decode(z).log_prob(x) + model.prior().log_prob(z) - q(params).log_prob(z)
    error = weights.std(0) / 4000**0.5
    assert ((many.elbo() - weights.mean(0)).abs() < 5 * 2**0.5 * error).all()
    assert many.recon.shape == many.kl.shape == (7,)


def test_common_noise(model, x):
    family, params = pv.DiagonalNormal(Z_DIM), torch.randn(7, 2 * Z_DIM)
    first, second = common_noise_terms(model, family, x, params, params.clone())
    assert torch.equal(first.recon, second.recon)


def test_guide_without_rsample_is_refused(model, x):
    class Discrete(pv.Family):
        num_params = Z_DIM

        def forward(self, params):
            return dist.Poisson(params.exp()).to_event(1)

    params = torch.zeros(7, Z_DIM)
    with pytest.raises(ValueError, match="guide site 'z' has no rsample; use pyro.infer.Trace_ELBO"):
        ELBO().differentiable_loss(model, lambda _: Discrete(Z_DIM).sample(params), x)
