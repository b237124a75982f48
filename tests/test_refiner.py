import gc
import weakref
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import FAMILIES, X_SHAPE, Z_DIM, make_guide
from pyro.infer import SVI

import pyrovae as pv
from pyrovae.inference import SGD, Adam, AdaptiveStep, Objective, elbo_terms, frozen, iwae, optimum, precise_terms
from pyrovae.testing import FixedNoise, LinearGaussian, quadrature


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
    assert {n for n, s in outer.trace.nodes.items() if s["type"] == "sample"} == {"teaching", "data", "z"}


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
    ("ours", "theirs"),
    [
        (Adam(), lambda p: torch.optim.Adam(p, lr=0.1)),
        (SGD(momentum=0.7), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7)),
    ],
)
def test_row_optimizers_are_those_of_torch(ours, theirs):
    params = torch.randn(4, 3, dtype=torch.float64)
    twin, state = params.clone().requires_grad_(), ours.init(params)
    optimizer = theirs([twin])
    for k in range(20):
        grad = torch.randn(4, 3, dtype=torch.float64)
        direction, state = ours(grad, torch.tensor(float(k), dtype=torch.float64), state)
        params = params - 0.1 * direction
        twin.grad = grad
        optimizer.step()
    torch.testing.assert_close(params, twin.detach(), atol=1e-12, rtol=0)


def bowl(pace, lr, num_steps, start=(8.0, 0.5)):
    """Descends 1/2 lambda^2 for two datapoints; the paths (K + 1, 2, 1) and the last slots."""
    params = torch.tensor(start, dtype=torch.float64)[:, None]
    slots, path = pace.init(params), [params]
    for k in range(num_steps):
        move, slots = pace(-lr * params, params, torch.tensor(float(k)), slots)
        params = params + move
        path.append(params)
    return torch.stack(path), slots


def test_step_sizes_grow_while_steps_agree_and_shrink_where_they_do_not():
    held, _ = bowl(AdaptiveStep(0.0, None), lr=0.01, num_steps=40)
    grown, _ = bowl(AdaptiveStep(0.2, None), lr=0.01, num_steps=40)
    assert (grown[-1].abs() < 0.01 * held[-1].abs()).all()
    held, _ = bowl(AdaptiveStep(0.0, None), lr=2.05, num_steps=40)  # each step overshoots, and farther than the last
    shrunk, _ = bowl(AdaptiveStep(0.2, None), lr=2.05, num_steps=40)
    assert held[-1].abs().min() > held[0].abs().min()
    assert (shrunk[-1].abs() < 0.1 * shrunk[0].abs()).all()


def test_a_datapoint_stops_when_a_step_is_worth_too_little_and_not_before():
    path, _ = bowl(AdaptiveStep(0.0, 0.01), lr=0.1, num_steps=200)
    worth = (path[:-1] * (path[:-1] - path[1:]))[..., 0]  # (K, 2) nats a step, to first order
    last = (path.diff(dim=0)[..., 0] != 0).sum(0)  # steps that each datapoint took
    assert 10 <= last[1] < last[0] < 200, "the one that starts nearer stops first"
    for i in (0, 1):
        assert worth[last[i] - 1, i] < 0.02
        assert worth[: last[i], i].mean() > 0.01
        assert torch.equal(path[last[i], i], path[-1, i]), "and stays"


