import pytest
import torch
from conftest import COMPONENTS, FAMILIES, GUIDES, X_SHAPE, Z_DIM, encoder_loss, make_guide

import pyrovae as pv
from pyrovae.testing import check_guide


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", GUIDES)
def test_contract(name, family, model, x, monkeypatch):
    if family != "diagonal_normal":  # tracing takes a second; test_families.py traces every family
        monkeypatch.setattr("pyrovae.testing.contracts._check_engines", lambda *_: None)
    check_guide(model, make_guide(name, family, model), x)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loop", [pv.SVIRefiner(optimizer="natural", num_steps=3, lr=0.2, clip=2.0), pv.GaussNewtonRefiner(num_steps=2)])  # fmt: skip
def test_contract_with_loops_that_are_for_some_families(loop, family, model, x):
    q = COMPONENTS["family"][family](Z_DIM)
    encoder = pv.nets.MLP(X_SHAPE, (q.num_params,), widths=(8,))
    if q.has_natural_gradient if isinstance(loop, pv.SVIRefiner) else family == "full_normal":
        check_guide(model, pv.SemiAmortizedGuide(model, q, encoder, loop), x)
        return
    with pytest.raises(ValueError, match=f"got {type(q).__name__}; use "):
        pv.SemiAmortizedGuide(model, q, encoder, loop)


@pytest.mark.parametrize("loss", ["hybrid", "kl"])
@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_loss_teaches_the_encoder_and_nothing_else(loss, family, model, x):
    guide = make_guide("semi_amortized", family, model, lr=0.1, safeguard=False)
    inferred = guide.infer(x)
    encoder_loss(loss, guide, x, inferred).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in guide.encoder.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_hybrid_takes_the_gradient_that_the_first_step_estimated(family, model, x):
    guide = make_guide("semi_amortized", family, model, num_steps=3, clip=0.1)
    grads = []
    for slope in (True, False):  # from the loop; by a pass of its own
        guide.zero_grad()
        torch.manual_seed(1)
        inferred = guide.infer(x)
        assert inferred.slope is not None
        torch.manual_seed(1)  # the noise of the first step
        inferred = inferred if slope else inferred._replace(slope=None)
        encoder_loss("hybrid", guide, x, inferred).backward()
        grads.append([p.grad.clone() for p in guide.encoder.parameters()])
        assert all(p.grad is None for p in guide.family.parameters()), "the loss is for λ₀ alone"
    for first, own in zip(*grads, strict=True):
        assert own.abs().max() > 0.1
        torch.testing.assert_close(first, own)
    assert guide.infer(x, start=torch.zeros_like(inferred.params)).slope is None


def test_encoder_loss_kl_is_the_closed_form(model, x):
    guide = make_guide("semi_amortized", "diagonal_normal", model, lr=0.1, safeguard=False)
    inferred = guide.infer(x)
    q, p = guide.family(inferred.init).base_dist, guide.family(inferred.params).base_dist
    ratio = (q.scale / p.scale) ** 2
    expected = 0.5 * (ratio + ((q.loc - p.loc) / p.scale) ** 2 - 1 - ratio.log()).sum()
    torch.testing.assert_close(encoder_loss("kl", guide, x, inferred), expected)


def test_encoder_factor_leaves_the_value_of_the_elbo_alone(model, x):
    guide = make_guide("semi_amortized", "diagonal_normal", model)
    torch.manual_seed(2)
    with_factor = pv.ELBO()(model, guide)(x).item()
    guide.taught = lambda x, inferred, beta, prior: inferred
    torch.manual_seed(2)
    assert pv.ELBO()(model, guide)(x).item() == pytest.approx(with_factor, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_first_params_have_the_mean_and_variance_of_the_prior(family):
    q = COMPONENTS["family"][family](Z_DIM)
    made = q(q.init_params()[None])
    torch.testing.assert_close(made.mean, torch.zeros(1, Z_DIM), rtol=0, atol=1e-6)
    torch.testing.assert_close(made.variance, torch.ones(1, Z_DIM), rtol=1e-4, atol=0)
    torch.manual_seed(3)
    first = q.init_params()
    torch.manual_seed(3)
    assert torch.equal(q.init_params(), first)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("extreme", [-200.0, 200.0])
def test_extreme_params_stay_finite(family, extreme):
    q = COMPONENTS["family"][family](Z_DIM)
    each, together = torch.eye(q.num_params), torch.ones(1, q.num_params)
    params = (extreme * torch.cat([each, together])).requires_grad_()
    made = q(params)
    log_prob = made.log_prob(made.rsample((8,)))
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    for value in (log_prob, gradient, made.mean, made.variance):
        assert value.isfinite().all()


def test_errors_name_value_and_remedy(model):
    with pytest.raises(ValueError, match="encoder_loss must be hybrid or kl, got 'both'"):
        pv.SVIGuide(model, pv.DiagonalNormal(3), pv.SVIRefiner(), encoder_loss="both")
    with pytest.raises(ValueError, match="z_dim must be >= 1, got 0"):
        pv.FullNormal(0)
