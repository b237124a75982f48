"""Models and families of other shapes: sequences, counts for latents, nothing to decode. They train, and are evaluated."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from relaxed_poisson import PoissonFamily, PoissonPrior
from torch import nn

import pyrovae as pv
from pyrovae.evaluation.evaluate import Sample, evaluate
from pyrovae.evaluation.settings import EvaluationSettings
from pyrovae.testing import check_guide, check_model

T, D, N = 6, 2, 9
QUICK = {
    "num_samples": 30,
    "num_particles": 5,
    "max_steps": 20,
    "num_annealed": 2,
    "num_temperatures": 5,
    "num_simulated": 0,
}


class Walk(PyroModule):
    """Counts (T, N), driven by D latent random walks."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(D, N)
        self.log_scale = nn.Parameter(torch.zeros(D))

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            steps = torch.ones(T, T).tril() @ torch.eye(T)
            z = pyro.sample("z", dist.Normal(torch.zeros(T, D), self.log_scale.exp()).to_event(2))  # (B, T, D)
            rate = nn.functional.softplus(self.readout(steps @ z))  # (B, T, N)
            pyro.sample("x", dist.Poisson(rate).to_event(2), obs=x)


class OverTime(pv.Family):
    """Independent normals of event shape (T, D)."""

    def __init__(self) -> None:
        super().__init__(T * D)
        self.num_params = 2 * T * D

    def forward(self, params):
        loc, log_scale = params.unflatten(-1, (2, T, D)).unbind(-3)  # (..., T, D) each
        return dist.Normal(loc, log_scale.exp()).to_event(2)


@pytest.fixture
def counts() -> pv.data.Dataset:
    x = torch.poisson(torch.rand(60, T, N, generator=torch.Generator().manual_seed(0)) * 3)
    return pv.data.Dataset("walks", "drawn", x[:40], x[40:50], x[50:])


@pytest.mark.parametrize("scheme", ["amortized", "semi_amortized", "svi", "learned"])
@pytest.mark.filterwarnings("error:The use of `x.T`")
def test_a_sequence_trains_and_is_evaluated(scheme, counts, tmp_path):
    model, family = Walk(), OverTime()
    encoder = pv.nets.MLP((T, N), (family.num_params,), widths=(16,))
    guide = {
        "amortized": lambda: pv.AmortizedGuide(family, encoder),
        "semi_amortized": lambda: pv.SemiAmortizedGuide(model, family, encoder, pv.SVIRefiner(num_steps=2)),
        "svi": lambda: pv.SVIGuide(model, family, pv.SVIRefiner(num_steps=3)),
        "learned": lambda: pv.LearnedIterativeGuide(model, family, encoder, num_steps=2),
    }[scheme]()
    x = torch.as_tensor(counts.train[:5])
    check_model(model, x)
    check_guide(model, guide, x)
    with pytest.warns(UserWarning, match="decode"):
        metrics = pv.training.fit(model, guide, counts, epochs=2, progress=False, run_dir=tmp_path / "run")
    assert metrics["val/elbo"] < 0
    found = evaluate(model, guide, {"test": Sample(counts.test)}, main="test", settings=EvaluationSettings(**QUICK))
    numbers = found.numbers["splits"]["test"]
    assert numbers["iwae"]["mean"] >= numbers["elbo"]["mean"] - 1
    assert numbers["gap"]["amortization"]["mean"] is not None
    assert found.numbers["ais"]["num_data"] == 2
    assert any("no `decode`" in text for text in found.warnings)
    assert found.failed == {}


def test_latent_counts_train_by_their_kl_and_are_evaluated_without_a_density(counts, tmp_path):
    family = PoissonFamily(4, temperature=1.0)
    likelihood = pv.models.likelihoods.Poisson(event_dim=2)
    model = pv.VAE(PoissonPrior(4), pv.nets.MLP((4,), (T, N), widths=(16,)), likelihood)
    encoder = pv.nets.MLP((T, N), (family.num_params,), widths=(16,))
    refiner = pv.SVIRefiner(objective=pv.AnalyticELBO(), num_steps=3)
    guide = pv.SemiAmortizedGuide(model, family, encoder, refiner)
    metrics = pv.training.fit(
        model,
        guide,
        counts,
        epochs=4,
        objective=pv.AnalyticELBO(),
        progress=False,
        run_dir=tmp_path / "run",
        schedules={"family.temperature": pv.training.LinearWarmup(start=1.0, end=0.1, epochs=2)},
    )
    assert metrics["val/elbo"] < 0
    assert family.temperature == pytest.approx(0.1)
    found = evaluate(model, guide, {"test": Sample(counts.test)}, main="test", settings=EvaluationSettings(**QUICK))
    numbers = found.numbers["splits"]["test"]
    assert numbers["elbo"]["mean"] < 0
    assert "iwae" not in numbers
    assert any("PoissonFamily has no density" in text for text in found.warnings)
