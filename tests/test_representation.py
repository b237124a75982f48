"""Measures of the representation, against closed forms."""

import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import FAMILIES, X_SHAPE, Z_DIM, make_guide
from torch import nn

import pyrovae as pv
from pyrovae.evaluation.calibration import calibration, predictive_checks
from pyrovae.evaluation.representation import probe_correct, reconstruction_quality, representation, sparsity
from pyrovae.evaluation.subject import Subject, posterior_draws, posterior_mean
from pyrovae.evaluation.traversals import interpolate, most_active, traversals, traverse, walk_figure
from pyrovae.inference import Inferred, elbo_terms, mutual_information, simulate
from pyrovae.testing import LinearGaussian
from pyrovae.training.figures import kl_per_dim


class Given(pv.Guide):
    """λ that was made up."""

    def __init__(self, family, init, params):
        super().__init__(family)
        self.given = Inferred(init, params)

    def infer(self, x, beta=1.0, record=False):
        return self.given


# Traversals


def linear_model(d=3):
    """Two by two images, linear in z."""
    decoder = nn.Sequential(nn.Linear(d, 4), nn.Unflatten(-1, (1, 2, 2)))
    return pv.VAE(pv.models.priors.StandardNormal(d), decoder, pv.models.likelihoods.Normal())


def test_most_active_dimensions_come_first():
    means = torch.randn(50, 4) * torch.tensor([0.1, 3.0, 1.0, 2.0]) + torch.tensor([9.0, 0, 0, 0])
    assert most_active(means, 3) == [1, 3, 2]
    assert most_active(means, 9) == [1, 3, 2, 0]


def test_traversals_of_a_linear_decoder():
    model = linear_model()
    weight, start = model.decoder[0].weight.detach(), torch.tensor([0.3, -0.2, 0.7])
    values = torch.tensor([-1.0, 0.0, 2.0])
    images = traverse(model, start, [2, 0], values)
    assert images.shape == (2, 3, 1, 2, 2)
    base = model.decode(start).mean
    for row, dim in enumerate((2, 0)):
        for column, value in enumerate(values):
            moved = base.flatten() + weight[:, dim] * (value - start[dim])
            torch.testing.assert_close(images[row, column].flatten(), moved)
    own = traverse(model, start, [2, 0], torch.stack([values, values + 1]))
    torch.testing.assert_close(own[0], images[0])
    assert not own.requires_grad


def test_interpolations_of_a_linear_decoder():
    model = linear_model()
    a, b = torch.randn(2, 5, 3)
    images = interpolate(model, a, b, 4)
    assert images.shape == (5, 4, 1, 2, 2)
    ends = model.decode(a).mean, model.decode(b).mean
    for k in range(4):
        torch.testing.assert_close(images[:, k], (1 - k / 3) * ends[0] + k / 3 * ends[1])
    torch.testing.assert_close(interpolate(model, a[0], b[0], 4), images[:1])
    with pytest.raises(ValueError, match="num must be >= 2"):
        interpolate(model, a, b, 1)


def test_lower_layers_follow_the_one_that_is_moved():
    model = pv.models.hierarchical_mlp(X_SHAPE, (3, 2), widths=(8,))
    start, values = torch.randn(5), torch.tensor([-2.0, 2.0])
    images = traverse(model, start, [1, 4], values)
    top = start[3:].repeat(2, 1)
    top[:, 1] = values
    torch.testing.assert_close(images[1], model.decode(model.conditional(0, top).mean).mean)
    assert (images[1, 0] - images[1, 1]).abs().max() > 1e-4
    bottom = start.repeat(2, 1)
    bottom[:, 1] = values
    torch.testing.assert_close(images[0], model.decode(bottom).mean)


def test_figures_are_of_images():
    images = 3 * torch.randn(2, 3, 3, 4, 5)
    arrays = {"traversals": images, "interpolations": images, "traversal_dims": torch.tensor([4, 1])}
    walked, straight = (walk_figure(name, arrays) for name in ("traversals", "interpolations"))
    assert [axes.get_ylabel() for axes in walked.axes] == ["z_4", "z_1"]
    assert [axes.get_ylabel() for axes in straight.axes] == ["0 to 2", "1 to 3"]
    assert [label.get_text() for label in walked.axes[-1].get_xticklabels()] == ["-3", "0", "3"]
    assert [label.get_text() for label in straight.axes[-1].get_xticklabels()] == ["0", "50", "100"]
    assert walk_figure("traversals", {"traversals": torch.randn(2, 3, 7)}) is None


