"""Gradients through the inner loop. C5, C6, C8: the correctness table in docs/design.md."""

import copy
import warnings

import pyro
import pytest
import torch
from conftest import FAMILIES, X_SHAPE, Z_DIM, make_guide
from torch import nn

import pyrovae as pv
from pyrovae.capture import CaptureWarning, isolated
from pyrovae.config import COMPONENTS, ConfigError, check
from pyrovae.inference.steps import Adam
from pyrovae.testing import FixedNoise, LinearGaussian, check_guide, quadrature
from pyrovae.training.loss import BatchLoss

GRADIENTS = ["unrolled", "truncated(2)", "first_order", "stopped"]
STEPS = 4


def unrolled(num_particles: int = 1, path_gradient: bool = True, **options: object) -> pv.SVIRefiner:
    """A loop of plain gradient descent that gradients come back through."""
    objective = pv.ELBO(num_particles=num_particles, path_gradient=path_gradient)
    usual = {"optimizer": "sgd", "lr": 0.01, "gradient": "unrolled", "safeguard": False, "objective": objective}
    return pv.SVIRefiner(**{**usual, **options})


class Problem:
    """A model, an encoder and noise in float64; `loss` is a function of all their weights."""

    def __init__(self, name: str, family: type[pv.Family] = pv.DiagonalNormal) -> None:
        torch.manual_seed(4)
        self.family = family(Z_DIM).double()
        if name == "linear":
            oracle = LinearGaussian.random()
            self.model, self.x, self.encoder = oracle.model, oracle.x, nn.Linear(5, self.family.num_params).double()
            self.noise = quadrature(len(self.x), Z_DIM)
        else:
            self.model = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,)).double()
            for parameter in self.model.parameters():  # a decoder that depends on z
                nn.init.normal_(parameter, std=0.5)
            self.x = (torch.rand(4, *X_SHAPE) < 0.4).double()
            self.encoder = pv.nets.MLP(X_SHAPE, (self.family.num_params,), widths=(8,)).double()
            self.noise = torch.randn(2, 4, Z_DIM, dtype=torch.float64)
        self.weights = [*self.model.decoder.parameters(), *self.encoder.parameters()]

    def refine(self, gradient: str = "unrolled", **options: object) -> pv.Inferred:
        options = {"num_steps": STEPS, "lr": 0.02, "num_particles": len(self.noise), **options}
        refiner = unrolled(gradient=gradient, **options)
        return refiner(self.model, self.family, self.x, self.encoder(self.x))

    def loss(self, **options: object) -> torch.Tensor:
        """The negative ELBO at λ_K, whose draws, like those of the loop, are always the same."""
        with FixedNoise(self.noise):
            params = self.refine(**options).params
            elbo = pv.ELBO(num_particles=len(self.noise), path_gradient=False)
            return elbo.differentiable_loss(self.model, lambda _: self.family.sample(params), self.x)

    def gradients(self, **options: object) -> list[torch.Tensor]:
        return list(torch.autograd.grad(self.loss(**options), self.weights))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("path_gradient", [False, True])
@pytest.mark.parametrize(("gradient", "depth"), [("unrolled", 6), ("truncated(2)", 2), ("first_order", 0)])
def test_c5_closed_form(gradient, depth, path_gradient, checkpoint):
    oracle, family, lr, K = LinearGaussian.random(), pv.DiagonalNormal(3).double(), 0.04, 6
    start = torch.randn(4, 6, dtype=torch.float64)
    start[:, 3:] = -1  # no step makes of this a scale so small that (z - μ) / s² would round
    start.requires_grad_()
    refine = unrolled(
        gradient=gradient, num_steps=K, lr=lr, momentum=0.0, num_particles=6, path_gradient=path_gradient,
        checkpoint=checkpoint,
    )  # fmt: skip
    with FixedNoise(quadrature(4, 3)):
        params = refine(oracle.model, family, oracle.x, start).params
        elbo = pv.ELBO(num_particles=6)
        loss = elbo.differentiable_loss(oracle.model, lambda _: family.sample(params), oracle.x)
        (gradient_of_start,) = torch.autograd.grad(loss, start)
    L, step = oracle.precision, torch.eye(3, dtype=torch.float64) - lr * oracle.precision
    before = start.detach()[:, :3] - oracle.mean  # (B, d); of a quadratic, the mean moves apart from the scale
    powers = {n: torch.linalg.matrix_power(step, n) for n in (K, K + depth)}
    close(params.detach()[:, :3] - oracle.mean, before @ powers[K], 1e-10)
    assert (params.detach() - start).abs().max() > 0.3
    close(-gradient_of_start[:, :3], -before @ powers[K + depth] @ L, 1e-10)


