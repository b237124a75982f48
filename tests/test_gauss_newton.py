"""Gauss-Newton refinement: exact where the decoder is linear, at the mode where it is not."""

import pyro.distributions as dist
import pytest
import torch
from conftest import X_SHAPE, Z_DIM, make_guide
from hypothesis import given, settings
from hypothesis import strategies as st
from test_capture import both
from torch import nn

import pyrovae as pv
from pyrovae.config import COMPONENTS
from pyrovae.inference import elbo_terms, iwae
from pyrovae.testing import LinearGaussian, check_guide


@pytest.fixture
def curved():
    """A Bernoulli model whose decoder depends on z, and data of its own, in float64."""
    torch.manual_seed(1)
    model = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,), activation="tanh").double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    with torch.no_grad():
        return model, model.decode(torch.randn(12, Z_DIM).double()).sample()


def zeros(x, family):
    return torch.zeros(len(x), family.num_params, dtype=x.dtype)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(d=st.integers(1, 8), D=st.integers(1, 12), sigma=st.floats(0.3, 2.0), seed=st.integers(0, 999))
def test_one_step_is_exact_where_the_decoder_is_linear(d, D, sigma, seed):
    oracle, family = LinearGaussian.random(d, D, sigma=sigma, seed=seed), pv.FullNormal(d).double()
    start = 3 * torch.randn(4, family.num_params, dtype=torch.float64)
    assert not torch.allclose(iwae(oracle.model, family, oracle.x, start, 1), oracle.log_evidence, atol=0.1)
    refined = pv.GaussNewtonRefiner(num_steps=1, safeguard=False)(oracle.model, family, oracle.x, start).params
    for _ in range(5):  # every draw, not their mean
        weight = iwae(oracle.model, family, oracle.x, refined, 1)
        torch.testing.assert_close(weight, oracle.log_evidence, atol=1e-8, rtol=0)


@pytest.mark.parametrize("beta", [0.25, 4.0])
def test_beta_weighs_the_prior(beta):
    oracle, family = LinearGaussian.random(), pv.FullNormal(3).double()
    W, identity = oracle.W, torch.eye(3, dtype=torch.float64)
    precision = identity + W.T @ W / (beta * oracle.variance)
    mean = torch.linalg.solve(precision, W.T @ (oracle.x - oracle.b).T / (beta * oracle.variance)).T
    refined = pv.GaussNewtonRefiner(num_steps=1)(oracle.model, family, oracle.x, zeros(oracle.x, family), beta)
    q = family(refined.params)
    torch.testing.assert_close(q.mean, mean, atol=1e-8, rtol=0)
    torch.testing.assert_close(q.precision_matrix, precision.expand(4, 3, 3), atol=1e-6, rtol=1e-6)


def test_ends_at_the_mode_with_the_curvature_there(curved):
    model, x = curved
    family = pv.FullNormal(Z_DIM).double()
    loop = pv.GaussNewtonRefiner(num_steps=80, safeguard=False)
    inferred = loop(model, family, x, zeros(x, family), record=True)

    def log_joint(z):
        return model.decode(z).log_prob(x) + model.prior().log_prob(z)

    z = torch.zeros(len(x), Z_DIM, dtype=torch.float64, requires_grad=True)
    start = log_joint(z).detach()
    optimizer = torch.optim.LBFGS([z], lr=0.3, max_iter=400, tolerance_grad=1e-12, tolerance_change=1e-16)
    optimizer.step(lambda: (optimizer.zero_grad(), loss := -log_joint(z).sum(), loss.backward())[1])
    found = family(inferred.params).mean
    assert (log_joint(found) - start).mean() > 1
    torch.testing.assert_close(found, z.detach(), atol=1e-5, rtol=0)

    values = torch.stack([log_joint(family(params).mean) for params in inferred.path])
    assert (values.diff(dim=0) > -1e-9).all(), "a step went down"
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: model.decoder(z).flatten()))(found)  # (B, pixels, D)
    p = model.decoder(found).flatten(1).sigmoid()
    precision = torch.einsum("bni,bn,bnj->bij", jacobian, p * (1 - p), jacobian) + torch.eye(Z_DIM)
    torch.testing.assert_close(family(inferred.params).precision_matrix, precision, atol=1e-5, rtol=1e-6)


def test_gains_more_than_the_best_diagonal(curved):
    model, x = curved
    full, diagonal = pv.FullNormal(Z_DIM).double(), pv.DiagonalNormal(Z_DIM).double()
    best = pv.SVIRefiner(num_steps=400, lr=0.1, lr_decay="linear", objective=pv.ELBO(num_particles=8))(
        model, diagonal, x, zeros(x, diagonal)
    )
    found = pv.GaussNewtonRefiner(num_steps=6)(model, full, x, zeros(x, full))
    scores = [elbo_terms(model, q, x, r.params, 2000).elbo().mean() for q, r in ((full, found), (diagonal, best))]
    assert scores[0] > scores[1] + 0.05
    assert not found.reverted.any()


