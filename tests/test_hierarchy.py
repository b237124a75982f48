"""Several latent sites: two linear-Gaussian layers against closed forms, then everything downstream of a family."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from conftest import GUIDES, X_SHAPE, encoder_loss, make_guide, tiny_images
from pyro.nn import PyroModule
from relaxed_poisson import PoissonFamily
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae.capture import CaptureWarning
from pyrovae.config import ConfigError, build_model, check
from pyrovae.inference import AnalyticELBO, elbo_terms, iwae
from pyrovae.testing import FixedNoise, LinearGaussian, check_guide, quadrature
from pyrovae.training.figures import kl_per_dim

FLOOR = 1e-5  # added to each scale
Z_DIMS = (3, 2)


class TwoLayers(LinearGaussian):
    """z2 ~ N(0, I), z1 | z2 ~ N(A z2 + a, τ² I), x | z1 ~ N(W z1 + b, σ² I); its z is (z1, z2)."""

    tau = 0.6

    @classmethod
    def random(cls, d=(3, 2), D=5, batch=4, sigma=0.7, seed=0, diagonal=False):
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        model = pv.models.hierarchical_mlp((D,), d, widths=(), likelihood=pv.models.likelihoods.Normal(1, scale=sigma))
        model.double()
        layer, decoder = model.layers[0].layers[0], model.decoder.layers[0]
        A, W = randn(*d), randn(D, d[0])
        if diagonal:  # then every covariance is
            A, W = torch.eye(*d).double() * A, torch.linalg.qr(W)[0] * (1 + randn(d[0]) ** 2)
        with torch.no_grad():
            layer.weight.copy_(torch.cat([A, torch.zeros_like(A)]))
            layer.bias.copy_(
                torch.cat([randn(d[0]), torch.full((d[0],), math.log(cls.tau - FLOOR), dtype=torch.float64)])
            )
            decoder.weight.copy_(W), decoder.bias.copy_(randn(D))
        return cls(model, 2 * randn(batch, D))

    @property
    def layer(self):
        return self.model.layers[0].layers[0]

    @property
    def A(self):
        return self.layer.weight[: self.W.shape[1]].detach()

    @property
    def a(self):
        return self.layer.bias[: self.W.shape[1]].detach()

    @property
    def W(self):
        return self.model.decoder.layers[0].weight.detach()

    @property
    def b(self):
        return self.model.decoder.layers[0].bias.detach()

    @property
    def precision(self):
        t, A, eye = self.tau**-2, self.A, torch.eye(self.A.shape[1]).double()
        bottom = t * torch.eye(len(A)).double() + self.W.T @ self.W / self.variance
        return torch.cat([torch.cat([bottom, -t * A], 1), torch.cat([-t * A.T, eye + t * A.T @ A], 1)])

    @property
    def mean(self):
        t = self.tau**-2
        bottom = t * self.a + (self.x - self.b) @ self.W / self.variance
        h = torch.cat([bottom, (-t * self.a @ self.A).expand(len(self.x), -1)], 1)
        return torch.linalg.solve(self.precision, h.T).T

    @property
    def log_evidence(self):
        prior = self.tau**2 * torch.eye(len(self.A)).double() + self.A @ self.A.T
        covariance = self.W @ prior @ self.W.T + self.variance * torch.eye(len(self.W)).double()
        return MultivariateNormal(self.W @ self.a + self.b, covariance).log_prob(self.x)

    def noise(self):
        d = self.model.z_dims
        return dict(zip(self.model.sites, quadrature(len(self.x), sum(d)).split(d, -1), strict=True))

    def best_mean_field(self):
        """λ of the best independent normals, side by side."""
        log_scale = (self.precision.diagonal().rsqrt() - FLOOR).log().expand_as(self.mean)
        d = self.model.z_dims
        return torch.cat(
            [t for pair in zip(self.mean.split(d, -1), log_scale.split(d, -1), strict=True) for t in pair], -1
        )

    def exact_ladder(self):
        """λ of the posterior itself, where W'W and A are diagonal."""
        d, square = self.model.z_dims[0], (self.W**2).sum(0)
        message = (self.x - self.b) @ self.W / square, (self.variance / square).sqrt()
        top = self.mean[:, d:], torch.linalg.inv(self.precision).diagonal()[d:].sqrt()
        return torch.cat([t.expand(4, -1) for loc, scale in (message, top) for t in (loc, (scale - FLOOR).log())], -1)


