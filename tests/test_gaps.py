"""The inference gap taken apart, and what refinement does over many steps."""

import math
import sys
from dataclasses import replace
from decimal import Decimal
from functools import partial

import numpy as np
import pytest
import torch
from conftest import GUIDES, X_SHAPE, Z_DIM, make_guide
from hypothesis import given, settings
from hypothesis import strategies as st

import pyrovae as pv
from pyrovae.evaluation.gaps import bounds, gap_bars, gaps
from pyrovae.evaluation.hardness import hardness
from pyrovae.evaluation.subject import Measurement, Subject, estimate
from pyrovae.evaluation.table import number, shown_gaps
from pyrovae.evaluation.trajectories import scored_steps, trajectory
from pyrovae.inference import common_noise_terms, iwae, optimum, precise_terms
from pyrovae.testing import FixedNoise, LinearGaussian, quadrature

PARTS = ("approximation", "amortization", "recovered", "remaining", "inference")


def any_batch(d: int) -> FixedNoise:
    """Exact expectations for 2 d draws, of however many datapoints."""
    return FixedNoise(quadrature(1, d))


def oracle_subject(refined: torch.Tensor | None = None) -> tuple[LinearGaussian, Subject]:
    """The linear-Gaussian model with λ₀ off the best diagonal normal, and λ_K too."""
    oracle, family = LinearGaussian.random(batch=6), pv.DiagonalNormal(3).double()
    init = oracle.best_params(family) + 0.5 * torch.randn(6, 6, dtype=torch.float64)
    guide = pv.AmortizedGuide(family, torch.nn.Identity())
    return oracle, Subject("test", oracle.model, guide, oracle.x, init, init if refined is None else refined)


def exact(oracle: LinearGaussian, family: pv.Family, params: torch.Tensor) -> torch.Tensor:
    q = family(params)
    return oracle.elbo(q.mean, torch.diag_embed(q.variance))


def test_precise_terms_are_exact_with_exact_noise_however_they_are_passed(monkeypatch):
    oracle, subject = oracle_subject()
    module = sys.modules["pyrovae.inference.optimum"]  # hidden by the function of that name
    monkeypatch.setattr(module, "FLOATS_CPU", 2 * 6 * 11)  # two datapoints a pass
    with any_batch(3):
        a, b = precise_terms(oracle.model, subject.family, oracle.x, subject.init, 0 * subject.init, num_particles=6)
    for terms, params in ((a, subject.init), (b, 0 * subject.init)):
        torch.testing.assert_close(terms.elbo(), exact(oracle, subject.family, params), rtol=1e-10, atol=1e-10)


def test_precise_terms_average_over_every_draw():
    oracle, subject = oracle_subject()
    (terms,) = precise_terms(oracle.model, subject.family, oracle.x, subject.init, num_particles=60)
    torch.manual_seed(0)
    oracle, subject = oracle_subject()
    parts = [
        common_noise_terms(oracle.model, subject.family, oracle.x, subject.init, num_particles=n)[0]
        for n in (25, 25, 10)
    ]
    recon = (25 * parts[0].recon + 25 * parts[1].recon + 10 * parts[2].recon) / 60
    torch.testing.assert_close(terms.recon, recon)
    with pytest.raises(ValueError, match="num_particles must be >= 1, got 0"):
        precise_terms(oracle.model, subject.family, oracle.x, subject.init, num_particles=0)


def test_c2_the_optimum_is_the_best_diagonal():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    start = torch.zeros(4, 6, dtype=torch.float64)
    best = exact(oracle, family, oracle.best_params(family))
    assert (best - exact(oracle, family, start)).min() > 1  # or nothing would be shown
    with any_batch(3):
        found = optimum(
            oracle.model, family, oracle.x, start, num_particles=6, score_particles=6, tolerance=1e-7, window=60
        )
    assert found.converged.all()
    assert (best - exact(oracle, family, found.params)).abs().max() < 1e-6
    torch.testing.assert_close(found.elbo, exact(oracle, family, found.params), rtol=0, atol=1e-9)