LOOPS = {
    "sgd": {"momentum": 0.0},
    "momentum": {"momentum": 0.7, "lr_decay": "linear"},
    "adam": {"optimizer": "adam", "lr": 0.1},
    "clip": {"clip": 6.0},
    "natural": {"optimizer": "natural", "lr": 0.2, "clip": 3.0},
    "adaptive": {"adapt": 0.2},
}


def check_central_differences(problem, h=1e-5, **options):
    """Along a random direction of the model's weights, and one of the encoder's."""
    plain, replayed = (problem.gradients(checkpoint=c, **options) for c in (False, True))
    without = problem.gradients(gradient="first_order", **options)
    num = len(list(problem.model.decoder.parameters()))
    for part in (slice(num), slice(num, None)):
        weights, values = problem.weights[part], []
        directions = [torch.randn_like(g).abs() * g.sign() for g in plain[part]]  # along which nothing cancels
        with torch.no_grad():
            for sign in (1, -2, 1):
                torch._foreach_add_(weights, directions, alpha=sign * h)
                values.append(problem.loss(**options).item())
        expected = (values[0] - values[1]) / (2 * h)

        def along(gradients, part=part, directions=directions):
            return sum((g * d).sum().item() for g, d in zip(gradients[part], directions, strict=True))

        assert along(plain) == pytest.approx(expected, rel=1e-6)
        assert along(replayed) == pytest.approx(expected, rel=1e-6)
        assert along(without) != pytest.approx(expected, rel=1e-4), "the loop adds nothing that would be seen"


@pytest.mark.parametrize("path_gradient", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_c6_central_differences(name, loop, path_gradient):
    check_central_differences(Problem(name), path_gradient=path_gradient, **LOOPS[loop])


def test_c6_with_full_covariance():
    check_central_differences(Problem("mlp", pv.FullNormal))


def test_c6_with_natural_steps_of_which_correlations_take_a_share():
    check_central_differences(Problem("mlp", pv.FullNormal), optimizer="natural", lr=0.5)


@pytest.mark.parametrize("loop", LOOPS)
def test_modes_meet_at_their_ends(loop):
    problem = Problem("mlp")
    unrolled, first_order = (problem.gradients(gradient=g, **LOOPS[loop]) for g in ("unrolled", "first_order"))
    close(problem.gradients(gradient=f"truncated({STEPS})", **LOOPS[loop]), unrolled)
    close(problem.gradients(gradient="truncated(99)", **LOOPS[loop]), unrolled)
    close(problem.gradients(gradient="truncated(0)", **LOOPS[loop]), first_order)
    for depth in range(STEPS + 1):
        options = {"gradient": f"truncated({depth})", **LOOPS[loop]}
        close(problem.gradients(checkpoint=True, **options), problem.gradients(**options))


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"optimizer": "adam", "safeguard": True, "clip": 3.0}])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_values_are_those_of_the_svi_refiner(gradient, options):
    problem = Problem("mlp")
    plain = {k: v for k, v in options.items() if k != "checkpoint"}
    make = {
        "unrolled": lambda: unrolled(num_steps=STEPS, lr=0.02, gradient=gradient, **options),
        "svi": lambda: pv.SVIRefiner(
            **{"optimizer": "sgd", "safeguard": False, "num_steps": STEPS, "lr": 0.02, **plain}
        ),
    }
    start, results = problem.encoder(problem.x), []
    for name, on in (("svi", True), ("unrolled", True), ("unrolled", False)):
        torch.manual_seed(1)
        with torch.set_grad_enabled(on):
            results.append(make[name]()(problem.model, problem.family, problem.x, start, 0.7, record=True))
    svi, attached, off = results
    assert attached.params.requires_grad == attached.attached == (gradient != "stopped")
    assert not off.params.requires_grad
    for result in (attached, off):
        close(result.params.detach(), svi.params)
        close(result.path, svi.path)
        assert not result.path.requires_grad
        if svi.terms is not None:
            close(result.terms, svi.terms)
    if gradient == "stopped":
        close(attached.slope, svi.slope)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_c8_no_datapoint_sees_another(checkpoint):
    problem = Problem("mlp")
    start, noise = problem.encoder(problem.x).detach(), problem.noise
    refine = unrolled(num_steps=STEPS, lr=0.02, num_particles=2, clip=3.0, checkpoint=checkpoint)

    def run(rows):
        leaf = start[rows].clone().requires_grad_()
        with FixedNoise(noise[:, rows]):
            params = refine(problem.model, problem.family, problem.x[rows], leaf).params
            (gradient,) = torch.autograd.grad(params[0].sum(), leaf)
        return params.detach()[0], gradient

    together = run(slice(None))
    alone = run(slice(1))
    close(alone[0], together[0])
    close(alone[1][0], together[1][0])
    assert together[1][0].abs().min() > 0
    assert (together[1][1:] == 0).all()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_nothing_leaks(checkpoint):
    problem = Problem("mlp")
    problem.refine(checkpoint=checkpoint)
    loss = problem.loss(checkpoint=checkpoint)
    state = torch.get_rng_state()
    torch.autograd.grad(loss, problem.weights)
    assert torch.equal(state, torch.get_rng_state())
    for weight in problem.weights:
        assert weight.grad is None
        assert weight.requires_grad
    assert not pyro.get_param_store()