def joint(Family=pv.DiagonalNormal, d=Z_DIMS):
    return pv.Joint(z1=Family(d[0]), z2=Family(d[1]))


def exact_elbo(oracle, family, params):
    with FixedNoise(oracle.noise()):
        return elbo_terms(oracle.model, family, oracle.x, params, 2 * family.z_dim).elbo()


# Against closed forms.


@pytest.mark.parametrize("Family", [pv.DiagonalNormal, pv.FullNormal])
@pytest.mark.parametrize("d", [(3, 2), (1, 4), (2, 2)])
def test_c1_elbo_of_several_sites(Family, d):
    oracle, family = TwoLayers.random(d), joint(Family, d).double()
    params = 0.3 * torch.randn(4, family.num_params).double()
    blocks = [
        q.covariance_matrix if Family is pv.FullNormal else torch.diag_embed(q.variance) for q in family(params).parts
    ]
    covariance = torch.stack([torch.block_diag(*pair) for pair in zip(*blocks, strict=True)])
    expected = oracle.elbo(family(params).mean, covariance)
    torch.testing.assert_close(exact_elbo(oracle, family, params), expected, rtol=1e-10, atol=1e-10)
    with FixedNoise(oracle.noise()):
        loss = AnalyticELBO(num_particles=2 * sum(d)).loss(oracle.model, lambda _: family.sample(params), oracle.x)
    torch.testing.assert_close(-loss, expected.sum(), rtol=1e-10, atol=1e-10)


def test_c2_refinement_reaches_the_best_mean_field():
    oracle, family = TwoLayers.random(), joint()
    start, best = torch.zeros(4, family.num_params).double(), oracle.best_mean_field()
    left = oracle.log_evidence - exact_elbo(oracle, family, best)
    torch.testing.assert_close(left, oracle.diagonal_gap.expand(4), rtol=0, atol=1e-10)
    assert (start - best).abs().max() > 0.1
    lr = 0.3 / torch.linalg.eigvalsh(oracle.precision).max().item()
    refine = pv.SVIRefiner(
        num_steps=600, lr=lr, optimizer="sgd", momentum=0.9, objective=pv.ELBO(num_particles=10), safeguard=False
    )
    with FixedNoise(oracle.noise()):
        refined = refine(oracle.model, family, oracle.x, start).params
    torch.testing.assert_close(refined, best, rtol=0, atol=1e-8)


@pytest.mark.parametrize("d", [(1, 1), (3, 3), (3, 2)])
def test_c3_a_ladder_holds_the_exact_posterior_of_diagonal_layers(d):
    oracle = TwoLayers.random(d, diagonal=True)
    family, params = pv.Ladder(oracle.model), oracle.exact_ladder()
    torch.testing.assert_close(family(params).mean, oracle.mean, rtol=0, atol=1e-8)
    for num_samples in (1, 7):  # every draw, not their mean
        bound = iwae(oracle.model, family, oracle.x, params, num_samples)
        torch.testing.assert_close(bound, oracle.log_evidence, rtol=0, atol=1e-8)
    loss = pv.IWAE(num_particles=3, doubly_reparameterized=False).loss(
        oracle.model, lambda _: family.sample(params), oracle.x
    )
    torch.testing.assert_close(-loss, oracle.log_evidence.sum(), rtol=0, atol=1e-8)
    gap = oracle.log_evidence - exact_elbo(oracle, joint(d=d), oracle.best_mean_field())
    assert gap.min() > 0.05, "mean-field across layers would do as well"


