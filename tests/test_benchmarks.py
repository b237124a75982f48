"""Benchmarks are where documents say, the comparisons among them can be run, and what they time is the same work."""

import itertools
import re
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae.comparison import load_settings, plan, schemes_of
from pyrovae.config import build_model, fit_arguments

ROOT = Path(__file__).parent.parent
HOME = ROOT / "benchmarks"
FILES = sorted(HOME.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_cell_can_be_built(path, tmp_path):
    assert path.read_text().startswith(f"# python scripts/compare.py --config {path.relative_to(ROOT)} dataset.root=")
    settings, overrides = load_settings(path)
    cells = plan(settings, schemes_of(settings, overrides, path), tmp_path)
    for cell in cells[: len(cells) // len(settings.seeds)]:
        model, guide = build_model(cell.config, (1, 28, 28))
        assert sum(p.numel() for part in (model, guide) for p in part.parameters()) > 0
        assert fit_arguments(cell.config)["epochs"] == cell.config.train.epochs


def test_documents_name_benchmarks_that_are_there():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), HOME / "README.md"]
    named = {
        name
        for page in pages
        for name in re.findall(r"python (?:scripts/compare.py --config )?(benchmarks/[\w/]+\.\w+)", page.read_text())
    }
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    told = (HOME / "README.md").read_text()
    for path in [*FILES, *HOME.glob("*.py")]:
        assert path.name == "timing.py" or path.relative_to(ROOT).as_posix() in told, path


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(HOME))


def test_a_speedrun_ends_with_its_seconds_at_a_learning_rate_of_zero(monkeypatch):
    import speedrun

    ticks, rates = itertools.count(), []
    monkeypatch.setattr(speedrun, "spent", lambda: next(ticks))  # a second passes at each look

    class Rates(speedrun.pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    few, many = torch.rand(2, 1, 6, 5).round(), torch.rand(1000, 1, 6, 5).round()
    data = pv.data.Dataset("toy", "random bits", many, few, few)
    model, family = pv.models.mlp((1, 6, 5), 3, widths=(8,)), pv.DiagonalNormal(3)
    guide = pv.AmortizedGuide(family, pv.nets.MLP((1, 6, 5), (family.num_params,), widths=(8,)))
    deadline = speedrun.Deadline(seconds=500, lr=0.1)
    how = {"lr_schedule": "constant", "lr_warmup": 0.0, "progress": False, "callbacks": [deadline, Rates()]}
    pv.fit(model, guide, data, epochs=1000, batch_size=8, lr=0.1, **how)
    assert deadline.end >= 500
    assert len(rates) == deadline.steps > 20
    assert rates[0] < 0.02
    assert 0.09 < max(rates) < 0.1
    assert rates[-1] < 1e-3
    assert rates[20:] == sorted(rates[20:], reverse=True)


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch was built without oneDNN")
def test_a_loop_by_hand_on_packed_weights_is_the_decoder():
    import iwae

    decoder, z = pv.nets.MLP((3,), (1, 6, 5), widths=(8, 7), activation="relu"), torch.randn(5, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(iwae.on_packed(decoder, 10)(z), decoder(z))


@pytest.mark.parametrize("name", ["jax_refiner", "numpyro_refiner"])
def test_peers_refine_as_ours_does(name):
    pytest.importorskip("jax")
    pytest.importorskip("numpyro")
    import peers

    torch.manual_seed(0)
    model, family = pv.models.mlp((1, 6, 5), 3, widths=(16,)), pv.DiagonalNormal(3)
    x, start = torch.rand(40, 1, 6, 5).round(), torch.full((40, 6), 0.5)
    found = getattr(peers, name)(model.decoder, x, start, 400, 0.03)()
    loc, log_scale = (found["loc"], found["log_scale"]) if isinstance(found, dict) else found
    params = torch.cat([torch.tensor(part.tolist()) for part in (loc, log_scale)], -1)
    ours = pv.inference.optimum(model, family, x, start)
    (at_start, theirs) = pv.inference.precise_terms(model, family, x, start, params, num_particles=1000)
    assert theirs.elbo().mean() > at_start.elbo().mean() + 0.1
    assert (theirs.elbo().mean() - ours.elbo.mean()).abs() < 0.1


def test_the_peer_teaches_its_encoder_by_the_slope_of_its_first_step():
    """As ours does: one pass more would make it slower than it is."""
    jax = pytest.importorskip("jax")
    import peers

    layers, x = peers.layers_of(pv.nets.MLP((3,), (4,), widths=(5,))), jax.numpy.ones((7, 4))
    start, keys = (jax.numpy.zeros((7, 3)),) * 2, jax.random.split(jax.random.key(0), 3)
    _, slope = peers.refine(layers, *start, x, jax.random.key(0), num_steps=3, lr=0.1)
    expected = jax.grad(lambda at: peers.negative_elbo(layers, *at, x, keys[0]))(start)
    assert all(map(jax.numpy.allclose, slope, expected))
    assert abs(slope[0]).max() > 0.01


def test_semi_amortized_training_by_hand_has_the_gradient_of_ours(monkeypatch):
    """The encoder's is that of the negative ELBO at λ₀; draws are zero, so that it has one value."""
    import train

    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    torch.manual_seed(0)
    encoder, decoder = pv.nets.MLP((4,), (6,), widths=(5,)), pv.nets.MLP((3,), (4,), widths=(5,))
    x = torch.rand(7, 4).round()
    train.semi_loss(encoder, decoder, x).backward()
    loss = -train.path_elbo(decoder, encoder(x), x).mean()
    for p, grad in zip(encoder.parameters(), torch.autograd.grad(loss, list(encoder.parameters())), strict=True):
        torch.testing.assert_close(p.grad, grad)
