"""Each check passes what is right, and says of what is broken what is broken."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import COMPONENTS, FAMILIES
from torch import nn

import pyrovae as pv
from pyrovae.distributions import positive_scale
from pyrovae.models import likelihoods
from pyrovae.testing import (
    LinearGaussian,
    check_family,
    check_finds_posterior,
    check_guide,
    check_likelihood,
    check_model,
    check_refiner,
)

D, Z = 4, 2


def fails(message, check, *args, **options):
    with pytest.raises(AssertionError, match=message):
        check(*args, **options)


@pytest.fixture
def model():
    return pv.models.mlp((D,), Z, widths=(8,), likelihood=likelihoods.Bernoulli(1))


@pytest.fixture
def x():
    return (torch.rand(3, D) < 0.4).float()


def layered():
    return pv.models.hierarchical_mlp((D,), (3, 2), likelihood=likelihoods.Bernoulli(1))


def encoder(size=2 * Z):
    return pv.nets.MLP((D,), (size,), widths=(8,))


def family_like(base=pv.DiagonalNormal, **methods):
    """A `DiagonalNormal` with other methods."""
    return type("Mine", (base,), methods)(Z)


# Guides.


class Mine(pv.AmortizedGuide):
    """Right; those below break it."""

    def __init__(self, family=None, model=None):
        super().__init__(family or pv.DiagonalNormal(Z), encoder())
        self._model = (model,)


class Leaks(Mine):
    def forward(self, x, inferred=None, beta=1.0):
        with pyro.plate("inner", 2):
            pyro.sample("noise", dist.Normal(0.0, 1.0))
        return super().forward(x, inferred, beta)


class OtherPlate(Mine):
    def forward(self, x, inferred=None, beta=1.0):
        with pyro.plate("rows", len(x)):
            return pyro.sample("z", self.family(self.infer(x).params))


class DrawsWithoutSeed(Mine):
    generator = torch.Generator()

    def infer(self, x, beta=1.0, record=False):
        params = self.encoder(x + 0.1 * torch.randn(x.shape, generator=self.generator))
        return pv.Inferred(params, params)


class Detached(Mine):
    def infer(self, x, beta=1.0, record=False):
        params = self.encoder(x).detach()
        return pv.Inferred(params, params)


class Double(Mine):
    def infer(self, x, beta=1.0, record=False):
        params = self.encoder(x).double()
        return pv.Inferred(params, params)


class Centred(Mine):
    def infer(self, x, beta=1.0, record=False):
        params = self.encoder(x - x.mean(0))
        return pv.Inferred(params, params)


class Climbs(Mine):
    """A loop that does not leave inference mode."""

    def infer(self, x, beta=1.0, record=False):
        init = self.encoder(x)
        if torch.is_grad_enabled():
            return pv.Inferred(init, init - 0.1 * torch.autograd.grad(init.square().sum(), init, create_graph=True)[0])
        return pv.Inferred(init, init)


class StaysInInferenceMode(Mine):
    def infer(self, x, beta=1.0, record=False):
        with torch.enable_grad():
            init = self.encoder(x)
            return pv.Inferred(init, init - torch.autograd.grad(init.square().sum(), init, create_graph=True)[0])


class TakesGradients(StaysInInferenceMode):
    """Nor does it turn them on."""

    def infer(self, x, beta=1.0, record=False):
        init = self.encoder(x)
        return pv.Inferred(init, init - torch.autograd.grad(init.square().sum(), init, create_graph=True)[0])


class GivesTensor(Mine):
    def infer(self, x, beta=1.0, record=False):
        return self.encoder(x)


class RefinesToTensor(pv.SVIGuide):
    def __init__(self, model):
        super().__init__(model, pv.DiagonalNormal(Z), pv.SVIRefiner(num_steps=1))

    def infer(self, x, beta=1.0, record=False, start=None, prior=None):
        return self.initial(x)


class Narrow(Mine):
    def __init__(self, family=None, model=None):
        super().__init__(family)
        self.encoder = encoder(Z)


class Stale(Mine):
    """Its graph does not see a number change."""

    def infer(self, x, beta=1.0, record=False):
        number = [0.0]
        shifted = pv.capture.Capture(lambda params: (params + number[0],))
        init = params = self.encoder(x)
        for number[0] in (1.0, 2.0):
            (params,) = shifted(params)
        return pv.Inferred(init, params)


class Owns(Mine):
    def __init__(self, family=None, model=None):
        super().__init__(family)
        self.model = model


class Forgets(Mine):
    """Its state is not in the state dict."""

    def __init__(self, family=None, model=None):
        super().__init__(family)
        self.shift = nn.Parameter(torch.ones(()))

    def state_dict(self, *args, **kwargs):
        return {**super().state_dict(*args, **kwargs), "shift": torch.zeros(())}

    def infer(self, x, beta=1.0, record=False):
        params = self.encoder(x) + self.shift
        return pv.Inferred(params, params)


class Mean(Mine):
    def forward(self, x, inferred=None, beta=1.0):
        super().forward(x, inferred, beta)
        return self.family(self.infer(x).params).mean


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (Leaks, r"Leaks has latent sites \['noise', 'z'\], the model \['z'\]"),
        (OtherPlate, r"OtherPlate: batch shape, event shape and plates of site 'z' are .*'rows'.*, not .*'data'"),
        (DrawsWithoutSeed, "DrawsWithoutSeed.infer: λ of one seed differs; noise must come from torch's generators"),
        (
            Detached,
            r"Detached: no gradient reaches guide.encoder.* under Trace_ELBO\(num_particles=1\).*`Inferred.teaching`",
        ),
        (Double, r"Double.infer: λ is torch.float64 for data of torch.float32; add .to\(x.dtype\)"),
        (Centred, "Centred.infer: λ of a datapoint alone and in a batch; .*: they differ, by"),
        (Climbs, r"Climbs.infer: λ under torch.inference_mode\(\); leave it by inference_mode\(False\)"),
        (
            StaysInInferenceMode,
            r"StaysInInferenceMode.infer fails under torch.inference_mode\(\), in which .*, and clone x: ",
        ),
        (
            TakesGradients,
            r"TakesGradients.infer fails under torch.inference_mode\(\), in which .*, and clone x: element",
        ),
        (GivesTensor, "GivesTensor.infer must return pv.Inferred, got Tensor"),
        (RefinesToTensor, "RefinesToTensor.infer must return pv.Inferred, got Tensor"),
        (Narrow, r"Narrow gives λ of shape \(3, 2\) .*, not \(3, 4\)"),
        (Stale, "Stale.infer: λ eager and captured; a Capture sees no Python state .*: they differ, by"),
        (Owns, r"Owns owns the model's .*VAE; keep the model in a tuple"),
        (Forgets, "Forgets: its state dict, loaded into a copy, gives another λ"),
        (Mean, "Mean: all seeds give one draw"),
    ],
)
def test_a_broken_guide(guide, message, model, x):
    fails(message, check_guide, model, guide(model=model), x)


def test_a_right_guide_unless_pyros_store_holds_something(model, x):
    check_guide(model, Mine(), x)
    pyro.get_param_store()["row"] = torch.zeros(3)
    try:
        fails(
            r"Mine: \['row'\] are in Pyro's global store; make parameters nn.Parameter", check_guide, model, Mine(), x
        )
    finally:
        pyro.clear_param_store()


# Finding the posterior.


def of(guide, *args, size=2 * 3, Family=pv.DiagonalNormal, **options):
    def make(model, x_shape, z_dim):
        net = pv.nets.MLP(x_shape, (size,), widths=(32,))
        parts = {"model": model, "family": Family(z_dim), "encoder": net}
        return guide(*[parts.get(arg, arg) for arg in args], **options)

    return make


@pytest.mark.parametrize(("Family", "size"), [(pv.DiagonalNormal, 6), (pv.FullNormal, 9)])
def test_guides_find_the_posterior(Family, size):
    loop, part = pv.SVIRefiner(num_steps=3, lr=0.05), {"Family": Family, "size": size}
    check_finds_posterior(of(pv.AmortizedGuide, "family", "encoder", **part))
    check_finds_posterior(of(pv.SemiAmortizedGuide, "model", "family", "encoder", loop, **part), tolerance=0.2)
    check_finds_posterior(
        of(pv.SVIGuide, "model", "family", pv.SVIRefiner(num_steps=150, lr=0.1, lr_decay="linear"), **part),
        tolerance=0.2,
    )
    check_finds_posterior(
        of(pv.LearnedIterativeGuide, "model", "family", "encoder", num_steps=3, widths=(32,), **part), tolerance=0.2
    )


def test_what_is_missing_is_said_in_nats():
    fails(
        r"AmortizedGuide misses (\d+.\d\d) nats .* 0.05 are allowed: .* of location and .* of scale, after 0 steps",
        check_finds_posterior, of(pv.AmortizedGuide, "family", "encoder"), num_steps=0,
    )  # fmt: skip
    fails(
        "Detached2 misses .*It has not learned", check_finds_posterior, of(Detached2, "family", "encoder"), num_steps=25
    )
    fails(
        "q must be normal, got",
        _value_error(check_finds_posterior),
        of(pv.AmortizedGuide, "family", "encoder", Family=pv.Laplace),
    )


class Diverges(pv.AmortizedGuide):
    """λ far away, not a number, or that only after training."""

    def __init__(self, family, encoder, shift=0.0, growth=0.0):
        super().__init__(family, encoder)
        self.shift, self.growth = shift, growth
        self.weight = nn.Parameter(torch.ones(()))

    def infer(self, x, beta=1.0, record=False):
        off = (self.weight - 1).detach().abs() * self.growth
        params = self.encoder(x) * self.weight + self.shift + (off if off < 100 else off * torch.inf)
        return pv.Inferred(params, params)


@pytest.mark.parametrize("options", [{"shift": 1e70}, {"shift": torch.nan}, {"shift": torch.inf}, {"growth": 1e9}])
def test_what_diverged_is_told_apart(options):
    fails(
        r"Diverges, which missed [\w.+-]+ nats .* and [\w.+-]+ after \d+ steps of it, diverged; lower its step size or lr$",
        check_finds_posterior, of(Diverges, "family", "encoder", **options), num_steps=25,
    )  # fmt: skip


class Detached2(pv.AmortizedGuide):
    infer = Detached.infer


def _value_error(check):
    def run(*args, **options):
        try:
            check(*args, **options)
        except ValueError as error:
            raise AssertionError(str(error)) from error

    return run


def test_gaps_are_of_the_right_kind():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    best = oracle.best_params(family)
    for entry, kind in ((0, "location"), (3, "scale")):
        params = best.clone()
        params[:, entry] += 0.5
        gaps = oracle.gaps(family(params))
        assert (getattr(gaps, kind) > 0.05).all()
        other = gaps.scale if kind == "location" else gaps.location
        torch.testing.assert_close(other, torch.zeros(4).double(), atol=1e-10, rtol=0)
        torch.testing.assert_close(gaps.family, oracle.diagonal_gap.expand(4))


# Refiners.


class Wrong(pv.Refiner):
    """One step of plain gradient ascent, broken in one way."""

    make_step = None  # the whole loop is its own

    def __init__(self, fault):
        self.fault = fault

    def __call__(self, model, family, x, params, beta=1.0, record=False, prior=None):
        with torch.inference_mode(False), torch.enable_grad():
            x, leaf = x.clone(), params.detach().clone().requires_grad_()
            loss = pv.ELBO().differentiable_loss(model, lambda x: family.sample(leaf), x)
            loss = loss / len(x) if self.fault == "mean" else loss
            (grad,) = torch.autograd.grad(loss, leaf, retain_graph=True)
            if self.fault == "leaves gradients":
                loss.backward()
        refined = params + {"wrong sign": 3.0, "stands": 0.0}.get(self.fault, -0.02) * grad
        path = None
        if record and self.fault == "path":
            path = refined[None]
        terms = [pv.elbo_terms(model, family, x, row) for row in (params, refined)]
        if self.fault == "safeguard":
            terms[1] = terms[1]._replace(recon=terms[0].recon - 1)
        return pv.Inferred(
            refined if self.fault == "init" else params,
            refined,
            *(terms if self.fault == "safeguard" else []),
            path=path,
        )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", ""),
        ("mean", "Wrong: λ of a datapoint alone and in a batch; take sums over the batch, not means"),
        ("wrong sign", "Wrong: λ_K is .* nats a datapoint worse than λ₀"),
        ("stands", "Wrong moves no λ"),
        ("leaves gradients", "Wrong moves .*, leaves it a gradient or freezes it"),
        ("path", r"Wrong: `path` .* is not \(K \+ 1, B, P\) from λ₀ on"),
        ("init", "Wrong: `init` is not the λ₀ that it was given"),
        ("safeguard", "Wrong: the safeguard lets the scored ELBO fall"),
    ],
)
def test_a_broken_refiner(fault, message, model, x):
    if fault:
        fails(message, check_refiner, Wrong(fault), model, pv.DiagonalNormal(Z), x)
    else:
        check_refiner(Wrong(fault), model, pv.DiagonalNormal(Z), x)


def test_a_right_refiner(model, x):
    check_refiner(pv.SVIRefiner(num_steps=8, stop_below=0.5), model, pv.DiagonalNormal(Z), x)


# Families.


@pytest.mark.parametrize("name", FAMILIES)
def test_right_families(name):
    check_family(COMPONENTS["family"][name](3))
    check_family(COMPONENTS["family"][name](1))


def test_right_families_over_several_sites():
    check_family(pv.Joint(a=pv.DiagonalNormal(2), b=pv.FullNormal(3)))
    check_family(pv.Ladder(layered()))


def normal(params, scale=1.0):
    loc, log_scale = params.chunk(2, -1)
    return loc, scale * positive_scale(log_scale)


class Denser(dist.Normal):
    """Its density is not that of its draws."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.2