def test_a_replay_runs_where_the_loop_ran():
    problem = Problem("linear")
    inside = problem.gradients(checkpoint=True)
    with FixedNoise(problem.noise):
        loss = problem.refine(checkpoint=True).params.square().sum()
        expected = torch.autograd.grad(loss, problem.weights, retain_graph=True)
    with pyro.poutine.trace() as trace, pyro.plate("elsewhere", 3):
        outside = torch.autograd.grad(loss, problem.weights)  # neither that noise nor these plates are around it
    close(outside, expected)
    assert not any(site["type"] == "sample" and site["name"] != "elsewhere" for site in trace.trace.nodes.values())
    assert all(gradient.abs().max() > 0 for gradient in inside)


def test_dropout_is_off_within_the_loop_and_when_it_runs_again(x):
    decoder = nn.Sequential(pv.nets.MLP((Z_DIM,), X_SHAPE, widths=(8,)), nn.Dropout(0.5))
    model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), decoder, pv.models.likelihoods.Bernoulli())
    modes = []
    decoder[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    for checkpoint in (False, True):
        start = torch.zeros(7, 6, requires_grad=True)
        params = unrolled(checkpoint=checkpoint, num_steps=2)(model, pv.DiagonalNormal(3), x, start).params
        params.sum().backward()
    assert modes == [False] * 6
    assert decoder[1].training


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("cache_enabled", [False, True])
def test_autocast(cache_enabled, checkpoint, model, x):
    family, encoder = pv.DiagonalNormal(Z_DIM), pv.nets.MLP(X_SHAPE, (6,), widths=(8,))
    guide = pv.SemiAmortizedGuide(model, family, encoder, unrolled(num_steps=3, checkpoint=checkpoint))
    parameters, gradients = [*model.parameters(), *guide.parameters()], []
    for enabled in (True, False):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=cache_enabled):
            loss = pv.ELBO()(model, guide)(x)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
        assert gradients[-1].dtype == torch.float32
    assert torch.cosine_similarity(*gradients, 0) > 0.99
    assert not torch.equal(*gradients)


def test_adam_has_a_derivative_where_the_gradient_is_zero():
    grad = torch.zeros(2, 3, requires_grad=True)
    direction, state = Adam()(grad, torch.tensor(0.0), Adam().init(grad.detach()))
    derivative = torch.autograd.grad(direction.sum() + sum(part.sum() for part in state), grad)[0]
    assert derivative.isfinite().all()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_reverted_datapoint_is_its_proposal(checkpoint):
    problem = Problem("mlp")
    start = torch.zeros(4, 6, dtype=torch.float64)
    start[:2, 3:] = 2  # so wide that a step is too large
    start.requires_grad_()
    refine = unrolled(num_steps=2, lr=0.2, num_particles=2, safeguard=True, score_particles=2, checkpoint=checkpoint)
    with FixedNoise(problem.noise):
        inferred = refine(problem.model, problem.family, problem.x, start)
    kept = inferred.reverted
    assert 0 < kept.sum() < 4
    (gradient,) = torch.autograd.grad(inferred.params.sum(), start)
    assert torch.equal(inferred.params[kept], start[kept])
    assert (gradient[kept] == 1).all()
    assert (gradient[~kept] != 1).any()


# In a guide.