def test_a_step_too_long_is_taken_back_and_halved(curved):
    model, x = curved
    family, start = pv.FullNormal(Z_DIM).double(), zeros(x := curved[1], pv.FullNormal(Z_DIM))
    path = pv.GaussNewtonRefiner(num_steps=12, lr=64.0, safeguard=False)(model, family, x, start, record=True).path
    means = family(path).mean
    values = torch.stack([model.decode(z).log_prob(x) + model.prior().log_prob(z) for z in means])
    assert (values.diff(dim=0) > -1e-9).all()
    stayed = (path[1:-1] == path[2:]).all(-1)
    assert stayed[0].any()
    assert (values[-1] - values[0]).mean() > 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_c8_a_datapoint_ends_alike_alone_and_in_a_batch(curved, dtype, tolerance):
    model, x = (part.to(dtype) for part in curved)
    family, loop = pv.FullNormal(Z_DIM).to(dtype), pv.GaussNewtonRefiner(safeguard=False)
    start = 0.3 * torch.randn(12, family.num_params, dtype=dtype)
    together = loop(model, family, x, start).params
    for i in range(4):
        alone = loop(model, family, x[i : i + 1], start[i : i + 1]).params
        torch.testing.assert_close(alone[0], together[i], atol=tolerance, rtol=0)
    other = x.clone()
    other[3] = 1 - other[3]
    assert torch.equal(loop(model, family, other, start).params[:3], together[:3])


@pytest.mark.filterwarnings("error::pyrovae.capture.CaptureWarning")
def test_the_captured_loop_is_the_eager_one(interpreted):
    check_captured("mlp", "bernoulli", torch.float64, 1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::pyrovae.capture.CaptureWarning")
@pytest.mark.parametrize(
    ("net", "likelihood", "dtype", "tolerance"),
    [
        ("mlp", "bernoulli", torch.float64, 1e-10),
        ("conv", "continuous_bernoulli", torch.float32, 1e-3),
    ],
)
def test_so_when_compiled(net, likelihood, dtype, tolerance):
    check_captured(net, likelihood, dtype, tolerance)


def check_captured(net, likelihood, dtype, tolerance):
    likelihood = COMPONENTS["likelihood"][likelihood](3)
    options = {"widths": (8,), "likelihood": likelihood, **({"channels": (2, 4)} if net == "conv" else {})}
    model = getattr(pv.models, net)(X_SHAPE, Z_DIM, **options).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    family, loop = pv.FullNormal(Z_DIM), pv.GaussNewtonRefiner()
    for size in (7, 64, 1):
        x, start = torch.rand(size, *X_SHAPE).round().to(dtype), torch.randn(size, family.num_params, dtype=dtype)
        eager, compiled = both(loop, model, family, x, start, record=True, beta=0.7)
        assert (eager.path[-1] - start).abs().max() > 0.1
        torch.testing.assert_close(eager.path, compiled.path, atol=tolerance, rtol=0)
        torch.testing.assert_close(eager.terms, compiled.terms, atol=10 * tolerance, rtol=1e-5)
        assert torch.equal(eager.reverted, compiled.reverted)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3, 1e8, 1e30, float("nan")])
def test_no_weight_and_no_start_breaks_it(scale, model, x):
    for parameter in model.parameters():
        nn.init.normal_(parameter)
        parameter.data *= scale
    family, start = pv.FullNormal(Z_DIM), torch.randn(7, 9)
    start[2, 0], start[3, :3], start[4, 0] = float("nan"), 1e20, -float("inf")
    for beta in (1.0, 0.0):
        for safeguard in (True, False):
            params = pv.GaussNewtonRefiner(safeguard=safeguard)(model, family, x, start, beta).params
            assert params[[0, 1, 5, 6]].isfinite().all()
            if scale < 1e4:
                assert not torch.equal(params[0], start[0]) or safeguard
                if safeguard and beta == 0:  # x tells nothing of z, so that rounding decides which λ is kept
                    continue
                q = family(params[[0, 1, 5, 6]])
                assert (q.scale_tril.diagonal(dim1=-2, dim2=-1) < 1.001).all(), "no wider than the prior"