class Wider(dist.Normal):
    def rsample(self, sample_shape=()):
        return self.loc + 1.1 * (super().rsample(sample_shape) - self.loc)


class NoDensity(dist.Normal):
    def log_prob(self, value):
        raise NotImplementedError("no density")


class Unregistered(dist.Normal):
    pass


@torch.distributions.kl.register_kl(Unregistered, torch.distributions.Normal)
def _wrong_kl(q, p):
    return q.loc**2


BROKEN_FAMILIES = {
    r"Mine: log_prob is not the density of draws: E_q p / q is 1, but draws give 0\.\d+ ±": {
        "forward": lambda self, params: Denser(*normal(params)).to_event(1)
    },
    "Mine: `variance` of Independent is": {"forward": lambda self, params: Wider(*normal(params)).to_event(1)},
    "Mine: density is 'any', but log_prob fails: no density; say density = 'own' or 'none'": {
        "forward": lambda self, params: NoDensity(*normal(params)).to_event(1)
    },
    "Mine: KL of Independent to a standard normal is": {
        "forward": lambda self, params: Unregistered(*normal(params)).to_event(1)
    },
    "Mine.natural_gradient, times the Fisher information, is": {"natural_gradient": lambda self, params, grad: grad},
    r"Mine: entries \[2, 3\] of λ get no finite gradient": {
        "forward": lambda self, params: dist.Normal(params[..., :Z], 1.0).to_event(1)
    },
    r"Mine: batch shapes for λ .* are \(\(2, 3, 2\)": {"forward": lambda self, params: dist.Normal(*normal(params))},
    r"Mine.init_params\(\) is \(1, 4\), not a row of num_params = 4": {"init_params": lambda self: torch.zeros(1, 4)},
    "Mine.sample: site 'z' lies in plates set": {
        "sample": lambda self, params: pyro.sample("z", self(params).to_event(1))
    },
}


