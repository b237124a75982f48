"""Calibration and predictive checks, on the linear-Gaussian model, where the posterior is known."""

import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import make_guide
from scipy.stats import norm
from torch import nn

import pyrovae as pv
from pyrovae.evaluation.calibration import calibration, predictive_checks, spread_ranks, statistics, verdict
from pyrovae.evaluation.subject import Subject
from pyrovae.inference import Inferred, simulate
from pyrovae.testing import LinearGaussian

N = 1000


class Exact(pv.Guide):
    """The best member of a normal family, in closed form; `spread` times its standard deviations."""

    def __init__(self, oracle, family, spread=1.0, shift=0.0):
        super().__init__(family.double())
        self.oracle, self.spread, self.shift = oracle, spread, shift

    def infer(self, x, beta=1.0, record=False):
        at_x = LinearGaussian(self.oracle.model, x)
        params = at_x.best_params(self.family).clone()
        d = self.family.z_dim
        params[:, :d] += self.shift
        if isinstance(self.family, pv.DiagonalNormal):
            params[:, d:] += math.log(self.spread)
        else:
            L = torch.linalg.cholesky(torch.linalg.inv(at_x.precision)) * self.spread
            params = self.family.params_of(params[:, :d], L.expand(len(x), -1, -1))
        return Inferred(params, params)


def subject_of(guide, oracle):
    return Subject.of("test", oracle.model, guide, oracle.x)


def mean_field_coverage(oracle, level):
    """Of each dimension's true value by the best diagonal normal."""
    ratio = (oracle.precision.diagonal() * torch.linalg.inv(oracle.precision).diagonal()).sqrt()
    return torch.as_tensor(2 * norm.cdf(norm.ppf(0.5 + level / 2) / ratio.numpy()) - 1)


def test_simulated_data_have_the_models_moments():
    oracle = LinearGaussian.random()
    z, x = simulate(oracle.model, oracle.x, 40_000)
    assert z.shape == (40_000, 3)
    assert x.shape == (40_000, 5)
    error = 5 / math.sqrt(40_000)
    assert (z.mean(0)).abs().max() < error
    covariance = oracle.W @ oracle.W.T + oracle.variance * torch.eye(5).double()
    scale = covariance.diagonal().sqrt()
    assert ((x.mean(0) - oracle.b) / scale).abs().max() < error
    # x belongs to its z: what is left of x is noise of the likelihood's own size
    left = x - z @ oracle.W.T - oracle.b
    torch.testing.assert_close(left.var(0), oracle.variance.expand(5), rtol=5 * math.sqrt(2 / 40_000), atol=0)


@pytest.mark.parametrize("likelihood", [pv.models.likelihoods.Poisson(), pv.models.likelihoods.Bernoulli()])
def test_simulation_of_several_layers_is_laid_out_as_the_family_has_them(likelihood):
    model = pv.models.hierarchical_mlp((1, 6, 5), (3, 2), widths=(8,), likelihood=likelihood)
    like = torch.zeros(2, 1, 6, 5)
    z, x = simulate(model, like, 400)
    type(likelihood).check(x)
    assert x.shape == (400, 1, 6, 5)
    with torch.no_grad():
        p = model.conditional(0, z[:, 3:])
    assert (((z[:, :3] - p.mean) / p.base_dist.scale).std(0) - 1).abs().max() < 5 / math.sqrt(800)
    torch.manual_seed(1)
    first, _ = simulate(model, like, 4)
    torch.manual_seed(1)
    swapped, _ = simulate(model, like, 4, sites=("z2", "z1"))
    assert torch.equal(first[:, 3:], swapped[:, :2])


def test_simulation_says_what_it_needs():
    def twice(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="one observed site, got 2"):
        simulate(twice, torch.zeros(3), 2)
    with pytest.raises(ValueError, match="num must be >= 1, got 0"):
        simulate(LinearGaussian.random().model, torch.zeros(3, 5), 0)


def test_ranks_of_known_draws():
    draws = torch.arange(4.0).reshape(4, 1, 1)  # 0, 1, 2, 3
    for truth, rank in ((-1.0, 0), (0.5, 1), (2.5, 3), (9.0, 4)):
        u = torch.cat([spread_ranks(torch.full((1, 1), truth), draws) for _ in range(200)])
        assert rank / 5 <= u.min() < u.max() <= (rank + 1) / 5