def test_single_precision_never_fails_to_factorise():
    torch.manual_seed(0)
    decoder = pv.nets.MLP((40,), (1, 20, 20), widths=(30,))  # fewer hidden units than latent dimensions: singular J'RJ
    model = pv.VAE(pv.models.priors.StandardNormal(40), decoder, pv.models.likelihoods.Normal(scale=1e-4))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    family, x = pv.FullNormal(40), torch.randn(16, 1, 20, 20)
    params = pv.GaussNewtonRefiner(num_steps=1, safeguard=False)(model, family, x, zeros(x, family)).params
    assert (params != 0).any(-1).all(), "a factorisation failed"
    assert params.isfinite().all()


def test_autocast_is_for_the_decoder_alone(model, x):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    family, loop, dtypes = pv.FullNormal(Z_DIM), pv.GaussNewtonRefiner(), []
    model.decoder.register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    results = []
    for enabled in (True, False):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(loop(model, family, x, zeros(x, family)))
    assert set(dtypes) == {torch.bfloat16, torch.float32}
    assert results[0].params.dtype == results[0].terms.recon.dtype == torch.float32
    gains = [(r.terms.elbo() - r.terms_init.elbo()).mean() for r in results]
    assert gains[1] > 1
    assert gains[0] == pytest.approx(gains[1].item(), abs=0.2)


@pytest.mark.parametrize("name", ["semi_amortized", "svi"])
def test_guides_with_it_keep_the_contract(name, model, x, monkeypatch):
    for parameter in model.parameters():  # a decoder that depends on z
        nn.init.normal_(parameter, std=0.5)
    monkeypatch.setattr(pv, "SVIRefiner", lambda **options: pv.GaussNewtonRefiner())
    guide = make_guide(name, "full_normal", model)
    assert isinstance(guide.refiner, pv.GaussNewtonRefiner)
    check_guide(model, guide, x)


def test_refusals(model, x):
    loop = pv.GaussNewtonRefiner()
    mixture = COMPONENTS["prior"]["mixture_normal"](Z_DIM)
    cases = [
        (model, pv.DiagonalNormal(Z_DIM), "finds a full covariance, got DiagonalNormal; use FullNormal, or SVIRefiner"),
        (nn.Linear(2, 2), pv.FullNormal(Z_DIM), "needs the decoder of a VAE, got Linear; use SVIRefiner"),
        (pv.VAE(mixture, model.decoder, model.likelihood), pv.FullNormal(Z_DIM), "needs a normal prior, got Mixture"),
    ]
    for where, family, message in cases:
        with pytest.raises(ValueError, match=message):
            pv.SVIGuide(where, family, loop)
        with pytest.raises(ValueError, match=message):
            loop(where, family, x, zeros(x, family))
    with pytest.raises(ValueError, match=r"params must be \(7, 9\), a row of λ for each of x, got \(1, 9\)"):
        loop(model, pv.FullNormal(Z_DIM), x, torch.zeros(1, 9))
    for bad, message in (
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"lr": 0.0}, "lr must be > 0, got 0.0"),
        ({"score_particles": 0}, "score_particles must be >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.GaussNewtonRefiner(**bad)


@pytest.mark.parametrize("name", sorted(COMPONENTS["likelihood"]))
def test_information_is_the_mean_square_of_the_score(name):
    likelihood = COMPONENTS["likelihood"][name](1).double()
    h = torch.tensor([-2.0, -0.6, -0.01, 0.0, 0.3, 1.5, 4.0], dtype=torch.float64)
    many = h.expand(400_000, -1).clone().requires_grad_()
    (score,) = torch.autograd.grad(likelihood(many).log_prob(likelihood(many).sample()).sum(), many)
    error = 5 * (score**2).std(0) / len(many) ** 0.5
    assert ((likelihood.information(h) - (score**2).mean(0)).abs() <= error + 1e-3).all()
    single = likelihood.float().information(h.float())
    torch.testing.assert_close(single.double(), likelihood.double().information(h), rtol=1e-4, atol=1e-6)
    extreme = torch.tensor([-1e4, -200.0, -20.0, 0.499, 0.5, 20.0, 200.0, 1e4])
    assert (likelihood.float().information(extreme) >= 0).all()
    assert likelihood.information(extreme).isfinite().all()


def test_the_cap_of_poisson_rates_has_no_information():
    assert pv.models.likelihoods.Poisson(1).information(torch.tensor([16.0])) == 0


def test_full_normal_finds_the_row_of_a_normal():
    family = pv.FullNormal(4).double()
    params = torch.randn(3, family.num_params, dtype=torch.float64)
    params[0, 4:8] -= 8
    q = family(params)
    torch.testing.assert_close(family.params_of(q.loc, q.scale_tril), params, rtol=1e-10, atol=1e-10)
    floored = family.params_of(q.loc, 0 * q.scale_tril)
    assert floored.isfinite().all()
    assert isinstance(family(floored), dist.MultivariateNormal)