def test_stopped_datapoints_leave_the_batch_and_change_no_other(model, x, monkeypatch):
    for parameter in model.parameters():  # a decoder that depends on z
        torch.nn.init.normal_(parameter, std=0.7)
    sizes, original = [], SVI.step
    monkeypatch.setattr(SVI, "step", lambda self, x: sizes.append(len(x)) or original(self, x))
    family = pv.DiagonalNormal(Z_DIM)
    free, halted = (pv.SVIRefiner(num_steps=40, lr=0.05, safeguard=False, stop_below=s) for s in (None, 0.2))
    results = []
    for refiner in (free, halted):
        torch.manual_seed(3)
        results.append(refiner(model, family, x, torch.zeros(7, 6), record=True))
    assert sizes[:40] == [7] * 40
    assert sizes[40] == 7
    assert sizes[-1] < 7, "none has stopped"
    assert results[1].path.shape == results[0].path.shape == (41, 7, 6)
    assert torch.equal(results[1].path[-1], results[1].params)
    assert torch.equal(results[0].path[:4], results[1].path[:4])
    moved = (results[1].path.diff(dim=0) != 0).any(-1)  # (K, B)
    assert torch.equal(moved, moved.cummin(0).values), "a datapoint that stopped moved again"
    assert 10 <= moved.sum(0).min() < moved.sum(0).max() < 40


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer", "sgd"), ("adapt", 1.2), ("clip", 1e-4), ("objective", pv.ELBO(2.0))],
)
def test_settings_may_change_between_calls(name, value, model, x):
    plain = {"num_steps": 3, "safeguard": False}
    refiner, twin = pv.SVIRefiner(**plain), pv.SVIRefiner(**{**plain, name: value})
    family, results = pv.DiagonalNormal(Z_DIM), []
    for each in (refiner, refiner, twin):
        torch.manual_seed(2)
        results.append(each(model, family, x, torch.zeros(7, 6)).params)
        setattr(refiner, name, value)
    assert not torch.equal(results[0], results[1])
    assert torch.equal(results[1], results[2])


class Scaled(pv.SVIRefiner):
    """With a setting that Python can only tell by identity, and of which its step keeps a number alone."""

    def __init__(self, scale):
        super().__init__(num_steps=1)
        self.scale = scale

    def make_step(self, model, family):
        return replace(super().make_step(model, family), clip=float(self.scale[0]))


def test_a_setting_known_by_identity_lives_as_long_as_its_program(model, x):
    refiner, family = Scaled(np.array([1e-3])), pv.DiagonalNormal(Z_DIM)
    refiner(model, family, x, torch.zeros(7, 6))
    scale = weakref.ref(refiner.scale)
    refiner.scale = None
    gc.collect()
    assert scale() is not None, "another array may get its address, and with that its program"


def test_linear_decay_ends_at_rest(model, x):
    refiner = pv.SVIRefiner(num_steps=10, lr=0.1, lr_decay="linear", safeguard=False)
    path = refiner(model, pv.DiagonalNormal(Z_DIM), x, torch.zeros(7, 6), record=True).path
    step = path.diff(dim=0).abs().amax((1, 2))
    assert step[0] == pytest.approx(0.1, rel=1e-3)  # Adam's first step is its step size
    assert step[-1] < 0.02


def test_a_refined_guide_starts_where_it_is_told(model, x):
    guide = make_guide("semi_amortized", "diagonal_normal", model, safeguard=False)
    start = torch.randn(7, 6)
    start[0] = torch.nan
    inferred = guide.infer(x, record=True, start=start)
    assert torch.equal(inferred.path[0, 1:], start[1:])
    assert torch.equal(inferred.path[0, 0], inferred.init[0])
    assert torch.equal(inferred.init, guide.initial(x))


# What is climbed is an argument.


class Distance(Objective):
    """An energy of one's own: half the squared distance of q's mean to a target, and nothing of the model."""

    def __init__(self, target: float) -> None:
        super().__init__(num_particles=1, beta=1.0, path_gradient=False)
        self.target = target

    def differentiable_loss(self, model, guide, x):
        q = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
        return 0.5 * (q.mean - self.target).square().sum()