def test_c2_with_ordinary_noise_and_a_datapoint_without_an_elbo_spoils_no_other():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    x = torch.cat([oracle.x, torch.full_like(oracle.x[:1], math.nan)])
    start = torch.zeros(5, 6, dtype=torch.float64)
    found = optimum(oracle.model, family, x, start, tolerance=0.01, window=200)
    assert found.converged.tolist() == [True, True, True, True, False]
    left = exact(oracle, family, oracle.best_params(family)) - exact(oracle, family, found.params[:4])
    assert left.max() < 0.02
    assert (found.num_steps >= 600).all(), "each of three step sizes has a window"


def test_the_optimum_starts_at_the_best_start_and_is_never_worse():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    best = oracle.best_params(family)
    worse = best + torch.randn(4, 6, dtype=torch.float64)
    one, other = best.clone(), worse.clone()
    one[1], other[1] = worse[1], best[1]  # which is the better differs
    one[2] = math.nan
    with any_batch(3):
        found = optimum(oracle.model, family, oracle.x, one, other, max_steps=2, score_particles=6)
    elbo = exact(oracle, family, found.params)
    for start in (one, other):
        assert not (elbo < exact(oracle, family, start.nan_to_num(0.0)) - 1e-12)[start.isfinite().all(-1)].any()
    assert (exact(oracle, family, best) - elbo)[[0, 1, 3]].abs().max() < 1e-12


def test_the_optimum_says_who_has_not_converged_and_leaves_no_trace():
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3).double()
    start = torch.zeros(4, 6, dtype=torch.float64)
    grads = [p.requires_grad for p in oracle.model.parameters()]
    with torch.inference_mode():  # as Lightning evaluates
        found = optimum(oracle.model, family, oracle.x, start, max_steps=30)
    assert not found.converged.any()
    assert found.num_steps.tolist() == [30] * 4
    assert (start == 0).all()
    assert (exact(oracle, family, found.params) > exact(oracle, family, start) + 0.1).all()
    assert [p.requires_grad for p in oracle.model.parameters()] == grads
    assert all(p.grad is None for p in oracle.model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
        ({"window": 0}, "window must be >= 1, got 0"),
        ({"tolerance": 0.0}, "tolerance must be > 0, got 0.0"),
    ],
)
def test_settings_of_the_optimum_are_checked(settings, message):
    oracle, family = LinearGaussian.random(), pv.DiagonalNormal(3)
    with pytest.raises(ValueError, match=message):
        optimum(oracle.model, family, oracle.x, torch.zeros(4, 6), **settings)
    with pytest.raises(ValueError, match=r"params must be \(4, 6\)"):
        optimum(oracle.model, family, oracle.x, torch.zeros(3, 6))
    with pytest.raises(ValueError, match="needs a start"):
        optimum(oracle.model, family, oracle.x)


def test_c4_the_gaps_are_those_of_the_closed_form(monkeypatch):
    few = partial(optimum, num_particles=6, score_particles=6, window=60)
    monkeypatch.setattr(sys.modules["pyrovae.evaluation.gaps"], "optimum", few)
    oracle, family = LinearGaussian.random(batch=6), pv.DiagonalNormal(3).double()
    best = oracle.best_params(family)
    refined = best + 0.2 * torch.randn(6, 6, dtype=torch.float64)
    oracle, subject = oracle_subject(refined)
    with any_batch(3):
        found = gaps(subject, num_particles=6, num_samples=6, tolerance=1e-5)
    values, q, L = found.values, family(subject.init), oracle.precision
    ratio, delta = L.diagonal() * q.variance, q.mean - oracle.mean
    amortization = 0.5 * torch.einsum("bi,ij,bj->b", delta, L, delta) + 0.5 * (ratio - 1 - ratio.log()).sum(-1)
    assert amortization.min() > 0.1
    # Here q* is found with exact noise, too, and up to what the tolerance allows.
    elbo_best = oracle.log_evidence - oracle.diagonal_gap
    torch.testing.assert_close(values["elbo_optimum"], elbo_best, rtol=0, atol=1e-4)
    torch.testing.assert_close(values["gap_amortization"], amortization, rtol=0, atol=1e-4)
    torch.testing.assert_close(values["elbo"], exact(oracle, family, refined), rtol=0, atol=1e-9)
    gain = exact(oracle, family, refined) - exact(oracle, family, subject.init)
    torch.testing.assert_close(values["gap_recovered"], gain, rtol=0, atol=1e-9)