@pytest.mark.parametrize("message", BROKEN_FAMILIES)
def test_a_broken_family(message):
    fails(message, check_family, family_like(**BROKEN_FAMILIES[message]))


def test_a_family_without_density_that_says_so():
    family = family_like(forward=BROKEN_FAMILIES[next(m for m in BROKEN_FAMILIES if "no density" in m)]["forward"])
    type(family).density = "none"
    type(family).natural_gradient = pv.Family.natural_gradient
    check_family(family)


# Likelihoods.


@pytest.mark.parametrize("Likelihood", likelihoods.Likelihood.__subclasses__(), ids=lambda c: c.__name__)
def test_right_likelihoods(Likelihood):
    if Likelihood.__module__.startswith("pyrovae"):
        check_likelihood(Likelihood(event_dim=1))
        check_likelihood(Likelihood(event_dim=3))


class Unnormalised(dist.Normal):
    def log_prob(self, value):
        return -0.5 * (value - self.loc) ** 2


def likelihood_like(base, **attributes):
    return type("Mine", (base,), attributes)(event_dim=1)


@pytest.mark.parametrize(
    ("base", "attributes", "message"),
    [
        (likelihoods.Normal, {"information": lambda self, h: 2 + h}, "`information`, .* is .*, and should be 1"),
        (likelihoods.Normal, {"elementwise": lambda self, h: Unnormalised(h, 1.0)}, r"the sum of p\(x \| h\) is 1, and should be 2.5"),
        (likelihoods.Poisson, {"support": torch.distributions.constraints.boolean}, "draws lie outside `support`"),
        (likelihoods.Normal, {"elementwise": lambda self, h: dist.Normal(h.mean(-1), 1.0)}, "batch and event shape"),
        (likelihoods.Normal, {"elementwise": lambda self, h: dist.Normal(0.0, h.exp().exp())}, "the gradient of log"),
        (likelihoods.Poisson, {"elementwise": lambda self, h: dist.Poisson(h.exp() + 1)}, "`information`, .* is"),
        (likelihoods.Poisson, {"link": lambda self, mean: mean}, "`link` gives h of other means"),
    ],
)  # fmt: skip
def test_a_broken_likelihood(base, attributes, message):
    fails("Mine: .*" + message, check_likelihood, likelihood_like(base, **attributes))