def test_c3_path_gradients_of_a_ladder_vanish_at_the_exact_posterior():
    oracle = TwoLayers.random(diagonal=True)
    family, params = pv.Ladder(oracle.model), oracle.exact_ladder().requires_grad_()
    grads = []
    for path_gradient in (True, False):
        loss = pv.ELBO(path_gradient=path_gradient, num_particles=2)
        loss = loss.differentiable_loss(oracle.model, lambda _: family.sample(params), oracle.x)
        grads.append(torch.autograd.grad(loss, params)[0].abs().max())
    assert grads[0] < 1e-8
    assert grads[1] > 0.1


def test_path_gradients_of_a_ladder_are_the_gradient_in_the_mean_for_the_weights_too():
    oracle = TwoLayers.random()
    family, params = pv.Ladder(oracle.model), 0.3 * torch.randn(4, 10).double()
    grads = []
    for path_gradient in (True, False):
        with FixedNoise(oracle.noise()):
            loss = pv.ELBO(path_gradient=path_gradient, num_particles=10)
            loss = loss.differentiable_loss(oracle.model, lambda _: family.sample(params), oracle.x)
        grads.append(torch.autograd.grad(loss, list(oracle.model.parameters())))
    for path, full in zip(*grads, strict=True):
        assert full.abs().max() > 0.1
        torch.testing.assert_close(path, full, rtol=1e-10, atol=1e-10)


def test_refinement_of_a_ladder_reaches_the_exact_posterior():
    oracle = TwoLayers.random(diagonal=True, sigma=1.0, seed=1)
    family, start, best = pv.Ladder(oracle.model), torch.zeros(4, 10).double(), oracle.exact_ladder()
    assert (oracle.log_evidence - exact_elbo(oracle, family, start)).min() > 0.1
    refine = pv.SVIRefiner(
        num_steps=400, lr=0.1, optimizer="sgd", momentum=0.8, objective=pv.ELBO(num_particles=10), safeguard=False
    )
    with FixedNoise(oracle.noise()):
        refined = refine(oracle.model, family, oracle.x, start).params
    torch.testing.assert_close(refined, best, rtol=0, atol=1e-8)


@pytest.mark.parametrize("make", [joint, lambda: "ladder"], ids=["joint", "ladder"])
def test_c8_a_datapoint_ends_alike_alone_and_in_a_batch(make):
    oracle = TwoLayers.random()
    family = pv.Ladder(oracle.model) if make() == "ladder" else make()
    noise = {name: torch.randn(2, 4, d).double() for name, d in zip(oracle.model.sites, Z_DIMS, strict=True)}
    refine, start = (
        pv.SVIRefiner(num_steps=5, lr=0.05, objective=pv.ELBO(num_particles=2), safeguard=False),
        torch.zeros(4, 10).double(),
    )

    def run(rows):
        with FixedNoise({name: value[:, rows] for name, value in noise.items()}):
            return refine(oracle.model, family, oracle.x[rows], start[rows]).params

    together = run(slice(None))
    assert together.abs().max() > 0.05
    for i in range(4):
        torch.testing.assert_close(run(slice(i, i + 1))[0], together[i], rtol=0, atol=1e-12)


# Everything downstream.


@pytest.fixture
def layered():
    return pv.models.hierarchical_mlp(X_SHAPE, Z_DIMS, widths=(8,))


def family_for(name, model):
    return {"ladder": lambda: pv.Ladder(model), "joint": joint, "full": lambda: joint(pv.FullNormal)}[name]()


@pytest.mark.parametrize("family", ["joint", "full", "ladder"])
@pytest.mark.parametrize("name", GUIDES)
def test_contract(name, family, layered, x):
    check_guide(layered, make_guide(name, family_for(family, layered), layered), x)


@pytest.mark.parametrize("loss", ["hybrid", "kl"])
@pytest.mark.parametrize("family", ["joint", "ladder"])
def test_encoder_loss_teaches_the_encoder_and_nothing_else(loss, family, layered, x):
    guide = make_guide("semi_amortized", family_for(family, layered), layered, lr=0.1, safeguard=False)
    inferred = guide.infer(x)
    encoder_loss(loss, guide, x, inferred).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in guide.encoder.parameters())
    assert all(p.grad is None and p.requires_grad for p in layered.parameters())