def test_c4_with_ordinary_noise():
    oracle, subject = oracle_subject()
    params = oracle.best_params(subject.family) + 0.1
    oracle, subject = oracle_subject(params)
    found = gaps(subject, num_particles=400, num_samples=4000)
    v, gap = found.values, found.numbers["gap"]
    assert abs(gap["approximation"]["mean"] - oracle.diagonal_gap) < 0.02 + 5 * gap["approximation"]["se"]
    true = (exact(oracle, subject.family, params) - exact(oracle, subject.family, subject.init)).mean()
    assert abs(gap["recovered"]["mean"] - true) < 0.05
    assert set(gap) == set(PARTS)
    for part in PARTS:
        assert gap[part]["mean"] == pytest.approx(v[f"gap_{part}"].mean().item())
    assert found.numbers["converged"] == 1
    assert not any("gained" in text for text in found.warnings)


@pytest.mark.parametrize("broken", [None, "datum", "draws"])
def test_levels_and_gaps_add_up_datapoint_by_datapoint_and_in_the_means(broken, monkeypatch):
    _, subject = oracle_subject()
    _, subject = oracle_subject(subject.init - 0.2)
    if broken == "datum":
        subject.x[1] = math.nan
    if broken == "draws":  # of one datapoint, at λ* alone
        module = sys.modules["pyrovae.evaluation.gaps"]
        monkeypatch.setattr(module, "iwae", lambda *given: iwae(*given).index_fill(0, torch.tensor([1]), math.inf))
    found = gaps(subject, num_particles=7, num_samples=30, max_steps=50)
    v, n = found.values, found.numbers
    level = {name: n[name]["mean"] for name in ("elbo_init", "elbo", "elbo_optimum", "iwae", "log_evidence")}
    gap = {part: n["gap"][part]["mean"] for part in PARTS}
    good = [0, 2, 3, 4, 5] if broken else [*range(6)]
    for lower, parts in (("elbo_init", ("amortization", "approximation")), ("elbo", ("inference",)), ("elbo_optimum", ("approximation",)), ("elbo_init", ("recovered", "remaining", "approximation"))):  # fmt: skip
        total = v[lower] + sum(v[f"gap_{part}"] for part in parts)
        torch.testing.assert_close(total[good], v["log_evidence"][good], rtol=0, atol=1e-12)
        assert level[lower] + sum(gap[part] for part in parts) == pytest.approx(level["log_evidence"], abs=1e-11)
    assert (n["num_data"], n["num_left_out"]) == (6, 6 - len(good))
    for name, value in level.items():
        assert value == pytest.approx(v[name][good].mean().item(), abs=1e-11), "one mask for all"
    if broken:
        assert "1 of 6 datapoints have bounds that are not finite" in found.warnings[0]
        assert not all(math.isfinite(v[name][1]) for name in ("elbo", "iwae", "iwae_optimum")), "the file keeps it"


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.floats(-2000, 2000, allow_nan=False)] * 4),
    st.integers(0, 4),
)
def test_printed_columns_add_up_to_the_digit(levels, digits):
    numbers = {name: {"mean": value} for name, value in zip(("elbo_init", "elbo", "elbo_optimum", "log_evidence"), levels, strict=True)}  # fmt: skip
    gap = {part: {"mean": 0.0, "se": 0.1} for part in PARTS}
    shown = {part: number({"mean": value["mean"]}, digits) for part, value in shown_gaps(numbers | {"gap": gap}, digits).items()}  # fmt: skip
    of = {name: Decimal(number(value, digits).replace("−", "-")) for name, value in numbers.items()}
    part = {name: Decimal(text.replace("−", "-")) for name, text in shown.items()}
    assert of["elbo_init"] + part["amortization"] + part["approximation"] == of["log_evidence"]
    assert of["elbo"] + part["inference"] == of["log_evidence"]
    assert of["elbo_optimum"] + part["approximation"] == of["log_evidence"]
    assert part["recovered"] + part["remaining"] == part["amortization"]


