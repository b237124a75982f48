"""What objectives are worth and where their gradients go."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import X_SHAPE, Z_DIM, make_guide
from pyro.nn import PyroModule
from torch import nn

import pyrovae as pv
from pyrovae.config import COMPONENTS
from pyrovae.inference import elbo_terms, iwae
from pyrovae.testing import FixedNoise, LinearGaussian, quadrature


@pytest.fixture
def oracle() -> LinearGaussian:
    return LinearGaussian.random()


def gradients(objective, oracle, encoder, family):
    guide = pv.AmortizedGuide(family, encoder)
    loss = objective.differentiable_loss(oracle.model, guide, oracle.x)
    return [loss.detach(), *torch.autograd.grad(loss, [*encoder.parameters(), *oracle.model.decoder.parameters()])]


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_analytic_elbo_is_the_elbo(beta, oracle):
    family, encoder = pv.DiagonalNormal(3).double(), nn.Linear(5, 6).double()
    noise = quadrature(4, 3)  # exact expectations of quadratics, so also of the gradients' noise
    results = []
    for make in (pv.AnalyticELBO, pv.ELBO):
        options = {"path_gradient": False} if make is pv.ELBO else {}
        with FixedNoise(noise):
            results.append(gradients(make(beta, num_particles=6, **options), oracle, encoder, family))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_analytic_elbo_draws_where_there_is_no_closed_form(model, x):
    prior = COMPONENTS["prior"]["mixture_normal"](Z_DIM)
    mixed = pv.VAE(prior, model.decoder, model.likelihood)
    guide, losses = make_guide("amortized", "diagonal_normal", mixed), []
    for objective in (pv.AnalyticELBO(num_particles=2), pv.ELBO(num_particles=2)):
        torch.manual_seed(1)
        losses.append(objective(mixed, guide)(x))
        losses[-1].backward()
    torch.testing.assert_close(*losses)


def test_free_bits_cost_nothing_and_teach_nothing(model, x):
    family, params = pv.DiagonalNormal(Z_DIM), torch.zeros(7, 2 * Z_DIM)
    params[:, 0] = 2.0  # 2 nats in the first dimension, none in the others
    params.requires_grad_()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()  # so that only the KL term reaches λ
    losses, grads = {}, {}
    for bits in (0.0, 0.5, 3.0):
        loss = pv.AnalyticELBO(free_bits=bits).differentiable_loss(model, lambda _: family.sample(params), x)
        losses[bits], (grads[bits],) = loss.item(), torch.autograd.grad(loss, params)
    assert losses[0.5] - losses[0.0] == pytest.approx(7 * 2 * 0.5, rel=1e-3)
    assert losses[3.0] - losses[0.0] == pytest.approx(7 * (3 * 3.0 - 2.0), rel=1e-3)
    torch.testing.assert_close(grads[0.0][:, 0], torch.full((7,), 2.0))
    torch.testing.assert_close(grads[0.5][:, 0], torch.full((7,), 2.0))
    assert torch.equal(grads[3.0], torch.zeros_like(params))
    with pytest.raises(ValueError, match="free_bits must be >= 0, got -1"):
        pv.AnalyticELBO(free_bits=-1)


def test_free_bits_of_a_family_with_correlations_are_one_allowance(model, x):
    family, params = pv.FullNormal(Z_DIM), torch.zeros(7, 9)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    losses = [
        pv.AnalyticELBO(free_bits=bits).loss(model, lambda _: family.sample(params), x).item() for bits in (0.0, 0.5)
    ]
    assert losses[1] - losses[0] == pytest.approx(7 * Z_DIM * 0.5, rel=0.01)


@pytest.mark.parametrize("doubly", [False, True])
def test_iwae_has_the_value_of_the_bound(doubly, model, x):
    guide = make_guide("amortized", "diagonal_normal", model)
    params = guide.infer(x).params
    torch.manual_seed(1)
    loss = pv.IWAE(num_particles=6, doubly_reparameterized=doubly)(model, guide)(x)
    torch.manual_seed(1)
    torch.testing.assert_close(-loss, iwae(model, guide.family, x, params, 6).sum())


def test_iwae_of_one_particle_is_the_elbo(model, x):
    guide, results = make_guide("amortized", "diagonal_normal", model), []
    for objective in (pv.IWAE(num_particles=1), pv.ELBO()):
        guide.zero_grad()
        torch.manual_seed(1)
        loss = objective(model, guide)(x)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in guide.parameters())])
    torch.testing.assert_close(*results)


def test_iwae_gradients_are_those_of_the_formulas(oracle):
    """Burda et al.: sum w dlog w for all; Tucker et al.: sum w^2 dlog w/dz dz/dphi for the guide."""
    torch.manual_seed(0)
    family, params = pv.DiagonalNormal(3).double(), 0.3 * torch.randn(4, 6, dtype=torch.float64)
    params.requires_grad_()
    noise, num = torch.randn(5, 4, 3, dtype=torch.float64), 5
    weights = [*oracle.model.decoder.parameters()]

    def log_weights(score_params):
        q = family(params)
        z = q.mean + q.stddev * noise
        return (
            oracle.model.decode(z).log_prob(oracle.x)
            + oracle.model.prior().log_prob(z)
            - family(score_params).log_prob(z)
        )

    share = log_weights(params).softmax(0).detach()
    plain = torch.autograd.grad((share * log_weights(params)).sum(), [params, *weights])
    doubly = torch.autograd.grad((share**2 * log_weights(params.detach())).sum(), [params])
    expected = {False: plain, True: (doubly[0], *plain[1:])}
    for choice, wanted in expected.items():
        with FixedNoise(noise):
            loss = pv.IWAE(num_particles=num, doubly_reparameterized=choice).differentiable_loss(
                oracle.model, lambda _: family.sample(params), oracle.x
            )
        found = torch.autograd.grad(-loss, [params, *weights])
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert (plain[0] - doubly[0]).abs().max() > 0.1


def test_dreg_has_the_mean_of_the_plain_gradient_and_less_noise(oracle):
    torch.manual_seed(1)
    family, params = pv.DiagonalNormal(3).double(), oracle.best_params(pv.DiagonalNormal(3)).requires_grad_()
    drawn = {}
    for doubly in (False, True):
        objective = pv.IWAE(num_particles=8, doubly_reparameterized=doubly)
        grads = [
            torch.autograd.grad(
                objective.differentiable_loss(oracle.model, lambda _: family.sample(params), oracle.x), params
            )[0]
            for _ in range(1500)
        ]
        drawn[doubly] = torch.stack(grads)
    error = (drawn[False].var(0) / 1500 + drawn[True].var(0) / 1500).sqrt()
    assert ((drawn[False].mean(0) - drawn[True].mean(0)).abs() < 5 * error).all()
    assert drawn[True].var(0).sum() < 0.5 * drawn[False].var(0).sum()


def test_iwae_weighs_each_datapoint_by_itself(oracle):
    family, params, noise = pv.DiagonalNormal(3).double(), torch.zeros(4, 6).double(), torch.randn(5, 4, 3).double()
    losses = []
    for rows in (slice(0, 2), slice(2, 4), slice(None)):
        with FixedNoise(noise[:, rows]):
            objective = pv.IWAE(num_particles=5)
            losses.append(objective.loss(oracle.model, lambda _, r=rows: family.sample(params[r]), oracle.x[rows]))
    torch.testing.assert_close(losses[0] + losses[1], losses[2], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", sorted(COMPONENTS["objective"]))
@pytest.mark.parametrize("num_particles", [1, 3])
def test_factors_that_teach_count_once(name, num_particles, model, x):
    objective = COMPONENTS["objective"][name](num_particles=num_particles)
    guide = make_guide("semi_amortized", "diagonal_normal", model, safeguard=False)
    inferred = guide.infer(x)
    slope = inferred.slope
    objective.differentiable_loss(model, lambda x: guide(x, inferred=inferred), x).backward()
    grads = [p.grad.clone() for p in guide.parameters()]
    expected = torch.autograd.grad((slope * guide.initial(x)).sum(), list(guide.parameters()))
    torch.testing.assert_close(grads, list(expected))


def test_a_bad_objective_is_refused(model):
    guide = make_guide("amortized", "diagonal_normal", model)
    with pytest.raises(ValueError, match="objective must be a Objective, got 'iwae'"):
        pv.LitVAE(model, guide, objective="iwae")
    with pytest.raises(ValueError, match="num_particles must be >= 1, got 0"):
        pv.IWAE(num_particles=0)


def test_more_particles_tighten_the_bound_that_is_trained(model, x):
    guide = make_guide("amortized", "diagonal_normal", model)
    with torch.no_grad():
        for p in model.parameters():
            nn.init.normal_(p, std=0.7)
    bounds = [-pv.IWAE(num_particles=k).loss(model, guide, x) / 7 for k in (1, 10, 1000)]
    assert bounds[0] + 0.5 < bounds[1] + 0.4 < bounds[2]
    assert math.isfinite(bounds[2])
    assert elbo_terms(model, guide.family, x, guide.infer(x).params, 500).elbo().mean() < bounds[2]


def test_vamp_prior_is_the_mixture_of_encodings(model):
    family = pv.DiagonalNormal(Z_DIM)
    encoder = pv.nets.MLP(X_SHAPE, (family.num_params,), widths=(8,))
    prior = COMPONENTS["prior"]["vamp_prior"](X_SHAPE, family, encoder, num_components=4)
    z = torch.randn(5, Z_DIM)
    posteriors = family(encoder(prior.pseudo_inputs.sigmoid()))
    expected = posteriors.log_prob(z[:, None]).logsumexp(-1) - math.log(4)
    torch.testing.assert_close(prior().log_prob(z), expected)
    vae = pv.VAE(prior, model.decoder, model.likelihood)
    pv.ELBO()(vae, pv.AmortizedGuide(family, encoder))((torch.rand(7, *X_SHAPE) < 0.4).float()).backward()
    assert prior.pseudo_inputs.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())


# DReG, whatever z is like.


class Shaped(PyroModule):
    """x given a latent of any event shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.randn(max(1, math.prod(shape)), 5, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.shape).double(), 1.0).to_event(len(self.shape)))
            flat = z.reshape(*z.shape[: z.dim() - len(self.shape)], -1)
            pyro.sample("x", dist.Normal(flat @ self.weight, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("num_particles", [1, 4])
def test_dreg_for_latents_of_any_shape(shape, num_particles):
    model, x = Shaped(shape), torch.randn(6, 5, dtype=torch.float64)
    loc = torch.randn(6, *shape, dtype=torch.float64, requires_grad=True)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc, 0.7).to_event(len(shape)))

    torch.manual_seed(1)
    loss = pv.IWAE(num_particles=num_particles).differentiable_loss(model, guide, x)
    (found,) = torch.autograd.grad(loss, loc)
    torch.manual_seed(1)
    noise = torch.randn(*([num_particles] if num_particles > 1 else []), 6, *shape, dtype=torch.float64)
    z = (loc.detach() + 0.7 * noise).reshape(num_particles, 6, -1).requires_grad_()
    log_weight = (
        dist.Normal(z @ model.weight, 1.0).log_prob(x).sum(-1)
        + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        - dist.Normal(loc.detach().reshape(6, -1), 0.7).log_prob(z).sum(-1)
    )
    (slope,) = torch.autograd.grad(log_weight.sum(), z)
    expected = -(log_weight.softmax(0)[..., None] ** 2 * slope).sum(0).reshape(loc.shape)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chained", [False, True])