@pytest.mark.parametrize("family", ["joint", "ladder"])
def test_objectives(family, layered, x):
    guide = make_guide("amortized", family_for(family, layered), layered)
    for objective in (AnalyticELBO(free_bits=0.1, num_particles=2), pv.IWAE(doubly_reparameterized=False), pv.IWAE()):
        guide.zero_grad(), layered.zero_grad()
        objective.loss_and_grads(layered, guide, x)
        assert all(p.grad.abs().sum() > 0 for p in (*layered.parameters(), *guide.parameters()))


@pytest.mark.parametrize("family", ["diagonal_normal", "ladder"])
def test_a_run_is_trained_drawn_and_loaded(family, tmp_path):
    images = tiny_images()
    model = {"type": "vae_hierarchical", "z_dim": [4, 3, 2], "layers": {"widths": [5]}, "encoder": {"widths": [8]}}
    guide = {"type": "semi_amortized", "family": family, "refiner": {"num_steps": 2}}
    config = check({"model": model, "guide": guide})
    metrics = pv.fit(
        *build_model(config, images.x_shape), images, epochs=1, batch_size=20, run_dir=tmp_path, progress=False
    )
    assert 0 <= metrics["val/dims_in_use"] <= 9
    assert {path.stem for path in (tmp_path / "figures").iterdir()} >= {"reconstructions", "samples", "kl_per_dim"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    trained = pv.load(tmp_path)
    x = next(iter(images.batches("test", 5)))
    assert isinstance(trained.model, pv.HierarchicalVAE)
    assert trained.posterior(x).event_shape == (9,)
    assert trained.reconstruct(x).shape == x.shape
    assert trained.sample(6).shape == (6, *images.x_shape)
    kl, terms = (
        f(trained.model, trained.guide.family, x, trained.infer(x).params)
        for f in (kl_per_dim, partial(elbo_terms, num_particles=100))
    )
    assert kl.shape == (9,)
    assert kl.sum().item() == pytest.approx(terms.kl.mean().item(), rel=0.3)


def test_decode_takes_all_layers_or_the_bottom_one(layered):
    z = torch.randn(6, 5)
    assert torch.equal(layered.decode(z).mean, layered.decode(z[:, :3]).mean)


@pytest.mark.parametrize("family", ["joint", "ladder"])
def test_the_captured_loop_is_the_eager_one(family, layered, recwarn, interpreted):
    check_captured(family, layered, recwarn)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["joint", "ladder"])
def test_so_when_compiled(family, layered, recwarn):
    check_captured(family, layered, recwarn)


def check_captured(family, layered, recwarn):
    model, results = layered.double(), []
    q, refiner = (
        family_for(family, model),
        pv.SVIRefiner(num_steps=4, lr=0.05, objective=pv.ELBO(num_particles=2), safeguard=False),
    )
    for size in (7, 5):
        x, start = (torch.rand(size, *X_SHAPE) < 0.4).double(), 0.3 * torch.randn(size, q.num_params).double()
        for choice in ("eager", "compiled"):
            torch.manual_seed(1)
            with pv.engine(choice):
                results.append(refiner(model, q, x, start).params)
        torch.testing.assert_close(*results[-2:], rtol=0, atol=1e-10)
    assert not [w for w in recwarn if w.category is CaptureWarning]


# Models of one's own.