def test_the_higher_estimate_of_the_evidence_stands(monkeypatch):
    oracle, subject = oracle_subject()
    found = gaps(subject, num_samples=50, max_steps=200)
    assert found.numbers["log_evidence_from"] == "IWAE-50 at λ*", "λ₀ is far off"
    assert (found.values["log_evidence"] == found.values["iwae_optimum"]).all()
    assert (found.values["gap_recovered"] == 0).all(), "nothing refines"
    monkeypatch.setattr(sys.modules["pyrovae.evaluation.gaps"], "iwae", lambda *_: oracle.log_evidence - 90)
    low = gaps(subject, num_samples=50, max_steps=20)
    assert low.numbers["log_evidence_from"] == "IWAE-50 at λ_K"
    assert (low.values["log_evidence"] == low.values["iwae"]).all()


def test_what_is_not_to_be_trusted_is_told(monkeypatch):
    oracle, subject = oracle_subject()
    module = sys.modules["pyrovae.evaluation.gaps"]
    monkeypatch.setattr(module, "iwae", lambda *_: oracle.log_evidence - 20)
    monkeypatch.setattr(module, "iwae_bounds", lambda weights, ks: (oracle.log_evidence - 20).expand(len(ks), -1))
    found = gaps(subject, max_steps=10)
    assert found.numbers["converged"] == 0
    assert any("6 of 6 datapoints still gained after 10 steps" in text for text in found.warnings)
    assert any("too low; take more samples" in text for text in found.warnings)