def test_dreg_for_several_sites(chained):
    """Against the formula: each draw's log weight, with q held fixed, by way of all that the draw is made of."""
    torch.manual_seed(0)
    model = pv.models.hierarchical_mlp((5,), (3, 2), widths=(4,), likelihood=pv.models.likelihoods.Normal(1)).double()
    family = pv.Ladder(model) if chained else pv.Joint(z1=pv.DiagonalNormal(3), z2=pv.DiagonalNormal(2))
    x, num = torch.randn(6, 5, dtype=torch.float64), 4
    params = (0.3 * torch.randn(6, family.num_params, dtype=torch.float64)).requires_grad_()
    torch.manual_seed(1)
    loss = pv.IWAE(num_particles=num).differentiable_loss(model, lambda _: family.sample(params), x)
    found = torch.autograd.grad(loss, [params, *model.parameters()])
    torch.manual_seed(1)
    log_weight = pv.inference.objectives.log_weights_of(
        *pv.ELBO(num_particles=num).traces(model, lambda _: family.sample(params), x), num, 6
    )
    share = log_weight.softmax(0).detach()
    (guide_part,) = torch.autograd.grad(-(share**2 * log_weight).sum(), params, retain_graph=True)
    torch.testing.assert_close(found[0], guide_part, rtol=1e-9, atol=1e-9)
    decoder = list(model.decoder.parameters())
    model_part = torch.autograd.grad(-(share * log_weight).sum(), decoder)
    torch.testing.assert_close(found[-len(decoder) :], model_part, rtol=1e-9, atol=1e-9)


def test_draws_do_not_depend_on_the_number_of_threads(model, x):
    family, params = pv.DiagonalNormal(3), torch.zeros(7, 6)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        results.append(pv.inference.log_weights(model, family, x.repeat(300, 1, 1, 1), params.repeat(300, 1), 40))
    torch.set_num_threads(before)
    torch.testing.assert_close(*results)