class Spikes(PyroModule):
    """Counts of 6 neurons under a latent vector, a gain, a phase, weights that sum to one and a matrix."""

    def __init__(self):
        super().__init__()
        self.readout = nn.Linear(2, 6)

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            gain = pyro.sample("gain", dist.LogNormal(0.0, 0.5))
            phase = pyro.sample("phase", dist.Uniform(-1.0, 3.0))
            mix = pyro.sample("mix.weights", dist.Dirichlet(torch.ones(6)))
            noise = pyro.sample("noise", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
            drive = self.readout(z) + phase[..., None] + noise.flatten(-2)
            pyro.sample("x", dist.Poisson(gain[..., None] * 6 * mix * drive.exp()).to_event(1), obs=x)


def counts(size=7):
    return torch.randint(0, 5, (size, 6)).float()


def test_a_joint_knows_no_more_densities_than_its_parts():
    assert joint().density == "any"
    assert pv.Joint(z1=pv.Flow(3), z2=pv.DiagonalNormal(2)).density == "own"
    assert pv.Joint(z1=pv.Flow(3), z2=PoissonFamily(2)).density == "none"


def test_joint_of_reads_sites_shapes_and_supports():
    model, x = Spikes(), counts()
    family = pv.Joint.of(model, x)
    assert family.sites == ("z", "gain", "phase", "mix.weights", "noise")
    assert (family.z_dim, family.num_params) == (2 + 1 + 1 + 6 + 6, 2 * (2 + 1 + 1 + 5 + 6))
    q = family(torch.randn(4, family.num_params))  # of another batch size
    assert [part.event_shape for part in q.parts] == [(2,), (), (), (6,), (3, 2)]
    _, gain, phase, mix, _ = (part.rsample((50,)) for part in q.parts)
    assert isinstance(q.parts[0], dist.Independent), "a vector needs no transform"
    assert (gain > 0).all()
    assert ((phase > -1) & (phase < 3)).all()
    torch.testing.assert_close(mix.sum(-1), torch.ones(50, 4))
    draws = q.sample((50,))
    split = [v.reshape(50, 4, *p.event_shape) for v, p in zip(draws.split(q.sizes, -1), q.parts, strict=True)]
    expected = sum(part.log_prob(value) for part, value in zip(q.parts, split, strict=True))
    torch.testing.assert_close(q.log_prob(draws), expected)
    assert q.mean.shape == (4, 16)
    assert q.expand((3, 4)).log_prob(draws[:3]).shape == (3, 4)


@pytest.mark.parametrize("name", GUIDES)
def test_contract_of_a_model_of_ones_own(name):
    model, x = Spikes(), counts()
    family = pv.Joint.of(model, x)
    encoder = pv.nets.MLP((6,), (family.num_params,), widths=(8,))
    guide = {
        "amortized": lambda: pv.AmortizedGuide(family, encoder),
        "semi_amortized": lambda: pv.SemiAmortizedGuide(model, family, encoder, pv.SVIRefiner(num_steps=2)),
        "svi": lambda: pv.SVIGuide(model, family, pv.SVIRefiner(num_steps=2)),
        "learned_iterative": lambda: pv.LearnedIterativeGuide(model, family, encoder, num_steps=2),
    }[name]()
    check_guide(model, guide, x)


def test_a_gain_finds_its_posterior():
    class Gain(PyroModule):
        def forward(self, x):
            with pyro.plate("data", x.shape[0]):
                gain = pyro.sample("gain", dist.Gamma(2.0, 1.0))
                pyro.sample("x", dist.Poisson(gain), obs=x)

    x = torch.tensor([0.0, 3.0, 40.0]).double()
    model = Gain()
    family = pv.Joint.of(model, x)
    start = torch.zeros(3, 2).double()
    refined = pv.SVIRefiner(num_steps=250, lr=0.1, objective=pv.ELBO(num_particles=50), lr_decay="linear")(
        model, family, x, start
    ).params
    # The best log-normal maximises s m - 2 exp(m + v / 2) + log(v) / 2, s = 2 + x: v = 1 / s, exp(m + v / 2) = s / 2.
    shape = 2 + x
    expected = torch.stack([shape.log() - (0.5 / shape) - math.log(2), -0.5 * shape.log()], -1)
    torch.testing.assert_close(refined, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(family(refined).mean[:, 0], shape / 2, rtol=0.03, atol=0)
    evidence = dist.GammaPoisson(torch.tensor(2.0).double(), torch.tensor(1.0).double()).log_prob(x)
    assert ((iwae(model, family, x, refined, 2000) - evidence).abs() < 0.03).all()


def test_moments_of_transformed_normals():
    loc, scale = torch.randn(4, 1).double(), 1.5 * torch.rand(4, 1).double()
    family = pv.Joint.of(lambda x: sites(lambda: pyro.sample("z", dist.LogNormal(0.0, 1.0)), x), torch.zeros(4))
    made = family(torch.cat([loc, (scale - FLOOR).log()], -1))
    known = dist.LogNormal(loc, scale)
    torch.testing.assert_close(made.mean, known.mean)
    torch.testing.assert_close(made.variance, known.variance)
    torch.testing.assert_close(made.log_prob(known.mean), known.log_prob(known.mean)[:, 0])


def test_a_saturated_draw_is_scored_from_where_it_came():
    family = pv.Joint.of(lambda x: sites(lambda: pyro.sample("z", dist.Uniform(0.0, 1.0)), x), torch.zeros(4))
    params = torch.tensor([[40.0, 0.0]]).expand(4, -1).clone().requires_grad_()
    value = pv.ELBO().differentiable_loss(
        lambda x: sites(lambda: pyro.sample("z", dist.Uniform(0.0, 1.0)), x),
        lambda x: family.sample(params),
        torch.zeros(4),
    )
    assert torch.autograd.grad(value, params)[0].isfinite().all()


def sites(draw, x):
    with pyro.plate("data", x.shape[0]):
        draw()
        pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)


def no_plate(x):
    pyro.sample("z", dist.Normal(0.0, 1.0))


def shared(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    sites(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), x)


def nested(x):
    with pyro.plate("time", 3, dim=-2):
        sites(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), x)