# Posteriors


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_and_their_mean(name):
    model = pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,))
    family = make_guide("amortized", name, model).family
    params = 0.3 * torch.randn(4, family.num_params)
    draws = posterior_draws(family, params, 4000)
    assert draws.shape == (4000, 4, Z_DIM)
    error = draws.std(0) / math.sqrt(4000)
    # a flow's mean is that of 128 draws of its own
    allowed = 5 * error + (5 * draws.std(0) / math.sqrt(128) if name == "flow" else 0)
    assert ((draws.mean(0) - posterior_mean(family, params)).abs() < allowed).all()


def test_draws_of_a_ladder_keep_its_dependence():
    model = pv.models.hierarchical_mlp(X_SHAPE, (1, 1), widths=())
    with torch.no_grad():
        model.layers[0].layers[0].weight.copy_(torch.tensor([[2.0], [0.0]]))
    draws = posterior_draws(pv.Ladder(model), torch.zeros(1, 4), 2000)[:, 0]
    assert torch.corrcoef(draws.T)[0, 1] > 0.3


# Information


def encoder_of_variance(n, d, spread, scale):
    """λ of diagonal normals whose means have `spread` and whose standard deviations are `scale`."""
    means = spread * torch.randn(n, d, dtype=torch.float64)
    return torch.cat([means, torch.full((n, d), math.log(scale - 1e-5)).double()], -1)


def test_information_of_a_linear_gaussian_encoder():
    n, d, spread, scale = 2000, 1, 1.0, 0.5
    oracle, family = LinearGaussian.random(d=d, batch=n), pv.DiagonalNormal(d)
    params = encoder_of_variance(n, d, spread, scale)
    found = mutual_information(family, params)
    # The aggregate posterior is nearly a normal of variance spread² + scale².
    total = spread**2 + scale**2
    expected = 0.5 * math.log(total / scale**2)
    assert abs(found.mean() - expected) < 5 * found.std() / math.sqrt(n) + 0.01
    subject = Subject("test", oracle.model, Given(family, params, params), oracle.x, params, params)
    numbers = representation(subject).numbers
    aggregate_kl = 0.5 * (total - 1 - math.log(total))
    for name, value in (("mutual_information", expected), ("aggregate_kl", aggregate_kl)):
        assert abs(numbers[name]["mean"] - value) < 5 * numbers[name]["se"] + 0.01
    exact = elbo_terms(oracle.model, family, oracle.x, params).kl.mean().item()  # in closed form
    assert numbers["mutual_information"]["mean"] + numbers["aggregate_kl"]["mean"] == pytest.approx(exact, abs=1e-9)


def test_information_at_its_ends():
    family = pv.DiagonalNormal(2)
    same = torch.zeros(30, 4, dtype=torch.float64)
    torch.testing.assert_close(mutual_information(family, same), torch.zeros(30).double(), rtol=0, atol=1e-10)
    apart = encoder_of_variance(30, 2, 1.0, 1e-4)
    apart[:, 0] = torch.arange(30)
    expected = torch.full((30,), math.log(30), dtype=torch.float64)
    torch.testing.assert_close(mutual_information(family, apart), expected, rtol=0, atol=1e-10)


def test_information_in_blocks_is_information(monkeypatch):
    params, found = encoder_of_variance(11, 2, 1.0, 0.5), []
    for rows, columns in ((20, 500), (3, 4)):
        monkeypatch.setattr(sys.modules["pyrovae.inference.simulate"], "ROWS", rows)
        monkeypatch.setattr(sys.modules["pyrovae.inference.simulate"], "COLUMNS", columns)
        torch.manual_seed(3)
        found.append(mutual_information(pv.DiagonalNormal(2), params))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_information_of_a_ladder_scores_layers_given_the_draw_above():
    model = pv.models.hierarchical_mlp(X_SHAPE, (3, 2), widths=(8,)).double()
    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.mul_(3)
    family = pv.Ladder(model)
    params = torch.randn(6, family.num_params, dtype=torch.float64)
    torch.manual_seed(5)
    found = mutual_information(family, params)
    torch.manual_seed(5)
    z2 = family._given(1, params[:, 6:], None).sample()
    z1 = family._given(0, params[:, :6], z2).sample()
    table = torch.stack(
        [
            family._given(1, params[j : j + 1, 6:], None).log_prob(z2)
            + family._given(0, params[j : j + 1, :6].expand(6, -1), z2).log_prob(z1)
            for j in range(6)
        ],
        -1,
    )  # (i, j)
    torch.testing.assert_close(found, table.diagonal() - table.logsumexp(-1) + math.log(6), rtol=0, atol=1e-10)