def test_uniform_ranks_are_found_uniform_and_cover_as_they_say():
    ranks = torch.rand(4000, 3, dtype=torch.float64)
    assert verdict(ranks)["p_value"] > 1e-3
    for level, found in verdict(ranks)["coverage"].items():
        nominal = float(level)
        for share in found["per_dim"]:
            assert abs(share - nominal) < 4 * math.sqrt(nominal * (1 - nominal) / 4000)
    wide = 0.5 + 0.9 * (ranks - 0.5)  # as of a q that is too wide
    assert verdict(wide)["p_value"] < 1e-3
    assert verdict(wide)["coverage"]["0.9"]["mean"] > 0.95
    one = ranks.clone()
    one[:, 2] = one[:, 2] ** 1.3  # one dimension of three is off
    assert verdict(one)["p_value"] < 1e-3


def test_c15_the_exact_posterior_is_calibrated_and_the_control_is_not():
    oracle = LinearGaussian.random()
    findings = calibration(subject_of(Exact(oracle, pv.FullNormal(3)), oracle), N)
    found = findings.numbers["calibration"]
    assert found["p_value"] > 1e-3
    assert found["calibrated"]
    assert found["num_simulated"] == N
    for level, values in found["coverage"].items():
        assert abs(values["mean"] - float(level)) < 4 * values["se"]
    assert found["control"]["rejected"]
    assert found["control"]["p_value"] < 1e-10
    # a normal pulled to half its spread covers 2 Φ(c / 2) - 1
    half = 2 * norm.cdf(norm.ppf(0.75) / 2) - 1
    assert abs(found["control"]["coverage"]["0.5"]["mean"] - half) < 0.05
    assert not findings.warnings
    assert set(findings.figures) == {"calibration"}
    assert "init" not in found  # nothing was refined


def test_c15_coverage_of_the_best_diagonal_normal():
    oracle = LinearGaussian.random(d=3, D=4, sigma=0.4, seed=1)
    # Many draws: the ends of an interval that few draws mark are blurred.
    found = calibration(subject_of(Exact(oracle, pv.DiagonalNormal(3)), oracle), N, num_draws=999).numbers
    for level, values in found["calibration"]["coverage"].items():
        expected = mean_field_coverage(oracle, float(level))
        assert (float(level) - expected).max() > 0.1  # or nothing would be shown
        error = (expected * (1 - expected) / N).sqrt()
        assert ((torch.tensor(values["per_dim"]) - expected).abs() < 4 * error).all()
    assert not found["calibration"]["calibrated"]
    assert found["calibration"]["p_value"] < 1e-6


@pytest.mark.parametrize(("spread", "shift"), [(1.6, 0.0), (1.0, 0.3)])
def test_too_wide_and_shifted_posteriors_are_rejected(spread, shift):
    oracle = LinearGaussian.random()
    found = calibration(subject_of(Exact(oracle, pv.FullNormal(3), spread, shift), oracle), N).numbers["calibration"]
    assert not found["calibrated"]
    if spread > 1:
        assert found["coverage"]["0.5"]["mean"] > 0.6


def test_refinement_that_widens_a_narrow_posterior_is_seen():
    class Widened(Exact):
        def infer(self, x, beta=1.0, record=False):
            narrow = Exact(self.oracle, self.family, 0.5).infer(x)
            return Inferred(narrow.params, super().infer(x).params)

    oracle = LinearGaussian.random()
    findings = calibration(subject_of(Widened(oracle, pv.FullNormal(3)), oracle), N)
    found = findings.numbers["calibration"]
    assert found["calibrated"]
    assert not found["init"]["calibrated"]
    assert found["control"]["coverage"]["0.9"]["mean"] == pytest.approx(
        found["init"]["coverage"]["0.9"]["mean"], abs=0.05
    )


