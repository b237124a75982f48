"""A guide that has learned to iterate: what teaches it, and where it arrives."""

import re
from functools import partial
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import FAMILIES, Z_DIM, make_guide
from pyro.nn import PyroModule
from test_oracle import exact_elbo
from torch import nn

import pyrovae as pv
from pyrovae.inference import frozen
from pyrovae.testing import FixedNoise, LinearGaussian, quadrature


def on_oracle(gradient: str = "stopped", num_particles: int = 1, widths: tuple = (7,)) -> tuple:
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3)
    options = {"widths": widths, "activation": "tanh"}
    encoder = pv.nets.MLP((5,), (6,), **options)
    guide = pv.LearnedIterativeGuide(
        oracle.model, family, encoder, num_steps=3, gradient=gradient, num_particles=num_particles, **options
    )
    return oracle, guide.double()


def stopped(guide: pv.LearnedIterativeGuide) -> bool:
    return not guide.refiner.through


def loss_of(oracle: LinearGaussian, guide: pv.LearnedIterativeGuide, noise: torch.Tensor, teach: bool) -> torch.Tensor:
    with FixedNoise(noise):
        inferred = guide.infer(oracle.x)
        inferred = inferred if teach else inferred._replace(teaching=())
        elbo = pv.ELBO(path_gradient=stopped(guide))
        return elbo.differentiable_loss(oracle.model, partial(guide, inferred=inferred), oracle.x)


def losses_of_all_steps(oracle: LinearGaussian, guide: pv.LearnedIterativeGuide, noise: torch.Tensor) -> torch.Tensor:
    """-L at λ₀ ... λ_K, summed, each as a pass of its own."""
    elbo, x, total = pv.ELBO(path_gradient=stopped(guide)), oracle.x, 0.0
    params = guide.init_params.expand(len(x), -1)
    with FixedNoise(noise):
        for k in range(guide.refiner.num_steps + 1):
            q = guide.family(params).base_dist
            if k == guide.refiner.num_steps:  # the model learns from this one
                return total + elbo.differentiable_loss(oracle.model, lambda _, p=params: guide.family.sample(p), x)
            with frozen(oracle.model):
                loss = elbo.differentiable_loss(oracle.model, lambda _, p=params: guide.family.sample(p), x)
                error = x - oracle.model.decode(q.loc + q.scale * noise).mean
            total = total + loss
            (gradient,) = torch.autograd.grad(loss, params, create_graph=not stopped(guide), retain_graph=True)
            params, error = (params.detach(), error.detach()) if stopped(guide) else (params, error)
            params = guide.update(params, gradient, error)


@pytest.mark.parametrize("gradient", ["stopped", "unrolled"])
def test_what_is_taught_is_the_elbo_at_every_step(gradient):
    oracle, guide = on_oracle(gradient)
    noise, parameters = torch.randn(4, 3).double(), [*guide.parameters(), *oracle.model.parameters()]
    taught, explicit, last = (
        torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for loss in (
            loss_of(oracle, guide, noise, teach=True),
            losses_of_all_steps(oracle, guide, noise),
            loss_of(oracle, guide, noise, teach=False),
        )
    )
    torch.testing.assert_close(taught, explicit, rtol=1e-10, atol=1e-10)
    num = len(list(guide.parameters()))
    torch.testing.assert_close(taught[num:], last[num:], rtol=0, atol=0)  # the model learns at λ_K alone
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(taught[:num], last[:num], strict=True))


@pytest.mark.parametrize("gradient", ["stopped", "unrolled"])
def test_gradients_run_through_the_loop_unless_detached(gradient):
    oracle, guide = on_oracle(gradient)
    noise = torch.randn(4, 3).double()
    parameters, loss = dict(guide.named_parameters()), loss_of(oracle, guide, noise, teach=False)
    slopes = torch.autograd.grad(loss, parameters.values(), allow_unused=True, materialize_grads=True)
    for (name, parameter), found in zip(parameters.items(), slopes, strict=True):
        direction, h = torch.randn_like(parameter), 1e-5
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * h * direction)
                ends.append(loss_of(oracle, guide, noise, teach=False))
                parameter.sub_(sign * h * direction)
        difference, slope = (ends[0] - ends[1]).item() / (2 * h), (found * direction).sum().item()
        if gradient == "stopped":
            assert abs(slope - difference) > 1e-3 * abs(difference), name  # what earlier steps did is not seen
        else:
            assert slope == pytest.approx(difference, rel=1e-6, abs=1e-6), name