# Sparsity


def test_sparsity_of_known_vectors():
    known = torch.tensor([[0.0, 0, -3, 0], [2, 2, -2, 2], [0, 0, 0, 0]])
    found = sparsity(known)
    torch.testing.assert_close(found[:2], torch.tensor([1.0, 0.0]).double())
    assert found[2].isnan()
    torch.testing.assert_close(sparsity(torch.tensor([1.0, 0, 1, 0])).item(), 2 / 3)
    assert abs(sparsity(torch.randn(100_000)).item() - (1 - 2 / math.pi)) < 0.01
    assert sparsity(torch.ones(5, 1)).isnan().all()  # nothing to be sparse among


# Reconstruction


def test_quality_of_known_errors():
    x = torch.rand(40, 1, 5, 5, dtype=torch.float64)
    error = 0.1 * torch.ones(40).double()
    quality = reconstruction_quality(x, error**2)
    assert quality["mse"]["mean"] == pytest.approx(0.01)
    assert quality["psnr"]["mean"] == pytest.approx(20)
    assert quality["r2"]["mean"] == pytest.approx(1 - 0.01 / x.var(0, correction=0).mean().item())
    tenfold = reconstruction_quality(10 * x, 100 * error**2)  # the same picture in other units
    span = (x.max() - x.min()).item()
    assert tenfold["psnr"]["mean"] == pytest.approx(20 + 20 * math.log10(span))
    assert tenfold["r2"]["mean"] == pytest.approx(quality["r2"]["mean"])
    perfect = reconstruction_quality(x, torch.zeros(40))
    assert perfect["psnr"]["mean"] == 120
    assert perfect["r2"] == {"mean": 1.0, "se": 0.0}
    by_mean = (x - x.mean(0)).square().flatten(1).mean(1)
    assert reconstruction_quality(x, by_mean)["r2"]["mean"] == pytest.approx(0)


def test_standard_error_of_r2_is_its_spread_over_data_sets():
    found = []
    for _ in range(300):
        x = torch.randn(100, 4, dtype=torch.float64)
        noise = 0.5 * torch.randn(100, 4, dtype=torch.float64)
        found.append(reconstruction_quality(x, noise.square().mean(1))["r2"])
    spread = torch.tensor([each["mean"] for each in found]).std().item()
    errors = torch.tensor([each["se"] for each in found]).mean().item()
    assert errors == pytest.approx(spread, rel=5 / math.sqrt(600))


# Probes


def clusters(n, apart):
    labels = torch.arange(n) % 3
    return apart * torch.eye(3)[labels] + torch.randn(n, 3), labels


def test_probes_find_clusters_and_nothing_in_shuffled_labels():
    (train, classes), (test, truth) = clusters(300, 12.0), clusters(600, 12.0)
    for correct in probe_correct(train, classes, test, truth).values():
        assert correct.shape == (600,)
        assert correct.mean() > 0.99
    shuffled = classes[torch.randperm(300)]
    for correct in probe_correct(train, shuffled, test, truth[torch.randperm(600)]).values():
        assert abs(correct.mean() - 1 / 3) < 5 * math.sqrt(2 / 9 / 600)


def test_probes_standardise():
    (train, classes), (test, truth) = clusters(300, 12.0), clusters(300, 12.0)
    large = 1e4 * torch.randn(600, 1)  # a dimension in other units, that tells nothing
    found = probe_correct(torch.cat([train, large[:300]], 1), classes, torch.cat([test, large[300:]], 1), truth)
    assert found["knn"].mean() > 0.95


def test_probes_of_few_images_and_missing_classes():
    (train, classes), (test, truth) = clusters(50, 12.0), clusters(90, 12.0)
    two = classes != 2
    for correct in probe_correct(train[two], classes[two], test, truth).values():
        assert correct.mean() == pytest.approx(2 / 3)
    one = classes == 1
    for correct in probe_correct(train[one], classes[one], test, truth).values():
        assert correct.mean() == pytest.approx(1 / 3)
    assert probe_correct(train[:3], classes[:3], test, truth)["knn"].shape == (90,)