def test_errors_are_over_groups_and_few_are_told(monkeypatch):
    _, subject = oracle_subject()
    shared = replace(subject, groups=torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.manual_seed(1)
    alone, found = bounds(subject, num_samples=30), None
    torch.manual_seed(1)
    found = bounds(shared, num_samples=30)
    v = found.values["elbo"]
    halves = torch.stack([v[:3].mean(), v[3:].mean()])
    assert found.numbers["elbo"]["se"] == pytest.approx(halves.std().item() / 2**0.5), "of groups of one size"
    assert found.numbers["elbo"]["mean"] == alone.numbers["elbo"]["mean"]
    assert found.numbers["num_groups"] == 2
    assert any("standard errors are over 2 groups" in text for text in found.warnings)
    monkeypatch.setattr(sys.modules["pyrovae.evaluation.gaps"], "FEW_GROUPS", 2)
    told = [*alone.warnings, *bounds(shared, num_samples=30).warnings]
    assert not any("standard errors" in text for text in told), "two are enough now"
    torch.testing.assert_close(torch.tensor(estimate(v, torch.arange(6))["se"]), (v.std() / 6**0.5).float())
    assert math.isnan(estimate(v, torch.zeros(6))["se"]), "one group says nothing of others"


@pytest.mark.parametrize("guide", GUIDES)
def test_trajectories_of_every_guide(guide, model, x):
    q = make_guide(guide, "diagonal_normal", model)
    found = trajectory(Subject.of("test", model, q, x), num_steps=12, num_particles=5)
    check_trajectory(found, [*range(11), 12])
    numbers = found.numbers["trajectory"]
    trained = {"amortized": None, "learned_iterative": q.refiner.num_steps if guide == "learned_iterative" else 0}.get(
        guide, 3
    )
    assert numbers["trained_num_steps"] == trained
    assert ("by default" in numbers["refiner"]) == (guide == "amortized")
    if guide == "learned_iterative":
        assert q.refiner.num_steps == trained, "the guide stays as it is"


def check_trajectory(found: Measurement, steps: list[int]) -> None:
    numbers = found.numbers["trajectory"]
    assert numbers["step"] == steps
    for name in ("elbo", "elbo_se", "recon", "kl", "step_norm", "seconds_per_image"):
        assert len(numbers[name]) == len(steps)
        assert all(map(math.isfinite, numbers[name][1:]))
    assert math.isnan(numbers["step_norm"][0])
    assert numbers["elbo"] == pytest.approx(
        [r - k for r, k in zip(numbers["recon"], numbers["kl"], strict=True)], abs=1e-4
    )
    assert numbers["seconds_per_image"][-1] > numbers["seconds_per_image"][0]
    assert set(found.figures) == {"trajectory_long"}
    assert found.warnings == []


REFINERS = {
    "svi": lambda: pv.SVIRefiner(num_steps=2, lr_decay="linear"),
    "unrolled": lambda: pv.SVIRefiner(num_steps=2, optimizer="sgd", lr=0.01, gradient="unrolled"),
    "gauss_newton": lambda: pv.GaussNewtonRefiner(num_steps=2),
}


@pytest.mark.parametrize("name", REFINERS)
@pytest.mark.usefixtures("interpreted")
def test_trajectories_of_every_refiner(name, model, x):
    refiner = REFINERS[name]()
    before = dict(vars(refiner))
    q = pv.SVIGuide(model, pv.FullNormal(Z_DIM), refiner)
    found = trajectory(Subject.of("test", model, q, x), num_steps=4, num_particles=5)
    check_trajectory(found, [0, 1, 2, 3, 4])
    numbers = found.numbers["trajectory"]
    assert numbers["trained_num_steps"] == 2
    assert numbers["refiner"] == type(refiner).__name__
    assert numbers["lr_decay"] == ("linear" if name == "svi" else "none")
    assert vars(refiner) == before, "the guide's refiner stays as it is"


def test_the_trajectory_is_that_of_the_refiner_itself(model, x):
    q = make_guide("semi_amortized", "diagonal_normal", model, num_steps=5, lr_decay="none", safeguard=False)
    subject = Subject.of("test", model, q, x)
    torch.manual_seed(3)
    numbers = trajectory(subject, num_steps=8, num_particles=10).numbers["trajectory"]
    torch.manual_seed(3)
    with torch.no_grad():
        path = pv.SVIRefiner(num_steps=8, lr_decay="none", safeguard=False)(
            model, q.family, x, q.initial(x), record=True
        ).path
        terms = common_noise_terms(model, q.family, x, path[0], path[5], path[8], num_particles=10)
        at_k = pv.SVIRefiner(num_steps=5, lr_decay="none", safeguard=False)
        torch.manual_seed(3)
        assert torch.equal(at_k(model, q.family, x, q.initial(x)).params, path[5]), "λ_K of training is on the path"
    for step, expected in zip((0, 5, 8), terms, strict=True):
        assert numbers["elbo"][step] == pytest.approx(expected.elbo().mean().item(), abs=1e-4)
        assert numbers["kl"][step] == pytest.approx(expected.kl.mean().item(), abs=1e-4)
    norms = (path[1:] - path[:-1]).norm(dim=-1).mean(1)
    assert numbers["step_norm"][1:] == pytest.approx(norms.tolist(), rel=1e-4)


def test_steps_to_99_percent_and_their_time():
    oracle = LinearGaussian.random()
    guide = pv.SVIGuide(oracle.model, pv.FullNormal(3), pv.GaussNewtonRefiner(num_steps=2)).double()
    subject = Subject.of("test", oracle.model, guide, oracle.x)
    numbers = trajectory(subject, num_steps=6, num_particles=200).numbers["trajectory"]
    assert numbers["steps_to_99"] == 1, "one Gauss-Newton step finds the posterior"
    assert numbers["gain"]["mean"] > 1
    assert numbers["elbo"][-1] == pytest.approx(oracle.log_evidence.mean().item(), abs=0.2)


def test_divergence_is_told_and_the_others_stand(model, x):
    guide = pv.SVIGuide(model, pv.DiagonalNormal(Z_DIM), pv.SVIRefiner(num_steps=2, optimizer="sgd", lr=1e3))
    found = trajectory(Subject.of("test", model, guide, x), num_steps=30, num_particles=2)
    assert any("of 7 datapoints diverged within 30 inner steps" in text for text in found.warnings)
    assert "trajectory_long" in found.figures
    x = x.clone()
    x[0] = math.nan
    guide = pv.SVIGuide(model, pv.DiagonalNormal(Z_DIM), pv.SVIRefiner(num_steps=2))
    found = trajectory(Subject.of("test", model, guide, x), num_steps=5, num_particles=2)
    assert found.numbers["trajectory"]["num_data"] == 6
    assert all(map(math.isfinite, found.numbers["trajectory"]["elbo"]))
    assert found.warnings[0].startswith("1 of 7 datapoints diverged")


def test_which_steps_are_scored():
    assert scored_steps(5, None) == [0, 1, 2, 3, 4, 5]
    steps = scored_steps(300, 77)
    assert {*range(11), 77, 300} < set(steps)
    assert steps == sorted(set(steps))
    assert len(steps) < 25
    assert 500 not in scored_steps(100, 500)


@pytest.mark.parametrize("family", ["flow", "full_normal"])
def test_other_families_and_vectors(family):
    likelihood = pv.models.likelihoods.Poisson(1)
    model = pv.VAE(pv.models.priors.StandardNormal(2), torch.nn.Linear(2, 5), likelihood)
    q = make_guide("svi", pv.Flow(2, widths=(4,), context_dim=2) if family == "flow" else pv.FullNormal(2), model)
    subject = Subject.of("test", model, q, torch.poisson(torch.full((4, 5), 2.0)))
    found = gaps(subject, num_samples=50, max_steps=200)
    assert found.numbers["gap"]["remaining"]["mean"] > 0.1, "three steps from the prior are not all"
    assert math.isfinite(found.numbers["gap"]["approximation"]["mean"])
    check_trajectory(trajectory(subject, num_steps=3), [0, 1, 2, 3])
    report = hardness(subject, found.values["gap_inference"])
    assert set(report.figures) == {"hardness"}, "a vector is no picture"
    assert report.numbers["hardness"]["by_class"] == {}


def test_layers():
    model = pv.models.hierarchical_mlp(X_SHAPE, [3, 2], widths=(8,))
    guide = pv.SVIGuide(model, pv.Ladder(model), pv.SVIRefiner(num_steps=3))
    x = (torch.rand(5, *X_SHAPE) < 0.4).float()
    subject = Subject.of("test", model, guide, x)
    found = gaps(subject, num_samples=20, max_steps=100)
    assert found.numbers["gap"]["remaining"]["mean"] > -0.05
    check_trajectory(trajectory(subject, num_steps=3), [0, 1, 2, 3])
    assert "gallery" in hardness(subject, found.values["gap_inference"]).figures


def test_hard_images_by_class_and_ink(model):
    x = torch.zeros(8, *X_SHAPE)
    x.flatten(1)[torch.arange(30).expand(8, -1) < 3 * torch.arange(1, 9)[:, None]] = 1  # ever more ink
    subject = Subject.of(
        "test",
        model,
        make_guide("amortized", "diagonal_normal", model),
        x,
        torch.tensor([0, 0, 0, 0, 2, 2, 2, 2]),
        ("a", "b", "c"),
    )
    gap = 3.0 + torch.arange(8.0) ** 2
    found = hardness(subject, gap).numbers["hardness"]
    assert set(found["by_class"]) == {"a", "c"}, "a class of no image is left out"
    assert found["by_class"]["c"]["mean"] == pytest.approx(gap[4:].mean().item())
    assert found["by_class"]["c"]["n"] == 4
    assert found["amount"] == "ink"
    assert found["correlation"]["spearman"] == pytest.approx(1)
    assert 0.9 < found["correlation"]["pearson"] < 1
    figures = hardness(subject, gap, num_images=3).figures
    assert set(figures) == {"hardness", "gallery"}
    titles = [float(label.get_text()) for label in figures["gallery"].axes[0].get_xticklabels()]
    assert titles == pytest.approx([52.0, 39.0, 28.0, 7.0, 4.0, 3.0]), "widest first, narrowest last"
    with pytest.raises(ValueError, match=r"gap must be \(8,\)"):
        hardness(subject, gap[:3])
    constant = hardness(subject, torch.ones(8)).numbers["hardness"]["correlation"]
    assert constant["spearman"] is None


def test_ink_is_what_differs_from_the_paper_whatever_its_colour(model):
    x = (torch.rand(9, *X_SHAPE) < 0.2).float()
    guide = make_guide("amortized", "diagonal_normal", model)
    black, white = (Subject.of("test", model, guide, paper) for paper in (x, 1 - x))
    torch.testing.assert_close(black.amount().values, x.flatten(1).mean(1))
    torch.testing.assert_close(white.amount().values, black.amount().values)
    assert black.amount().name == white.amount().name == "ink"
    patches = torch.randn(9, *X_SHAPE) * torch.arange(1, 10).view(9, 1, 1, 1)
    patches = patches - patches.mean((1, 2, 3), keepdim=True)  # the mean, which ink was, is rounding noise
    subject = Subject.of("test", model, guide, patches)
    assert subject.amount().name == "contrast"
    assert subject.amount().values[-1] > 3 * subject.amount().values[0]


def test_counts_have_rates_of_neurons_and_trials(model):
    guide = make_guide("amortized", "diagonal_normal", model)
    counts = torch.poisson(torch.full((9, 30), 2.0))
    subject = Subject("test", model, guide, counts, counts, counts)
    assert (subject.amount().name, *subject.amount()[3:]) == ("rate", "trial", "neuron")
    torch.testing.assert_close(subject.amount().values, counts.mean(1))
    report = hardness(subject, torch.rand(9))
    assert report.numbers["hardness"]["amount"] == "rate"
    assert report.figures["hardness"].axes[0].get_xlabel() == "rate (mean count over neurons)"
    assert set(report.values) == {"rate"}
    other = Subject("test", model, guide, counts + 0.5, counts, counts).amount()
    assert (other.name, *other[3:]) == ("size", "datapoint", "entry")


def test_many_long_class_names_are_the_hardest_and_easiest_shortened(model, x):
    labels, names = torch.arange(200) % 40, tuple(f"a class with a very long name, number {k}" for k in range(40))
    x = (torch.rand(200, *X_SHAPE) < 0.4).float()
    guide = make_guide("amortized", "diagonal_normal", model)
    subject = Subject.of("test", model, guide, x, labels, names)
    gap = labels + 0.01 * torch.arange(200.0)
    gap[3] = math.nan
    found = hardness(subject, gap)
    boxes = found.figures["hardness"].axes[0]
    told = [label.get_text() for label in boxes.get_yticklabels()]
    assert len(told) == 12
    assert max(map(len, told)) == 20
    assert len(set(told)) == 12, "their ends are kept"
    assert boxes.yaxis_inverted()
    assert boxes.get_title() == "Hardest and easiest classes (28 between)"
    by_class = found.numbers["hardness"]["by_class"]
    assert len(by_class) == 40
    assert all(math.isfinite(part["mean"]) for part in by_class.values()), "a gap that is not finite is left out"
    assert by_class[names[3]]["n"] == 4


def widths(figure):
    return [round(bar.get_width(), 6) for bar in figure.axes[0].patches]


def test_gap_bars_of_several_splits():
    parts = {part: {"mean": 1.0 + i, "se": 0.1} for i, part in enumerate(PARTS)}
    figure = gap_bars({"train": parts, "test": parts})
    assert figure.axes[0].get_xlabel() == "gap (nats a datapoint)"
    assert widths(figure) == [1.0, 1.0, 4.0, 4.0, 3.0, 3.0], "approximation, remaining and recovered, each of both"
    assert figure.axes[0].get_xscale() == "linear"
    far = {part: {"mean": 1460.0, "se": 9.0} for part in PARTS}
    assert gap_bars({"a": parts, "b": parts, "dark": far}).axes[0].get_xscale() == "symlog", "no split flattens others"
    some = {"recovered": {"mean": 2.0, "se": None}, "approximation": {"mean": None, "se": None}}
    assert np.nansum(widths(gap_bars({"a": some}))) == 2.0


def test_a_figure_that_fails_takes_no_number_down(model, x, monkeypatch):
    subject = Subject.of("test", model, make_guide("amortized", "diagonal_normal", model), x)
    monkeypatch.setattr(sys.modules["pyrovae.evaluation.trajectories"], "trajectory_figure", lambda numbers: numbers[0])
    found = trajectory(subject, num_steps=2, num_particles=2)
    assert found.failed == {"figure trajectory_long": "KeyError: 0"}
    assert len(found.numbers["trajectory"]["elbo"]) == 3
    assert found.figures == {}