@pytest.mark.parametrize(
    ("gradient", "family"),
    [*(("unrolled", family) for family in FAMILIES), *((gradient, "full_normal") for gradient in GRADIENTS)],
)
@pytest.mark.parametrize("name", ["semi_amortized", "svi"])
def test_contract(name, family, gradient, model, x):
    guide = make_guide(name, family, model)
    path_gradient = COMPONENTS["family"][family].density == "any"
    guide.refiner = unrolled(gradient=gradient, num_steps=3, path_gradient=path_gradient)
    check_guide(model, guide, x)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_encoder_has_one_teacher(gradient, model, x):
    guide = make_guide("semi_amortized", "diagonal_normal", model)
    guide.refiner = unrolled(gradient=gradient, num_steps=2)
    sites = pyro.poutine.trace(guide).get_trace(x).nodes
    assert ("teaching" in sites) == (gradient == "stopped")
    elsewhere = guide.infer(x, start=torch.zeros(7, 6))  # the loop does not begin at the proposal
    assert not elsewhere.attached
    assert "teaching" in pyro.poutine.trace(guide).get_trace(x, inferred=elsewhere).nodes


def test_a_family_may_know_the_density_of_its_own_draws_only(model):
    class Flow(pv.DiagonalNormal):
        density = "own"

    for options in ({"path_gradient": False}, {"gradient": "first_order"}, {"gradient": "stopped"}):
        pv.SVIGuide(model, Flow(3), unrolled(**options))
    with pytest.raises(
        ValueError, match="gradient unrolled needs.* which Flow lacks; set objective ELBO\\(path_gradient=False"
    ):
        pv.SVIGuide(model, Flow(3), unrolled())


@pytest.mark.parametrize("gradient", ["full", "truncated", "truncated(-1)", "truncated(x)", ""])
def test_errors(gradient):
    with pytest.raises(
        ValueError, match=r"gradient must be stopped, unrolled, truncated\(n\) .* or first_order, got '"
    ):
        unrolled(gradient=gradient)
    with pytest.raises(ConfigError, match=r"guide.refiner.gradient: .*unrolled, truncated.*got '"):
        check({"guide": {"type": "svi", "refiner": {"type": "svi", "gradient": gradient}}})


def test_the_settings_of_the_loop_are_checked():
    with pytest.raises(ValueError, match="num_steps must be >= 1, got 0"):
        unrolled(num_steps=0)
    problem = Problem("mlp")
    with pytest.raises(ValueError, match=r"params must be \(4, 6\), a row of λ for each of x, got \(4, 5\)"):
        unrolled()(problem.model, problem.family, problem.x, torch.zeros(4, 5))


# Compiled.


def check_training(family="diagonal_normal", dtype=torch.float64, sizes=(7, 5, 1), **options):
    """Loss and gradients of a training step, eager and compiled."""
    torch.manual_seed(0)
    model, q = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,)), COMPONENTS["family"][family](Z_DIM)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    encoder = pv.nets.MLP(X_SHAPE, (q.num_params,), widths=(8,))
    refiner = unrolled(**{"num_steps": STEPS, "lr": 0.02, **options})
    batch_loss = BatchLoss(pv.ELBO()(model, pv.SemiAmortizedGuide(model, q, encoder, refiner)).to(dtype))
    parameters = list(batch_loss.elbo.parameters())
    for size in sizes:
        x, results = (torch.rand(size, *X_SHAPE) < 0.4).to(dtype), []
        for engine in ("eager", "compiled"):
            torch.manual_seed(1)
            with pv.engine(engine), isolated(), warnings.catch_warnings():
                warnings.simplefilter("error", CaptureWarning)
                loss, inferred = batch_loss(x, 0.7)
            results.append([loss.detach(), inferred.params.detach(), *torch.autograd.grad(loss, parameters)])
        close(*results, 1e-10 if dtype == torch.float64 else 1e-4)
        assert all(value.abs().max() > 1e-3 for value in results[0])


def test_captured_training_is_eager_training(interpreted):
    check_training(clip=20.0, lr_decay="linear")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam"},
        {"gradient": "truncated(2)", "safeguard": True},
        {"gradient": "first_order"},
        {"path_gradient": False, "num_particles": 2},
    ],
)
def test_so_in_every_combination(options, family, dtype):
    path_gradient = COMPONENTS["family"][family].density == "any"
    check_training(family, dtype, **{"path_gradient": path_gradient, **options})


def test_a_copy_of_a_guide_has_its_own_programs(model, x):
    guide = make_guide("semi_amortized", "diagonal_normal", model)
    guide.refiner = unrolled(num_steps=2)
    guide.infer(x)
    twin, results = copy.deepcopy(guide), []
    for each in (guide, twin):
        torch.manual_seed(1)
        results.append(each.infer(x).params)
    assert torch.equal(*results)