# All of it


def linear_subject(n, labels=True, noise=0.0):
    """Exact means at λ_K, shrunk and jittered ones at λ₀; the class is the sign of the first latent."""
    oracle = LinearGaussian.random(d=2, D=6, sigma=0.3)
    z, x = simulate(oracle.model, oracle.x, n)
    oracle, family = LinearGaussian(oracle.model, x), pv.DiagonalNormal(2)
    params = oracle.best_params(family)
    init = params.clone()
    init[:, :2] = 0.5 * init[:, :2] + 0.5 * torch.randn(n, 2)
    init[:, 1] *= 0.01
    guide = Given(family, init, params)
    classes = (z[:, 0] > 0).long() if labels else None
    return Subject.of("test", oracle.model, guide, x, classes, ("left", "right"))


def test_representation_of_the_oracle():
    torch.manual_seed(2)
    subject, train = linear_subject(400), linear_subject(200)
    findings = representation(subject, train)
    numbers, values = findings.numbers, findings.values
    assert (numbers["dims_in_use"], numbers["dims_in_use_init"]) == (2, 2)
    assert len(numbers["kl_per_dim"]) == 2
    kl = elbo_terms(subject.model, subject.family, subject.x, subject.params).kl
    assert sum(numbers["kl_per_dim"]) == pytest.approx(kl.mean().item(), rel=1e-6)
    surgery = numbers["mutual_information"]["mean"] + numbers["aggregate_kl"]["mean"]
    assert surgery == pytest.approx(kl.mean().item(), abs=0.3)  # of one draw each
    assert numbers["mutual_information"]["mean"] <= numbers["mutual_information_bound"] == math.log(400)
    mean = subject.family(subject.params).mean
    mse = (subject.model.decode(mean).mean - subject.x).square().mean(1)
    torch.testing.assert_close(values["mse"], mse)
    rebuilt = numbers["reconstruction"]
    assert rebuilt["mse"]["mean"] < rebuilt["mse_init"]["mean"]
    assert rebuilt["r2"]["mean"] > 0.8 > rebuilt["r2_init"]["mean"]
    probe = numbers["probe"]
    assert probe["num_train"] == 200
    assert probe["knn"]["mean"] > 0.85
    assert probe["linear_init"]["mean"] < 0.82
    at_init = probe_correct(train.init[:, :2], train.labels, subject.init[:, :2], subject.labels)  # both sides at λ₀
    assert probe["knn_init"]["mean"] == pytest.approx(at_init["knn"].mean().item())
    share = probe["linear"]["mean"]
    assert probe["linear"]["se"] == pytest.approx(math.sqrt(share * (1 - share) / 400), rel=0.01)
    assert values["knn_correct"].shape == values["linear_correct"].shape == (400,)
    assert set(findings.figures) == {"kl_per_dim", "aggregate_posterior"}


def kl_of(mean, scale):
    return 0.5 * (scale**2 + mean**2 - 1) - math.log(scale)


@pytest.mark.parametrize("family", ["diagonal_normal", "full_normal", "flow"])
def test_dimensions_in_use_are_counted_by_kl_and_not_by_the_jitter_of_means(family):
    n, d = 300, 4
    model = pv.models.mlp((6,), d, widths=(8,))
    family = {"diagonal_normal": pv.DiagonalNormal, "full_normal": pv.FullNormal, "flow": pv.Flow}[family](d)
    params = family.init_params().detach().expand(n, -1).clone()  # q = p
    params[:, 0] += 2 * torch.randn(n)
    params[:, 1] += 0.2 * torch.randn(n)  # jitter: a variance of 0.04, four times what would count as active
    subject = Subject.of("test", model, Given(family, params, params), torch.ones(n, 6))
    numbers = representation(subject).numbers
    assert posterior_mean(family, params).var(0)[1] > 0.01
    assert (numbers["dims_in_use"], numbers["in_use_above"]) == (1, 0.1)
    assert numbers["kl_per_dim"][0] == pytest.approx(2.0, abs=0.5)
    assert numbers["kl_per_dim"][1] == pytest.approx(kl_of(0.2, 1.0), abs=0.03)
    assert max(numbers["kl_per_dim"][2:]) < 0.03
    assert {"active_units", "active_units_init"}.isdisjoint(numbers)