@pytest.mark.parametrize("gradient", ["stopped", "unrolled"])
def test_climbs_an_energy_of_ones_own(gradient, model, x):
    start = torch.zeros(7, 6, requires_grad=True)
    loop = pv.SVIRefiner(
        objective=Distance(2.0), optimizer="sgd", momentum=0.0, lr=0.5, num_steps=3, safeguard=False, gradient=gradient
    )
    inferred = loop(model, pv.DiagonalNormal(Z_DIM), x, start)
    torch.testing.assert_close(inferred.params[:, :3].detach(), torch.full((7, 3), 2 * (1 - 0.5**3)))
    if gradient == "unrolled":
        (through,) = torch.autograd.grad(inferred.params[:, :3].sum(), start)
        torch.testing.assert_close(through[:, :3], torch.full((7, 3), 0.5**3))


@pytest.mark.parametrize("objective", [pv.AnalyticELBO(), pv.IWAE(num_particles=4), pv.ELBO(num_particles=2)])
def test_every_objective_can_be_climbed(objective, model, x):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    family, start = pv.DiagonalNormal(Z_DIM), torch.zeros(7, 6)
    loop = pv.SVIRefiner(objective=objective, num_steps=60, lr=0.05, safeguard=False)
    before, after = (
        -objective.scaled().loss(model, lambda _, p=p: family.sample(p), x)
        for p in (start, loop(model, family, x, start).params)
    )
    assert after - before > 2


def test_beta_of_the_objective_and_of_the_call_are_a_product(model, x):
    family, results = pv.DiagonalNormal(Z_DIM), []
    for own, given in ((2.0, 0.25), (0.5, 1.0)):
        torch.manual_seed(1)
        objective = pv.ELBO(own)
        results.append(pv.SVIRefiner(objective=objective)(model, family, x, torch.zeros(7, 6), given).params)
        assert objective.beta == own, "the caller's objective is never written to"
    assert torch.equal(*results)


def test_a_family_without_density_is_refined_by_its_kl_alone(model, x):
    class KLOnly(pv.DiagonalNormal):
        density = "none"

        def forward(self, params):
            return _NoDensity(super().forward(params))

    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    family, start = KLOnly(Z_DIM), torch.zeros(7, 6)
    inferred = pv.SVIRefiner(objective=pv.AnalyticELBO(), num_steps=20)(model, family, x, start)
    assert (inferred.terms.elbo() - inferred.terms_init.elbo()).mean() > 0.1
    with pytest.raises(ValueError, match="objective ELBO scores draws, and KLOnly has no density; use AnalyticELBO"):
        pv.SVIRefiner()(model, family, x, start)
    with pytest.raises(ValueError, match="importance weights need the density of q, which KLOnly lacks"):
        iwae(model, family, x, start)


class _NoDensity(dist.Independent):
    """Knows draws, moments and a KL, and no density."""

    def __init__(self, base):
        super().__init__(base.base_dist, 1)

    def log_prob(self, value):
        raise AssertionError("asked for a density")

    def expand(self, batch_shape, _instance=None):
        return _NoDensity(dist.Independent(self.base_dist.expand((*batch_shape, *self.event_shape)), 1))


# The posterior of one step may be the prior of the next.


@pytest.mark.parametrize("objective", [pv.ELBO(num_particles=6), pv.AnalyticELBO(num_particles=6)])
def test_a_carried_prior_takes_the_place_of_the_models(objective):
    oracle, family = LinearGaussian.random(), pv.FullNormal(3).double()
    first = oracle.best_params(family)  # the posterior after seeing x is the prior for seeing it again
    loop = pv.SVIRefiner(num_steps=2000, lr=0.01, objective=objective, safeguard=False, lr_decay="linear")
    with FixedNoise(quadrature(4, 3)):
        second = family(loop(oracle.model, family, oracle.x, first, prior=first).params)
    precision = 2 * oracle.precision - torch.eye(3, dtype=torch.float64)  # the likelihood counts twice
    mean = torch.linalg.solve(precision, (oracle.W.T @ (oracle.x - oracle.b).T) * 2 / oracle.variance).T
    torch.testing.assert_close(second.mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(second.precision_matrix, precision.expand(4, 3, 3), rtol=0, atol=1e-4)
    assert (family(first).mean - mean).abs().max() > 0.05
    with FixedNoise(quadrature(4, 3)):
        kl = elbo_terms(oracle.model, family, oracle.x, first, 6, prior=first).kl
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-10)


