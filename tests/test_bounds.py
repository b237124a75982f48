"""Bounds on log p(x) against closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import make_guide
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from scipy import stats
from torch import Tensor

import pyrovae as pv
from pyrovae.evaluation.gaps import annealed, bounds, bounds_figure
from pyrovae.evaluation.subject import Subject
from pyrovae.inference import ais, bidirectional, effective_sample_size, iwae, iwae_bounds, log_weights, pareto_k
from pyrovae.inference.annealing import Annealing
from pyrovae.inference.hmc import Chains, hmc_transition
from pyrovae.inference.importance import points_at_once
from pyrovae.testing import LinearGaussian

# q of the mismatch: off by δ, too wide, where weights have a variance (C7).
SHIFT, LOG_WIDER = 0.3, 0.1


def mismatched(oracle: LinearGaussian, family: pv.Family) -> Tensor:
    return changed(oracle.best_params(family), SHIFT, LOG_WIDER)


def changed(params: Tensor, shift: float = 0.0, log_scale: float = 0.0) -> Tensor:
    """λ of a diagonal normal elsewhere, and wider or narrower."""
    loc, width = params.chunk(2, -1)
    return torch.cat([loc + shift, width + log_scale], -1)


def chi_square(oracle: LinearGaussian, q: torch.distributions.Distribution) -> Tensor:
    """χ²(posterior ‖ q) of a diagonal normal q, (B,): C7."""
    L, P = oracle.precision, torch.diag_embed(1 / q.variance)  # (d, d), (B, d, d)
    M, delta = 2 * L - P, q.mean - oracle.mean
    assert (torch.linalg.eigvalsh(M) > 0).all(), "the weights have no variance"
    log = torch.logdet(L) - 0.5 * torch.logdet(P) - 0.5 * torch.logdet(M)
    form = P + P @ torch.linalg.solve(M, P)
    return (log + 0.5 * torch.einsum("bi,bij,bj->b", delta, form, delta)).exp() - 1


@pytest.fixture(scope="module")
def drawn() -> tuple[LinearGaussian, Tensor, Tensor]:
    """Oracle, χ² (B,), and log w - log p(x) of many draws (K, B)."""
    torch.manual_seed(0)
    oracle, family = LinearGaussian.random(d=2), pv.DiagonalNormal(2).double()
    params = mismatched(oracle, family)
    weights = log_weights(oracle.model, family, oracle.x, params, 2**19)
    return oracle, chi_square(oracle, family(params)), weights - oracle.log_evidence


def test_c7_weights_have_the_mean_and_variance_of_the_closed_form(drawn):
    _, chi2, log_ratio = drawn
    ratio = log_ratio.exp()
    assert (chi2 > 0.2).all(), "a q this good would test nothing"
    assert ((ratio.mean(0) - 1).abs() < 5 * (chi2 / len(ratio)).sqrt()).all()
    torch.testing.assert_close(ratio.var(0), chi2, rtol=0.05, atol=0)


def test_c7_the_bound_rises_to_the_evidence_by_half_chi_square_over_k(drawn):
    _, chi2, log_ratio = drawn
    ks = [1, 4, 16, 64, 256]
    gaps = -iwae_bounds(log_ratio, ks)
    assert (gaps.diff(dim=0) < 0).all()
    for k, gap in zip(ks, gaps, strict=True):
        if k >= 64:
            torch.testing.assert_close(gap.mean(), (chi2 / (2 * k)).mean(), rtol=0.1, atol=0)
    assert (gaps[0] > 3 * gaps[1]).all()


def test_c7_the_effective_sample_size_is_that_of_the_closed_form(drawn):
    _, chi2, log_ratio = drawn
    torch.testing.assert_close(effective_sample_size(log_ratio) / len(log_ratio), 1 / (1 + chi2), rtol=0.03, atol=0)


def test_groups_of_k_draws_are_disjoint_and_leave_out_the_rest():
    weights = torch.randn(11, 3).double()
    expected = torch.stack([(weights[i : i + 4].exp().mean(0)).log() for i in (0, 4)]).mean(0)
    torch.testing.assert_close(iwae_bounds(weights, [4, 11])[0], expected)
    torch.testing.assert_close(iwae_bounds(weights, [1])[0], weights.mean(0))
    for k in (0, 12):
        with pytest.raises(ValueError, match=f"k must be between 1 and the number of draws, 11, got {k}"):
            iwae_bounds(weights, [k])


def test_c3_every_weight_of_the_exact_posterior_is_the_evidence():
    oracle, family = LinearGaussian.random(), pv.FullNormal(3).double()
    weights = log_weights(oracle.model, family, oracle.x, oracle.best_params(family), 300)
    torch.testing.assert_close(weights, oracle.log_evidence.expand(300, -1), rtol=0, atol=1e-10)
    torch.testing.assert_close(effective_sample_size(weights), torch.full((4,), 300.0).double())
    assert (pareto_k(weights) == 0).all(), "rounding is no tail"


class Bank(Messenger):
    """Gives draw number k of datapoint i the noise in row k, i, whatever passes ask for; i is told by the mean of q."""

    def __init__(self, noise: Tensor, means: Tensor) -> None:
        super().__init__()
        self.noise, self.rows = noise, {mean: i for i, mean in enumerate(means[:, 0].tolist())}
        self.used = [0] * len(means)

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] != "z" or msg["value"] is not None:
            return
        q, z = msg["fn"].base_dist, []
        size = q.loc.shape[0] if q.loc.dim() == 3 else 1
        loc, scale = (value.reshape(size, -1, value.shape[-1]) for value in (q.loc, q.scale))
        for column in range(loc.shape[1]):
            i = self.rows[loc[0, column, 0].item()]
            noise = self.noise[self.used[i] : self.used[i] + size, i]
            noise = torch.cat([noise, torch.zeros(size - len(noise), noise.shape[1]).double()])  # surplus draws
            z.append(loc[:, column] + scale[:, column] * noise)
            self.used[i] += size
        msg["value"] = torch.stack(z, 1).reshape(q.loc.shape)


@pytest.mark.parametrize("budget", [3_000, 30_000, 10**9])
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 50])
def test_the_sizes_of_passes_change_nothing(budget, chunk_size, monkeypatch):
    oracle, family, K = LinearGaussian.random(batch=5), pv.DiagonalNormal(3).double(), 11
    params, noise = mismatched(oracle, family), torch.randn(K, 5, 3).double()
    q = family(params)
    z = q.mean + q.stddev * noise
    prior = dist.Normal(torch.zeros(3).double(), 1).to_event(1)
    expected = oracle.model.decode(z).log_prob(oracle.x) + prior.log_prob(z) - q.log_prob(z)
    monkeypatch.setattr("pyrovae.inference.importance.CPU_FLOATS", budget)
    with Bank(noise, q.mean) as bank:
        weights = log_weights(oracle.model, family, oracle.x, params, K, chunk_size)
    assert min(bank.used) >= K
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


def test_small_budgets_make_small_passes_and_large_ones_large(monkeypatch):
    oracle, family = LinearGaussian.random(batch=50), pv.DiagonalNormal(3).double()
    sizes = []
    record = lambda module, inputs: sizes.append(inputs[0].shape[:-1].numel())  # noqa: E731
    oracle.model.decoder.register_forward_pre_hook(record)
    largest = []
    for budget in (10_000, 200_000):
        monkeypatch.setattr("pyrovae.inference.importance.CPU_FLOATS", budget)
        sizes.clear()
        with pv.engine("eager"):
            assert log_weights(oracle.model, family, oracle.x, mismatched(oracle, family), 100).shape == (100, 50)
        largest.append(max(sizes))
    assert 20 < largest[0] < largest[1] / 10
    assert largest[1] < 50 * 100


def test_counting_leaves_the_generator_where_it_was():
    state = torch.get_rng_state()
    assert points_at_once(lambda size: torch.randn(size, 100), torch.device("cpu")) > 1000
    assert torch.equal(state, torch.get_rng_state())


def test_running_out_of_memory_halves_the_rows(monkeypatch):
    oracle, family = LinearGaussian.random(batch=8), pv.FullNormal(3).double()

    def full(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].shape[-2] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    oracle.model.decoder.register_forward_pre_hook(full)
    weights = log_weights(oracle.model, family, oracle.x, oracle.best_params(family), 6, chunk_size=6)
    torch.testing.assert_close(weights, oracle.log_evidence.expand(6, -1), rtol=0, atol=1e-10)


def test_compiled_weights_are_the_eager_ones(interpreted):
    oracle, family = LinearGaussian.random(batch=6), pv.DiagonalNormal(3).double()
    results = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(1)
        with pv.engine(engine):
            results.append(iwae(oracle.model, family, oracle.x, mismatched(oracle, family), 40))
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_of_known_tails(k):
    weights = stats.genpareto(k).rvs((4000, 40), random_state=np.random.default_rng(0))
    estimates = pareto_k(torch.from_numpy(weights).log())
    # The estimate is drawn to 0.5, as by 10 observations.
    tail = 3 * 4000**0.5
    expected = (k * tail + 5) / (tail + 10)
    assert abs(estimates.mean() - expected) < 0.05
    assert estimates.std() < 0.2


def test_pareto_k_says_when_q_misses_the_posterior():
    oracle, family = LinearGaussian.random(d=2), pv.DiagonalNormal(2).double()
    best = oracle.best_params(family)
    for log_scale, low, high in ((0.4, -2.0, 0.4), (-1.5, 0.7, 1.3)):
        params = changed(best, 0.1, log_scale)
        # The density ratio of normals is of this order: its moments below 1 / k are finite, if k > 0.
        covariance = torch.diag_embed(family(params).variance)[0]
        k = 1 - torch.linalg.eigvals(covariance @ oracle.precision).real.min()
        assert low < k < high
        shapes = pareto_k(log_weights(oracle.model, family, oracle.x, params, 4000))
        assert ((low < shapes) & (shapes < high)).all()


def test_pareto_k_of_a_weight_that_is_not_finite_is_nan_for_that_datapoint_alone():
    weights = torch.randn(100, 3)
    expected = pareto_k(weights)
    weights[4, 1] = math.nan
    found = pareto_k(weights)
    assert found.isnan().tolist() == [False, True, False]
    assert torch.equal(found[::2], expected[::2])
    with pytest.raises(ValueError, match="at least 25 draws, got 24"):
        pareto_k(weights[:24])


def test_pareto_k_where_weights_tie_or_underflow():
    few = torch.zeros(100, 6).double()
    few[:3, 0] = torch.tensor([3.0, 2.0, 1.0])  # of a tail of 20, 17 tie with its threshold
    few[:, 1] = 2000 * torch.rand(100).double()  # of a model trained for two epochs
    few[:, 2] = -800.0 * torch.arange(100)
    few[:15, 3] = stats_tail(15)  # enough to fit, beside 5 that tie
    few[:, 4] = torch.arange(100) % 2
    k = pareto_k(few)
    assert k[0] == k[2] == math.inf
    assert k[1] > 0.7
    assert k[3].isfinite()
    assert k[5] == 0, "all equal"
    assert not k.isnan().any()


def stats_tail(num: int) -> Tensor:
    return torch.from_numpy(stats.genpareto(0.5).rvs(num, random_state=np.random.default_rng(0))).log1p()


def test_weights_that_tie_do_not_take_the_bounds_down(monkeypatch):
    oracle = LinearGaussian.random(batch=4)
    params = oracle.best_params(pv.DiagonalNormal(3))

    def tied(*args: object) -> Tensor:
        return torch.cat([torch.ones(1, 4), torch.zeros(99, 4)]).double()

    monkeypatch.setattr("pyrovae.evaluation.gaps.log_weights", tied)
    found = bounds(subject_of(oracle, params, params), num_samples=100, num_particles=5)
    assert found.numbers["num_left_out"] == 0
    assert found.numbers["pareto_k"]["share_above_0.7"] == 1
    assert math.isfinite(found.numbers["iwae"]["mean"])


# Hamiltonian Monte Carlo.


def test_hmc_leaves_a_normal_alone_and_finds_it():
    scale = torch.tensor([0.5, 1.0, 2.0]).double()

    def density(u: Tensor) -> Chains:
        return Chains(u, -0.5 * (u / scale).square().sum(-1), -u / scale**2)

    step = torch.full((20_000,), 0.4).double()
    exact, far = density(scale * torch.randn(20_000, 3).double()), density(torch.full((20_000, 3), 4.0).double())
    for n in range(30):
        exact, acceptance = hmc_transition(density, exact, step, 3)
        far, _ = hmc_transition(density, far, step, 3)
        assert 0.6 < acceptance.mean() < 0.99, "a step that is always accepted tests no correction"
        if n in (0, 29):
            moments = exact.position.square().mean(0) / scale**2
            assert ((moments - 1).abs() < 5 * (2 / 20_000) ** 0.5).all()
    assert ((far.position.square().mean(0) / scale**2 - 1).abs() < 6 * (2 / 20_000) ** 0.5).all()


def test_hmc_rejects_what_is_not_finite_row_by_row():
    def density(u: Tensor) -> Chains:
        value = torch.where(u[:, 0] > 100, math.nan, -0.5 * u.square().sum(-1))
        return Chains(u, value, -u, (value,))

    start = density(torch.tensor([[0.0], [0.0]]))
    moved, acceptance = hmc_transition(density, start, torch.tensor([0.5, 1e8]), 3)
    assert acceptance.isfinite().all()
    assert acceptance[1] == 0
    assert moved.position[0] != 0
    assert moved.position[1] == 0


# Annealed importance sampling.


@pytest.mark.parametrize("start", ["q", "prior"])
def test_chains_follow_the_slope_of_the_density_at_their_temperature(start):
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    params = mismatched(oracle, family)
    path = Annealing(oracle.model, family, oracle.x, num_steps=5, num_leapfrog=1, start=start)
    u = path.draw_start(oracle.x, params)
    found = path.terms(oracle.x, params, u)
    errors = []
    for beta in (0.3, 0.6):  # energy is kept to the third order of the step with the right slope, else to the first
        sizes = torch.full((4,), 0.003).double()
        *_, acceptance = path.transition(lambda u: path.terms(oracle.x, params, u), u, found, beta, sizes)
        errors.append(1 - acceptance)
    assert (torch.stack(errors) < 1e-3).all()
    if start == "prior":
        torch.testing.assert_close(found[2], -u)
        residual = oracle.x - oracle.model.decode(u).mean
        torch.testing.assert_close(found[3], residual @ oracle.W / oracle.variance)


@pytest.mark.parametrize("start", ["q", "prior"])
def test_annealed_weights_are_unbiased_and_their_logs_below(start):
    oracle, family = LinearGaussian.random(d=2, D=3, batch=2, sigma=1.0), pv.DiagonalNormal(2).double()
    found = ais(
        oracle.model, family, oracle.x, mismatched(oracle, family), num_chains=4000, num_steps=12, num_leapfrog=3,
        start=start,
    )  # fmt: skip
    log_ratio = found.log_weights - oracle.log_evidence
    ratio = log_ratio.exp()
    error = ratio.std(0) / len(ratio) ** 0.5
    assert (error < 0.1).all(), "too noisy to tell"
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all()
    assert (log_ratio.mean(0) < 0).all()
    assert ((found.bound - oracle.log_evidence).abs() < 5 * error + 0.05).all()
    assert ((found.acceptance > 0.5) & (found.acceptance < 0.9)).all()


def test_longer_paths_are_tighter_and_one_step_from_the_prior_is_loose():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    params = mismatched(oracle, family)

    def gap(start: str, num_steps: int) -> float:
        path = {"num_chains": 100, "num_steps": num_steps, "num_leapfrog": 2}
        found = ais(oracle.model, family, oracle.x, params, start=start, **path)
        return (oracle.log_evidence - found.log_weights).mean().item()

    loose, shorter, longer = (gap("prior", num_steps) for num_steps in (1, 15, 80))
    assert loose > 5
    assert loose > 2 * shorter > 4 * longer
    assert gap("q", 15) < 0.5 * shorter


@pytest.mark.parametrize("start", ["q", "prior"])
def test_one_step_is_the_importance_weighted_bound(start):
    oracle, family = LinearGaussian.random(), pv.FullNormal(3).double()
    found = ais(oracle.model, family, oracle.x, oracle.best_params(family), num_chains=5, num_steps=1, start=start)
    exact = torch.allclose(found.log_weights, oracle.log_evidence.expand(5, -1), rtol=0, atol=1e-10)
    assert exact == (start == "q")


def test_compiled_annealing_is_the_eager_one(interpreted):
    oracle, family = LinearGaussian.random(batch=3), pv.DiagonalNormal(3).double()
    results = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(1)
        with pv.engine(engine):
            path = {"num_chains": 2, "num_steps": 5, "num_leapfrog": 2}
            results.append(ais(oracle.model, family, oracle.x, mismatched(oracle, family), **path).log_weights)
    torch.testing.assert_close(*results, rtol=0, atol=1e-8)


def test_simulated_data_have_bounds_on_both_sides_that_meet():
    oracle, family = LinearGaussian.random(d=2, D=3, sigma=1.0), pv.DiagonalNormal(2).double()
    gaps = []
    for num_steps in (2, 30):
        found = bidirectional(
            oracle.model, family, lambda x: torch.zeros(len(x), 4).double(), torch.zeros(400, 3).double(),
            num_chains=2, num_steps=num_steps, num_leapfrog=2,
        )  # fmt: skip
        exact = LinearGaussian(oracle.model, found.x)
        covariance = oracle.W @ oracle.W.T + oracle.variance * torch.eye(3).double()
        torch.testing.assert_close(torch.cov(found.x.T), covariance, rtol=0.4, atol=0.4)
        below, above = exact.log_evidence - found.lower, found.upper - exact.log_evidence
        for difference in (below, above):
            assert difference.mean() > -5 * difference.std() / 20
        gaps.append((found.upper - found.lower).mean())
    assert gaps[1] < 0.3 * gaps[0]


def test_reverse_weights_are_unbiased_for_the_inverse():
    oracle, family = LinearGaussian.random(d=2, D=3, sigma=1.0), pv.DiagonalNormal(2).double()

    def infer(x: Tensor) -> Tensor:
        return changed(LinearGaussian(oracle.model, x).best_params(family), 0.5)

    found = bidirectional(
        oracle.model, family, infer, torch.zeros(3000, 3).double(), num_chains=1, num_steps=3, num_leapfrog=2
    )
    ratio = (LinearGaussian(oracle.model, found.x).log_evidence - found.upper).exp()  # p(x) / w'
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 3000**0.5
    assert ratio.std() > 0.05, "this q would test nothing"


def test_a_datapoint_without_finite_numbers_spares_the_others():
    oracle, family = LinearGaussian.random(batch=3), pv.DiagonalNormal(3).double()
    x = oracle.x.clone()
    x[1] = math.nan
    found = ais(oracle.model, family, x, mismatched(oracle, family), num_chains=50, num_steps=10, num_leapfrog=2)
    assert found.bound.isfinite().tolist() == [True, False, True]
    assert ((found.bound - oracle.log_evidence)[::2].abs() < 0.4).all()


class GammaPoisson(PyroModule):
    """z ~ Gamma(a, b), x | z ~ Poisson(z): the marginal is negative binomial (C11)."""

    a, b = 2.0, 0.5

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Gamma(torch.full_like(x, self.a), self.b).to_event(1))
            pyro.sample("x", dist.Poisson(z).to_event(1), obs=x)

    def log_evidence(self, x: Tensor) -> Tensor:
        return torch.from_numpy(stats.nbinom(self.a, self.b / (1 + self.b)).logpmf(x.numpy())).sum(-1)


@pytest.mark.parametrize("start", ["q", "prior"])
def test_c11_positive_latents_of_counts(start):
    model, x = GammaPoisson(), torch.tensor([[0.0, 3.0], [9.0, 1.0]]).double()
    family = pv.Joint.of(model, x).double()
    params = torch.zeros(2, family.num_params).double()
    found = ais(model, family, x, params, num_chains=2000, num_steps=10, num_leapfrog=2, start=start)
    ratio = (found.log_weights - model.log_evidence(x)).exp()
    error = ratio.std(0) / 2000**0.5
    assert (error < 0.1).all()
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all()


def test_c11_counts_drawn_from_the_model():
    model, like = GammaPoisson(), torch.zeros(200, 2).double()
    family = pv.Joint.of(model, like).double()
    path = {"num_chains": 3, "num_steps": 20, "num_leapfrog": 2}
    found = bidirectional(model, family, lambda x: torch.zeros(len(x), 4).double(), like, **path)
    exact = model.log_evidence(found.x)
    assert torch.equal(found.x, found.x.round())
    assert found.x.mean() == pytest.approx(model.a / model.b, abs=5 * (12 / 400) ** 0.5)
    for difference in (exact - found.lower, found.upper - exact):
        assert -5 * difference.std() / 200**0.5 < difference.mean() < 1


def test_several_layers_and_a_ladder():
    model = pv.models.hierarchical_mlp((6,), (2, 1), likelihood=pv.models.likelihoods.Normal(1), widths=(4,)).double()
    family, x = pv.Ladder(model), torch.randn(3, 6).double()
    params = torch.zeros(3, family.num_params).double()
    found = ais(model, family, x, params, num_chains=500, num_steps=20, num_leapfrog=2)
    reference = iwae(model, family, x, params, 20_000)
    torch.testing.assert_close(found.bound, reference, rtol=0, atol=0.1)


def test_a_flow_starts_from_the_prior_and_says_so(model, x):
    family = pv.Flow(3)
    params = torch.zeros(7, family.num_params)
    with pytest.raises(ValueError, match="which Flow lacks; set start='prior'"):
        ais(model, family, x, params)
    found = ais(model, family, x, params, num_chains=20, num_steps=50, num_leapfrog=2, start="prior")
    torch.testing.assert_close(found.bound, iwae(model, family, x, params, 5000), rtol=0, atol=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains must be >= 1, got 0"),
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"num_leapfrog": 0}, "num_leapfrog must be >= 1, got 0"),
        ({"start": "posterior"}, "start must be q or prior, got 'posterior'"),
    ],
)
def test_numbers_out_of_range(options, message):
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3)
    with pytest.raises(ValueError, match=message):
        ais(oracle.model, family, oracle.x, oracle.best_params(family), **options)


# The measures.


def subject_of(oracle: LinearGaussian, init: Tensor, params: Tensor) -> Subject:
    family = pv.DiagonalNormal(init.shape[1] // 2).double()
    encoder = pv.nets.MLP((oracle.x.shape[1],), (family.num_params,), widths=()).double()
    return Subject("test", oracle.model, pv.AmortizedGuide(family, encoder), oracle.x, init, params)


def test_the_findings_are_those_of_the_closed_forms():
    oracle, family = LinearGaussian.random(d=2, batch=30), pv.DiagonalNormal(2).double()
    params = changed(oracle.best_params(family), 0.1, 0.4)  # wide: weights are bounded
    init = changed(params, 0.4)
    found = bounds(subject_of(oracle, init, params), num_samples=2000, num_particles=4000)
    exact = [oracle.elbo(q.mean, torch.diag_embed(q.variance)) for q in (family(init), family(params))]
    for name, value in (("elbo_init", exact[0]), ("elbo", exact[1]), ("refinement_gain", exact[1] - exact[0])):
        torch.testing.assert_close(found.values[name], value, rtol=0, atol=0.2)
        assert found.numbers[name]["mean"] == pytest.approx(value.mean().item(), abs=0.03)
    torch.testing.assert_close(found.values["recon"] - found.values["kl"], found.values["elbo"])
    prior = dist.Normal(torch.zeros(2).double(), 1).to_event(1)
    torch.testing.assert_close(found.values["kl"], torch.distributions.kl_divergence(family(params), prior))
    assert found.numbers["iwae"]["mean"] == pytest.approx(oracle.log_evidence.mean().item(), abs=0.02)
    curve = [bound["mean"] for bound in found.numbers["iwae_k"].values()]
    assert list(found.numbers["iwae_k"]) == ["1", "10", "100", "1000", "2000"]
    assert curve == sorted(curve)
    assert not found.warnings
    assert found.numbers["pareto_k"]["max"] < 0.7
    assert 1 < found.numbers["effective_sample_size"]["min"] <= 2000


def test_untrustworthy_weights_are_warned_of():
    oracle = LinearGaussian.random(batch=30)
    params = oracle.best_params(pv.DiagonalNormal(3))
    narrow = changed(params, log_scale=-1.5)
    found = bounds(subject_of(oracle, narrow, narrow), num_samples=1000, num_particles=5)
    high = int((found.values["pareto_k"] > 0.7).sum())
    assert high > 10
    assert f"above 0.7 for {high} of 30 datapoints" in found.warnings[0]
    assert found.numbers["refinement_gain"] == {"mean": 0.0, "se": 0.0}


def test_annealing_is_compared_on_the_same_datapoints():
    oracle = LinearGaussian.random(batch=12)
    params = mismatched(oracle, pv.DiagonalNormal(3))
    subject = subject_of(oracle, params, params)
    first = bounds(subject, num_samples=10, num_particles=5)
    path = {"num_chains": 4, "num_steps": 40, "num_leapfrog": 2}
    found = annealed(subject, num_data=8, num_simulated=20, log_evidence=first.values["log_evidence"], **path)
    part = found.numbers["ais"]
    assert part["num_data"] == 8
    assert part["mean"] == pytest.approx(oracle.log_evidence[:8].mean().item(), abs=0.2)
    expected = found.values["ais"] - first.values["iwae"][:8]
    assert part["minus_log_evidence"]["mean"] == pytest.approx(expected.mean().item())
    assert {"lower", "upper", "gap"} < found.numbers["bdmc"].keys()
    labels = [line.get_label() for line in bounds_figure(first.numbers | found.numbers).axes[0].lines]
    assert any("paired AIS difference" in label and "(n = 8)" in label for label in labels)


def test_an_extreme_q_is_told_of_with_a_remedy():
    oracle = LinearGaussian.random(batch=3)
    far = mismatched(oracle, pv.DiagonalNormal(3)) + 1e4
    subject = subject_of(oracle, far, far)
    with torch.no_grad():
        subject.guide.encoder.layers[-1].bias.fill_(60.0)  # of what is simulated, too
    found = annealed(subject, num_data=0, num_simulated=5, num_chains=2, num_steps=2)
    assert any("start='prior'" in text for text in found.warnings), found.warnings


def test_a_datapoint_that_is_not_finite_is_left_out_of_means():
    oracle = LinearGaussian.random(batch=12)
    oracle.x[3] = math.nan
    params = mismatched(LinearGaussian.random(batch=12), pv.DiagonalNormal(3))
    subject = subject_of(oracle, params, params)
    for found, name in (
        (bounds(subject, num_samples=100, num_particles=5), "iwae"),
        (annealed(subject, num_data=12, num_simulated=0, num_chains=2, num_steps=5, num_leapfrog=1), "ais"),
    ):
        assert "1 of 12" in found.warnings[0]
        assert math.isfinite(found.numbers[name]["mean"])


@pytest.mark.parametrize(
    ("name", "family"),
    [("amortized", "flow"), *((name, "diagonal_normal") for name in ("semi_amortized", "svi", "learned_iterative"))],
)
def test_every_guide_is_measured(name, family, model, x, monkeypatch):
    monkeypatch.setattr("pyrovae.inference.annealing.MIN_TRANSITIONS", 5)
    subject = Subject.of("test", model, make_guide(name, family, model), x)
    found = bounds(subject, num_samples=30, num_particles=3)
    path = {"num_chains": 2, "num_steps": 3, "num_leapfrog": 1}
    more = annealed(subject, num_data=3, num_simulated=2, log_evidence=found.values["iwae"], **path)
    assert more.numbers["ais"]["start"] == ("prior" if family == "flow" else "q")
    for part in (found, more):
        assert all(value.isfinite().all() and not value.requires_grad for value in part.values.values())