def test_kl_by_dimension_without_moments_in_closed_form_is_by_draws():
    class Sheared(pv.Family):
        def __init__(self):
            super().__init__(2)
            self.num_params = 4

        def forward(self, params):
            loc, log_scale = params.chunk(2, -1)
            base = dist.Normal(loc, log_scale.exp())
            return dist.TransformedDistribution(base, dist.transforms.AffineTransform(1.0, 2.0)).to_event(1)

    params = torch.tensor([[0.2, -0.5, -0.3, -1.0]]).expand(50, -1)
    model = pv.models.mlp((6,), 2, widths=(8,))
    expected = [kl_of(1 + 2 * loc, 2 * math.exp(log)) for loc, log in ((0.2, -0.3), (-0.5, -1.0))]
    assert kl_per_dim(model, Sheared(), torch.ones(50, 6), params).tolist() == pytest.approx(expected, rel=0.1)


def test_a_datapoint_that_is_not_finite_spoils_no_mean():
    subject, train = linear_subject(60), linear_subject(50)
    clean = representation(subject).numbers
    subject.params[3], subject.x[3] = math.nan, math.nan
    with pyro.validation_enabled(False):  # as in an evaluation
        found = representation(subject, train)
    assert found.numbers["dims_in_use"] == clean["dims_in_use"] == 2
    assert math.isfinite(found.numbers["reconstruction"]["mse"]["mean"])
    assert math.isfinite(found.numbers["reconstruction"]["r2"]["mean"])
    assert "NaN" in found.failed["probe"], "scikit-learn takes none, and nothing else falls with it"
    assert set(found.figures) == {"kl_per_dim", "aggregate_posterior"}


def test_information_comes_with_its_bound():
    model = pv.models.mlp(X_SHAPE, 2, widths=(8,))
    params = encoder_of_variance(20, 2, 10.0, 0.01).float()
    findings = representation(
        Subject.of("test", model, Given(pv.DiagonalNormal(2), params, params), torch.zeros(20, *X_SHAPE))
    )
    assert findings.numbers["mutual_information_bound"] == pytest.approx(math.log(20))
    assert findings.numbers["mutual_information"]["mean"] > 0.9 * math.log(20)


@pytest.mark.parametrize("family", [*FAMILIES, "ladder"])
def test_all_families_with_labels_and_without(family, x):
    hierarchical = family == "ladder"
    model = (
        pv.models.hierarchical_mlp(X_SHAPE, (3, 2), widths=(8,))
        if hierarchical
        else pv.models.mlp(X_SHAPE, Z_DIM, widths=(8,), likelihood=pv.models.likelihoods.Poisson())
    )
    guide = make_guide("svi", pv.Ladder(model) if hierarchical else family, model, num_steps=1)
    subject = Subject.of("test", model, guide, x)
    findings = representation(subject, subject)
    assert findings.numbers["probe"] is None
    assert (findings.numbers["mutual_information"] is None) == (family == "flow")
    assert all(len(value) == len(x) for value in findings.values.values())
    assert set(traversals(subject).figures) == {"traversals", "interpolations"}


def test_numbers_of_no_datapoints_are_refused(model, x):
    subject = Subject.of("test", model, make_guide("amortized", "diagonal_normal", model), x)
    with pytest.raises(ValueError, match="surgery_datapoints must be >= 1, got 0"):
        representation(subject, surgery_datapoints=0)


def test_a_pyro_model_of_ones_own():
    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(torch.ones(5), torch.ones(5)).to_event(1))
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    x = torch.poisson(torch.ones(6, 5))
    family = pv.Joint.of(model, x)
    subject = Subject.of("test", model, pv.AmortizedGuide(family, nn.Linear(5, family.num_params)), x)
    findings = representation(subject)
    assert findings.numbers["reconstruction"] is None  # nothing says what its E[x | z] is
    assert findings.numbers["kl_per_dim"] is findings.numbers["dims_in_use"] is None
    assert findings.numbers["mutual_information"]["mean"] < math.log(6)
    assert calibration(subject, 10).numbers["calibration"]["num_simulated"] == 10
    for measure in (predictive_checks, traversals):
        assert "no `decode`" in measure(subject).warnings[0]
