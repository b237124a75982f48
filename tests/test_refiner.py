import pyro
import pytest
import torch
from conftest import FAMILIES, X_SHAPE, Z_DIM, make_guide
from pyro.infer import SVI

import pyrovae as pv
from pyrovae.inference import elbo_terms, frozen


def test_improves_and_says_by_how_much(model, x):
    torch.manual_seed(1)
    for parameter in model.parameters():  # a decoder that depends on z
        torch.nn.init.normal_(parameter, std=0.5)
    family, start = pv.DiagonalNormal(Z_DIM), torch.zeros(7, 2 * Z_DIM)
    inferred = pv.SVIRefiner(num_steps=60, lr=0.05)(model, family, x, start, record=True)
    before, after = (elbo_terms(model, family, x, p, 500).elbo() for p in (start, inferred.params))
    assert (after - before).mean() > 1
    gain = (inferred.terms.elbo() - inferred.terms_init.elbo()).mean()
    assert gain == pytest.approx((after - before).mean().item(), abs=1.0)
    assert inferred.path.shape == (61, 7, 2 * Z_DIM)
    assert torch.equal(inferred.path[0], start)


def test_is_a_genuine_svi(model, x, monkeypatch):
    steps, original = [], SVI.step
    monkeypatch.setattr(SVI, "step", lambda self, *args: steps.append(original(self, *args)))
    pv.SVIRefiner(num_steps=4)(model, pv.DiagonalNormal(Z_DIM), x, torch.zeros(7, 2 * Z_DIM))
    assert len(steps) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_neither_moves_nor_collects_gradient(family, model, x):
    before = {name: p.clone() for name, p in model.named_parameters()}
    asked = []
    for p in model.parameters():
        p.register_hook(asked.append)
    guide = make_guide("svi", family, model, num_steps=3)
    guide.infer(x)
    assert asked == []
    for name, p in model.named_parameters():
        assert p.grad is None, name
        assert p.requires_grad, name
        assert torch.equal(p, before[name]), name
    assert not pyro.get_param_store()


def test_outer_handlers_do_not_see_the_loop(model, x):
    guide = make_guide("semi_amortized", "diagonal_normal", model)
    with pyro.poutine.trace() as outer:
        guide(x)
    assert {n for n, s in outer.trace.nodes.items() if s["type"] == "sample"} == {"encoder_loss", "data", "z"}


def test_one_bad_datapoint_spoils_no_other(model, x):
    family, start = pv.DiagonalNormal(Z_DIM), torch.zeros(7, 2 * Z_DIM)
    start[2, 0] = float("nan")
    torch.manual_seed(1)
    inferred = pv.SVIRefiner(num_steps=5)(model, family, x, start)
    assert inferred.reverted[2]
    assert inferred.params[[0, 1, 3, 4, 5, 6]].isfinite().all()


def test_safeguard_keeps_the_start_where_the_loop_explodes(model, x):
    family, start = pv.DiagonalNormal(Z_DIM), 0.1 * torch.randn(7, 2 * Z_DIM)
    inferred = pv.SVIRefiner(num_steps=5, lr=1e4, optimizer="sgd")(model, family, x, start)
    assert inferred.reverted.all()
    assert torch.equal(inferred.params, start)
    assert torch.equal(inferred.terms.elbo(), inferred.terms_init.elbo())
    free = pv.SVIRefiner(num_steps=5, lr=1e4, optimizer="sgd", safeguard=False)(model, family, x, start)
    assert not torch.equal(free.params, start)


def test_clip_bounds_each_datapoint(model, x):
    family, start = pv.DiagonalNormal(Z_DIM), torch.randn(7, 2 * Z_DIM)
    refine = pv.SVIRefiner(num_steps=1, lr=1.0, optimizer="sgd", momentum=0.0, clip=0.01, safeguard=False)
    moved = (refine(model, family, x, start).params - start).norm(dim=-1)
    torch.testing.assert_close(moved, torch.full((7,), 0.01))


def test_beta_zero_forgets_the_prior(model, x):
    family, start = pv.DiagonalNormal(Z_DIM), torch.zeros(7, 2 * Z_DIM)
    loop = pv.SVIRefiner(num_steps=30, lr=0.1, safeguard=False)
    kl = [elbo_terms(model, family, x, loop(model, family, x, start, beta).params, 50).kl.mean() for beta in (0.0, 1.0)]
    assert kl[0] > kl[1]


@pytest.mark.parametrize("cache_enabled", [True, False])
def test_autocast_runs_networks_in_bfloat16_and_densities_in_float32(cache_enabled, model, x):
    guide, dtypes = make_guide("semi_amortized", "full_normal", model), []
    model.decoder.register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache_enabled):
        inferred = guide.infer(x)
        loss = pv.ELBO()(model, guide)(x)
    assert set(dtypes) == {torch.bfloat16}
    assert inferred.params.dtype == loss.dtype == torch.float32
    loss.backward()  # a weight cached in bfloat16 by the loop, without gradient, would starve this
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_autocast_changes_no_draw_and_no_density():
    identity = torch.nn.Identity()  # a network without products, so that nothing may change at all
    model = pv.VAE(pv.models.priors.StandardNormal(3), identity, pv.models.likelihoods.Normal(1))
    family, x, params = pv.FullNormal(3), torch.randn(7, 3), torch.randn(7, 9)
    losses = []
    for enabled in (True, False):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(pv.ELBO().loss(model, lambda _: family.sample(params), x))
    assert torch.equal(*losses)


def test_dropout_is_off_within_the_loop(x):
    decoder = torch.nn.Sequential(pv.nets.MLP((Z_DIM,), X_SHAPE, widths=(8,)), torch.nn.Dropout(0.5))
    model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), decoder, pv.models.likelihoods.Bernoulli())
    modes = []
    decoder[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    make_guide("svi", "diagonal_normal", model).infer(x)
    assert set(modes) == {False}
    assert decoder[1].training


def test_frozen_is_undone_by_an_error(model):
    model.decoder.layers[0].weight.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen(model):
        1 / any(p.requires_grad for p in model.parameters())
    kept = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert kept == ["decoder.layers.0.weight"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_steps": 0}, "num_steps must be >= 1, got 0; use AmortizedGuide for no refinement"),
        ({"lr": 0.0}, "lr must be > 0, got 0.0"),
        ({"optimizer": "lbfgs"}, "optimizer must be adam or sgd, got 'lbfgs'"),
        ({"clip": -1.0}, "clip must be > 0, got -1.0"),
        ({"num_particles": 0}, "num_particles must be >= 1, got 0"),
    ],
)
def test_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        pv.SVIRefiner(**bad)