# Models.


class Linear(nn.Module):
    """Right; with a fault, broken."""

    def __init__(self, fault=""):
        super().__init__()
        self.net, self.fault = nn.Linear(Z, D), fault
        self.sites = {"sites": ("z", "w"), "discrete but relaxed": ("z", "k")}.get(fault, ("z",))

    def forward(self, x):
        if self.fault == "no plate":
            return self.draw(x)
        with pyro.plate("data", x.shape[0]):
            return self.draw(x)

    def draw(self, x):
        if self.fault.startswith("discrete"):
            pyro.sample("k", dist.Bernoulli(0.5))
        prior = dist.Normal(torch.zeros(Z), 1.0).to_event(0 if self.fault == "no event" else 1)
        if self.fault == "no plate":
            prior = prior.expand([x.shape[0]])
        z = pyro.sample("z", prior)
        z = z - z.mean(0) if self.fault == "rows" else z
        h = self.net(z if self.fault != "particles" else z.reshape(-1, x.shape[0], Z)[0])
        if self.fault == "two":
            pyro.sample("y", dist.Normal(h, 1.0).to_event(1), obs=x)
        pyro.sample("x", dist.Normal(h, 1.0).to_event(1), obs=x if self.fault != "unseen" else None)

    def decode(self, z):
        return dist.Normal(self.net(z[..., :Z]), 2.0 if self.fault == "decode" else 1.0).to_event(1)

    def sample(self, num_samples):
        return torch.zeros(num_samples + (self.fault == "sample"), D)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no plate", r'site \'z\' lies in plates set\(\); write with pyro.plate\("data", x.shape\[0\]\)'),
        ("two", r"Linear observes \['x', 'y'\]; write one"),
        ("unseen", r"Linear observes \[\]; write one"),
        ("discrete", "latent site 'k' has no rsample; sum a discrete one out, or relax it"),
        ("rows", "log p of site 'x' alone and in a batch: they differ"),
        ("particles", r"log p of site 'x' with several draws of z \(2, B, ...\)"),
        ("sites", r"Linear.sites are not its latent sites \['z'\]"),
        ("decode", r"log p\(x \| z\) by decode\(z\) and by its program: they differ"),
        ("sample", r"Linear.sample\(2\) is \(3, 4\), not \(2, 4\)"),
    ],
)
def test_a_broken_model(fault, message, x):
    fails(message, check_model, Linear(fault), x)


def test_right_models(model, x):
    for right in (model, Linear(), layered()):
        check_model(right, x)
    check_model(Linear("discrete but relaxed"), x, relaxed=("k",))


def test_models_and_guides_of_several_sites(x):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(Z, D)

        def forward(self, x):
            with pyro.plate("data", x.shape[0]):
                gain = pyro.sample("gain", dist.Gamma(4.0, 4.0))
                z = pyro.sample("z", dist.Normal(torch.zeros(3, Z), 1.0).to_event(2))  # over 3 bins of time
                rate = gain[..., None] * nn.functional.softplus(self.net(z.mean(-2)))
                pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    model = Counts()
    check_model(model, x)
    family = pv.Joint.of(model, x)
    check_family(family)
    check_guide(model, pv.AmortizedGuide(family, encoder(family.num_params)), x)
    check_guide(model, pv.SemiAmortizedGuide(model, family, encoder(family.num_params), pv.SVIRefiner(num_steps=2)), x)
