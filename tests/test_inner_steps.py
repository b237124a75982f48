"""Inner optimizers as they come, without a word about step size: none diverges, and each gains."""

import pytest
import torch
from conftest import FAMILIES
from torch import nn

import pyrovae as pv
from pyrovae.config import COMPONENTS
from pyrovae.testing import LinearGaussian

POOR = 1.5  # standard deviation of λ at the poor start


def problem(name, d):
    """A model and data (8, *x_shape), of z that x tells much about."""
    if name == "linear":
        oracle = LinearGaussian.random(d=d, D=2 * d, batch=8)
        return oracle.model, oracle.x
    model = pv.models.mlp((4 * d,), d, widths=(32,)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, model.sample(8).bernoulli()


@pytest.mark.parametrize("d", [2, 16, 50])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "natural"])
def test_no_default_diverges(optimizer, name, d):
    family = COMPONENTS["family"][name](d).double()
    if optimizer == "natural" and not family.has_natural_gradient:
        pytest.skip("no natural gradient")
    for kind in ("linear", "mlp"):
        torch.manual_seed(0)
        model, x = problem(kind, d)
        prior = family.init_params().double().expand(8, -1)
        start = torch.cat([prior, prior + POOR * torch.randn_like(prior)])
        x = torch.cat([x, x])
        refined = pv.SVIRefiner(num_steps=100, optimizer=optimizer, safeguard=False)(model, family, x, start).params
        assert refined.isfinite().all()
        before, after = pv.inference.precise_terms(model, family, x, start, refined, num_particles=100)
        gain = (after.elbo() - before.elbo()).view(2, 8)
        print(f"{optimizer} {name} {d} {kind}", [f"{a:.4g} {b:.4g} {c:.3g}" for a, b, c in zip(before.elbo().view(2,8).mean(1), after.elbo().view(2,8).mean(1), gain.amin(1))])
        assert (gain > 0).all(), (kind, gain)