def test_too_few_simulations_are_said_to_be_too_few():
    oracle = LinearGaussian.random()
    findings = calibration(subject_of(Exact(oracle, pv.FullNormal(3)), oracle), 5)
    assert not findings.numbers["calibration"]["control"]["rejected"]
    assert "too few" in findings.warnings[0]
    for options, message in (({"num_simulated": 1}, "num_simulated must be >= 2"), ({"num_draws": 1}, "num_draws")):
        with pytest.raises(ValueError, match=message):
            calibration(subject_of(Exact(oracle, pv.FullNormal(3)), oracle), **options)


def test_refined_and_layered_posteriors(x):
    model = pv.models.hierarchical_mlp((1, 6, 5), (3, 2), widths=(8,))
    family = pv.Ladder(model)
    guide = pv.SVIGuide(model, family, pv.SVIRefiner(num_steps=2))
    found = calibration(Subject.of("test", model, guide, x), 20, num_draws=9).numbers["calibration"]
    assert len(found["p_value_per_dim"]) == len(found["init"]["p_value_per_dim"]) == 5


# Predictive checks


def predictive(oracle, guide, x):
    numbers = predictive_checks(Subject.of("test", oracle.model, guide, x)).numbers["predictive_checks"]
    return {name: value for name, value in numbers.items() if isinstance(value, dict)}


def test_data_from_the_model_are_like_their_replications():
    oracle = LinearGaussian.random(d=2, D=30)
    _, x = simulate(oracle.model, oracle.x, 300)
    found = predictive(oracle, Exact(oracle, pv.FullNormal(2)), x)
    assert set(found) == {"mean", "contrast", "log_likelihood"}  # of vectors no roughness
    for name, values in found.items():
        assert values["share_extreme"] < 0.1
        assert 0.4 < values["p_mean"] < 0.6
        if name != "log_likelihood":
            # two samples of 300 from one distribution; 1.95 is the critical value at 0.001
            assert values["prior_ks"] < 1.95 * math.sqrt(2 / 300)


def test_data_with_other_noise_are_not():
    oracle = LinearGaussian.random(d=2, D=30)
    _, x = simulate(oracle.model, oracle.x, 300)
    noisy = x + 2 * oracle.variance.sqrt() * torch.randn_like(x)
    found = predictive(oracle, Exact(oracle, pv.FullNormal(2)), noisy)
    assert found["log_likelihood"]["share_extreme"] > 0.9
    assert found["log_likelihood"]["p_mean"] > 0.95  # replications fit better


def test_statistics_of_known_images():
    stripes = torch.zeros(1, 1, 4, 4)
    stripes[..., ::2] = 1
    found = {name: of(stripes).item() for name, of in statistics(stripes).items()}
    assert found == {"mean": 0.5, "contrast": 0.5, "roughness": 0.5}  # rough across, smooth down
    many = torch.rand(5, 7, 2, 4, 3)
    for of in statistics(many[0]).values():
        torch.testing.assert_close(of(many), torch.stack([of(each) for each in many]))


def test_ties_count_by_half_and_chunks_change_nothing(x, monkeypatch):
    model = pv.VAE(pv.models.priors.StandardNormal(3), Dark(), pv.models.likelihoods.Bernoulli())
    dark = torch.zeros_like(x)
    guide = make_guide("amortized", "diagonal_normal", model)
    findings = predictive_checks(Subject.of("test", model, guide, dark), num_datapoints=5)
    found = findings.numbers["predictive_checks"]
    assert found["mean"]["p_mean"] == found["roughness"]["p_mean"] == 0.5  # all replications are dark too
    p = findings.values["predictive_p_mean"]
    assert p.shape == (7,)
    assert p.isnan().tolist() == [False] * 5 + [True] * 2
    monkeypatch.setattr(sys.modules["pyrovae.evaluation.calibration"], "CHUNK_ENTRIES", 1)
    again = predictive_checks(Subject.of("test", model, guide, dark), num_datapoints=5)
    assert again.numbers["predictive_checks"]["mean"] == found["mean"]
    with pytest.raises(ValueError, match="num_draws must be >= 1, got 0"):
        predictive_checks(Subject.of("test", model, guide, dark), num_draws=0)


class Dark(nn.Module):
    """Images without light."""

    def forward(self, z):
        return torch.full((*z.shape[:-1], 1, 6, 5), -100.0)