def test_the_value_of_the_elbo_is_left_alone():
    oracle, guide = on_oracle()
    noise = torch.randn(4, 3).double()
    with_factor, without = (loss_of(oracle, guide, noise, teach).item() for teach in (True, False))
    assert with_factor == pytest.approx(without, rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_slope_is_that_of_the_loss_at_the_start(family, model, x):
    guide = make_guide("learned_iterative", family, model)
    torch.manual_seed(1)
    inferred = guide.infer(x, beta=0.5, record=True)
    torch.manual_seed(1)
    loss = pv.ELBO(0.5).differentiable_loss(model, lambda x: guide.family.sample(inferred.init), x)
    torch.testing.assert_close(inferred.slope, torch.autograd.grad(loss, inferred.init)[0])
    assert torch.equal(inferred.path[0], inferred.init)
    assert torch.equal(inferred.path[-1], inferred.params)
    with torch.no_grad():
        assert guide.infer(x).teaching == ()


@pytest.mark.parametrize("gradient", ["stopped", "unrolled"])
def test_a_datapoint_ends_alike_alone_and_in_a_batch(gradient):
    oracle, guide = on_oracle(gradient, num_particles=2)
    noise, x = torch.randn(2, 4, 3).double(), oracle.x

    def run(rows: slice, x: torch.Tensor = x) -> torch.Tensor:
        with FixedNoise(noise[:, rows]):
            return guide.infer(x[rows]).params

    together = run(slice(None))
    assert (together - guide.init_params).abs().max() > 0.05
    for i in range(4):
        torch.testing.assert_close(run(slice(i, i + 1))[0], together[i], rtol=0, atol=1e-12)
    other = x.clone()
    other[3] += 10  # and nobody else may notice
    assert torch.equal(run(slice(None), other)[:3], together[:3])


def test_it_learns_to_find_the_best_diagonal():
    oracle, guide = on_oracle(num_particles=6, widths=(16,))
    generator = torch.Generator().manual_seed(1)

    def draw(num: int) -> LinearGaussian:
        z, e = (torch.randn(num, size, generator=generator, dtype=torch.float64) for size in (3, 5))
        return LinearGaussian(oracle.model, z @ oracle.W.T + oracle.b + oracle.variance.sqrt() * e)

    def gaps(fresh: LinearGaussian) -> list[float]:
        """What the best diagonal normal has more, at λ₀ ... λ_K; mean over datapoints."""
        with FixedNoise(quadrature(len(fresh.x), 3)), torch.no_grad():
            path = guide.infer(fresh.x, record=True).path
        best = fresh.log_evidence - fresh.diagonal_gap
        return [(best - exact_elbo(fresh, guide.family, params)).mean().item() for params in path]

    fresh = draw(200)
    assert min(gaps(fresh)) > 1  # at step 0
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.03)
    elbo, num_steps = pv.ELBO(num_particles=6), 400
    with pyro.validation_enabled(False):
        for step in range(num_steps):
            optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / num_steps)
            optimizer.zero_grad()
            x = draw(64).x
            with FixedNoise(quadrature(64, 3)):
                inferred = guide.infer(x)
                (elbo.differentiable_loss(oracle.model, partial(guide, inferred=inferred), x) / 64).backward()
            optimizer.step()
    found = gaps(fresh)
    assert all(after < before for before, after in pairwise(found))
    assert found[-1] < 0.02


class TwoViews(PyroModule):
    """Two observed sites from one z."""

    def __init__(self, same: bool):
        super().__init__()
        self.first, self.second, self.same = nn.Linear(Z_DIM, 4), nn.Linear(Z_DIM, 2), same

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z_DIM), 1.0).to_event(1))
            if self.same:
                pyro.sample("whole", dist.Normal(self.first(z), 1.0).to_event(1), obs=x)
            else:
                pyro.sample("left", dist.Normal(self.second(z), 1.0).to_event(1), obs=x[:, :2])
            pyro.sample("right", dist.Normal(self.second(z), 1.0).to_event(1), obs=x[:, 2:])


def test_several_observed_sites():
    family, encoder = pv.DiagonalNormal(Z_DIM), pv.nets.MLP((4,), (2 * Z_DIM,), widths=(8,))
    x = torch.randn(5, 4)
    for model, inputs in ((TwoViews(True), ["errors"]), (TwoViews(False), ["params", "gradient"])):
        guide = pv.LearnedIterativeGuide(model, family, encoder, inputs=inputs)
        pv.ELBO()(model, guide)(x).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in guide.parameters())
    with pytest.raises(
        ValueError,
        match=r"errors need one observed site of the shape of x, \(5, 4\), got .*'left': \(5, 2\).*set inputs",
    ):
        pv.LearnedIterativeGuide(TwoViews(False), family, encoder).infer(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"num_particles": 0}, "num_particles must be >= 1, got 0"),
        ({"inputs": []}, "inputs must be some of params, gradient, errors, each once, got []"),
        ({"inputs": ["gradient", "gradient"]}, "each once, got ['gradient', 'gradient']"),
    ],
)
def test_errors_name_value_and_remedy(options, message, model):
    with pytest.raises(ValueError, match=re.escape(message)):
        pv.LearnedIterativeGuide(model, pv.DiagonalNormal(3), nn.Identity(), **options)