def nothing(x):
    sites(lambda: None, x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (no_plate, r'the model has no plate "data"; put with pyro.plate\("data", x.shape\[0\]\) around'),
        (shared, "latent site 'w' lies outside the plate \"data\", so all datapoints share it; make it a parameter"),
        (nested, "latent site 'z' lies in plates .*time.*; make event dimensions of the inner ones"),
        (nothing, "the model has no latent site"),
        (
            lambda x: sites(lambda: pyro.sample("k", dist.Categorical(torch.ones(3))), x),
            r"latent site 'k' is discrete \(Categorical\); sum it out",
        ),
        (
            lambda x: sites(lambda: pyro.sample("z", dist.Uniform(-x.exp(), x.exp())), x),
            "latent site 'z' has bounds that differ; scale a variable",
        ),
    ],
)
def test_joint_of_says_what_it_cannot_read(model, message):
    with pytest.raises(ValueError, match=message):
        pv.Joint.of(model, torch.randn(4))


# A latent array: z of shape (T, D) over time.


class Sequences(PyroModule):
    """x_t of 6 neurons under z_t, which walks."""

    def __init__(self):
        super().__init__()
        self.readout = nn.Linear(2, 6)

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(5, 2), 1.0).to_event(2))
            pyro.sample("x", self.decode(z.cumsum(-2)), obs=x)

    def decode(self, z):
        return dist.Poisson(self.readout(z).exp()).to_event(2)


class OverTime(pv.Family):
    def __init__(self, num_times=5, dim=2):
        super().__init__(num_times * dim)
        self.shape, self.num_params = (2, num_times, dim), 2 * num_times * dim

    def forward(self, params):
        loc, log_scale = params.unflatten(-1, self.shape).unbind(-3)
        return dist.Normal(loc, log_scale.exp()).to_event(2)