def test_a_guide_carries_lambda_and_prior(model, x):
    guide = make_guide("semi_amortized", "diagonal_normal", model, safeguard=False)
    carried = torch.randn(7, 6)
    torch.manual_seed(1)
    inferred = guide.infer(x, start=carried, prior=carried)
    torch.manual_seed(1)
    loop = guide.refiner(model, guide.family, x, carried, prior=carried)
    assert torch.equal(inferred.params, loop.params)
    torch.manual_seed(1)
    assert not torch.equal(guide.infer(x, start=carried).params, loop.params)
    learned = make_guide("learned_iterative", "diagonal_normal", model)
    assert torch.equal(learned.infer(x, record=True, start=carried, prior=carried).path[0], carried)


def test_steps_of_other_kinds_share_the_loop(model, x):
    for guide in (make_guide("learned_iterative", "full_normal", model), make_guide("svi", "full_normal", model)):
        assert isinstance(guide.refiner, pv.Refiner)
    assert type(pv.GaussNewtonRefiner()).__call__ is type(pv.SVIRefiner()).__call__ is pv.Refiner.__call__


@pytest.mark.usefixtures("interpreted")
def test_stopped_datapoints_leave_a_compiled_batch_too(model, x):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    family, results = pv.DiagonalNormal(Z_DIM), []
    loop = pv.SVIRefiner(num_steps=40, lr=0.05, safeguard=False, stop_below=0.2)
    for engine in ("eager", "compiled"):
        torch.manual_seed(3)
        with pv.engine(engine):
            results.append(loop(model, family, x, torch.zeros(7, 6), record=True).path)
    torch.testing.assert_close(*results)
    stopped = (results[0].diff(dim=0) != 0).any(-1).sum(0)
    assert stopped.min() < stopped.max() < 40, "none left the batch"


@pytest.mark.usefixtures("interpreted")
def test_graphs_live_as_long_as_the_model():
    model, x = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,)), torch.ones(7, *X_SHAPE)
    family, loop = pv.DiagonalNormal(Z_DIM), pv.SVIRefiner()
    with pv.engine("compiled"):
        loop(model, family, x, torch.zeros(7, 6))
        precise_terms(model, family, x, torch.zeros(7, 6))
        optimum(model, family, x, torch.zeros(7, 6), max_steps=4, window=2)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None, "something keeps the model alive"


@pytest.mark.parametrize("shape", [(7, 5), (1, 6), (6,)])
def test_a_lambda_of_the_wrong_shape_is_refused(shape, model, x):
    with pytest.raises(ValueError, match=r"params must be \(7, 6\), a row of λ for each of x, got"):
        pv.SVIRefiner()(model, pv.DiagonalNormal(Z_DIM), x, torch.zeros(shape))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"lr": 0.0}, "lr must be > 0 or auto, got 0.0"),
        ({"optimizer": "lbfgs"}, "optimizer must be auto, adam, sgd or natural, got 'lbfgs'"),
        ({"clip": -1.0}, "clip must be > 0 or auto, got -1.0"),
        ({"num_steps": 2.5}, "num_steps must be a whole number, got 2.5"),
        ({"momentum": -1}, "momentum must be >= 0 or auto, got -1"),
        ({"stop_below": "x"}, "stop_below must be a number, got 'x'"),
        ({"gradient": "second"}, "gradient must be stopped, unrolled, truncated"),
        ({"adapt": -1.0}, "adapt must be >= 0, got -1.0"),
        ({"lr_decay": "cosine"}, "lr_decay must be auto, none or linear, got 'cosine'"),
    ],
)
def test_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        pv.SVIRefiner(**bad)