ARRAYS = {
    "joint": pv.Joint.of,
    "joint of full normals": lambda model, x: pv.Joint.of(model, x, pv.FullNormal),
    "one's own": lambda model, x: OverTime(),
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_a_latent_array_is_one_all_the_way(make):
    model, x = Sequences(), torch.randint(0, 3, (7, 5, 6)).float()
    family = make(model, x)
    params = 0.3 * torch.randn(7, family.num_params)
    q = family(params)
    assert (family.z_dim, q.event_shape) == (10, (5, 2))
    assert model.decode(q.mean).mean.shape == x.shape
    assert family.sample(params).shape == (7, 5, 2)
    z = q.rsample((3,))
    assert q.log_prob(z).shape == (3, 7)
    encoder = pv.nets.MLP((5, 6), (family.num_params,), widths=(8,))
    for guide in (
        pv.AmortizedGuide(family, encoder),
        pv.SemiAmortizedGuide(model, family, encoder, pv.SVIRefiner(num_steps=2)),
    ):
        for objective in (pv.ELBO(num_particles=2), AnalyticELBO(free_bits=0.1)):
            guide.zero_grad()
            objective.loss_and_grads(model, guide, x)
            assert all(p.grad.abs().sum() > 0 for p in guide.parameters())


def test_joint_of_keeps_independent_entries_apart_whatever_their_shape():
    model, x = Sequences(), torch.zeros(7, 5, 6)
    family, params = pv.Joint.of(model, x), torch.randn(7, 20)
    own, prior = OverTime(), dist.Normal(torch.zeros(5, 2), 1.0).to_event(2)
    torch.testing.assert_close(
        *(torch.distributions.kl_divergence(each(params), prior) for each in (family, own)), rtol=1e-3, atol=1e-3
    )
    assert kl_per_dim(model, family, x, params).shape == (10,)


def test_a_vae_may_have_a_prior_over_arrays():
    class Prior(nn.Module):
        def forward(self):
            return dist.Normal(torch.zeros(5, 2), 1.0).to_event(2)

    model = pv.VAE(Prior(), nn.Linear(2, 6), pv.models.likelihoods.Poisson(event_dim=2))
    assert model.sample(3).shape == (3, 5, 6)
    assert pv.Joint.of(model, model.sample(3).round())(torch.zeros(3, 20)).event_shape == (5, 2)


# Errors.


def test_what_a_model_can():
    plain, vae = Spikes(), pv.models.mlp(X_SHAPE, 3)
    for model, able in ((plain, False), (vae, True), (pv.models.hierarchical_mlp(X_SHAPE, Z_DIMS), True)):
        assert isinstance(model, pv.models.Model)
        assert pv.models.can_decode(model) == pv.models.can_sample(model) == able
    assert vae.sites == ("z",)
    plain.sites = ("z", "gain")
    with pytest.raises(ValueError, match=r"draws the latent sites z, gain, .*noise and its `sites` are z, gain"):
        pv.Joint.of(plain, counts())


def test_sites_that_differ_are_named(layered, x):
    one = make_guide("amortized", "diagonal_normal", layered)
    for use in (
        lambda: pv.ELBO().loss(layered, one, x),
        lambda: pv.SVIRefiner(num_steps=1)(layered, one.family, x, torch.zeros(7, 6)),
        lambda: elbo_terms(layered, one.family, x, torch.zeros(7, 6)),
    ):
        with pytest.raises(
            ValueError, match=r"the model has latent sites \{z1, z2\} and the guide's family \{z\}; name"
        ):
            use()

    def items(x):
        with pyro.plate("items", x.shape[0]):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    with pytest.raises(
        ValueError, match="latent site 'z' lies in plates items of the model and data of the guide; put"
    ):
        pv.ELBO().loss(items, one, x)


def test_errors_name_value_and_remedy(model):
    with pytest.raises(ValueError, match="model must be a HierarchicalVAE, got VAE"):
        pv.Ladder(model)
    with pytest.raises(ConfigError, match="family: model must be a HierarchicalVAE, got VAE"):
        build_model(check({"guide": {"family": "ladder"}}), X_SHAPE)
    with pytest.raises(ValueError, match="Joint needs a family for each latent site, got none"):
        pv.Joint()
    with pytest.raises(ValueError, match="z1 must be a Family, got 50"):
        pv.Joint(z1=50)
    with pytest.raises(ValueError, match=r"at least two layers, bottom first, got \[3\]; use VAE for one"):
        pv.models.hierarchical_mlp(X_SHAPE, [3])
    with pytest.raises(ValueError, match=r"layers must be 1 networks for z_dims \[3, 2\], got 0"):
        pv.HierarchicalVAE([3, 2], model.prior, [], model.decoder, model.likelihood)
